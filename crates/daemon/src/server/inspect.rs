//! A look at the solver: what is live in it, and its events in a file while that is wanted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use weld_engine::{Engine, TraceSink};
use weld_trace::{Filter, HtmlError, Observer, Trace, TraceError};

/// How long a trace goes on if nobody says.
const DEFAULT_TIME: Duration = Duration::from_secs(300);
/// The longest that one may go on.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// Looks at the solver of one engine.
pub(super) struct Inspector {
    observer: Arc<Observer>,
    /// Whoever looks, or begins or ends a trace, does it alone.
    turn: tokio::sync::Mutex<()>,
    recording: Mutex<Option<Recording>>,
    /// A trace was begun.
    begun: tokio::sync::Notify,
    directory: PathBuf,
}

/// A trace that is being written.
#[derive(Clone)]
struct Recording {
    path: PathBuf,
    until: Instant,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectError {
    #[error("the engine has ended")]
    Ended,
    #[error("format {0:?} is none of dot, json and html")]
    Format(String),
    #[error("seconds {0:?} is no number from 1 to {max}", max = MAX_TIME.as_secs())]
    Seconds(String),
    #[error(transparent)]
    Page(#[from] HtmlError),
    #[error(transparent)]
    Graph(#[from] weld_trace::FilterError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("{path}: {source}", path = .path.display())]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// A form in which a graph is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GraphFormat {
    /// For Graphviz.
    Dot,
    /// For programs.
    Json,
    /// For a browser.
    Html,
}

impl std::str::FromStr for GraphFormat {
    type Err = InspectError;

    fn from_str(text: &str) -> Result<Self, InspectError> {
        match text {
            "" | "dot" => Ok(Self::Dot),
            "json" => Ok(Self::Json),
            "html" => Ok(Self::Html),
            other => Err(InspectError::Format(other.to_owned())),
        }
    }
}

impl GraphFormat {
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Dot => "text/vnd.graphviz; charset=utf-8",
            Self::Json => "application/json",
            Self::Html => "text/html; charset=utf-8",
        }
    }
}

impl Inspector {
    /// Traces go into `traces` beneath the state directory.
    pub(super) fn new(observer: Arc<Observer>, root: &Path) -> Self {
        Self {
            observer,
            turn: tokio::sync::Mutex::default(),
            recording: Mutex::default(),
            begun: tokio::sync::Notify::new(),
            directory: root.join("traces"),
        }
    }

    /// The sink to give to the engine.
    pub(super) fn sink(observer: &Arc<Observer>) -> Arc<dyn TraceSink> {
        Arc::clone(observer) as _
    }

    /// What is live in the solver.
    pub(super) async fn graph(
        &self,
        engine: &Engine,
        format: GraphFormat,
    ) -> Result<String, InspectError> {
        let turn = self.turn.lock().await;
        let look = self.observer.begin_look();
        // The first may be of a batch that was begun before.
        let asked = match engine.census().await {
            Some(_) => engine.census().await,
            None => None,
        };
        let trace = look.finish();
        drop(turn);
        asked.ok_or(InspectError::Ended)?;
        tokio::task::spawn_blocking(move || show(&trace, format)).await?
    }

    /// Begins a trace.
    pub(super) async fn begin(
        &self,
        engine: &Engine,
        seconds: &str,
    ) -> Result<String, InspectError> {
        let time = match seconds {
            "" => DEFAULT_TIME,
            text => {
                let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
                let time = seconds.map(Duration::from_secs);
                let time = time.filter(|time| *time <= MAX_TIME);
                time.ok_or_else(|| InspectError::Seconds(text.to_owned()))?
            }
        };
        let _turn = self.turn.lock().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let path = self.directory.join(format!("{now}.jsonl.zst"));
        std::fs::create_dir_all(&self.directory).map_err(|source| InspectError::Directory {
            path: self.directory.clone(),
            source,
        })?;
        self.observer.tracer().start(&path)?;
        engine.set_explaining(true);
        let recording = Recording {
            path,
            until: Instant::now() + time,
        };
        *self.recording() = Some(recording);
        self.begun.notify_one();
        // What is live is told before anybody else has a turn.
        engine.census().await;
        engine.census().await;
        Ok(self.state())
    }

    /// Ends the trace, if there is one.
    pub(super) async fn end(&self, engine: &Engine) -> Result<String, InspectError> {
        let _turn = self.turn.lock().await;
        engine.set_explaining(false);
        let recording = self.recording().take();
        let observer = Arc::clone(&self.observer);
        let written = tokio::task::spawn_blocking(move || observer.tracer().stop()).await??;
        let written = written.unwrap_or_default();
        let path = recording.map(|recording| recording.path);
        let told = json!({"on": false, "file": path, "lines": written.lines, "lost": written.lost});
        Ok(format!("{told}\n"))
    }

    /// Ends each trace when its time is over. Never returns.
    pub(super) async fn watch(&self, engine: &Engine) {
        loop {
            let until = self.recording().as_ref().map(|recording| recording.until);
            match until {
                // One that was ended meanwhile may be followed by another.
                Some(until) if Instant::now() < until => tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = self.begun.notified() => {}
                },
                Some(_) => {
                    if let Err(error) = self.end(engine).await {
                        tracing::warn!(%error, "the trace is not whole");
                    }
                }
                None => self.begun.notified().await,
            }
        }
    }

    /// Whether a trace is written, and where.
    pub(super) fn state(&self) -> String {
        let recording = self.recording().clone();
        let told = match recording {
            None => json!({"on": false}),
            Some(Recording { path, until }) => {
                let left = until.saturating_duration_since(Instant::now());
                json!({"on": true, "file": path, "seconds": left.as_secs()})
            }
        };
        format!("{told}\n")
    }

    fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        self.recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn show(trace: &Trace, format: GraphFormat) -> Result<String, InspectError> {
    let all = Filter::default();
    Ok(match format {
        GraphFormat::Dot => weld_trace::graph(trace, &all)?.to_string(),
        GraphFormat::Json => json!(weld_trace::graph(trace, &all)?).to_string(),
        GraphFormat::Html => weld_trace::html(trace, &all)?,
    })
}
