//! The solver's own store and the further cache sources, consulted as one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use super::CacheSource;
use crate::{CacheSourceId, KeyMatches, KeyQuery, StoreError, TraceEvent, Value, keystore::Answer};

pub(super) struct Sources<T: Value> {
    pub(super) local: CacheSource<T>,
    others: RwLock<Others<T>>,
}

struct Others<T: Value> {
    last: u32,
    by_id: BTreeMap<CacheSourceId, Other<T>>,
}

struct Other<T: Value> {
    source: Arc<CacheSource<T>>,
    health: Mutex<Health>,
}

/// A source that fails is left alone for a while, longer each time: it must not cost every edge its time.
#[derive(Default)]
struct Health {
    failures: u32,
    absent_until: Option<Instant>,
}

/// A source is left alone for its time to answer, times two for each failure up to this many.
const MOST_DOUBLINGS: u32 = 4;

impl Health {
    fn is_absent(&self) -> bool {
        self.absent_until
            .is_some_and(|until| Instant::now() < until)
    }

    fn note(&mut self, answered: bool, timeout: Duration) {
        if answered {
            *self = Self::default();
        } else if !self.is_absent() {
            // What was asked at the same time fails at the same time, and counts as one failure.
            self.failures = (self.failures + 1).min(MOST_DOUBLINGS);
            self.absent_until = Some(Instant::now() + timeout * (1 << self.failures));
        }
    }
}

/// An answer that may still have to be waited for.
pub(super) enum Asked {
    Ready(KeyMatches),
    Later(Vec<(CacheSourceId, Answer<KeyMatches>)>),
}

impl<T: Value> Sources<T> {
    pub(super) fn new(local: CacheSource<T>) -> Self {
        Self {
            local,
            others: RwLock::new(Others {
                last: 0,
                by_id: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn add(&self, source: CacheSource<T>) -> CacheSourceId {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.last += 1;
        let id = CacheSourceId(others.last);
        let other = Other {
            source: Arc::new(source),
            health: Mutex::default(),
        };
        others.by_id.insert(id, other);
        id
    }

    pub(super) fn remove(&self, id: CacheSourceId) {
        self.others
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .remove(&id);
    }

    pub(super) fn get(&self, id: CacheSourceId) -> Option<Arc<CacheSource<T>>> {
        self.others
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(&id)
            .map(|other| Arc::clone(&other.source))
    }

    /// A source that answered in time when it was asked last.
    fn present(&self, id: CacheSourceId) -> Option<Arc<CacheSource<T>>> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let other = others.by_id.get(&id)?;
        let health = other.health.lock().unwrap_or_else(PoisonError::into_inner);
        (!health.is_absent()).then(|| Arc::clone(&other.source))
    }

    /// Notes whether a source answered in time.
    pub(super) fn note(&self, id: CacheSourceId, answered: bool, timeout: Duration) {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = others.by_id.get(&id) {
            let mut health = other.health.lock().unwrap_or_else(PoisonError::into_inner);
            health.note(answered, timeout);
        }
    }

    /// Asks the local store and the named sources.
    pub(super) fn ask(&self, ask: KeyQuery, sources: &[CacheSourceId]) -> Asked {
        let others: Vec<_> = sources
            .iter()
            .filter_map(|id| Some((*id, self.present(*id)?)))
            .collect();
        if others.is_empty() {
            return match self.local.keys.query(ask) {
                Answer::Ready(matches) => Asked::Ready(matches),
                later => Asked::Later(vec![(CacheSourceId::LOCAL, later)]),
            };
        }
        let mut answers = vec![(CacheSourceId::LOCAL, self.local.keys.query(ask.clone()))];
        answers.extend(
            others
                .into_iter()
                .map(|(id, source)| (id, source.keys.query(ask.clone()))),
        );
        Asked::Later(answers)
    }
}

/// Waits for all answers and unites them. A source that fails or takes too long counts as a miss; `heard` is
/// told of each source whether it answered, or how it failed.
pub(super) async fn unite(
    answers: Vec<(CacheSourceId, Answer<KeyMatches>)>,
    timeout: Duration,
    mut heard: impl FnMut(CacheSourceId, Option<TraceEvent>),
) -> KeyMatches {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut waiting = Vec::new();
    for (source, answer) in answers {
        // All are asked at once; they are only awaited in order.
        waiting.push((
            source,
            match answer {
                Answer::Ready(matches) => Ok(matches),
                Answer::Later(future) => Err(AbortOnDrop(tokio::spawn(future))),
            },
        ));
    }
    let mut united = KeyMatches::default();
    for (source, answer) in waiting {
        let outcome = match answer {
            Ok(matches) => Ok(matches),
            Err(mut task) => match tokio::time::timeout_at(deadline, &mut task.0).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Err(StoreError::new("query keys", error)),
                Err(elapsed) => Err(StoreError::new("query keys", elapsed)),
            },
        };
        match outcome {
            Ok(matches) => {
                heard(source, None);
                add(&mut united, source, matches);
            }
            Err(error) => {
                let failed = TraceEvent::SourceFailed {
                    source: source.0,
                    reason: error.to_string().into(),
                };
                heard(source, Some(failed));
            }
        }
    }
    united
}

struct AbortOnDrop<R>(tokio::task::JoinHandle<R>);

impl<R> Drop for AbortOnDrop<R> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn add(united: &mut KeyMatches, source: CacheSourceId, matches: KeyMatches) {
    if united.hits.len() < matches.hits.len() {
        united.hits.resize(matches.hits.len(), false);
    }
    for (mine, other) in united.hits.iter_mut().zip(matches.hits) {
        *mine |= other;
    }
    for mut key in matches.keys {
        for record in &mut key.records {
            record.come_from(source);
        }
        match united.keys.iter_mut().find(|known| known.key == key.key) {
            Some(known) => known.records.append(&mut key.records),
            None => united.keys.push(key),
        }
    }
}
