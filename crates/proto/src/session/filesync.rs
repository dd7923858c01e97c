//! Files from and to the client (package `moby.filesync.v1`).

/// Sends a directory of the client's: streams of [`Packet`](crate::fsutil::Packet) both ways.
pub const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// A method that no client serves any more.
pub const TAR_STREAM: &str = "/moby.filesync.v1.FileSync/TarStream";
/// Takes a result: a stream of [`BytesMessage`](super::BytesMessage), or of packets where it goes
/// into a directory.
pub const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Metadata of [`DIFF_COPY`]: the directory's name.
pub const DIR_NAME: &str = "dir-name";
/// Metadata of [`DIFF_COPY`]: patterns of which one must match.
pub const INCLUDE_PATTERNS: &str = "include-patterns";
/// Metadata of [`DIFF_COPY`]: patterns of which none must match.
pub const EXCLUDE_PATTERNS: &str = "exclude-patterns";
/// Metadata of [`DIFF_COPY`]: paths to send with what their symbolic links lead to.
pub const FOLLOW_PATHS: &str = "followpaths";
/// What is appended to a key of metadata to say, with the value `1`, that its values are escaped
/// as in a URL's query.
pub const ENCODED_SUFFIX: &str = "-encoded";
/// Metadata of [`SEND`]: the number of the exporter among those of the request.
pub const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
/// Metadata of [`SEND`]: `1` where one stream has the files of all platforms.
pub const EXPORTER_MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
/// Metadata of [`SEND`]: what keys of the exporter's response begin with.
pub const EXPORTER_META_PREFIX: &str = "exporter-md-";
