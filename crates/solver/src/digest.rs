//! The opaque 32-byte digest that vertices, operations, selectors, contents and cache keys are named by.

use std::fmt;

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

/// A 32-byte name. The solver compares digests and hashes them into keys; it never interprets them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// The first eight bytes, for tables that need a small uniform hash.
    pub(crate) fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

fn hex(nibble: u8) -> u8 {
    nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(6)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of a cache key: a hash over the operation's digest, the output and the keys of the inputs.
///
/// Equal definitions have equal ids in every process, so ids may be stored and exchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub Digest);

impl KeyId {
    /// The key of output `output` of an operation without inputs.
    pub fn root(op: Digest, output: u32) -> Self {
        Self::exchanged(op, format_args!("{output}"))
    }

    /// The key that stands for the content `content` of an input (a *slow* key).
    pub fn content(content: Digest) -> Self {
        Self::exchanged(content, format_args!("-1"))
    }

    /// The form in which BuildKit's cache manifests name such keys, so that caches are exchanged without a table of names.
    fn exchanged(digest: Digest, output: fmt::Arguments<'_>) -> Self {
        let mut text = ShortText::default();
        // What does not fit is cut off: no output index has more than ten digits.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("sha256:{digest}@{output}"));
        Self(Digest::of(text.bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text of at most `sha256:`, 64 digits, `@` and an index, without an allocation.
struct ShortText {
    bytes: [u8; 84],
    len: usize,
}

impl Default for ShortText {
    fn default() -> Self {
        Self {
            bytes: [0; 84],
            len: 0,
        }
    }
}

impl ShortText {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Builds the id of a key with inputs, one input after the other in order.
pub(crate) struct KeyHasher(SmallVec<[u8; 256]>);

impl KeyHasher {
    pub(crate) fn new(op: Digest, output: u32) -> Self {
        let mut bytes = SmallVec::new();
        bytes.push(1);
        bytes.extend_from_slice(&op.0);
        bytes.extend_from_slice(&output.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn input(&mut self, key: KeyId, selector: Option<Digest>) {
        match selector {
            None => self.0.push(0),
            Some(selector) => {
                self.0.push(1);
                self.0.extend_from_slice(&selector.0);
            }
        }
        self.0.extend_from_slice(&key.0.0);
    }

    pub(crate) fn finish(self) -> KeyId {
        KeyId(Digest::of(&self.0))
    }
}

/// `digest` as it is used inside the isolation domain `domain`: two domains never compute an equal key.
pub(crate) fn salted(domain: Digest, digest: Digest) -> Digest {
    let mut hash = Sha256::new();
    hash.update([3]);
    hash.update(domain.0);
    hash.update(digest.0);
    Digest(hash.finalize().into())
}
