//! Asking the stores: level by level upwards along the links that lead to what a build solved.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::answers;
use hashbrown::HashSet;

use super::{
    CacheChains, Candidate, ChainOptions,
    collect::{Collected, SolvedEdge},
};
use crate::{
    CacheSourceId, Digest, KeyId, KeyStore, StoreError,
    core::FixedState,
    keystore::{Answer, KeyEntry},
};

/// How many keys are asked for at once.
const AT_ONCE: usize = 256;

/// The stores that are asked. One that fails or takes too long is not asked again.
pub(crate) struct Stores<F> {
    stores: Vec<(CacheSourceId, Arc<dyn KeyStore>)>,
    timeout: Duration,
    failed: F,
}

impl<F: FnMut(CacheSourceId, StoreError)> Stores<F> {
    pub(crate) fn new(
        stores: Vec<(CacheSourceId, Arc<dyn KeyStore>)>,
        timeout: Duration,
        failed: F,
    ) -> Self {
        Self {
            stores,
            timeout,
            failed,
        }
    }

    /// Asks every store the same for each of `keys`.
    async fn ask<Q, R>(
        &mut self,
        keys: &[Q],
        ask: impl Fn(&dyn KeyStore, CacheSourceId, &Q) -> Option<Answer<R>>,
    ) -> Vec<(usize, CacheSourceId, R)>
    where
        R: Send + 'static,
    {
        let mut given = Vec::new();
        let mut broken = Vec::new();
        for (source, store) in &self.stores {
            let asked = keys
                .iter()
                .enumerate()
                .filter_map(|(at, key)| Some((at, ask(store.as_ref(), *source, key)?)));
            match answers(asked.collect(), self.timeout).await {
                Ok(answers) => given.extend(
                    answers
                        .into_iter()
                        .map(|(at, answer)| (at, *source, answer)),
                ),
                Err(error) => broken.push((*source, error)),
            }
        }
        for (source, error) in broken {
            self.stores.retain(|(other, _)| *other != source);
            (self.failed)(source, error);
        }
        given
    }
}

/// Collects the chains of what a job solved.
pub(crate) async fn walk<F: FnMut(CacheSourceId, StoreError)>(
    edges: &[SolvedEdge],
    private: &HashSet<Digest, FixedState>,
    options: ChainOptions,
    mut stores: Stores<F>,
) -> CacheChains<Candidate> {
    let mut collected = Collected::new(options);
    for edge in edges {
        collected.add_edge(edge, private);
    }
    add_other_names(edges, &mut collected, &mut stores).await;
    let mut asked = 0;
    loop {
        let keys = collected.ids_from(asked);
        if keys.is_empty() {
            break;
        }
        asked += keys.len();
        for keys in keys.chunks(AT_ONCE) {
            let entries = stores
                .ask(keys, |store, _, key| Some(store.entry(*key)))
                .await;
            for (at, source, entry) in entries {
                if let Some(entry) = entry {
                    collected.add_entry(keys[at], of(source, entry));
                }
            }
        }
    }
    add_other_roots(&mut collected, &mut stores).await;
    collected.into_chains()
}

/// The build names a key as one of the stores does; what leads to it another may know by another name.
async fn add_other_names<F: FnMut(CacheSourceId, StoreError)>(
    edges: &[SolvedEdge],
    collected: &mut Collected,
    stores: &mut Stores<F>,
) {
    let names: Vec<(KeyId, KeyId)> = edges
        .iter()
        .filter_map(|edge| Some((*edge.keys.first()?, &edge.other_names)))
        .flat_map(|(like, names)| names.iter().map(move |name| (like, *name)))
        .collect();
    let mut named = Vec::new();
    for names in names.chunks(AT_ONCE) {
        let entries = stores
            .ask(names, |store, _, (_, name)| Some(store.entry(*name)))
            .await;
        for (at, source, entry) in entries {
            let (like, name) = names[at];
            named.extend(entry.map(|entry| (like, name, of(source, entry))));
        }
    }
    collected.add_other_names(named);
}

/// A result of an operation without inputs may have further keys: each of its cache maps gave one.
async fn add_other_roots<F: FnMut(CacheSourceId, StoreError)>(
    collected: &mut Collected,
    stores: &mut Stores<F>,
) {
    let records = collected.root_records();
    let mut others: Vec<(KeyId, KeyId)> = Vec::new();
    for records in records.chunks(AT_ONCE) {
        let keys = stores
            .ask(records, |store, source, (_, record)| {
                (record.source == source).then(|| store.keys_of(record.id))
            })
            .await;
        for (at, _, keys) in keys {
            let like = records[at].0;
            others.extend(
                keys.into_iter()
                    .filter(|key| *key != like)
                    .map(|key| (like, key)),
            );
        }
    }
    for others in others.chunks(AT_ONCE) {
        let entries = stores
            .ask(others, |store, _, (_, key)| Some(store.entry(*key)))
            .await;
        for (at, source, entry) in entries {
            if let Some(entry) = entry {
                let (like, key) = others[at];
                collected.add_other_root(like, key, of(source, entry));
            }
        }
    }
}

/// An entry with its records marked as a source's.
fn of(source: CacheSourceId, mut entry: KeyEntry) -> KeyEntry {
    for record in &mut entry.records {
        record.come_from(source);
    }
    entry
}

mod futures {
    use super::*;

    type Later<R> = Pin<Box<dyn Future<Output = Result<R, StoreError>> + Send>>;

    /// Waits for answers, all at once.
    pub(super) async fn answers<R: Send + 'static>(
        asked: Vec<(usize, Answer<R>)>,
        timeout: Duration,
    ) -> Result<Vec<(usize, R)>, StoreError> {
        let mut given = Vec::with_capacity(asked.len());
        let mut waiting = tokio::task::JoinSet::new();
        for (at, answer) in asked {
            match answer {
                Answer::Ready(answer) => given.push((at, answer)),
                Answer::Later(future) => drop(waiting.spawn(later(at, future))),
            }
        }
        let all = async {
            while let Some(answer) = waiting.join_next().await {
                given.push(answer.map_err(|error| StoreError::new("read keys", error))??);
            }
            // In the order of the keys, whichever answer came first.
            given.sort_unstable_by_key(|(at, _)| *at);
            Ok(given)
        };
        match tokio::time::timeout(timeout, all).await {
            Ok(given) => given,
            Err(elapsed) => Err(StoreError::new("read keys", elapsed)),
        }
    }

    async fn later<R>(at: usize, future: Later<R>) -> Result<(usize, R), StoreError> {
        Ok((at, future.await?))
    }
}
