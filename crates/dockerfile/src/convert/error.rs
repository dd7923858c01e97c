//! What can be wrong when a Dockerfile is converted.

use std::fmt;
use std::sync::Arc;

use weld_llb::reference::ParseReferenceError;
use weld_llb::{BuildError, ParsePlatformError};

use super::git_ref::GitRefError;
use super::host::HostError;

/// What can be wrong when a Dockerfile is converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A `# syntax=` line asks for another frontend.
    #[error(
        "frontend image {image:?} is not supported: only docker/dockerfile and docker/dockerfile-upstream are, which are built in"
    )]
    Syntax {
        /// The image.
        image: String,
        /// The image with what is written behind it, for the frontend to read.
        command_line: String,
    },
    /// There is no Dockerfile.
    #[error("failed to read dockerfile: {filename}: no such file in {context}")]
    NoDockerfile {
        /// The file's name.
        filename: String,
        /// Where it was looked for.
        context: String,
    },
    /// A context could not be read.
    #[error("failed to read {what}: {source}")]
    Read {
        /// What was to be read.
        what: String,
        /// What the host says.
        source: HostFailure,
    },
    /// An ignore file is malformed.
    #[error("failed to parse {name}: {source}")]
    IgnoreFile {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        source: crate::ignore::IgnoreError,
    },
    /// A pattern of an ignore file is malformed.
    #[error("failed to parse the ignore file: {0}")]
    IgnorePattern(#[from] weld_fileset::PatternError),
    /// An image's config could not be had.
    #[error("{image}: failed to resolve source metadata for {reference}: {source}")]
    ImageConfig {
        /// The image as the user wrote it.
        image: String,
        /// What it stands for.
        reference: String,
        /// What the host says.
        source: HostFailure,
    },
    /// A policy made something else of an image.
    #[error("a source policy made of {image} what is no image, on which nothing can be built")]
    NoImage {
        /// The image as the user wrote it.
        image: String,
    },
    /// An image's config is malformed.
    #[error("failed to parse the config of image {image}: {reason}")]
    BadImageConfig {
        /// The image.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name is no image reference.
    #[error("failed to parse stage name {name:?}: {source}")]
    Reference {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: ParseReferenceError,
    },
    /// A base's name is empty after expansion.
    #[error("base name ({written}) should not be blank")]
    BlankBase {
        /// The base as written.
        written: String,
    },
    /// A platform is empty after expansion.
    #[error("empty platform value from expression {written}")]
    BlankPlatform {
        /// The platform as written.
        written: String,
    },
    /// A platform is malformed.
    #[error("failed to parse platform {written}: {source}")]
    Platform {
        /// The platform as written.
        written: String,
        /// What is wrong with it.
        source: ParsePlatformError,
    },
    /// The target is not a stage.
    #[error("target stage {name:?} could not be found")]
    UnknownTarget {
        /// The target.
        name: String,
    },
    /// `--from` with the number of a stage that does not exist.
    #[error("invalid stage index {index}: there are {stages} stages, counted from 0")]
    StageIndex {
        /// The number.
        index: usize,
        /// How many stages there are.
        stages: usize,
    },
    /// `COPY --from` with a variable, quotes or escapes.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    VariableInFrom {
        /// The value as written.
        written: String,
    },
    /// Stages need each other.
    #[error("circular dependency detected on stage: {stage}")]
    Cycle {
        /// One of them.
        stage: String,
    },
    /// `COPY --from` with a stage that comes later.
    #[error(
        "cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    CopyFromLater {
        /// The stage that comes later.
        from: String,
        /// The stage that uses it.
        stage: String,
    },
    /// `RUN --mount=from=` with a stage that comes later.
    #[error(
        "cannot mount from stage {from:?} to {target:?}, stage needs to be defined before current command"
    )]
    MountFromLater {
        /// The stage that comes later.
        from: String,
        /// The mount point.
        target: String,
    },
    /// A mount point is the root.
    #[error("invalid mount target {target:?}")]
    MountTarget {
        /// The mount point.
        target: String,
    },
    /// An SSH mount has a source.
    #[error("ssh mounts do not support source")]
    SshSource,
    /// `--checksum` with several sources.
    #[error("checksum can't be specified for multiple sources")]
    ChecksumSources,
    /// `--checksum` with a file of the context.
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumLocal,
    /// `--checksum` and the URL name different commits.
    #[error("checksum mismatch {flag:?} != {url:?}")]
    ChecksumConflict {
        /// By the flag.
        flag: String,
        /// By the URL.
        url: String,
    },
    /// `--checksum` is no digest.
    #[error("invalid checksum: {0}")]
    Checksum(#[from] weld_digest::ParseDigestError),
    /// `--keep-git-dir` and the URL say different things.
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDirConflict,
    /// `COPY` with a git repository.
    #[error("source can't be a git ref for COPY: {url}")]
    CopyGit {
        /// The repository.
        url: String,
    },
    /// `COPY` with a URL.
    #[error("source can't be a URL for COPY: {url}")]
    CopyUrl {
        /// The URL.
        url: String,
    },
    /// A git URL is malformed.
    #[error(transparent)]
    GitRef(#[from] GitRefError),
    /// `STOPSIGNAL` with what is no signal.
    #[error("invalid signal: {signal}")]
    Signal {
        /// The signal.
        signal: String,
    },
    /// `SOURCE_DATE_EPOCH` is no number, and names nothing.
    #[error(
        "invalid SOURCE_DATE_EPOCH: {value}: a number of seconds since 1970, up to the year 9999, is needed, or context, or the name of a stage or context"
    )]
    Epoch {
        /// The value.
        value: String,
    },
    /// `SOURCE_DATE_EPOCH` names a stage that is more than a source.
    #[error("SOURCE_DATE_EPOCH stage {reason}")]
    EpochStage {
        /// What is wrong with it.
        reason: String,
    },
    /// A named context's value is malformed.
    #[error("invalid context specifier {value:?} for {name}: {reason}")]
    NamedContext {
        /// The context.
        name: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A definition handed in as a context is malformed.
    #[error("invalid input {name}: {reason}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The definition could not be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl ConvertError {
    /// The word in the Dockerfile that it is about.
    pub(crate) fn subject(&self) -> Option<&str> {
        Some(match self {
            Self::ImageConfig { image, .. }
            | Self::NoImage { image }
            | Self::BadImageConfig { image, .. } => image,
            Self::Reference { name, .. } => name,
            Self::VariableInFrom { written }
            | Self::BlankBase { written }
            | Self::BlankPlatform { written }
            | Self::Platform { written, .. } => written,
            Self::Cycle { stage } => stage,
            Self::CopyFromLater { from, .. } | Self::MountFromLater { from, .. } => from,
            Self::MountTarget { target } => target,
            Self::CopyGit { url } | Self::CopyUrl { url } => url,
            Self::Signal { signal } => signal,
            _ => return None,
        })
    }

    /// What it ends with that a host said, and what is between that and the rest.
    pub(crate) fn said_by_host(&self) -> Option<String> {
        match self {
            Self::ImageConfig { source, .. } => Some(format!(": {source}")),
            _ => None,
        }
    }
}

/// Why an option of a request is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {name}={value:?}: {reason}")]
pub struct OptionError {
    /// The option.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a host said when it failed.
#[derive(Clone)]
pub struct HostFailure(Arc<dyn std::error::Error + Send + Sync>);

impl HostFailure {
    /// The host's own error.
    pub fn error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl From<HostError> for HostFailure {
    fn from(error: HostError) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for HostFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Failures are equal if they are one and the same.
impl PartialEq for HostFailure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for HostFailure {}
