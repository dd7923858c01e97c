use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use weld_export::Exporter;
use weld_export::cache::{CacheExportOptions, CacheOrigin};
use weld_op::{Records, Tree, Worker};
use weld_progress::Sender;
use weld_runtime::privilege::PrivilegeError;
use weld_runtime::{Runtime, RuntimeConfig, RuntimeError};
use weld_solver::{Census, Solver, SolverOptions, TraceSink};
use weld_source::registry::{Anonymous, Registry};
use weld_store::snapshot::{SnapshotError, Snapshots};
use weld_store::{Store, StoreOptions};

use crate::attest::AttestOptions;
use crate::bridge::{SolveInput, SolveRequest};
use crate::cache::Absences;
use crate::config::{Config, RuntimeKind, SnapshotterKind};
use crate::dockerfile::{self, Dockerfile};
use crate::error::BuildError;
use crate::frontend::{Frontend, FrontendRequest, Frontends};
use crate::job::{BuildJob, JobRequest};
use crate::policy::SourcePolicies;
use crate::provenance::{Asked, Producers};
use crate::request::{BuildInput, BuildRequest, BuildResponse, Provenance};
use crate::result::Refs;

/// How long a closing engine waits for cancelled steps to end.
const WIND_DOWN: Duration = Duration::from_secs(10);

/// A build engine on a state directory of its own.
pub struct Engine {
    pub(crate) worker: Arc<Worker>,
    pub(crate) solver: Solver<Tree>,
    pub(crate) exporter: Exporter,
    /// Whether a build has asked why its steps were not cached.
    pub(crate) explained: AtomicBool,
    pub(crate) frontends: Frontends,
    pub(crate) provenance_environment: Arc<BTreeMap<String, serde_json::Value>>,
    pub(crate) producers: Producers,
    /// Caches elsewhere that did not answer, in whichever build.
    pub(crate) absences: Arc<Absences>,
}

/// Why an engine cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] weld_store::OpenError),
    /// Snapshots cannot be kept there.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// What remembers cached steps cannot be read.
    #[error(transparent)]
    Records(#[from] weld_store::DbError),
    /// Steps cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The thread that opened it ended early.
    #[error("the engine could not be opened: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl OpenError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(weld_store::OpenError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Some("Run as root, or choose a directory of yours with --root or WELD_ROOT.".into())
            }
            Self::Store(weld_store::OpenError::Full { .. }) => {
                Some("Run `weld prune` to delete what no build uses.".into())
            }
            Self::Store(error) if error.is_damage() => Some(
                "Run `weld store check --repair` to mend it, or to have the build cache begin anew where it cannot be.".into(),
            ),
            Self::Store(weld_store::OpenError::Db { source, .. }) if source.is_no_space() => Some(
                "Free some MiB on that disk: then `weld prune` can delete what no build uses."
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Makes the process able to run steps: as root with a mount namespace of its own, as a normal user
/// as root of a user namespace. To be called before the process has other threads.
///
/// # Errors
/// What the kernel refuses.
pub fn enter_privileges() -> Result<(), PrivilegeError> {
    weld_runtime::privilege::enter()?;
    Ok(())
}

/// Lets the process have as many open files as the system allows: wide trees on many layers need
/// some.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was allowed before may do as well.
    let _ = setrlimit(Resource::Nofile, limit);
}

impl Engine {
    /// Opens the state directory, making it if it is not there.
    ///
    /// # Errors
    /// [`OpenError`]; if another process has it, the error names that process.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_traced(config, None).await
    }

    /// The same, with the scheduler's events going to `trace` while that wants them.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_traced(
        mut config: Config,
        trace: Option<Arc<dyn TraceSink>>,
    ) -> Result<Self, OpenError> {
        // Programs that are started elsewhere are told of what is in it.
        if let Ok(root) = std::path::absolute(&config.root) {
            config.root = root;
        }
        let parallelism = config.max_parallelism.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(4, |count| count.get() * 4)
        });
        raise_file_limit();
        let provenance_environment = Arc::new(config.provenance_environment.clone());
        let worker = Arc::new(tokio::task::spawn_blocking(move || open_worker(config)).await??);
        worker.runtime.clean_leftovers().await?;
        let recording = |trace: &Arc<dyn TraceSink>| trace.recording() != 0;
        worker.explaining.set(trace.as_ref().is_some_and(recording));
        let options = SolverOptions {
            parallelism: Some(parallelism),
            trace,
            ..SolverOptions::default()
        };
        let keys = Arc::new(worker.store.keys().clone());
        let solver = Solver::new(options, keys, Arc::new(Records::new(Arc::clone(&worker))));
        let exporter = Exporter::new(
            worker.store.clone(),
            worker.snapshots.clone(),
            worker.registry.clone(),
        );
        let mut frontends = Frontends::default();
        frontends.add(dockerfile::NAME, Arc::new(Dockerfile));
        Ok(Self {
            worker,
            solver,
            exporter,
            explained: AtomicBool::new(false),
            frontends,
            provenance_environment,
            producers: Producers::default(),
            absences: Arc::default(),
        })
    }

    /// Whether steps that run compare themselves with what is remembered of them, and tell a trace
    /// why they run. On from the beginning where a trace is.
    pub fn set_explaining(&self, on: bool) {
        let asked = self.explained.load(Ordering::Relaxed);
        self.worker.explaining.set(on || asked);
    }

    /// How much of builds is live; `None` if the solver is gone. What it tells its trace sink before
    /// has arrived there.
    pub async fn census(&self) -> Option<Census> {
        self.solver.census().await.ok()
    }

    /// Makes a frontend known, such as one that runs images. Builds that are open do not hear of it.
    pub fn add_frontend(&mut self, name: &str, frontend: Arc<dyn Frontend>) {
        self.frontends.add(name, frontend);
    }

    /// Makes a frontend unknown, also to the other frontends.
    pub fn remove_frontend(&mut self, name: &str) {
        self.frontends.remove(name);
    }

    /// Builds what is asked for, telling `progress` of all that happens. When `cancel` fires, the
    /// build ends soon with [`BuildError::Cancelled`], and nothing of it is left running.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn build(
        &self,
        request: BuildRequest,
        progress: Sender,
        cancel: CancellationToken,
    ) -> Result<BuildResponse, BuildError> {
        for export in &request.exports {
            Exporter::validate(export).map_err(BuildError::Output)?;
        }
        for export in &request.cache_exports {
            CacheExportOptions::check(&export.kind, &export.attrs)
                .map_err(|error| BuildError::CacheOption(Box::new(error)))?;
        }
        let (exports, caches) = (request.exports.clone(), request.cache_exports.clone());
        let wants_provenance = request.provenance;
        let attrs = match &request.input {
            BuildInput::Dockerfile { attrs } => Some(attrs.clone()),
            BuildInput::Definition { .. } => None,
        };
        let (job, solve, attest) = self.begin(request, progress, cancel).await?;
        let response = async {
            let result = job.bridge().solve(solve).await?;
            if let Some(attrs) = &attrs {
                job.check_platforms(attrs, &result)?;
            }
            let mut response = job.export(&result, &exports, &caches, &attest).await?;
            if wants_provenance {
                let options = attest.recorded_provenance();
                let documents = job.provenance(&result, &options).boxed().await?;
                let is_map = matches!(result.refs, Refs::Map(_));
                let told = documents.into_iter().map(|(name, document)| Provenance {
                    platform: is_map.then_some(name),
                    version: options.version,
                    document,
                });
                response.provenance = told.collect();
            }
            Ok(response)
        };
        let response = response.await;
        job.close().await;
        response
    }

    /// Has a frontend answer a request that is not for a build: what its result says, by the keys of
    /// BuildKit's frontends, such as `result.json`. Exports are passed over.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn ask(
        &self,
        request: BuildRequest,
        progress: Sender,
        cancel: CancellationToken,
    ) -> Result<BTreeMap<String, Bytes>, BuildError> {
        let (job, solve, _) = self.begin(request, progress, cancel).await?;
        let answer = job.bridge().solve(solve).await;
        job.close().await;
        Ok(answer?.metadata)
    }

    /// Opens the job of a request; what is to be solved in it, and said of the result.
    async fn begin(
        &self,
        request: BuildRequest,
        progress: Sender,
        cancel: CancellationToken,
    ) -> Result<(BuildJob, SolveRequest, AttestOptions), BuildError> {
        for import in &request.cache_imports {
            CacheOrigin::parse(&import.kind, &import.attrs)
                .map_err(|error| BuildError::CacheOption(Box::new(error)))?;
        }
        let mut attest = AttestOptions::default();
        let mut asked = Asked::default();
        let input = match request.input {
            BuildInput::Definition {
                definition,
                no_cache,
            } => {
                let definition = definition.graph().to_pb();
                (SolveInput::Definition(definition), no_cache)
            }
            BuildInput::Dockerfile { attrs } => {
                attest = AttestOptions::from_attrs(&attrs)?;
                asked = Asked::new(dockerfile::NAME, &attrs, &BTreeMap::new());
                let frontend = SolveInput::Frontend {
                    name: dockerfile::NAME.to_owned(),
                    opts: attrs,
                    inputs: BTreeMap::new(),
                };
                (frontend, false)
            }
        };
        let solve = SolveRequest {
            input: input.0,
            no_cache: input.1,
            cache_imports: request.cache_imports,
            ..SolveRequest::default()
        };
        let job = JobRequest {
            id: request.session.id().to_owned(),
            session: request.session,
            entitlements: request.entitlements,
            asked,
            explain: request.explain,
            domain: None,
            source_policies: SourcePolicies::default(),
            source_verifier: None,
        };
        let job = self.open_job(job, progress, cancel).await?;
        Ok((job, solve, attest))
    }

    /// The LLB definition that a request's Dockerfile becomes, encoded; nothing is built.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn definition(&self, request: BuildRequest) -> Result<Vec<u8>, BuildError> {
        let (progress, _receiver) = weld_progress::channel();
        let attrs = match request.input {
            BuildInput::Definition { definition, .. } => return Ok(definition.graph().encode()),
            BuildInput::Dockerfile { attrs } => attrs,
        };
        let job = JobRequest {
            id: request.session.id().to_owned(),
            session: request.session,
            entitlements: request.entitlements,
            asked: Asked::default(),
            explain: request.explain,
            domain: None,
            source_policies: SourcePolicies::default(),
            source_verifier: None,
        };
        let job = self
            .open_job(job, progress, CancellationToken::new())
            .await?;
        let request = FrontendRequest {
            opts: attrs,
            ..FrontendRequest::default()
        };
        // Whoever solves it later has another session.
        let converted = dockerfile::convert(&job.bridge(), &request, "").await;
        job.close().await;
        let first = converted?.results.into_iter().next();
        Ok(first
            .map(|result| weld_proto::Message::encode_to_vec(&result.definition))
            .unwrap_or_default())
    }

    /// Closes the engine once its builds are: waits for what they cancelled to come to its end, for ten seconds at most, and writes what
    /// is not on disk yet.
    pub async fn close(self) {
        let Self {
            worker,
            solver,
            exporter,
            frontends,
            ..
        } = self;
        drop((exporter, frontends));
        match tokio::time::timeout(WIND_DOWN, solver.settled()).await {
            Ok(_) => {}
            Err(_) => tracing::warn!("steps that were cancelled did not end in {WIND_DOWN:?}"),
        }
        drop(solver);
        // What cannot be written now is lost as in a crash: the next start finds a sound state.
        let closed = tokio::task::spawn_blocking(move || worker.store.db().flush()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the last records could not be written");
        }
    }
}

/// The size of the disk that a directory is on, or will be, in bytes.
fn disk_of(root: &std::path::Path) -> u64 {
    let mut there = root.ancestors();
    let disk = there.find_map(|directory| rustix::fs::statvfs(directory).ok());
    disk.map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize))
}

fn open_worker(config: Config) -> Result<Worker, OpenError> {
    let options = StoreOptions {
        ceiling: config
            .disk_limit
            .map(|limit| limit.of(disk_of(&config.root))),
        on_full_disk: config.on_full_disk,
        on_damage: config.on_damage,
        verify: config.verify_database,
        ..StoreOptions::default()
    };
    let mut runtime = RuntimeConfig::embedded(config.root.join("runtime"));
    if let RuntimeKind::Oci(program) = config.runtime {
        runtime.kind = weld_runtime::RuntimeKind::Oci(program);
    }
    runtime.dns = config.dns;
    // To learn about the machine takes as long as to open the database.
    let learn = || Runtime::new(runtime);
    let (store, runtime) = Store::open_meanwhile(&config.root, options, learn)?;
    let runtime = runtime?;
    let snapshots = match config.snapshotter {
        SnapshotterKind::Copy => Snapshots::open_copying(&store)?,
        SnapshotterKind::Overlay => Snapshots::open_overlay(&store)?,
        SnapshotterKind::Auto => Snapshots::open(&store)?,
    };
    let registry = Registry::new(config.registry, Arc::new(Anonymous));
    let mut worker = Worker::new(store, snapshots, runtime, registry);
    worker.devices = Arc::new(config.devices);
    Ok(worker)
}
