use std::collections::BTreeMap;

use time::OffsetDateTime;
use weld_store::layer::Compression;

use crate::ExportKind;

/// What the attributes of an image exporter ask for; names as in BuildKit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// `name`: references to tag and push, split at commas.
    pub names: Vec<String>,
    /// `push`.
    pub push: bool,
    /// `push-by-digest`: push without a tag.
    pub push_by_digest: bool,
    /// `registry.insecure`: allow plain HTTP and unknown certificates.
    pub insecure: bool,
    /// `dangling-name-prefix`: one more name, with the digest behind it.
    pub dangling_prefix: Option<String>,
    /// `danging-name-empty-only`: that only for results without another name. BuildKit spells it
    /// like this.
    pub dangling_empty_only: bool,
    /// `prefer-nondist-layers`: layers that may not be distributed stay that.
    pub keep_nondistributable: bool,
    /// `oci-mediatypes`: OCI's media types, not docker's.
    pub oci_types: bool,
    /// `compression` and `compression-level`, for layers that are no blobs yet.
    pub compression: Compression,
    /// `force-compression`: also compress layers anew that are compressed otherwise.
    pub force_compression: bool,
    /// `rewrite-timestamp`: bring the times of files in new layers down to the epoch.
    pub rewrite_timestamp: bool,
    /// `source-date-epoch`.
    pub epoch: Option<OffsetDateTime>,
    /// `source-date-epoch=`: the result's own epoch does not count.
    pub no_epoch: bool,
    /// `tar=false`: a directory instead of an archive.
    pub directory: bool,
    /// `annotation…`.
    pub annotations: Vec<Annotation>,
    /// `attestation-inline`: attestations are attached also where the image has an index for their
    /// sake alone. Unless told, of images that stay here or are pushed.
    pub inline_attestations: bool,
    /// `oci-artifact`: manifests of attestations are artifacts about their images; unless told,
    /// with OCI's media types.
    pub oci_artifact: bool,
}

/// One annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Where it stands.
    pub place: AnnotationPlace,
    /// For which platform only, such as `linux/arm64`.
    pub platform: Option<String>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Where an annotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationPlace {
    /// In the manifest.
    Manifest,
    /// In the manifest's descriptor.
    ManifestDescriptor,
    /// In the index.
    Index,
    /// In the index's descriptor.
    IndexDescriptor,
}

/// Why an exporter's attributes cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// An attribute that the exporter does not have.
    #[error("output type={kind}: unknown attribute {key:?} (known: {known})")]
    Unknown {
        /// The exporter.
        kind: &'static str,
        /// The attribute.
        key: String,
        /// The exporter's attributes.
        known: String,
    },
    /// A value that the attribute cannot have.
    #[error("output type={kind}: {key}={value:?}: {expected}")]
    Value {
        /// The exporter.
        kind: &'static str,
        /// The attribute.
        key: String,
        /// The value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// Two attributes that do not go together.
    #[error("output type={kind}: {first} conflicts with {second}")]
    Conflict {
        /// The exporter.
        kind: &'static str,
        /// The first attribute with its value.
        first: &'static str,
        /// The second attribute with its value.
        second: &'static str,
    },
}

const KNOWN: &[&str] = &[
    "name",
    "push",
    "push-by-digest",
    "registry.insecure",
    "name-canonical",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "prefer-nondist-layers",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "source-date-epoch",
    "tar",
    "store",
    "unpack",
    "attestation-inline",
    "oci-artifact",
    "annotation.KEY",
    "annotation-manifest-descriptor.KEY",
    "annotation-index.KEY",
    "annotation-index-descriptor.KEY",
];

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            push: false,
            push_by_digest: false,
            insecure: false,
            dangling_prefix: None,
            dangling_empty_only: false,
            keep_nondistributable: false,
            oci_types: true,
            compression: Compression::Gzip(None),
            force_compression: false,
            rewrite_timestamp: false,
            epoch: None,
            no_epoch: false,
            directory: false,
            annotations: Vec::new(),
            inline_attestations: false,
            oci_artifact: true,
        }
    }
}

impl ImageOptions {
    /// Reads the attributes of an image exporter.
    ///
    /// # Errors
    /// [`OptionError`] for what it does not know or cannot do.
    pub fn parse(kind: ExportKind, attrs: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let mut options = Self {
            inline_attestations: kind == ExportKind::Image,
            ..Self::default()
        };
        let (mut oci_types, mut oci_artifact, mut level) = (None, None, None);
        for (key, value) in attrs {
            let reader = Reader {
                kind: kind.name(),
                key,
                value,
            };
            match key.as_str() {
                "name" => options.names = names(value),
                "push" => options.push = reader.flag()?,
                "push-by-digest" => options.push_by_digest = reader.flag()?,
                "registry.insecure" => options.insecure = reader.flag()?,
                "danging-name-empty-only" => options.dangling_empty_only = reader.flag()?,
                "prefer-nondist-layers" => options.keep_nondistributable = reader.flag()?,
                "dangling-name-prefix" => options.dangling_prefix = Some(value.clone()),
                "oci-mediatypes" => oci_types = Some(reader.flag()?),
                "compression" => options.compression = reader.compression()?,
                "compression-level" => level = Some((reader.level()?, reader)),
                "force-compression" => options.force_compression = reader.flag()?,
                "rewrite-timestamp" => options.rewrite_timestamp = reader.flag()?,
                "source-date-epoch" => {
                    options.epoch = reader.epoch()?;
                    options.no_epoch = options.epoch.is_none();
                }
                "tar" => options.directory = !reader.flag()?,
                "attestation-inline" => options.inline_attestations = reader.flag()?,
                "oci-artifact" => oci_artifact = Some(reader.flag()?),
                // It is asked of the build as a whole; BuildKit does not look at it here either.
                key if key.starts_with("attest:") => {}
                // They are about an image store, which there is none of.
                "store" | "unpack" | "name-canonical" => drop(reader.flag()?),
                _ => options.annotations.push(reader.annotation()?),
            }
        }
        if let Some((level, reader)) = level {
            options.compression = reader.at_level(options.compression, level)?;
        }
        options.oci_types = oci_types.unwrap_or(true);
        let refused = match () {
            () if options.oci_types => None,
            () if !options.annotations.is_empty() => Some("annotations"),
            () if oci_artifact == Some(true) => Some("oci-artifact=true"),
            () => None,
        };
        if let Some(first) = refused {
            return Err(OptionError::Conflict {
                kind: kind.name(),
                first,
                second: "oci-mediatypes=false",
            });
        }
        options.oci_artifact = oci_artifact.unwrap_or(options.oci_types);
        if options.directory && !matches!(kind, ExportKind::OciArchive | ExportKind::DockerArchive)
        {
            return Err(OptionError::Conflict {
                kind: kind.name(),
                first: "tar=false",
                second: "this type",
            });
        }
        Ok(options)
    }

    /// The annotations of one place, for one platform (`None` where there is no platform).
    pub(crate) fn annotations_of(
        &self,
        place: AnnotationPlace,
        platform: Option<&str>,
    ) -> BTreeMap<String, String> {
        let of_platform = |annotation: &&Annotation| {
            annotation.place == place
                && annotation
                    .platform
                    .as_deref()
                    .is_none_or(|wanted| Some(wanted) == platform)
        };
        let mut chosen: Vec<&Annotation> = self.annotations.iter().filter(of_platform).collect();
        // One for this platform beats one for all.
        chosen.sort_by_key(|annotation| annotation.platform.is_some());
        chosen
            .into_iter()
            .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
            .collect()
    }
}

/// What becomes of the files in a directory that is exported into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// What is not in the result stays.
    #[default]
    Copy,
    /// What is not in the result is deleted.
    Delete,
}

/// What the attributes of an exporter of files ask for; names as in BuildKit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// `platform-split`: a directory for each platform; unless told, if several were asked for.
    pub platform_split: Option<bool>,
    /// `mode`: `copy` or `delete`.
    pub mode: LocalMode,
    /// `source-date-epoch`: the time of all files.
    pub epoch: Option<OffsetDateTime>,
    /// `source-date-epoch=`: the result's own epoch does not count.
    pub no_epoch: bool,
    /// `attestation-prefix`: what the names of attestations' files begin with.
    pub attestation_prefix: String,
}

impl FileOptions {
    /// Reads the attributes of an exporter of files.
    ///
    /// # Errors
    /// [`OptionError`] for what it does not know or cannot do.
    pub fn parse(kind: ExportKind, attrs: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        const KNOWN: [&str; 4] = [
            "platform-split",
            "source-date-epoch",
            "attestation-prefix",
            "mode",
        ];
        let known = match kind {
            ExportKind::Local => KNOWN.as_slice(),
            // An archive is always new.
            _ => &KNOWN[..3],
        };
        let mut options = Self::default();
        for (key, value) in attrs {
            let reader = Reader {
                kind: kind.name(),
                key,
                value,
            };
            match key.as_str() {
                "platform-split" => options.platform_split = Some(reader.flag()?),
                "source-date-epoch" => {
                    options.epoch = reader.epoch()?;
                    options.no_epoch = options.epoch.is_none();
                }
                "attestation-prefix" => options.attestation_prefix = reader.file_name()?,
                "mode" if kind == ExportKind::Local => options.mode = reader.mode()?,
                _ => return Err(reader.unknown(known)),
            }
        }
        Ok(options)
    }
}

fn names(value: &str) -> Vec<String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What `compression-level` can be.
pub(crate) const LEVELS: &str = "must be a number: 0 to 9 for gzip, 1 to 22 for zstd";

#[derive(Clone, Copy)]
struct Reader<'a> {
    kind: &'static str,
    key: &'a str,
    value: &'a str,
}

impl Reader<'_> {
    fn bad(&self, expected: &'static str) -> OptionError {
        OptionError::Value {
            kind: self.kind,
            key: self.key.into(),
            value: self.value.into(),
            expected,
        }
    }

    /// As Go's `strconv.ParseBool`, with nothing for true.
    fn flag(&self) -> Result<bool, OptionError> {
        match self.value {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.bad("must be true or false")),
        }
    }

    fn compression(&self) -> Result<Compression, OptionError> {
        match self.value {
            "gzip" => Ok(Compression::Gzip(None)),
            "zstd" => Ok(Compression::Zstd(None)),
            "uncompressed" => Ok(Compression::Uncompressed),
            "estargz" => Err(self.bad("estargz is not supported; use gzip, zstd or uncompressed")),
            _ => Err(self.bad("must be gzip, zstd or uncompressed")),
        }
    }

    fn level(&self) -> Result<i64, OptionError> {
        self.value.parse().map_err(|_| self.bad(LEVELS))
    }

    fn at_level(&self, compression: Compression, level: i64) -> Result<Compression, OptionError> {
        compression.at_level(level).ok_or_else(|| self.bad(LEVELS))
    }

    fn epoch(&self) -> Result<Option<OffsetDateTime>, OptionError> {
        if self.value.is_empty() {
            return Ok(None);
        }
        self.value
            .parse()
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .map(Some)
            .ok_or_else(|| self.bad("must be seconds since 1970"))
    }

    fn mode(&self) -> Result<LocalMode, OptionError> {
        match self.value {
            "" | "copy" => Ok(LocalMode::Copy),
            "delete" => Ok(LocalMode::Delete),
            _ => Err(self.bad("must be copy or delete")),
        }
    }

    /// A part of a file's name.
    fn file_name(&self) -> Result<String, OptionError> {
        match self.value.contains(['/', '\0']) {
            true => Err(self.bad("must not have a slash in it")),
            false => Ok(self.value.to_owned()),
        }
    }

    fn unknown(&self, known: &[&str]) -> OptionError {
        OptionError::Unknown {
            kind: self.kind,
            key: self.key.to_owned(),
            known: known.join(", "),
        }
    }

    fn annotation(&self) -> Result<Annotation, OptionError> {
        let unknown = || self.unknown(KNOWN);
        let (head, key) = self
            .key
            .split_once('.')
            .filter(|(_, key)| !key.is_empty())
            .ok_or_else(unknown)?;
        let (head, platform) = match head.split_once('[') {
            Some((head, platform)) => (
                head,
                Some(platform.strip_suffix(']').ok_or_else(unknown)?.to_owned()),
            ),
            None => (head, None),
        };
        let place = match head {
            "annotation" | "annotation-manifest" => AnnotationPlace::Manifest,
            "annotation-manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
            "annotation-index" => AnnotationPlace::Index,
            "annotation-index-descriptor" => AnnotationPlace::IndexDescriptor,
            _ => return Err(unknown()),
        };
        Ok(Annotation {
            place,
            platform,
            key: key.to_owned(),
            value: self.value.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: ExportKind, attrs: &[(&str, &str)]) -> Result<ImageOptions, String> {
        let attrs = attrs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        ImageOptions::parse(kind, &attrs).map_err(|error| error.to_string())
    }

    #[test]
    fn media_types_follow_what_is_asked_for() {
        let oci = |kind, attrs: &[_]| parse(kind, attrs).unwrap().oci_types;
        assert!(oci(ExportKind::OciArchive, &[]));
        assert!(oci(ExportKind::Image, &[]));
        assert!(!oci(ExportKind::Image, &[("oci-mediatypes", "false")]));
        assert!(oci(ExportKind::DockerArchive, &[]));
        let zstd = [("oci-mediatypes", "false"), ("compression", "zstd")];
        assert!(!oci(ExportKind::Image, &zstd));
    }

    #[test]
    fn misspelt_attributes_are_told() {
        for (key, value, part) in [
            (
                "compresion",
                "zstd",
                "unknown attribute \"compresion\" (known: name, push",
            ),
            ("compression", "lz4", "must be gzip, zstd or uncompressed"),
            ("compression", "estargz", "not supported"),
            ("push", "yes", "must be true or false"),
            ("compression-level", "high", "must be a number"),
            ("compression-level", "10", "0 to 9 for gzip"),
            ("source-date-epoch", "now", "seconds since 1970"),
            ("annotation.", "x", "unknown attribute"),
            ("annotation-layer.a", "x", "unknown attribute"),
        ] {
            let error = parse(ExportKind::Image, &[(key, value)]).unwrap_err();
            assert!(error.contains(part), "{key}: {error}");
        }
    }

    #[test]
    fn annotations_go_to_their_place_and_platform() {
        let options = parse(
            ExportKind::OciArchive,
            &[
                ("annotation.a", "all"),
                ("annotation[linux/arm64].a", "arm"),
                ("annotation-index.org.example.b", "index"),
            ],
        )
        .unwrap();
        let of = |place, platform| options.annotations_of(place, platform);
        assert_eq!(
            of(AnnotationPlace::Manifest, Some("linux/arm64"))["a"],
            "arm"
        );
        assert_eq!(
            of(AnnotationPlace::Manifest, Some("linux/amd64"))["a"],
            "all"
        );
        assert_eq!(of(AnnotationPlace::Index, None)["org.example.b"], "index");
        assert!(of(AnnotationPlace::IndexDescriptor, None).is_empty());
    }
}
