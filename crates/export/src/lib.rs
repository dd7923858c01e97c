//! Build results out: images, archives and directories.
//!
//! An [`ExportRequest`] says what kind of result is wanted and where; attributes have the names
//! and meanings of BuildKit's exporters. An image is assembled in the store first (layers, config,
//! manifest, and an index for several platforms), then written to an archive, pushed, or both.

mod ahead;
mod archive;
mod attestation;
mod blocking;
pub mod cache;
mod checked;
mod client;
mod config;
mod destination;
mod error;
mod exporter;
mod files;
mod image;
mod inline;
mod layout_tar;
mod local;
mod manifest;
mod options;
mod push;
mod request;
mod stream;
mod tree;
mod tree_tar;
mod watch;

pub use attestation::{
    Attestation, AttestationContent, AttestationError, AttestationKind, Predicate, SPDX, Subject,
};
pub use client::{ClientTarget, Content, ResultBlob, ResultReceiver};
pub use config::ConfigError;
pub use destination::Destination;
pub use error::ExportError;
pub use exporter::{Built, BuiltPlatform, Exporter};
pub use inline::InlineCache;
pub use options::{Annotation, AnnotationPlace, FileOptions, ImageOptions, LocalMode, OptionError};
pub use request::{ExportKind, ExportRequest, ExportTarget};
