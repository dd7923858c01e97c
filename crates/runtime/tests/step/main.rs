//! Steps run for real, as root, in busybox images.

mod basics;
mod bed;
mod lifetime;
mod mounts;
mod rights;
