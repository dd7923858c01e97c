//! Content digests in their OCI form, and the one rule by which structured values are hashed.
//!
//! A [`Digest`] is `algorithm:hex` as the OCI image specification (descriptor.md, "Digests") has
//! it. [`Hasher`] digests a byte stream. [`FieldHasher`] digests a structured value so that two
//! different values never feed the same bytes: see its rule.

mod field;
mod stream;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use field::FieldHasher;
pub use stream::{Hasher, HashingReader, HashingWriter};

/// A hash function that a digest may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which everything that Weldkit writes is named by.
    Sha256,
    /// SHA-384, accepted where a user states a checksum.
    Sha384,
    /// SHA-512, accepted where a user states a checksum.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a hash, in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The digest of some content: an algorithm and a hash of the length that it gives.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Sha256([u8; 32]),
    Sha384(Box<[u8; 48]>),
    Sha512(Box<[u8; 64]>),
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// There is no colon between algorithm and hash.
    #[error("digest {0:?} has no \"algorithm:\" in front")]
    NoAlgorithm(String),
    /// The algorithm is none that is supported.
    #[error("digest {0:?}: unsupported algorithm (supported: sha256, sha384, sha512)")]
    UnknownAlgorithm(String),
    /// The hash is not of the algorithm's length in lower-case hexadecimal.
    #[error("digest {text:?}: the hash must be {expected} lower-case hexadecimal digits")]
    BadHash {
        /// The whole text.
        text: String,
        /// How many hexadecimal digits the algorithm has.
        expected: usize,
    },
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256_of(bytes: impl AsRef<[u8]>) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// A digest from a SHA-256 hash that was computed elsewhere.
    pub const fn from_sha256(hash: [u8; 32]) -> Self {
        Self(Repr::Sha256(hash))
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Repr::Sha256(_) => Algorithm::Sha256,
            Repr::Sha384(_) => Algorithm::Sha384,
            Repr::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hash itself, [`Algorithm::hash_len`] bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Sha256(hash) => hash,
            Repr::Sha384(hash) => hash.as_slice(),
            Repr::Sha512(hash) => hash.as_slice(),
        }
    }

    /// The hash if the algorithm is SHA-256.
    pub const fn as_sha256(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            Repr::Sha256(hash) => Some(hash),
            _ => None,
        }
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.bytes()
            .iter()
            .flat_map(|byte| {
                [
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                ]
            })
            .map(char::from)
            .collect()
    }

    fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::Sha256 => Repr::Sha256(hash.try_into().ok()?),
            Algorithm::Sha384 => Repr::Sha384(Box::new(hash.try_into().ok()?)),
            Algorithm::Sha512 => Repr::Sha512(Box::new(hash.try_into().ok()?)),
        }))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, hex)) = text.split_once(':') else {
            return Err(ParseDigestError::NoAlgorithm(text.to_owned()));
        };
        let algorithm = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| ParseDigestError::UnknownAlgorithm(text.to_owned()))?;
        let bad = || ParseDigestError::BadHash {
            text: text.to_owned(),
            expected: algorithm.hash_len() * 2,
        };
        if hex.len() != algorithm.hash_len() * 2 {
            return Err(bad());
        }
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let hash = hex
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(bad)?;
        Self::from_hash(algorithm, &hash).ok_or_else(bad)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn empty_content_has_the_known_digest() {
        assert_eq!(Digest::sha256_of([]).to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::sha256_of([]));
    }

    #[test]
    fn malformed_texts_are_refused_with_the_reason() {
        for (text, part) in [
            ("abc", "no \"algorithm:\""),
            ("md5:abcd", "unsupported algorithm"),
            ("sha256:abcd", "64 lower-case"),
            (
                &EMPTY.to_uppercase().replace("SHA256", "sha256"),
                "64 lower-case",
            ),
            ("sha512:é", "128 lower-case"),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn text_and_json_forms_round_trip(content in proptest::collection::vec(any::<u8>(), 0..64)) {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&content);
                let digest = hasher.finish();
                prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest.clone());
                let json = serde_json::to_string(&digest).unwrap();
                prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
            }
        }

        #[test]
        fn any_text_parses_or_is_refused(text in ".{0,90}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
