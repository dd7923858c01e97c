use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{ETAG, HeaderMap, LAST_MODIFIED};
use serde::{Deserialize, Serialize};
use weld_digest::Digest;
use weld_llb::FileAttributes;

/// The permissions of a file for which none are stated.
const DEFAULT_MODE: u32 = 0o600;

/// What is known of a file that was fetched: to be kept with it, and given to the next fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The digest of the content.
    pub digest: Digest,
    /// The length, in bytes.
    pub size: u64,
    /// The name that the file should have: never empty, without slashes.
    pub filename: String,
    /// When the server says that it changed last, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// The server's name for this state of the file.
    pub etag: Option<String>,
}

impl Download {
    /// Sets owner, permissions and time of the file as BuildKit does: 0600 unless stated, and
    /// 1970 if the server told no time.
    ///
    /// # Errors
    /// What setting meets.
    pub fn set_attributes(&self, file: &File, attributes: &FileAttributes) -> io::Result<()> {
        let (uid, gid) = (attributes.uid.unwrap_or(0), attributes.gid.unwrap_or(0));
        if attributes.uid.is_some()
            || attributes.gid.is_some()
            || rustix::process::geteuid().is_root()
        {
            let (uid, gid) = (
                rustix::fs::Uid::from_raw(uid),
                rustix::fs::Gid::from_raw(gid),
            );
            rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid))?;
        }
        let mode = attributes.mode.unwrap_or(DEFAULT_MODE) & 0o7777;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        let since = self
            .last_modified
            .and_then(|seconds| u64::try_from(seconds).ok());
        let time = UNIX_EPOCH + Duration::from_secs(since.unwrap_or(0));
        file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
    }
}

/// As the server wrote it, who may have left out the quotes and does not know it with them.
pub(super) fn etag(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(ETAG)?.to_str().ok()?.trim();
    (!bare(text).is_empty()).then(|| text.to_owned())
}

/// What two tags for the same file have in common: servers are not consistent about quotes and
/// weakness.
pub(super) fn bare(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

pub(super) fn last_modified(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get(LAST_MODIFIED)?.to_str().ok()?;
    // Some servers call it UTC.
    let text = match text.strip_suffix(" UTC") {
        Some(time) => format!("{time} GMT"),
        None => text.to_owned(),
    };
    let time: SystemTime = httpdate::parse_http_date(&text).ok()?;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    i64::try_from(seconds).ok()
}
