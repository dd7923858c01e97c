//! Steps run for real, as root, in busybox images.

mod basics;
mod bed;
mod external;
mod lifetime;
mod mounts;
mod rights;
