//! The builds that run now, and those that ended a moment ago.

mod journal;
mod messages;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use journal::{Journal, Section, Tail};

/// How long the progress of a build that is in no history can be had after its end: clients open
/// it beside the build, which may be over by then.
const LINGER: Duration = Duration::from_secs(10);
/// The most builds that linger.
const MAX_LINGERING: usize = 256;
/// The longest name of a build, in bytes.
const MAX_REFERENCE: usize = 1024;

/// A build that runs, or ran a moment ago.
pub(crate) struct LiveBuild {
    /// The client's name for it.
    pub(crate) reference: String,
    /// The client's session; empty where it has none.
    pub(crate) session: String,
    /// The frontend's name.
    pub(crate) frontend: String,
    /// What happened.
    pub(crate) journal: Arc<Journal>,
    /// Ends it.
    pub(crate) cancel: CancellationToken,
    /// When it began.
    pub(crate) started: SystemTime,
}

/// The builds of a daemon.
pub(crate) struct Builds {
    state: Mutex<State>,
    /// Counts builds that began, so that those who wait for one look again; closed while draining.
    arrivals: watch::Sender<u64>,
    /// The number of builds that run.
    running: watch::Sender<usize>,
    /// Fires when those that run are cancelled because the daemon ends.
    given_up: CancellationToken,
    limit: usize,
}

#[derive(Default)]
struct State {
    running: HashMap<String, Arc<LiveBuild>>,
    ended: Vec<(Instant, Arc<LiveBuild>)>,
    /// Names of builds that could not begin.
    refused: Vec<(Instant, String)>,
    draining: bool,
}

/// Why a build cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BeginError {
    /// There is one of this name.
    #[error("job ID {0} exists")]
    Exists(String),
    /// Its name cannot be one.
    #[error("a build needs a ref of 1 to {MAX_REFERENCE} bytes, this has {0}")]
    Reference(usize),
    /// The daemon is about to end.
    #[error("the daemon is shutting down and takes no more builds")]
    Draining,
    /// Too many run.
    #[error("{0} builds run already, which is the limit (limits.builds)")]
    TooMany(usize),
}

impl From<BeginError> for tonic::Status {
    fn from(error: BeginError) -> Self {
        let message = error.to_string();
        match error {
            BeginError::Exists(_) => Self::already_exists(message),
            BeginError::Reference(_) => Self::invalid_argument(message),
            BeginError::Draining => Self::unavailable(message),
            BeginError::TooMany(_) => Self::resource_exhausted(message),
        }
    }
}

/// What became of a build that was waited for.
pub(crate) enum Arrival {
    /// It began.
    Build(Arc<LiveBuild>),
    /// It cannot begin; who asked for it is told why.
    Refused,
}

/// A build that is counted as running until this is dropped or ended.
pub(crate) struct Running {
    builds: Arc<Builds>,
    build: Arc<LiveBuild>,
    linger: bool,
}

impl Running {
    pub(crate) const fn build(&self) -> &Arc<LiveBuild> {
        &self.build
    }

    /// Its progress can be had elsewhere from now on.
    pub(crate) const fn forget(&mut self) {
        self.linger = false;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.build.journal.finish();
        self.build.cancel.cancel();
        let mut state = self.builds.lock();
        state.running.remove(&self.build.reference);
        if self.linger {
            state.ended.push((Instant::now(), Arc::clone(&self.build)));
            let surplus = state.ended.len().saturating_sub(MAX_LINGERING);
            state.ended.drain(..surplus);
        }
        self.builds.running.send_replace(state.running.len());
    }
}

impl Builds {
    /// No builds yet; at most `limit` at once.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            arrivals: watch::Sender::new(0),
            running: watch::Sender::new(0),
            given_up: CancellationToken::new(),
            limit,
        })
    }

    /// Begins a build.
    pub(crate) fn begin(self: &Arc<Self>, build: LiveBuild) -> Result<Running, BeginError> {
        let length = build.reference.len();
        if length == 0 || length > MAX_REFERENCE {
            return Err(BeginError::Reference(length));
        }
        let mut state = self.lock();
        if state.draining {
            return Err(BeginError::Draining);
        }
        if state.running.contains_key(&build.reference) {
            return Err(BeginError::Exists(build.reference));
        }
        if state.running.len() >= self.limit {
            return Err(BeginError::TooMany(state.running.len()));
        }
        let build = Arc::new(build);
        let reference = build.reference.clone();
        state
            .ended
            .retain(|(_, ended)| ended.reference != reference);
        state.running.insert(reference, Arc::clone(&build));
        self.running.send_replace(state.running.len());
        drop(state);
        self.arrivals
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(Running {
            builds: Arc::clone(self),
            build,
            linger: true,
        })
    }

    /// The build of that name.
    pub(crate) fn get(&self, reference: &str) -> Option<Arc<LiveBuild>> {
        let state = self.lock();
        let ended = || {
            let mut ended = state.ended.iter().rev();
            Some(&ended.find(|(_, build)| build.reference == reference)?.1)
        };
        state.running.get(reference).or_else(ended).cloned()
    }

    /// Has those who wait for a build know that it does not begin.
    pub(crate) fn refuse(&self, reference: String) {
        if reference.is_empty() || reference.len() > MAX_REFERENCE {
            return;
        }
        let mut state = self.lock();
        state.refused.push((Instant::now(), reference));
        let surplus = state.refused.len().saturating_sub(MAX_LINGERING);
        state.refused.drain(..surplus);
        drop(state);
        self.arrivals
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The build of that name; waits for it to begin.
    pub(crate) async fn wait_for(&self, reference: &str, wait: Duration) -> Option<Arrival> {
        let mut arrivals = self.arrivals.subscribe();
        let found = async {
            loop {
                arrivals.mark_unchanged();
                if let Some(build) = self.get(reference) {
                    return Some(Arrival::Build(build));
                }
                let refused = |(_, other): &(_, String)| other == reference;
                if self.lock().refused.iter().any(refused) {
                    return Some(Arrival::Refused);
                }
                arrivals.changed().await.ok()?;
            }
        };
        tokio::time::timeout(wait, found).await.ok().flatten()
    }

    /// All that run, the oldest first.
    pub(crate) fn running(&self) -> Vec<Arc<LiveBuild>> {
        let mut running: Vec<_> = self.lock().running.values().cloned().collect();
        running.sort_by_key(|build| build.started);
        running
    }

    /// How many run.
    pub(crate) fn count(&self) -> usize {
        *self.running.borrow()
    }

    /// Lets no more builds begin.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    /// Waits until none runs.
    pub(crate) async fn all_ended(&self) {
        let mut running = self.running.subscribe();
        // Never an error: the sender is in `self`.
        let _ = running.wait_for(|count| *count == 0).await;
    }

    /// Fires when those that run are cancelled because the daemon ends.
    pub(crate) const fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }

    /// Cancels all that run, because the daemon ends.
    pub(crate) fn cancel_all(&self) {
        // First: who hears that its build is cancelled is to hear why.
        self.given_up.cancel();
        for build in self.running() {
            build.cancel.cancel();
        }
    }

    /// Drops what lingered for long enough.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        let lingers = |ended: &Instant| now.duration_since(*ended) < LINGER;
        let mut state = self.lock();
        state.ended.retain(|(ended, _)| lingers(ended));
        state.refused.retain(|(refused, _)| lingers(refused));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
