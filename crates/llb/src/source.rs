//! Where content from outside comes from.

mod caps;
mod wire;

use std::collections::BTreeMap;

use weld_digest::Digest;

/// Content from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `docker-image://`: an image in a registry.
    Image(ImageSource),
    /// `docker-image+blob://`: a blob in a registry, as a file.
    ImageBlob(BlobSource),
    /// `oci-layout://`: an image in an OCI layout.
    OciLayout(OciLayoutSource),
    /// `oci-layout+blob://`: a blob in an OCI layout, as a file.
    OciLayoutBlob(BlobSource),
    /// `local://`: a directory of the client's.
    Local(LocalSource),
    /// `git://`: a commit of a repository.
    Git(GitSource),
    /// `http://` or `https://`: a file.
    Http(HttpSource),
}

/// When a registry is asked what a tag stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResolveMode {
    /// The engine decides.
    #[default]
    Default,
    /// Always.
    ForcePull,
    /// If the image is not there.
    PreferLocal,
}

/// An image in a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSource {
    /// The reference, with the registry's name and a tag or digest.
    pub reference: String,
    /// When the registry is asked; absent is as the default.
    pub resolve_mode: Option<ResolveMode>,
    /// The usage record's type, such as `internal`.
    pub record_type: Option<String>,
    /// Use only so many of the lowest layers.
    pub layer_limit: Option<u64>,
    /// The digest that the image must have.
    pub checksum: Option<Digest>,
}

/// An image in an OCI layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OciLayoutSource {
    /// The reference: a name and a tag or digest.
    pub reference: String,
    /// The session that serves the layout.
    pub session: Option<String>,
    /// The layout's name in the session.
    pub store: Option<String>,
    /// Use only so many of the lowest layers.
    pub layer_limit: Option<u64>,
}

/// A blob, as a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobSource {
    /// The reference, with a digest.
    pub reference: String,
    /// How the file is written.
    pub file: FileAttributes,
    /// The session that serves the layout.
    pub session: Option<String>,
    /// The layout's name in the session.
    pub store: Option<String>,
}

/// How a downloaded file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAttributes {
    /// Its name; that of the server's answer or of the URL if absent.
    pub filename: Option<String>,
    /// Its permission bits; 0600 if absent.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// A directory of the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSource {
    /// The name under which the client offers it.
    pub name: String,
    /// The session that offers it.
    pub session: Option<String>,
    /// Distinguishes directories of equal names where no session does.
    pub unique: Option<String>,
    /// Transfer only what matches, if not empty.
    pub include_patterns: Vec<String>,
    /// Leave out what matches.
    pub exclude_patterns: Vec<String>,
    /// Transfer only these and what their symbolic links lead to, if not empty.
    pub follow_paths: Vec<String>,
    /// Names the transfer target that builds may share.
    pub shared_key_hint: Option<String>,
    /// How changed files are found (`none`, `metadata`).
    pub differ: Option<String>,
    /// Transfer metadata only.
    pub metadata_transfer: Option<MetadataTransfer>,
}

/// A transfer of metadata without content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataTransfer {
    /// Transfer the content of these all the same.
    pub exceptions: Vec<String>,
}

/// A commit of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSource {
    /// Host and path, without scheme: equal for all ways to the same repository.
    pub id: String,
    /// The branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// The directory that is checked out; empty for all.
    pub subdir: String,
    /// The remote as the user wrote it.
    pub url: Option<String>,
    /// Keep the `.git` directory.
    pub keep_git_dir: bool,
    /// The secret that holds an HTTP token.
    pub auth_token_secret: Option<String>,
    /// The secret that holds an `Authorization` header.
    pub auth_header_secret: Option<String>,
    /// Lines of a `known_hosts` file.
    pub known_ssh_hosts: Option<String>,
    /// The SSH agent to forward.
    pub mount_ssh_sock: Option<String>,
    /// The commit that the reference must stand for, or the beginning of its name.
    pub checksum: Option<String>,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// Modification times (`checkout`, `commit`).
    pub mtime: Option<String>,
    /// Fetch the commit of `checksum` without resolving `reference`.
    pub fetch_by_commit: bool,
    /// A bundle to import from, instead of the remote.
    pub bundle: Option<GitBundle>,
    /// Check out as one bundle file.
    pub checkout_bundle: bool,
    /// The signature that is required.
    pub signature: Option<GitSignature>,
}

/// A git bundle in a registry or an OCI layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitBundle {
    /// Where it is.
    pub locator: String,
    /// The session that serves the layout.
    pub session: Option<String>,
    /// The layout's name in the session.
    pub store: Option<String>,
}

/// The signature that a commit or tag must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSignature {
    /// The public key.
    pub public_key: String,
    /// Refuse expired keys.
    pub reject_expired: bool,
    /// Require that the tag itself is signed.
    pub require_signed_tag: bool,
    /// Look at the commit's signature only.
    pub ignore_signed_tag: bool,
}

/// A file behind a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// The digest that the content must have.
    pub checksum: Option<Digest>,
    /// How the file is written.
    pub file: FileAttributes,
    /// The secret that holds an `Authorization` header.
    pub auth_header_secret: Option<String>,
    /// Request headers by their lower-case names.
    pub headers: BTreeMap<String, String>,
    /// The public key that must have signed the content.
    pub signature_public_key: Option<String>,
    /// The detached signature.
    pub signature: Option<String>,
}

/// Why a source is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The identifier has no scheme.
    #[error(
        "source {0:?} has no scheme (docker-image://, oci-layout://, local://, git://, https://, http://)"
    )]
    NoScheme(String),
    /// The scheme is none of those supported.
    #[error(
        "source {identifier:?}: scheme {scheme:?} is not supported (docker-image, oci-layout, local, git, https, http)"
    )]
    UnknownScheme {
        /// The identifier.
        identifier: String,
        /// The scheme.
        scheme: String,
    },
    /// The identifier names nothing.
    #[error("source {0:?} names nothing behind its scheme")]
    Empty(String),
    /// Only a part of the layers is wanted, and that part is none.
    #[error("source {identifier:?}: invalid layer limit {value:?}")]
    LayerLimit {
        /// The source.
        identifier: String,
        /// The limit.
        value: String,
    },
    /// An attribute has a value that it cannot have.
    #[error("source {identifier:?}: attribute {name}={value:?}: expected {expected}")]
    BadAttribute {
        /// The identifier.
        identifier: String,
        /// The attribute.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Source {
    /// The identifier: scheme and name.
    pub fn identifier(&self) -> String {
        match self {
            Self::Image(image) => format!("docker-image://{}", image.reference),
            Self::ImageBlob(blob) => format!("docker-image+blob://{}", blob.reference),
            Self::OciLayout(image) => format!("oci-layout://{}", image.reference),
            Self::OciLayoutBlob(blob) => format!("oci-layout+blob://{}", blob.reference),
            Self::Local(local) => format!("local://{}", local.name),
            Self::Git(git) => format!("git://{}", git.id_with_fragment()),
            Self::Http(http) => http.url.clone(),
        }
    }

    /// Whether the content depends on the platform.
    pub const fn is_platform_specific(&self) -> bool {
        matches!(self, Self::Image(_) | Self::OciLayout(_))
    }
}

impl GitSource {
    /// Host and path with the reference and directory as a fragment.
    pub fn id_with_fragment(&self) -> String {
        match (self.reference.as_str(), self.subdir.as_str()) {
            ("", "") => self.id.clone(),
            (reference, "") => format!("{}#{reference}", self.id),
            (reference, subdir) => format!("{}#{reference}:{subdir}", self.id),
        }
    }

    /// Where to fetch from.
    pub fn remote(&self) -> String {
        match &self.url {
            Some(url) => url.clone(),
            None => format!("https://{}", self.id),
        }
    }
}

impl ResolveMode {
    /// The attribute's value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => weld_proto::attr::IMAGE_RESOLVE_MODE_DEFAULT,
            Self::ForcePull => weld_proto::attr::IMAGE_RESOLVE_MODE_FORCE_PULL,
            Self::PreferLocal => weld_proto::attr::IMAGE_RESOLVE_MODE_PREFER_LOCAL,
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Default, Self::ForcePull, Self::PreferLocal]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}
