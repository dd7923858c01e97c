//! The sources against real directories, registries, repositories and servers.

mod local;
