//! Steps run for real, as root, in busybox images.

mod bed;
mod basics;
