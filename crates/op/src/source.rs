//! The source operations: content from outside as trees.

pub(crate) mod image;
mod layers;
pub(crate) mod local;
