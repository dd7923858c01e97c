//! The file of a layer's keys.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use weld_digest::Digest;

/// The first bytes of the file: what it is, and its version.
const MAGIC: &[u8; 8] = b"weldkey1";

/// The keys of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// Of the file, or of a directory without what is in it.
    pub(crate) own: Option<[u8; 32]>,
    /// Of a directory with all that is in it.
    pub(crate) whole: Option<[u8; 32]>,
}

/// The keys of a layer's paths.
pub(crate) type KeyMap = HashMap<Vec<u8>, Keys>;

/// Reads a file of keys. One that is torn or of another version counts as missing, since all
/// that it says can be found again.
pub(crate) fn load(path: &Path) -> KeyMap {
    let read = || {
        let bytes = fs::read(path).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (digest, body) = rest.split_at_checked(32)?;
        if Digest::sha256_of(body).bytes() != digest {
            return None;
        }
        postcard::from_bytes(body).ok()
    };
    read().unwrap_or_default()
}

/// Writes a file of keys.
pub(crate) fn save(path: &Path, keys: &KeyMap) -> io::Result<()> {
    let body = postcard::to_stdvec(keys).map_err(io::Error::other)?;
    let digest = Digest::sha256_of(&body);
    let new = path.with_extension("new");
    fs::write(&new, [MAGIC, digest.bytes(), &body].concat())?;
    fs::rename(&new, path)
}
