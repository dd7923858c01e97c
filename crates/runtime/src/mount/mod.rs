//! Mounts: made as descriptors, resolved beneath roots, attached where they belong.

mod assets;
mod material;
mod overlay;
mod root;
mod scratch;
pub(crate) mod tree;

pub(crate) use material::{Listener, Materials, is_directory, mount_error};
pub(crate) use root::{Missing, Root, Stubs};
pub(crate) use scratch::Scratch;
