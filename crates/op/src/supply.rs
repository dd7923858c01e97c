//! The places that cached layers come from: what each of them failed to give is not asked for again by every step that needs it.
//!
//! A place that gives nothing has a budget of time for all layers and all builds together. While it fails, one request at a time asks
//! whether it does again, with growing waits; when the budget is used up it counts as absent for a while.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use weld_digest::Digest;

/// How long a place may give nothing at all before it counts as absent, unless its cache's `timeout` tells.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it may fail in a row, all requests of one moment counted once.
const TRIES: u32 = 5;
/// How many layers in a row it may fail to give as they should be.
const LAYERS: u32 = 3;
/// The wait after its first failure, which doubles.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// For how long it counts as absent at first, twice as long with each further time, and at most.
const ABSENCE: Duration = Duration::from_secs(60);
const LONGEST_ABSENCE: Duration = Duration::from_secs(15 * 60);
/// So many bytes are progress: a layer that goes on after a break may break again.
const PROGRESS: u64 = 1 << 20;
/// How often one layer is asked for at most, whatever came of it: from some places each try begins anew.
const MOST: u32 = 20;
/// For how long it is kept in mind what one client was not given, from when it asked last.
const MEMORY: Duration = Duration::from_secs(10 * 60);
/// The same for who asks as nobody: their later builds are not told from this one.
const MEMORY_OF_NOBODY: Duration = Duration::from_secs(60);
/// How many places are kept in mind.
const KEPT: usize = 1000;

/// Why a layer was not given.
pub(crate) type Reason = Arc<dyn Error + Send + Sync>;

/// What a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// The place answered: it has no such layer, or not for this client.
    Answer,
    /// Nothing: it is this machine that failed, or the client.
    Here,
    /// It did not do what it should; it is worth so many tries, and asked to wait so long.
    Server(u32, Option<Duration>),
    /// What it gave is not the layer; it is worth so many tries.
    Wrong(u32),
    /// Waiting for it took all the time that there was.
    Nothing,
}

/// The places that layers were asked for at.
#[derive(Default)]
pub(crate) struct Supplies(Mutex<HashMap<String, Arc<Supply>>>);

impl Supplies {
    /// A place by what tells it from others.
    pub(crate) fn get(&self, place: String, parallel: usize) -> Arc<Supply> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(supply) = known.get(&place) {
            return Arc::clone(supply);
        }
        if known.len() >= KEPT {
            let idle = known
                .iter()
                .filter(|(_, supply)| Arc::strong_count(supply) == 1);
            let oldest = idle.min_by_key(|(_, supply)| supply.state().used);
            if let Some(oldest) = oldest.map(|(place, _)| place.clone()) {
                known.remove(&oldest);
            }
        }
        let supply = Arc::new(Supply::new(parallel, Instant::now()));
        known.insert(place, Arc::clone(&supply));
        supply
    }
}

/// A place that layers come from.
pub(crate) struct Supply {
    state: Mutex<State>,
    /// Something came, or is known not to come.
    changed: Notify,
    turns: Semaphore,
}

struct State {
    patience: Duration,
    used: Instant,
    /// When something came last, and how many bytes did in all.
    heard: Option<Instant>,
    bytes: u64,
    /// Failures in a row, when the first and the last one were, and when it is asked again.
    tries: u32,
    since: Instant,
    failed: Instant,
    next: Instant,
    /// Layers in a row that did not come.
    layers: u32,
    /// How often in a row it came to count as absent, until when it does, and why.
    absences: u32,
    absent: Option<(Instant, Reason)>,
    clients: HashMap<String, Memory>,
}

/// What a client was not given.
struct Memory {
    used: Instant,
    lost: HashMap<Digest, Reason>,
    /// The causes that it was told.
    told: HashSet<String>,
}

/// A place that is not asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("its place counts as absent for another {left} s: {cause}", left = .left.as_secs())]
pub(crate) struct Absent {
    pub(crate) left: Duration,
    pub(crate) cause: Reason,
}

impl Supply {
    fn new(parallel: usize, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                patience: PATIENCE,
                used: now,
                heard: None,
                bytes: 0,
                tries: 0,
                since: now,
                failed: now,
                next: now,
                layers: 0,
                absences: 0,
                absent: None,
                clients: HashMap::new(),
            }),
            changed: Notify::new(),
            turns: Semaphore::new(parallel),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it may give nothing.
    pub(crate) fn patience(&self) -> Duration {
        self.state().patience
    }

    /// The same, as its cache's attributes tell.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.state().patience = patience;
    }

    /// Something came.
    pub(crate) fn heard(&self, bytes: u64) {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        state.bytes += bytes;
        if std::mem::take(&mut state.tries) > 0 {
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Why a client need not ask for a layer.
    ///
    /// # Errors
    /// What it was told before, or that the place is absent.
    pub(crate) fn check(&self, client: &str, layer: &Digest) -> Result<(), Reason> {
        let mut state = self.state();
        let lost = state.memory(client, Instant::now()).lost.get(layer);
        if let Some(reason) = lost {
            return Err(Arc::clone(reason));
        }
        state.is_here(Instant::now())
    }

    /// Asks for a layer: again while that can help, and not if it need not be.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) async fn ask<T, E, F>(
        &self,
        client: &str,
        layer: &Digest,
        says: impl Fn(&E) -> Says,
        mut request: impl FnMut() -> F,
    ) -> Result<T, Reason>
    where
        E: Error + Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let mut tries = 0;
        for asked in 1.. {
            self.check(client, layer)?;
            // Never closed.
            let turn = self.turns.acquire().await;
            self.turn().await?;
            self.check(client, layer)?;
            let (began, before) = (Instant::now(), self.state().bytes);
            let given = request().await;
            drop(turn);
            let error = match given {
                Ok(given) => {
                    self.gave();
                    return Ok(given);
                }
                Err(error) => error,
            };
            let said = says(&error);
            let reason: Reason = Arc::new(error);
            if said == Says::Here {
                return Err(reason);
            }
            let now = Instant::now();
            let mut state = self.state();
            // What is not the layer has not come nearer to it, however much of it there was.
            let is_wrong = matches!(said, Says::Wrong(_));
            if state.bytes - before >= PROGRESS && !is_wrong {
                tries = 0;
            }
            tries += 1;
            let is_worth = match said {
                Says::Server(worth, _) | Says::Wrong(worth) => tries < worth && asked < MOST,
                Says::Answer | Says::Here | Says::Nothing => false,
            };
            let goes_on = state.failed(began, now, said, &reason) && is_worth;
            if !goes_on {
                let memory = state.memory(client, now);
                memory.lost.insert(layer.clone(), Arc::clone(&reason));
                if said != Says::Answer {
                    state.lost_a_layer(now, &reason);
                }
                drop(state);
                self.changed.notify_waiters();
                return Err(reason);
            }
        }
        unreachable!("the last try is not followed by another one")
    }

    /// Waits until it may be asked: while it fails, by one at a time.
    async fn turn(&self) -> Result<(), Reason> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on: what changes between the look and the wait is not missed.
            changed.as_mut().enable();
            let wait = {
                let mut state = self.state();
                let now = Instant::now();
                state.is_here(now)?;
                if state.tries == 0 {
                    return Ok(());
                }
                let wait = state.next.saturating_duration_since(now);
                if wait.is_zero() {
                    state.next = now + state.wait();
                    return Ok(());
                }
                wait
            };
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn gave(&self) {
        let mut state = self.state();
        (state.tries, state.layers, state.absences) = (0, 0, 0);
        state.absent = None;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether a client was not told of this cause yet; it is, now.
    pub(crate) fn is_news(&self, client: &str, cause: String) -> bool {
        let mut state = self.state();
        state.memory(client, Instant::now()).told.insert(cause)
    }
}

impl State {
    fn memory(&mut self, client: &str, now: Instant) -> &mut Memory {
        self.used = now;
        self.clients.retain(|name, memory| {
            let kept = match name.as_str() {
                "" => MEMORY_OF_NOBODY,
                _ => MEMORY,
            };
            name == client && !name.is_empty() || now.duration_since(memory.used) < kept
        });
        let memory = self.clients.entry(client.to_owned()).or_insert(Memory {
            used: now,
            lost: HashMap::new(),
            told: HashSet::new(),
        });
        if !client.is_empty() {
            memory.used = now;
        }
        memory
    }

    fn is_here(&self, now: Instant) -> Result<(), Reason> {
        let Some((until, cause)) = &self.absent else {
            return Ok(());
        };
        let left = until.saturating_duration_since(now);
        match left.is_zero() {
            true => Ok(()),
            false => Err(Arc::new(Absent {
                left,
                cause: Arc::clone(cause),
            })),
        }
    }

    /// The wait after so many failures.
    fn wait(&self) -> Duration {
        FIRST_WAIT * (1 << self.tries.saturating_sub(1).min(16))
    }

    /// A request that began then failed. Returns whether the place is still asked.
    fn failed(&mut self, began: Instant, now: Instant, said: Says, reason: &Reason) -> bool {
        let asked_to_wait = match said {
            Says::Answer | Says::Here => {
                (self.tries, self.layers, self.absences) = (0, 0, 0);
                return true;
            }
            Says::Server(_, wait) => wait,
            Says::Wrong(_) => None,
            Says::Nothing => {
                // What others gave meanwhile: not the last bytes of this one, which were counted a little later than they came.
                let is_silent = self
                    .heard
                    .is_none_or(|heard| now.duration_since(heard) >= self.patience / 2);
                if is_silent {
                    self.leave(now, reason);
                }
                return !is_silent;
            }
        };
        // What failed at the same moment failed for the same reason.
        if self.tries > 0 && began < self.failed {
            return self.is_here(now).is_ok();
        }
        if self.tries == 0 {
            self.since = now;
        }
        self.failed = now;
        self.tries += 1;
        self.next = now + asked_to_wait.unwrap_or_default().max(self.wait());
        if self.tries >= TRIES || self.next.duration_since(self.since) > self.patience {
            self.leave(now, reason);
        }
        self.is_here(now).is_ok()
    }

    fn lost_a_layer(&mut self, now: Instant, reason: &Reason) {
        self.layers += 1;
        if self.layers >= LAYERS && self.is_here(now).is_ok() {
            self.leave(now, reason);
        }
    }

    /// From now on it counts as absent.
    fn leave(&mut self, now: Instant, cause: &Reason) {
        if self.is_here(now).is_err() {
            return;
        }
        let absence = ABSENCE * (1 << self.absences.min(16));
        self.absences += 1;
        (self.tries, self.layers) = (0, 0);
        self.absent = Some((now + absence.min(LONGEST_ABSENCE), Arc::clone(cause)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug, thiserror::Error)]
    #[error("failed")]
    struct Failed;

    /// How often a layer is asked for of which so many bytes come each time, before that fails.
    async fn tries(bytes: u64, says: Says) -> u32 {
        let supply = Supply::new(1, Instant::now());
        let (layer, asked) = (Digest::sha256_of("layer"), AtomicU32::new(0));
        let given = supply.ask(
            "client",
            &layer,
            |_| says,
            || async {
                asked.fetch_add(1, Ordering::Relaxed);
                supply.heard(bytes);
                Err::<(), _>(Failed)
            },
        );
        assert!(given.await.is_err());
        asked.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_not_the_layer_is_no_progress() {
        for bytes in [1, PROGRESS, 10 * PROGRESS] {
            assert_eq!(tries(bytes, Says::Wrong(2)).await, 2, "{bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_layer_that_breaks_again_and_again_is_given_up() {
        assert_eq!(tries(1, Says::Server(2, None)).await, 2);
        // One that goes on each time may do so more often, and not for ever.
        assert_eq!(tries(PROGRESS, Says::Server(2, None)).await, MOST);
    }

    #[tokio::test]
    async fn what_was_not_given_is_not_asked_for_again() {
        let supply = Supply::new(1, Instant::now());
        let layer = Digest::sha256_of("layer");
        let says = |_: &Failed| Says::Answer;
        for client in ["one", "one", "other"] {
            let given = supply.ask(client, &layer, says, || async { Err::<(), _>(Failed) });
            assert!(given.await.is_err());
        }
        let refused = |client| supply.check(client, &layer).is_err();
        assert!(refused("one") && refused("other") && !refused("third"));
        supply.gave();
        assert!(
            refused("one"),
            "another layer that comes says nothing of this one"
        );
    }

    #[test]
    fn a_place_that_loses_layers_counts_as_absent_for_longer_and_longer() {
        let began = Instant::now();
        let supply = Supply::new(1, began);
        let reason: Reason = Arc::new(Failed);
        let mut state = supply.state();
        let mut now = began;
        for absence in [ABSENCE, ABSENCE * 2, ABSENCE * 4] {
            for _ in 0..LAYERS {
                assert!(state.is_here(now).is_ok());
                state.lost_a_layer(now, &reason);
            }
            let almost = now + absence - Duration::from_millis(1);
            assert!(state.is_here(almost).is_err());
            now += absence;
            assert!(state.is_here(now).is_ok());
        }
        drop(state);
        supply.gave();
        assert_eq!(supply.state().absences, 0);
    }
}
