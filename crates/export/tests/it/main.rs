//! Exports of real snapshots, read back by the programs that users read them with.
#![allow(clippy::unwrap_used)] // Not only in test functions.

mod archives;
mod bed;
mod files;
mod images;
mod local;
mod pushes;
