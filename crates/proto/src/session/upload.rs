//! Files that the client has as streams, such as its standard input (package `moby.upload.v1`).

/// Sends a stream: [`BytesMessage`](super::BytesMessage) both ways, of which only the client's
/// have content.
pub const PULL: &str = "/moby.upload.v1.Upload/Pull";

/// Metadata of [`PULL`]: the path of the file's URL.
pub const URL_PATH: &str = "urlpath";
/// Metadata of [`PULL`]: the host of the file's URL.
pub const URL_HOST: &str = "urlhost";
/// The host of URLs that mean a file of the client's.
pub const HOST: &str = "buildkit-session";
