//! Answers of the outside that a build is given once.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// How many answers are kept in mind.
const ANSWERS: usize = 1000;

/// What was asked in sessions, and what the answer was, so that one build asks once and sees one
/// answer. The oldest are forgotten.
pub(crate) struct Answers<K, T>(Mutex<Known<K, T>>);

struct Known<K, T> {
    by_key: HashMap<K, Arc<OnceCell<T>>>,
    order: VecDeque<K>,
}

impl<K, T> Default for Answers<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Known {
            by_key: HashMap::new(),
            order: VecDeque::new(),
        }))
    }
}

impl<K: Clone + Eq + Hash, T> Answers<K, T> {
    /// The place of an answer.
    pub(super) fn entry(&self, key: K) -> Arc<OnceCell<T>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = known.by_key.get(&key) {
            return Arc::clone(answer);
        }
        if known.order.len() >= ANSWERS
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_key.remove(&oldest);
        }
        let answer = Arc::<OnceCell<T>>::default();
        known.order.push_back(key.clone());
        known.by_key.insert(key, Arc::clone(&answer));
        answer
    }

    /// Makes the next one ask again.
    pub(super) fn forget(&self, key: &K) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_key.remove(key);
        known.order.retain(|other| other != key);
    }
}
