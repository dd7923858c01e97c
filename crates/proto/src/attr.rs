//! Names of the attributes of a source or build operation (BuildKit's `solver/pb/attr.go`).

/// Keep the `.git` directory: `"true"`.
pub const GIT_KEEP_DIR: &str = "git.keepgitdir";
/// The remote to fetch from, as the user wrote it.
pub const GIT_FULL_URL: &str = "git.fullurl";
/// The secret that holds an HTTP `Authorization` header.
pub const GIT_AUTH_HEADER_SECRET: &str = "git.authheadersecret";
/// The secret that holds an HTTP token.
pub const GIT_AUTH_TOKEN_SECRET: &str = "git.authtokensecret";
/// Lines of an SSH `known_hosts` file.
pub const GIT_KNOWN_SSH_HOSTS: &str = "git.knownsshhosts";
/// The SSH agent to forward.
pub const GIT_MOUNT_SSH_SOCK: &str = "git.mountsshsock";
/// The commit that the ref must resolve to, or a prefix of it.
pub const GIT_CHECKSUM: &str = "git.checksum";
/// Leave submodules out: `"true"`.
pub const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
/// Modification times of the checkout: `"checkout"` or `"commit"`.
pub const GIT_MTIME: &str = "git.mtime";
/// Fetch the commit of [`GIT_CHECKSUM`] without resolving the ref: `"true"`.
pub const GIT_FETCH_BY_COMMIT: &str = "git.fetchbycommit";
/// Where a bundle to import from is found.
pub const GIT_BUNDLE: &str = "git.bundle";
/// Check out as one bundle file: `"true"`.
pub const GIT_CHECKOUT_BUNDLE: &str = "git.checkoutbundle";
/// Public key that must have signed the commit or tag.
pub const GIT_SIG_PUBKEY: &str = "git.sig.pubkey";
/// Refuse signatures of expired keys: `"true"`.
pub const GIT_SIG_REJECT_EXPIRED: &str = "git.sig.rejectexpired";
/// Require that the tag itself is signed: `"true"`.
pub const GIT_SIG_REQUIRE_SIGNED_TAG: &str = "git.sig.requiresignedtag";
/// Look at the commit's signature only: `"true"`.
pub const GIT_SIG_IGNORE_SIGNED_TAG: &str = "git.sig.ignoresignedtag";

/// The session that owns the directory.
pub const LOCAL_SESSION: &str = "local.session";
/// Distinguishes directories of equal names where no session does.
pub const LOCAL_UNIQUE: &str = "local.unique";
/// JSON list of patterns: transfer only what matches.
pub const LOCAL_INCLUDE_PATTERNS: &str = "local.includepattern";
/// JSON list of paths: transfer these and what their symbolic links lead to.
pub const LOCAL_FOLLOW_PATHS: &str = "local.followpaths";
/// JSON list of patterns: leave out what matches.
pub const LOCAL_EXCLUDE_PATTERNS: &str = "local.excludepatterns";
/// Names the transfer target that builds may share.
pub const LOCAL_SHARED_KEY_HINT: &str = "local.sharedkeyhint";
/// Transfer metadata only: `"true"`.
pub const LOCAL_METADATA_TRANSFER: &str = "local.metadatatransfer";
/// JSON list of patterns: transfer content for these all the same.
pub const LOCAL_METADATA_TRANSFER_EXCLUDE: &str = "local.metadatatransferexclude";
/// How changed files are found: [`LOCAL_DIFFER_NONE`] or [`LOCAL_DIFFER_METADATA`].
pub const LOCAL_DIFFER: &str = "local.differ";
/// Every file is transferred again.
pub const LOCAL_DIFFER_NONE: &str = "none";
/// Files whose metadata changed are transferred.
pub const LOCAL_DIFFER_METADATA: &str = "metadata";

/// The name of the definition's file in the input of a build operation.
pub const LLB_DEFINITION_FILENAME: &str = "llbbuild.filename";

/// The digest that the content must have.
pub const HTTP_CHECKSUM: &str = "http.checksum";
/// The name of the file.
pub const HTTP_FILENAME: &str = "http.filename";
/// The file's permission bits, octal with a leading zero.
pub const HTTP_PERM: &str = "http.perm";
/// The file's owner, decimal.
pub const HTTP_UID: &str = "http.uid";
/// The file's group, decimal.
pub const HTTP_GID: &str = "http.gid";
/// The secret that holds an `Authorization` header.
pub const HTTP_AUTH_HEADER_SECRET: &str = "http.authheadersecret";
/// In front of the lower-case name of a request header (`accept`, `user-agent`).
pub const HTTP_HEADER_PREFIX: &str = "http.header.";
/// Public key that must have signed the content.
pub const HTTP_SIG_PUBKEY: &str = "http.sig.pubkey";
/// The detached, armoured signature.
pub const HTTP_SIG_SIGNATURE: &str = "http.sig.signature";

/// When the registry is asked: one of the `IMAGE_RESOLVE_MODE_*` values.
pub const IMAGE_RESOLVE_MODE: &str = "image.resolvemode";
/// The engine decides.
pub const IMAGE_RESOLVE_MODE_DEFAULT: &str = "default";
/// Always ask the registry.
pub const IMAGE_RESOLVE_MODE_FORCE_PULL: &str = "pull";
/// Prefer what is there.
pub const IMAGE_RESOLVE_MODE_PREFER_LOCAL: &str = "local";
/// Usage record type of the pulled image (`internal`).
pub const IMAGE_RECORD_TYPE: &str = "image.recordtype";
/// Use only so many of the lowest layers, decimal.
pub const IMAGE_LAYER_LIMIT: &str = "image.layerlimit";
/// The digest that the image must have.
pub const IMAGE_CHECKSUM: &str = "image.checksum";

/// The session that serves the layout.
pub const OCI_LAYOUT_SESSION: &str = "oci.session";
/// The layout's name in the session.
pub const OCI_LAYOUT_STORE: &str = "oci.store";
/// Use only so many of the lowest layers, decimal.
pub const OCI_LAYOUT_LAYER_LIMIT: &str = "oci.layerlimit";
