//! Keys that show a daemon which clients have the same credentials, so that it may share between
//! them the tokens that they fetch. They give nothing of the credentials away: a key comes from
//! the daemon's salt and from a random seed for each registry, which docker's configuration
//! directory keeps as BuildKit's clients do.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustix::fs::FlockOperation;
use rustix::rand::GetRandomFlags;
use serde::{Deserialize, Serialize};

/// The file of seeds, and the one by which those who write it wait for each other.
const SEEDS: &str = ".token_seed";
const LOCK: &str = ".token_seed.lock";
/// How large the file may be, in bytes.
const MAX_SEEDS: u64 = 4 << 20;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("cannot use {path}: {source}", path = .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("there is no randomness to be had: {0}")]
    Random(io::Error),
    #[error("no key can be made of the seed")]
    Key,
}

/// The key of those who have a registry's credentials, or of all who have none.
pub(super) struct TokenAuthority(Ed25519KeyPair);

impl TokenAuthority {
    /// The key for `salt`; without a seed that of those who have no credentials.
    pub(super) fn new(salt: &[u8], seed: Option<&[u8]>) -> Result<Self, AuthorityError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
        let sum = hmac::sign(&key, seed.unwrap_or_default());
        let pair = Ed25519KeyPair::from_seed_unchecked(sum.as_ref());
        pair.map(Self).map_err(|_| AuthorityError::Key)
    }

    pub(super) fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The signature with the message behind it.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signed = self.0.sign(message).as_ref().to_vec();
        signed.extend_from_slice(message);
        signed
    }
}

#[derive(Deserialize, Serialize)]
struct Entry {
    #[serde(rename = "Seed")]
    seed: String,
}

/// The seed for a registry from a directory's file, which gets one if it has none. A directory
/// that cannot be written gives a seed for this once.
pub(super) fn seed(directory: &Path, host: &str) -> Result<Vec<u8>, AuthorityError> {
    let path = directory.join(SEEDS);
    let failed = |source| AuthorityError::File {
        path: path.clone(),
        source,
    };
    let _lock = match lock(directory) {
        Ok(lock) => Some(lock),
        Err(error) if is_read_only(&error) => None,
        Err(error) => return Err(failed(error)),
    };
    let mut seeds = read(&path).map_err(failed)?;
    if let Some(seed) = seeds.get(host).and_then(decode) {
        return Ok(seed);
    }
    let mut seed = vec![0; 16];
    rustix::rand::getrandom(&mut seed, GetRandomFlags::empty())
        .map_err(|error| AuthorityError::Random(error.into()))?;
    let entry = Entry {
        seed: BASE64_STANDARD.encode(&seed),
    };
    seeds.insert(host.to_owned(), entry);
    match write(&path, &seeds) {
        Err(error) if !is_read_only(&error) => Err(failed(error)),
        _ => Ok(seed),
    }
}

fn decode(entry: &Entry) -> Option<Vec<u8>> {
    let seed = BASE64_STANDARD.decode(&entry.seed).ok()?;
    (!seed.is_empty()).then_some(seed)
}

fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

fn lock(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(directory.join(LOCK))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Entry>> {
    use io::Read;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_read_only(&error) => {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_SEEDS).read_to_end(&mut text)?;
    // One that a crash left half written is written anew.
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

fn write(path: &Path, seeds: &BTreeMap<String, Entry>) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(seeds)?;
    let mut options = File::options();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    options.open(path)?.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn those_with_the_same_seed_have_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let first = seed(directory.path(), "a.example").unwrap();
        assert_eq!(seed(directory.path(), "a.example").unwrap(), first);
        assert_ne!(seed(directory.path(), "b.example").unwrap(), first);
        assert_eq!(seed(directory.path(), "a.example").unwrap(), first);
        let key = |salt: &[u8], seed| {
            let authority = TokenAuthority::new(salt, seed).unwrap();
            authority.public_key().to_vec()
        };
        assert_eq!(key(b"salt", Some(&first)), key(b"salt", Some(&first)));
        assert_ne!(key(b"salt", Some(&first)), key(b"other", Some(&first)));
        assert_ne!(key(b"salt", Some(&first)), key(b"salt", None));
    }

    #[test]
    fn what_is_signed_can_be_verified() {
        let authority = TokenAuthority::new(b"salt", Some(b"seed")).unwrap();
        let signed = authority.sign(b"message");
        let (signature, message) = signed.split_at(64);
        assert_eq!(message, b"message");
        UnparsedPublicKey::new(&ED25519, authority.public_key())
            .verify(message, signature)
            .unwrap();
    }
}
