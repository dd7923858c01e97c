//! What sources stand for, found out without building anything.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use weld_digest::{Algorithm, Digest, Hasher};
use weld_llb::{Builder, Constraints, GitSource, Platform, Source, pb};
use weld_op::{AttestationChain, Pin, captured};
use weld_source::git::GitObjects;

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::files::FileRange;
use crate::internal::Internal;
use crate::provenance::ImageMaterial;
use crate::reference::{Building, Ref};

/// The scheme of images.
const IMAGE: &str = "docker-image://";

/// A source of which a frontend wants to know.
#[derive(Clone, Debug)]
pub struct SourceMetaRequest {
    /// The source.
    pub source: pb::SourceOp,
    /// The platform to choose of an index; that of this machine if absent.
    pub platform: Option<Platform>,
    /// What to call the step where progress is shown; empty for a name of the engine's.
    pub log_name: String,
    /// Return a commit's objects.
    pub return_object: bool,
    /// Return a checksum of a file behind a URL, with bytes behind it.
    pub checksum: Option<ChecksumRequest>,
    /// What to tell of an image.
    pub image: ImageMetaRequest,
}

/// What to tell of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageMetaRequest {
    /// Leave the config out.
    pub no_config: bool,
    /// Add the documents that attest to it, with the statements of these predicate types.
    pub attestations: Option<Vec<String>>,
}

/// A checksum of a file's content and what is put behind it, as signatures have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChecksumRequest {
    /// How it is made.
    pub algorithm: Algorithm,
    /// What is put behind the content.
    pub suffix: Bytes,
}

/// The checksum of a file's content and what is put behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The checksum.
    pub digest: Digest,
    /// What is put behind the content.
    pub suffix: Bytes,
}

/// An image whose config a frontend wants.
#[derive(Clone, Debug)]
pub struct ImageConfigRequest {
    /// The reference.
    pub reference: String,
    /// The platform to choose of an index; that of this machine if absent.
    pub platform: Option<Platform>,
    /// The OCI layout of the client's that has it, instead of a registry.
    pub layout: Option<String>,
    /// What to call the step where progress is shown; empty for a name of the engine's.
    pub log_name: String,
}

/// An image's config.
#[derive(Clone, Debug)]
pub struct ResolvedConfig {
    /// The reference, as policies may have changed it.
    pub reference: String,
    /// The digest that it stands for.
    pub digest: Digest,
    /// The config, as JSON.
    pub config: Bytes,
}

/// What a source stands for.
#[derive(Clone, Debug)]
pub struct ResolvedSource {
    /// The source, as policies may have changed it.
    pub source: pb::SourceOp,
    /// What it stands for.
    pub meta: SourceMeta,
}

/// What a source stands for, by its kind.
#[derive(Clone, Debug)]
pub enum SourceMeta {
    /// Nothing that can be told without building.
    Nothing,
    /// A commit.
    Git {
        /// The object that the reference names.
        checksum: String,
        /// The reference's full name.
        reference: String,
        /// The commit, if the object is a tag.
        commit_checksum: Option<String>,
        /// The objects of the commit and the tag, if they were asked for.
        objects: Option<Box<GitObjects>>,
    },
    /// A file behind a URL.
    Http {
        /// The digest of its content.
        digest: Digest,
        /// What it is called.
        filename: String,
        /// When it was last changed, seconds since 1970.
        last_modified: Option<i64>,
        /// The checksum that was asked for.
        checksum: Option<Checksum>,
    },
    /// An image.
    Image {
        /// The digest of the index or manifest that the reference names.
        digest: Digest,
        /// The config of the platform's image, unless it is not wanted.
        config: Bytes,
        /// What attests to it, if that is wanted and its reference names an index.
        attestations: Option<Box<AttestationChain>>,
    },
}

impl Bridge {
    /// The config of an image, with the digest that its reference stands for.
    ///
    /// # Errors
    /// [`BuildError::Source`].
    pub async fn resolve_image_config(
        &self,
        request: ImageConfigRequest,
    ) -> Result<ResolvedConfig, BuildError> {
        let (reference, layout) = match &request.layout {
            // A client's own layouts are of no interest to policies on images.
            Some(_) => (request.reference, request.layout),
            None => {
                let mut source = pb::SourceOp {
                    identifier: format!("{IMAGE}{}", request.reference),
                    attrs: BTreeMap::new(),
                };
                let platform = request.platform.clone();
                let platform = platform.unwrap_or_else(|| self.platform().clone()).into();
                Box::pin(self.judge(&mut source, Some(&platform))).await?;
                match source.identifier.strip_prefix(IMAGE) {
                    Some(reference) => (reference.to_owned(), None),
                    None => {
                        return Err(BuildError::Source {
                            name: request.reference,
                            source: format!("a policy makes it {}", source.identifier).into(),
                        });
                    }
                }
            }
        };
        let request = ImageConfigRequest {
            reference,
            layout,
            ..request
        };
        let reference = request.reference.clone();
        let (digest, config) = self.image_config(request).await?;
        Ok(ResolvedConfig {
            reference,
            digest,
            config,
        })
    }

    async fn image_config(
        &self,
        request: ImageConfigRequest,
    ) -> Result<(Digest, Bytes), BuildError> {
        let worker = &self.core.worker;
        let platform = request.platform.unwrap_or_else(|| worker.platform.clone());
        let platform = platform.normalize();
        let (reference, session) = (&request.reference, Some(self.session()));
        let name = match request.log_name.as_str() {
            "" => format!("resolve image config for {reference}"),
            name => name.to_owned(),
        };
        let step = Internal::begin(self.progress(), &name, &platform.to_string());
        let resolved = match &request.layout {
            Some(layout) => {
                worker
                    .resolve_layout(session, layout, reference, &platform)
                    .await
            }
            None => worker.resolve_image(session, reference, &platform).await,
        };
        let resolved = step.end(resolved).map_err(|source| BuildError::Source {
            name: reference.clone(),
            source: Box::new(source),
        })?;
        self.scope.note_image(ImageMaterial {
            reference: reference.clone(),
            platform: Some(platform.clone()),
            digest: Some(resolved.digest.clone()),
            is_local: request.layout.is_some(),
        });
        Ok((resolved.digest.clone(), resolved.config.clone()))
    }

    /// What a source stands for, as policies and the client have it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn resolve_source_metadata(
        &self,
        mut request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let platform = request.platform.clone();
        let platform = platform.unwrap_or_else(|| self.platform().clone()).into();
        let judged = Box::pin(self.judge(&mut request.source, Some(&platform)));
        let changed = judged.await?;
        if changed && Source::from_pb(&request.source).is_err() {
            // The frontend may well know what to do with it.
            return Ok(ResolvedSource {
                source: request.source,
                meta: SourceMeta::Nothing,
            });
        }
        self.metadata_of(request).await
    }

    /// What a source stands for that may be used as it is.
    pub(crate) async fn metadata_of(
        &self,
        request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let failed = |reason| failed(&request.source, reason);
        let source = Source::from_pb(&request.source).map_err(|error| failed(error.into()))?;
        let (reference, layout) = match source {
            Source::Image(image) => (image.reference, None),
            Source::OciLayout(image) => (image.reference, Some(image.store.unwrap_or_default())),
            Source::Http(_) => return Box::pin(self.http_metadata(source, request)).await,
            Source::Git(git) => return Box::pin(self.git_metadata(git, request)).await,
            Source::Local(_) | Source::ImageBlob(_) | Source::OciLayoutBlob(_) => {
                return Ok(ResolvedSource {
                    source: request.source,
                    meta: SourceMeta::Nothing,
                });
            }
        };
        let attestations = match &request.image.attestations {
            Some(predicates) => {
                let platform = request.platform.as_ref();
                let layout = layout.as_deref();
                let found = self.attestations(&reference, layout, platform, predicates);
                Box::pin(found).await?.map(Box::new)
            }
            None => None,
        };
        let (digest, config) = self
            .image_config(ImageConfigRequest {
                reference,
                platform: request.platform,
                layout,
                log_name: request.log_name,
            })
            .await?;
        let config = match request.image.no_config {
            true => Bytes::new(),
            false => config,
        };
        Ok(ResolvedSource {
            source: request.source,
            meta: SourceMeta::Image {
                digest,
                config,
                attestations,
            },
        })
    }

    async fn attestations(
        &self,
        reference: &str,
        layout: Option<&str>,
        platform: Option<&Platform>,
        predicates: &[String],
    ) -> Result<Option<AttestationChain>, BuildError> {
        let worker = &self.core.worker;
        let platform = platform.unwrap_or(&worker.platform).clone().normalize();
        let name = format!("resolve attestations of {reference}");
        let step = Internal::begin(self.progress(), &name, &platform.to_string());
        let session = Some(self.session());
        let found = worker.attestation_chain(session, layout, reference, &platform, predicates);
        let found = step.end(found.await);
        found.map_err(|source| BuildError::Source {
            name: reference.to_owned(),
            source: Box::new(source),
        })
    }

    /// A source that was built, with what it turned out to be: the build that uses it need not
    /// fetch it again, and gets the same.
    async fn fetched(
        &self,
        source: Source,
        asked: &pb::SourceOp,
    ) -> Result<(Ref, Option<Pin>), BuildError> {
        let mut builder = Builder::new();
        let output = builder.add_source(source, Constraints::new());
        let definition = builder
            .definition(Some(output), self.platform())
            .map_err(|error| failed(asked, error.into()))?;
        let reference = self.load(definition, Building::default())?;
        reference.evaluate().await?;
        let pin = reference.provenance().await?.iter().find_map(|walked| {
            captured(&*walked.op)
                .and_then(|own| own.pin)
                .or_else(|| captured(&*walked.ran).and_then(|ran| ran.pin))
        });
        Ok((reference, pin))
    }

    async fn http_metadata(
        &self,
        source: Source,
        request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let failed = |reason| failed(&request.source, reason);
        if let Some(wanted) = &request.checksum
            && wanted.suffix.len() > MAX_SUFFIX
        {
            let text = format!("suffix exceeds max size {MAX_SUFFIX}");
            return Err(failed(text.into()));
        }
        let (reference, pin) = self.fetched(source, &request.source).await?;
        let files = reference.read_dir("/", None).await?;
        let (Some(Pin::Digest(digest)), Some(file)) = (pin, files.into_iter().next()) else {
            return Err(failed("nothing is known of the file".into()));
        };
        let checksum = match request.checksum.clone() {
            Some(wanted) => Some(checksum(&reference, &file.path, wanted).await?),
            None => None,
        };
        Ok(ResolvedSource {
            meta: SourceMeta::Http {
                digest,
                filename: file.path.to_string_lossy().into_owned(),
                // Of 1970 is a file of which the server tells no time.
                last_modified: Some(file.mtime.seconds).filter(|seconds| *seconds != 0),
                checksum,
            },
            source: request.source,
        })
    }

    async fn git_metadata(
        &self,
        git: GitSource,
        request: SourceMetaRequest,
    ) -> Result<ResolvedSource, BuildError> {
        let failed = |reason| failed(&request.source, reason);
        let source = Source::Git(git.clone());
        let (_, pin) = self.fetched(source, &request.source).await?;
        let Some(Pin::Commit(resolved)) = pin else {
            return Err(failed("nothing is known of the commit".into()));
        };
        let objects = match request.return_object {
            true => {
                let step = Internal::begin(self.progress(), "read the commit", &resolved.checksum);
                let (worker, session) = (&self.core.worker, &**self.session());
                let transfers = step.transfers();
                let read = worker.git_objects(session, &git, &resolved, &transfers);
                let read = step.end(read.await).map_err(|error| failed(error.into()))?;
                Some(Box::new(read))
            }
            false => None,
        };
        let tagged = objects
            .as_ref()
            .and_then(|objects| objects.tagged_commit.clone());
        Ok(ResolvedSource {
            meta: SourceMeta::Git {
                // With the repository's own directory the tag's object counts.
                commit_checksum: tagged.or(resolved.tagged_commit.filter(|_| !git.keep_git_dir)),
                checksum: resolved.checksum,
                reference: resolved.reference,
                objects,
            },
            source: request.source,
        })
    }
}

/// The longest that may be put behind a file's content, in bytes.
const MAX_SUFFIX: usize = 4096;

fn failed(source: &pb::SourceOp, reason: Box<dyn std::error::Error + Send + Sync>) -> BuildError {
    BuildError::Source {
        name: source.identifier.clone(),
        source: reason,
    }
}

async fn checksum(
    reference: &Ref,
    path: &Path,
    wanted: ChecksumRequest,
) -> Result<Checksum, BuildError> {
    let mut hasher = Hasher::new(wanted.algorithm);
    let path = format!("/{}", path.to_string_lossy());
    let mut offset = 0;
    loop {
        let range = FileRange {
            offset,
            length: PIECE,
        };
        let piece = reference.read_file(&path, Some(range)).await?;
        if piece.is_empty() {
            break;
        }
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
    hasher.update(&wanted.suffix);
    Ok(Checksum {
        digest: hasher.finish(),
        suffix: wanted.suffix,
    })
}

/// How much of a file is read at once, in bytes.
const PIECE: u64 = 4 << 20;
