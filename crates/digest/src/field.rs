use crate::{Digest, Hasher};

/// Digests a structured value, SHA-256.
///
/// The rule, so that different values never feed the same bytes: a value starts with a *domain*
/// (what it is and which version of its layout, so that two kinds of value never collide); every
/// variable-length field is preceded by its length as a little-endian `u64`; a list is preceded
/// by its number of items; an enum or an option is preceded by its ordinal; a map is fed in the
/// order of its keys. Integers are little-endian and of fixed width.
#[derive(Clone)]
pub struct FieldHasher(Hasher);

impl FieldHasher {
    /// A hasher for values of `domain`, such as `"weld.op.exec.v1"`.
    pub fn new(domain: &str) -> Self {
        Self(Hasher::sha256()).bytes(domain.as_bytes())
    }

    /// A field of variable length.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// A text field.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// A number: also a list's length, an enum's ordinal or an option's presence.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// A flag.
    #[must_use]
    pub fn flag(self, flag: bool) -> Self {
        self.number(u64::from(flag))
    }

    /// An optional text.
    #[must_use]
    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            None => self.number(0),
            Some(text) => self.number(1).text(text),
        }
    }

    /// A list of texts.
    #[must_use]
    pub fn texts<T: AsRef<str>>(self, texts: &[T]) -> Self {
        texts
            .iter()
            .fold(self.number(texts.len() as u64), |hasher, text| {
                hasher.text(text.as_ref())
            })
    }

    /// A digest.
    #[must_use]
    pub fn digest(self, digest: &Digest) -> Self {
        self.text(digest.algorithm().name()).bytes(digest.bytes())
    }

    /// The digest of the value.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_borders_count() {
        let hash = |parts: &[&str]| FieldHasher::new("test").texts(parts).finish();
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["", "a"]), hash(&["a", ""]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
        assert_ne!(
            FieldHasher::new("one").text("x").finish(),
            FieldHasher::new("two").text("x").finish()
        );
    }

    #[test]
    fn absent_and_empty_differ() {
        let hash = |text| FieldHasher::new("test").optional(text).finish();
        assert_ne!(hash(None), hash(Some("")));
    }
}
