//! The daemon from its start to its end.

mod debug;
pub(crate) mod housekeeping;
mod inspect;
mod listen;
mod notify;

use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weld_engine::{DOCKERFILE_FRONTEND, Engine, OpenError};

use crate::builds::Builds;
use crate::config::DaemonConfig;
use crate::control::Control;
use crate::gateway::{Gateway, IMAGE_FRONTEND, ImageFrontend};
use crate::history::History;
use crate::metrics::{Live, Metrics};
use crate::session::SessionManager;
use crate::telemetry::{ForwardError, Telemetry};
use inspect::Inspector;

pub use listen::{Connection, ListenError, Peer};

/// How often an idle connection is asked whether it is alive, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How much may be under way on one call, and on one connection, in bytes.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How long builds that were cancelled may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often is looked whether the database proved damaged.
const DAMAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its engine cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its history cannot be opened.
    #[error("{0}")]
    History(String),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A directory or file of its own cannot be made.
    #[error("{path}: {source}", path = path.display())]
    State {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its database is damaged. Opened anew, it mends that.
    #[error("the state database is damaged")]
    Damaged,
    /// Spans cannot be passed on.
    #[error(transparent)]
    Telemetry(#[from] ForwardError),
    /// The server failed.
    #[error("serve: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// What all services share.
pub(crate) struct Shared {
    pub(crate) config: DaemonConfig,
    pub(crate) engine: Arc<Engine>,
    pub(crate) builds: Arc<Builds>,
    pub(crate) history: Arc<History>,
    pub(crate) sessions: SessionManager,
    pub(crate) gateway: Gateway,
    pub(crate) metrics: Metrics,
    pub(crate) telemetry: Arc<Telemetry>,
    /// Of the solver; only where there is a debug address.
    inspector: Option<Inspector>,
    /// How many connections there are.
    connections: listen::Counter,
    pub(crate) worker_id: String,
    /// Where builds keep what they need while they run.
    pub(crate) scratch: std::path::PathBuf,
    /// The tasks of builds.
    pub(crate) tasks: TaskTracker,
    /// Wakes up the one who deletes what is too much.
    pub(crate) gc_due: tokio::sync::Notify,
    /// Fires when no new builds are taken any more.
    pub(crate) draining: CancellationToken,
}

impl Shared {
    /// Ends traces of the solver when their time is over.
    async fn watch_trace(&self) {
        if let Some(inspector) = &self.inspector {
            inspector.watch(&self.engine).await;
        }
    }

    /// All numbers in Prometheus' text form.
    async fn metrics_text(&self) -> String {
        let live = Live {
            builds: self.builds.count(),
            sessions: self.sessions.count(),
            connections: self.connections.open(),
            census: self.engine.census().await,
            spans: self.telemetry.counts(),
        };
        self.metrics.render(&live)
    }
}

/// A daemon that is ready to serve.
pub struct Server {
    shared: Arc<Shared>,
    listeners: listen::Listeners,
    debug: Option<debug::Listener>,
}

impl Server {
    /// Opens everything: clients may connect from now on, and are served once [`Server::run`] is.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(mut config: DaemonConfig) -> Result<Self, ServeError> {
        // First: who connects while the engine opens is answered as soon as it is there. A state
        // directory must be empty when it is made, so sockets in it come after it.
        let early = !config.listen.lies_beneath(&config.engine.root);
        let early = match early {
            true => Some(Self::listen(&config).await?),
            false => None,
        };
        // Who cannot be asked need not watch.
        let observer = config.debug_address.as_ref().map(|_| Arc::default());
        let sink = observer.as_ref().map(Inspector::sink);
        let mut engine = Engine::open_traced(config.engine.clone(), sink).await?;
        if !config.frontends.dockerfile {
            engine.remove_frontend(DOCKERFILE_FRONTEND);
        }
        if config.frontends.gateway {
            let repositories = config.frontends.gateway_repositories.clone();
            let images = Arc::new(ImageFrontend::new(repositories));
            engine.add_frontend(IMAGE_FRONTEND, images);
        }
        let engine = Arc::new(engine);
        let listeners = match early {
            Some(listeners) => listeners,
            None => Self::listen(&config).await?,
        };
        let debug = match &config.debug_address {
            Some(address) => Some(debug::Listener::bind(address).await?),
            None => None,
        };
        let history = History::open(engine.store().clone(), config.history.clone())
            .await
            .map_err(|error| ServeError::History(error.to_string()))?;
        let root = engine.store().root().to_owned();
        let scratch = make_scratch(&root)?;
        let worker_id = worker_id(&root)?;
        if config.platforms.is_empty() {
            config.platforms = crate::control::platforms(engine.platform());
        }
        let sessions = SessionManager::new(config.sessions.clone());
        let inspector = observer.map(|observer| Inspector::new(observer, &root));
        let telemetry = Telemetry::new(config.otlp.as_ref())?;
        let builds = Builds::new(config.limits.builds);
        let shared = Arc::new(Shared {
            inspector,
            telemetry,
            connections: listeners.counter(),
            gateway: Gateway::new(builds.given_up().clone()),
            builds,
            config,
            engine,
            history,
            sessions,
            metrics: Metrics::default(),
            worker_id,
            scratch,
            tasks: TaskTracker::new(),
            gc_due: tokio::sync::Notify::new(),
            draining: CancellationToken::new(),
        });
        Ok(Self {
            shared,
            listeners,
            debug,
        })
    }

    async fn listen(config: &DaemonConfig) -> Result<listen::Listeners, ListenError> {
        listen::Listeners::bind(&config.listen, config.limits.connections).await
    }

    /// The addresses that clients may connect to.
    pub fn addresses(&self) -> &[String] {
        self.listeners.addresses()
    }

    /// Serves until `stop` fires and what runs then has ended, or was cancelled because it took
    /// too long.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let Self {
            shared,
            listeners,
            debug,
        } = self;
        let over = CancellationToken::new();
        let _end = over.clone().drop_guard();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(housekeeping::run(Arc::clone(&shared)));
        if let Some(debug) = debug {
            tasks.spawn(debug.serve(Arc::clone(&shared)));
        }
        let mut serving = Box::pin(serve(Arc::clone(&shared), listeners, over.clone()));
        if let Poll::Ready(served) = futures_util::poll!(serving.as_mut()) {
            return served;
        }
        // What the start needed is not needed again.
        housekeeping::give_back();
        notify::ready();
        let mut ended = Ok(());
        tokio::select! {
            served = &mut serving => return served,
            () = stop.cancelled() => {}
            () = damage(&shared) => ended = Err(ServeError::Damaged),
        }
        if ended.is_ok() {
            notify::stopping();
        }
        drain(&shared).await;
        over.cancel();
        // Streams that clients keep open would hold it for ever.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut serving).await;
        drop(serving);
        tasks.shutdown().await;
        if let Ok(shared) = Arc::try_unwrap(shared)
            && let Ok(engine) = Arc::try_unwrap(shared.engine)
        {
            engine.close().await;
        }
        ended
    }
}

/// Returns when the database proved damaged.
async fn damage(shared: &Shared) {
    while !shared.engine.store().db().is_suspect() {
        tokio::time::sleep(DAMAGE_INTERVAL).await;
    }
}

/// Lets running builds end.
async fn drain(shared: &Arc<Shared>) {
    shared.draining.cancel();
    shared.builds.drain();
    let running = shared.builds.count();
    if running > 0 {
        tracing::info!(running, "waiting for builds to end");
    }
    let limit = shared.config.drain_timeout;
    if tokio::time::timeout(limit, shared.builds.all_ended())
        .await
        .is_err()
    {
        tracing::warn!(
            running = shared.builds.count(),
            "cancelling the builds that still run"
        );
        shared.builds.cancel_all();
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, shared.builds.all_ended()).await;
    }
    shared.tasks.close();
    let _ = tokio::time::timeout(CANCEL_TIMEOUT, shared.tasks.wait()).await;
}

async fn serve(
    shared: Arc<Shared>,
    listeners: listen::Listeners,
    over: CancellationToken,
) -> Result<(), ServeError> {
    let limits = &shared.config.limits;
    let control = Control::new(Arc::clone(&shared));
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams);
    crate::control::add_services(server, control, limits)
        .serve_with_incoming_shutdown(
            listeners.connections(&shared.draining),
            over.cancelled_owned(),
        )
        .await?;
    Ok(())
}

/// An empty directory for what builds keep while they run.
fn make_scratch(root: &Path) -> Result<std::path::PathBuf, ServeError> {
    let path = root.join("builds");
    let made = match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(&path),
    };
    made.map_err(|source| ServeError::State {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// The name of this state directory's worker, which stays the same.
fn worker_id(root: &Path) -> Result<String, ServeError> {
    let path = root.join("worker-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let error = |source| ServeError::State {
        path: path.clone(),
        source,
    };
    let id = crate::random::name().map_err(error)?;
    let mut file = tempfile::NamedTempFile::new_in(root).map_err(error)?;
    std::io::Write::write_all(&mut file, id.as_bytes()).map_err(error)?;
    file.persist(&path).map_err(|failed| error(failed.error))?;
    Ok(id)
}
