//! The sources against real directories, registries, repositories and servers.

mod auth;
mod git;
mod http;
mod local;
mod oci_layout;
mod pull;
mod push;
mod support;
