//! Build results out: images, archives and directories.
//!
//! An [`ExportRequest`] says what kind of result is wanted and where; attributes have the names
//! and meanings of BuildKit's exporters. An image is assembled in the store first (layers, config,
//! manifest, and an index for several platforms), then written to an archive, pushed, or both.

mod archive;
mod config;
mod manifest;
mod options;
mod request;

pub use config::ConfigError;
pub use options::{Compression, ImageOptions, OptionError};
pub use request::{ExportKind, ExportRequest, ExportTarget};
