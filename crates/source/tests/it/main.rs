//! The sources against real directories, registries, repositories and servers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod auth;
mod git;
mod http;
mod local;
mod oci_layout;
mod pull;
mod push;
mod store_tree;
mod support;
