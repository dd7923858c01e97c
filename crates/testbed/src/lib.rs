//! What tests and the demo run against: a base image made on the spot, a real registry, an object
//! store, the cache service of GitHub Actions, and certificates.

mod actions;
mod authority;
mod base_image;
mod busybox;
mod http;
mod objects;
mod proxy;
mod registry;

pub use actions::ActionsServer;
pub use authority::Authority;
pub use base_image::write as write_base_image;
pub use busybox::{find as static_busybox, is_static};
pub use objects::ObjectServer;
pub use proxy::{Fault, Proxy};
pub use registry::Registry;
