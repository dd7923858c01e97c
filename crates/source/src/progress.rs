//! What a source tells about its work while it does it.
//!
//! A source reports a [`Status`] per thing that it transfers (a layer, a file, a repository). The
//! receiver implements [`ProgressSink`] and maps them on the statuses of a vertex.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a running transfer is reported: more than anybody can see, and little work for
/// transfers of many small parts.
const INTERVAL: Duration = Duration::from_millis(20);

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was just started.
    Started,
    /// It goes on.
    Running,
    /// It is done.
    Completed,
}

/// One report on one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// What tells this transfer from the others of the same source.
    pub id: &'a str,
    /// What a user reads, such as `"sha256:… 30 MB"` or `"transferring context"`.
    pub name: &'a str,
    /// How much is done: bytes, or files where [`name`](Self::name) says so.
    pub current: u64,
    /// How much there is to do, if that is known.
    pub total: Option<u64>,
    /// Where it stands.
    pub phase: Phase,
}

/// Receives reports; called from any thread, often, and must not block.
pub trait ProgressSink: Send + Sync {
    /// Takes one report.
    fn report(&self, status: &Status<'_>);

    /// Takes lines for people: what a program printed (`git`), or a warning. Credentials are removed.
    fn log(&self, id: &str, text: &str) {
        let _ = (id, text);
    }
}

/// A cheap handle on a [`ProgressSink`], or on none.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn ProgressSink>>);

impl Progress {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn ProgressSink>) -> Self {
        Self(Some(sink))
    }

    /// Reports to nobody.
    pub fn none() -> Self {
        Self(None)
    }

    /// The same, which also calls `moved` with each report.
    #[must_use]
    pub fn telling(self, moved: impl Fn() + Send + Sync + 'static) -> Self {
        Self::new(Arc::new(Telling { told: self, moved }))
    }

    /// Starts the report on one transfer.
    pub fn start(
        &self,
        id: impl Into<String>,
        name: impl Into<String>,
        total: Option<u64>,
    ) -> Transfer {
        let transfer = Transfer {
            progress: self.clone(),
            id: id.into(),
            name: name.into(),
            current: 0,
            total,
            reported: None,
        };
        transfer.report(Phase::Started);
        transfer
    }

    /// Passes lines on that a program printed.
    pub fn log(&self, id: &str, text: &str) {
        if let Some(sink) = &self.0 {
            sink.log(id, text);
        }
    }
}

struct Telling<F> {
    told: Progress,
    moved: F,
}

impl<F: Fn() + Send + Sync> ProgressSink for Telling<F> {
    fn report(&self, status: &Status<'_>) {
        (self.moved)();
        if let Some(sink) = &self.told.0 {
            sink.report(status);
        }
    }

    fn log(&self, id: &str, text: &str) {
        (self.moved)();
        self.told.log(id, text);
    }
}

/// The report on one transfer. Dropped without [`complete`](Self::complete), it stays unfinished:
/// the transfer failed or was cancelled, which its caller learns by the error.
#[must_use = "a transfer is reported as unfinished until `complete` is called"]
pub struct Transfer {
    progress: Progress,
    id: String,
    name: String,
    current: u64,
    total: Option<u64>,
    /// When it was last said how much is done.
    reported: Option<Instant>,
}

impl Transfer {
    /// Reports `amount` more, at the latest with what comes next or the end.
    pub fn advance(&mut self, amount: u64) {
        self.set(self.current.saturating_add(amount));
    }

    /// Reports where the transfer stands, also when it fell back.
    pub fn set(&mut self, current: u64) {
        let fell_back = current < self.current;
        self.current = current;
        if self.progress.0.is_none() {
            return;
        }
        let now = Instant::now();
        let is_due = self
            .reported
            .is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if is_due || fell_back {
            self.reported = Some(now);
            self.report(Phase::Running);
        }
    }

    /// Sets the total, once it is known.
    pub fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Reports the end.
    pub fn complete(self) {
        self.report(Phase::Completed);
    }

    fn report(&self, phase: Phase) {
        if let Some(sink) = &self.progress.0 {
            sink.report(&Status {
                id: &self.id,
                name: &self.name,
                current: self.current,
                total: self.total,
                phase,
            });
        }
    }
}
