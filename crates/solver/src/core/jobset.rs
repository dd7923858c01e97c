//! A set of job slots.

use smallvec::SmallVec;

/// Bits by job slot. Up to 64 live jobs take one word without allocation.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct JobSet {
    first: u64,
    /// Words from the second on; `None` while all members are below 64.
    rest: Option<Box<SmallVec<[u64; 3]>>>,
}

impl JobSet {
    pub(crate) fn one(slot: u32) -> Self {
        let mut set = Self::default();
        set.insert(slot);
        set
    }

    /// Returns whether the slot is new.
    pub(crate) fn insert(&mut self, slot: u32) -> bool {
        let word = self.word_mut(slot as usize / 64);
        let bit = 1 << (slot % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if slot >= 64 && self.rest.is_none() {
            return;
        }
        *self.word_mut(slot as usize / 64) &= !(1 << (slot % 64));
        if self
            .rest
            .as_ref()
            .is_some_and(|rest| rest.iter().all(|word| *word == 0))
        {
            self.rest = None;
        }
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.word(slot as usize / 64) & (1 << (slot % 64)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first == 0 && self.rest.is_none()
    }

    /// Adds `other`; returns what was new.
    pub(crate) fn merge(&mut self, other: &Self) -> Self {
        let mut new = Self {
            first: other.first & !self.first,
            rest: None,
        };
        self.first |= other.first;
        if let Some(rest) = &other.rest {
            for (index, word) in rest.iter().enumerate() {
                let mine = self.word_mut(index + 1);
                let fresh = word & !*mine;
                *mine |= word;
                if fresh != 0 {
                    *new.word_mut(index + 1) |= fresh;
                }
            }
        }
        new
    }

    /// Members of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self {
            first: self.first & other.first,
            rest: None,
        };
        let rest = self.rest.iter().flat_map(|rest| rest.iter()).enumerate();
        for (index, word) in rest {
            let word = word & other.word(index + 1);
            if word != 0 {
                *both.word_mut(index + 1) = word;
            }
        }
        both
    }

    /// The members, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let words = std::iter::once(self.first)
            .chain(self.rest.iter().flat_map(|rest| rest.iter().copied()));
        words
            .enumerate()
            .flat_map(|(index, word)| Bits(word).map(move |bit| index as u32 * 64 + bit))
    }

    fn word(&self, index: usize) -> u64 {
        match index {
            0 => self.first,
            _ => self
                .rest
                .as_ref()
                .and_then(|rest| rest.get(index - 1))
                .copied()
                .unwrap_or(0),
        }
    }

    fn word_mut(&mut self, index: usize) -> &mut u64 {
        if index == 0 {
            return &mut self.first;
        }
        let rest = self.rest.get_or_insert_default();
        if rest.len() < index {
            rest.resize(index, 0);
        }
        &mut rest[index - 1]
    }
}

impl std::fmt::Debug for JobSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_tells_what_is_new() {
        let mut a = JobSet::one(3);
        a.insert(130);
        let mut b = JobSet::one(3);
        b.insert(64);
        b.insert(200);
        assert_eq!(a.merge(&b).iter().collect::<Vec<_>>(), [64, 200]);
        assert_eq!(a.iter().collect::<Vec<_>>(), [3, 64, 130, 200]);
        for slot in [64, 130, 200, 3] {
            assert!(a.contains(slot));
            a.remove(slot);
        }
        assert!(a.is_empty());
    }
}
