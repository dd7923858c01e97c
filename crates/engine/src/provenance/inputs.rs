//! Who made what frontends are given as inputs: results of other frontends, maybe of other builds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weld_digest::Digest;

use super::request::Request;

/// What frontends were asked for whose results are in use, by the vertices that the results are, as
/// far as an isolation domain may know of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Producers {
    state: Arc<Mutex<State>>,
    domain: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    known: HashMap<Key, Vec<(u64, Request)>>,
}

type Key = (Option<Arc<str>>, Digest);

/// Keeps what a result was asked for in mind, until it is dropped.
pub(super) struct Produced {
    state: Arc<Mutex<State>>,
    key: Key,
    number: u64,
}

impl Producers {
    /// What builds of a domain may know of.
    pub(crate) fn within(&self, domain: Option<&str>) -> Self {
        Self {
            state: Arc::clone(&self.state),
            domain: domain.map(Arc::from),
        }
    }

    /// A result was made for a request.
    pub(super) fn note(&self, head: Digest, request: Request) -> Produced {
        let key = (self.domain.clone(), head);
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        let known = state.known.entry(key.clone()).or_default();
        known.push((number, request));
        drop(state);
        Produced {
            state: Arc::clone(&self.state),
            key,
            number,
        }
    }

    /// What a result was asked for; nothing if nobody knows, or if it was by different requests.
    pub(super) fn find(&self, head: &Digest) -> Option<Request> {
        let key = (self.domain.clone(), head.clone());
        let state = lock(&self.state);
        let ((_, first), others) = state.known.get(&key)?.split_first()?;
        let same = others.iter().all(|(_, other)| other == first);
        same.then(|| first.clone())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Complete between any two statements.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Produced {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let Some(known) = state.known.get_mut(&self.key) else {
            return;
        };
        known.retain(|(number, _)| *number != self.number);
        if known.is_empty() {
            state.known.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(frontend: &str) -> Request {
        let mut request = Request::default();
        request.parameters.frontend = frontend.to_owned();
        request
    }

    #[test]
    fn a_producer_is_known_as_long_as_its_result_and_while_there_is_one() {
        let producers = Producers::default();
        let head = Digest::sha256_of("op");
        let first = producers.note(head.clone(), request("a"));
        let same = producers.note(head.clone(), request("a"));
        assert_eq!(producers.find(&head), Some(request("a")));
        assert_eq!(producers.within(Some("others")).find(&head), None);
        let other = producers.note(head.clone(), request("b"));
        assert_eq!(producers.find(&head), None);
        drop(other);
        drop(first);
        assert_eq!(producers.find(&head), Some(request("a")));
        drop(same);
        assert_eq!(producers.find(&head), None);
        assert!(lock(&producers.state).known.is_empty());
    }
}
