//! The file operation on real trees.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod cache;
mod copy;
mod layered;
mod metadata;
mod overlay;
mod paths;
mod scratch;
mod sequence;
mod solved;
mod unpack;
