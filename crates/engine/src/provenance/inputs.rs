//! Who made what frontends are given as inputs: results of other frontends, maybe of other builds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weld_digest::Digest;

use super::request::Request;

/// What frontends were asked for whose results are in use, by the vertices that the results are.
#[derive(Debug, Default)]
pub(crate) struct Producers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    known: HashMap<Digest, Vec<(u64, Request)>>,
}

/// Keeps what a result was asked for in mind, until it is dropped.
pub(super) struct Produced {
    producers: Arc<Producers>,
    head: Digest,
    number: u64,
}

impl Producers {
    /// A result was made for a request.
    pub(super) fn note(self: &Arc<Self>, head: Digest, request: Request) -> Produced {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let known = state.known.entry(head.clone()).or_default();
        known.push((number, request));
        drop(state);
        Produced {
            producers: Arc::clone(self),
            head,
            number,
        }
    }

    /// What a result was asked for; nothing if nobody knows, or if it was by different requests.
    pub(super) fn find(&self, head: &Digest) -> Option<Request> {
        let state = self.state();
        let ((_, first), others) = state.known.get(head)?.split_first()?;
        let same = others.iter().all(|(_, other)| other == first);
        same.then(|| first.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Complete between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Produced {
    fn drop(&mut self) {
        let mut state = self.producers.state();
        let Some(known) = state.known.get_mut(&self.head) else {
            return;
        };
        known.retain(|(number, _)| *number != self.number);
        if known.is_empty() {
            state.known.remove(&self.head);
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
        let producers = Arc::new(Producers::default());
        let head = Digest::sha256_of("op");
        let first = producers.note(head.clone(), request("a"));
        let same = producers.note(head.clone(), request("a"));
        assert_eq!(producers.find(&head), Some(request("a")));
        let other = producers.note(head.clone(), request("b"));
        assert_eq!(producers.find(&head), None);
        drop(other);
        drop(first);
        assert_eq!(producers.find(&head), Some(request("a")));
        drop(same);
        assert_eq!(producers.find(&head), None);
        assert!(producers.state().known.is_empty());
    }
}
