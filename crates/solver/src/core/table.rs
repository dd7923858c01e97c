//! Hashing for the core's tables: fixed, so that runs repeat. Keys are either digests, uniform already, or small numbers.

use std::hash::{BuildHasher, Hasher};

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes `value` into `hash`.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    let product = u128::from(hash ^ value).wrapping_mul(u128::from(MULTIPLIER) << 1 | 1);
    (product as u64) ^ ((product >> 64) as u64) ^ hash.rotate_left(23)
}

/// A hasher without a seed.
#[derive(Clone, Copy, Default)]
pub(crate) struct FixedState;

/// See [`FixedState`].
pub(crate) struct FixedHasher(u64);

impl BuildHasher for FixedState {
    type Hasher = FixedHasher;

    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(MULTIPLIER)
    }
}

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        mix(self.0, MULTIPLIER)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0, u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = mix(self.0, u64::from(value));
    }
}
