//! Steps run for real, as root, in busybox images.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Tests fail by panics.

mod basics;
mod bed;
mod external;
mod lifetime;
mod mounts;
mod rights;
mod rootless;
