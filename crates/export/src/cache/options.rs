//! Where a cache is written or read, by the names that BuildKit's clients use.

use std::collections::BTreeMap;
use std::time::Duration;

use weld_digest::Digest;
use weld_solver::chain::ChainMode;
use weld_source::objects::ParseTokenError;
use weld_source::reference::{ParseReferenceError, Reference};
use weld_store::layer::Compression;

use super::mount_options::{self, MountExport, MountPlace, MountSelection};
use super::object_options::{ObjectCache, duration};
use super::{ManifestOptions, actions_cache};
use crate::options::LEVELS;

type Attrs = BTreeMap<String, String>;

/// Where a cache is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheDestination {
    /// Under a name in a registry.
    Registry {
        /// The name.
        reference: Reference,
        /// Any certificate is taken, or plain HTTP.
        insecure: bool,
    },
    /// Into a client's store of blobs, by its id.
    Store(String),
    /// Into the config of the image that is exported.
    Inline,
    /// Into an object store.
    Objects(ObjectCache),
    /// The content of cache mounts, and no results.
    Mounts(MountExport),
}

/// How long a registry that a cache is written to may say and take nothing, unless told: large layers take it a while to check.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `timeout` may be.
pub const TIMEOUTS: &str = "must be from 1 to 600 seconds, as a number or such as 1m30s";

/// How long a place may say nothing, as `timeout` has it; `None` if that is none of [`TIMEOUTS`].
pub fn timeout(text: &str) -> Option<Duration> {
    let timeout = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => duration(text)?,
    };
    (Duration::from_secs(1)..=Duration::from_secs(600))
        .contains(&timeout)
        .then_some(timeout)
}

/// What the attributes of a cache exporter ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheExportOptions {
    /// Where to.
    pub destination: CacheDestination,
    /// `mode`: which results.
    pub mode: ChainMode,
    /// `image-manifest` and `oci-mediatypes`.
    pub manifest: ManifestOptions,
    /// `compression` and `compression-level`, for layers that are no blobs yet.
    pub compression: Compression,
    /// `force-compression`: also compress layers anew that are compressed otherwise.
    pub force_compression: bool,
    /// `timeout`: how long a registry may say and take nothing before it counts as absent.
    pub patience: Duration,
    /// `ignore-error`: a build whose cache cannot be written is none the worse.
    pub ignore_error: bool,
    /// `merge`: what is there stays, beside what is written.
    pub merge: bool,
}

/// Where a cache is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOrigin {
    /// Under a name in a registry: a cache, or an image with one.
    Registry {
        /// The name.
        reference: String,
        /// Any certificate is taken, or plain HTTP.
        insecure: bool,
    },
    /// In a client's store of blobs.
    Store {
        /// The store's id.
        id: String,
        /// The manifest.
        digest: Digest,
    },
    /// In an object store.
    Objects(ObjectCache),
    /// The content of cache mounts, and no results.
    Mounts(MountPlace, MountSelection),
}

/// Why a cache's attributes cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheOptionError {
    /// There is no such kind of cache.
    #[error("unknown cache {direction}: {kind:?} (known: {known})")]
    Kind {
        /// `exporter` or `importer`.
        direction: &'static str,
        /// The kind.
        kind: String,
        /// Those that there are.
        known: &'static str,
    },
    /// An attribute is missing.
    #[error("{kind} cache {direction} requires {attribute}")]
    Missing {
        /// The kind.
        kind: String,
        /// `exporter` or `importer`.
        direction: &'static str,
        /// The attribute.
        attribute: &'static str,
    },
    /// An attribute has a value that it cannot have.
    #[error("cache type={kind}: {attribute}={value:?}: {expected}")]
    Value {
        /// The kind.
        kind: String,
        /// The attribute.
        attribute: &'static str,
        /// Its value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A secret has characters that no request can have.
    #[error("cache type={kind}: {attribute} has characters that none can have")]
    Secret {
        /// The kind.
        kind: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// A token is none.
    #[error("cache type={kind}: token: {source}")]
    Token {
        /// The kind.
        kind: String,
        /// Why.
        source: ParseTokenError,
    },
    /// A name is none.
    #[error("cache type=registry: ref: {0}")]
    Reference(#[from] ParseReferenceError),
    /// Two attributes do not go together.
    #[error("cache type={kind}: image-manifest=true conflicts with oci-mediatypes=false")]
    DockerManifest {
        /// The kind.
        kind: String,
    },
}

pub(super) const EXPORTER: &str = "exporter";
pub(super) const IMPORTER: &str = "importer";

impl CacheExportOptions {
    /// Reads what a cache exporter of this kind is asked for.
    ///
    /// # Errors
    /// [`CacheOptionError`].
    pub fn parse(kind: &str, attrs: &Attrs) -> Result<Self, CacheOptionError> {
        let reader = Reader::new(kind, attrs, EXPORTER);
        let destination = match kind {
            "registry" => CacheDestination::Registry {
                reference: reader
                    .required("ref")?
                    .parse::<Reference>()?
                    .with_default_tag(),
                insecure: reader.flag("registry.insecure")?.unwrap_or(false),
            },
            "local" => CacheDestination::Store(store_id(reader.required("dest")?)),
            "inline" => CacheDestination::Inline,
            "s3" => CacheDestination::Objects(ObjectCache::s3(&reader, &variable)?),
            "azblob" => CacheDestination::Objects(ObjectCache::azblob(&reader, &variable)?),
            "gha" => CacheDestination::Objects(actions_cache::written(&reader)?),
            "mount" => CacheDestination::Mounts(MountExport::parse(&reader)?),
            _ => {
                return Err(CacheOptionError::Kind {
                    direction: EXPORTER,
                    kind: kind.to_owned(),
                    known: "azblob, gha, inline, local, mount, registry, s3",
                });
            }
        };
        let merge = is_merged(kind, attrs)?;
        match destination {
            CacheDestination::Inline if merge => {
                return Err(reader.bad("merge", "an image's cache is of that image alone"));
            }
            CacheDestination::Store(_) if merge => {
                return Err(reader.bad(
                    "merge",
                    "a directory is merged into by its client, which this one does not do",
                ));
            }
            _ => {}
        }
        let mode = match reader.get("mode") {
            None | Some("" | "min") => ChainMode::Min,
            Some("max") => ChainMode::Max,
            Some(_) => return Err(reader.bad("mode", "must be min or max")),
        };
        let oci_types = reader.flag("oci-mediatypes")?.unwrap_or(true);
        let image_manifest = reader.flag("image-manifest")?.unwrap_or(oci_types);
        if image_manifest && !oci_types {
            return Err(CacheOptionError::DockerManifest {
                kind: kind.to_owned(),
            });
        }
        Ok(Self {
            destination,
            mode,
            manifest: ManifestOptions {
                image_manifest,
                oci_types,
            },
            compression: reader.compression()?,
            force_compression: reader.flag("force-compression")?.unwrap_or(false),
            patience: match (kind, reader.get("timeout")) {
                ("registry" | "mount", Some(text)) => {
                    timeout(text).ok_or_else(|| reader.bad("timeout", TIMEOUTS))?
                }
                _ => PATIENCE,
            },
            ignore_error: ignores_errors(attrs),
            merge,
        })
    }

    /// Whether a cache of this kind can be written as it is asked for, or need not be.
    ///
    /// # Errors
    /// [`CacheOptionError`].
    pub fn check(kind: &str, attrs: &Attrs) -> Result<(), CacheOptionError> {
        match Self::parse(kind, attrs) {
            Err(CacheOptionError::Kind { .. }) if ignores_errors(attrs) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl CacheOrigin {
    /// Reads what a cache importer of this kind is asked for.
    ///
    /// # Errors
    /// [`CacheOptionError`].
    pub fn parse(kind: &str, attrs: &Attrs) -> Result<Self, CacheOptionError> {
        let reader = Reader::new(kind, attrs, IMPORTER);
        match kind {
            "registry" => {
                let reference = reader.required("ref")?.parse::<Reference>()?;
                Ok(Self::Registry {
                    reference: reference.with_default_tag().to_string(),
                    insecure: reader.flag("registry.insecure")?.unwrap_or(false),
                })
            }
            "local" => {
                let digest = match reader.get("digest") {
                    Some(digest) if !digest.is_empty() => digest.parse(),
                    _ => return Err(reader.missing("explicit digest")),
                };
                Ok(Self::Store {
                    digest: digest.map_err(|_| reader.bad("digest", "must be a digest"))?,
                    id: store_id(reader.required("src")?),
                })
            }
            "s3" => Ok(Self::Objects(ObjectCache::s3(&reader, &variable)?)),
            "azblob" => Ok(Self::Objects(ObjectCache::azblob(&reader, &variable)?)),
            "gha" => Ok(Self::Objects(actions_cache::read(&reader)?)),
            "mount" => {
                let (place, selection) = mount_options::origin(&reader)?;
                Ok(Self::Mounts(place, selection))
            }
            _ => Err(CacheOptionError::Kind {
                direction: IMPORTER,
                kind: kind.to_owned(),
                known: "azblob, gha, local, mount, registry (also for inline), s3",
            }),
        }
    }
}

/// Whether a cache of this kind is to be merged into what is there.
///
/// # Errors
/// [`CacheOptionError`] if that is neither said nor denied.
pub fn is_merged(kind: &str, attrs: &Attrs) -> Result<bool, CacheOptionError> {
    let reader = Reader::new(kind, attrs, EXPORTER);
    Ok(reader.flag("merge")?.unwrap_or(false))
}

/// Whether a build is to go on without a cache that cannot be written. What is no truth value counts as no, as in BuildKit.
pub fn ignores_errors(attrs: &Attrs) -> bool {
    let value = attrs.get("ignore-error").map(String::as_str);
    matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// The id of the store that a client has for a directory.
pub(super) fn store_id(directory: &str) -> String {
    format!("local:{directory}")
}

/// What the environment of this process says; an empty value counts, as for BuildKit.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The attributes of one cache.
pub(super) struct Reader<'a> {
    kind: &'a str,
    attrs: &'a Attrs,
    direction: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(kind: &'a str, attrs: &'a Attrs, direction: &'static str) -> Self {
        Self {
            kind,
            attrs,
            direction,
        }
    }

    pub(super) fn kind(&self) -> &'a str {
        self.kind
    }

    pub(super) fn get(&self, attribute: &str) -> Option<&'a str> {
        self.attrs.get(attribute).map(String::as_str)
    }

    pub(super) fn missing(&self, attribute: &'static str) -> CacheOptionError {
        CacheOptionError::Missing {
            kind: self.kind.to_owned(),
            direction: self.direction,
            attribute,
        }
    }

    pub(super) fn required(&self, attribute: &'static str) -> Result<&'a str, CacheOptionError> {
        let value = self.get(attribute).filter(|value| !value.is_empty());
        value.ok_or_else(|| self.missing(attribute))
    }

    pub(super) fn bad(&self, attribute: &'static str, expected: &'static str) -> CacheOptionError {
        CacheOptionError::Value {
            kind: self.kind.to_owned(),
            attribute,
            value: self.get(attribute).unwrap_or_default().to_owned(),
            expected,
        }
    }

    /// As Go's `strconv.ParseBool`.
    pub(super) fn flag(&self, attribute: &'static str) -> Result<Option<bool>, CacheOptionError> {
        match self.get(attribute) {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(_) => Err(self.bad(attribute, "must be true or false")),
        }
    }

    fn compression(&self) -> Result<Compression, CacheOptionError> {
        let compression = match self.get("compression") {
            None | Some("" | "gzip") => Compression::Gzip(None),
            Some("zstd") => Compression::Zstd(None),
            Some("uncompressed") => Compression::Uncompressed,
            Some(_) => {
                return Err(self.bad("compression", "must be gzip, zstd or uncompressed"));
            }
        };
        let Some(level) = self.get("compression-level") else {
            return Ok(compression);
        };
        let level = level.parse().ok();
        let compression = level.and_then(|level| compression.at_level(level));
        compression.ok_or_else(|| self.bad("compression-level", LEVELS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn defaults_are_buildkits() {
        let read = CacheExportOptions::parse("registry", &attrs(&[("ref", "a/b")])).unwrap();
        assert_eq!(read.mode, ChainMode::Min);
        assert_eq!(read.manifest, ManifestOptions::default());
        let CacheDestination::Registry { reference, .. } = read.destination else {
            panic!("{read:?}");
        };
        assert_eq!(reference.to_string(), "docker.io/a/b:latest");
        let docker = attrs(&[("dest", "d"), ("oci-mediatypes", "false")]);
        let read = CacheExportOptions::parse("local", &docker).unwrap();
        assert!(!read.manifest.image_manifest, "an index can be docker's");
        assert_eq!(read.destination, CacheDestination::Store("local:d".into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (kind, pairs, part) in [
            ("registry", &[][..], "registry cache exporter requires ref"),
            ("local", &[], "local cache exporter requires dest"),
            ("floppy", &[], "unknown cache exporter: \"floppy\""),
            ("registry", &[("ref", "a"), ("mode", "all")], "min or max"),
            ("registry", &[("ref", "A:B:C")], "ref"),
            (
                "registry",
                &[
                    ("ref", "a"),
                    ("image-manifest", "true"),
                    ("oci-mediatypes", "0"),
                ],
                "conflicts",
            ),
            (
                "local",
                &[("dest", "a"), ("compression", "lz4")],
                "must be gzip",
            ),
            (
                "local",
                &[("dest", "a"), ("compression-level", "12")],
                "0 to 9 for gzip",
            ),
            (
                "local",
                &[("dest", "a"), ("merge", "true")],
                "by its client",
            ),
            ("inline", &[("merge", "true")], "of that image alone"),
            (
                "registry",
                &[("ref", "a"), ("merge", "maybe")],
                "must be true or false",
            ),
        ] {
            let error = CacheExportOptions::parse(kind, &attrs(pairs)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let error = CacheOrigin::parse("local", &attrs(&[("src", "a")])).unwrap_err();
        assert!(error.to_string().contains("explicit digest"), "{error}");
        assert!(CacheOrigin::parse("registry", &attrs(&[])).is_err());
    }

    #[test]
    fn errors_are_ignored_only_where_that_is_said() {
        for (value, ignored) in [
            ("true", true),
            ("1", true),
            ("false", false),
            ("maybe", false),
        ] {
            let pairs = attrs(&[("ref", "a"), ("ignore-error", value)]);
            let read = CacheExportOptions::parse("registry", &pairs).unwrap();
            assert_eq!(read.ignore_error, ignored, "{value}");
        }
    }
}
