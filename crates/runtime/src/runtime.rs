//! The runtime: runs steps and cleans up after those that a dead process left behind.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::agent::Forwarders;
use crate::cgroup::{self, Cgroups};
use crate::check;
use crate::config::{RuntimeConfig, RuntimeKind};
use crate::control::{Control, KillOnDrop};
use crate::embedded::Embedded;
use crate::error::RuntimeError;
use crate::mount::Listener;
use crate::oci::Oci;
use crate::output::{self, Stdio, Streams};
use crate::process::StepProcess;
use crate::spec::{Resources, StepSpec};
use crate::state_lock::StateLock;
use crate::status::ExitStatus;

/// Runs steps. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    /// The ids of the running steps.
    running: Mutex<HashSet<String>>,
    /// Locked as long as this lives.
    _lock: StateLock,
}

#[derive(Debug)]
enum Engine {
    Embedded(Embedded),
    Oci(Oci),
}

impl Engine {
    fn supervise(
        &self,
        step: StepSpec,
        streams: Streams,
        control: &Control,
        listeners: oneshot::Sender<Vec<Listener>>,
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        match self {
            Self::Embedded(embedded) => {
                embedded.supervise(step, streams, control, listeners, process)
            }
            Self::Oci(oci) => oci.supervise(step, streams, control, listeners),
        }
    }

    fn join(
        &self,
        inside: &StepProcess,
        step: &StepSpec,
        streams: Streams,
        control: &Control,
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        match self {
            Self::Embedded(embedded) => embedded.join(inside, step, streams, control, process),
            // It never tells of a process that could be joined.
            Self::Oci(_) => Err(RuntimeError::InvalidSpec {
                field: "inside",
                reason: "an external runtime's containers cannot be joined".to_owned(),
            }),
        }
    }

    fn cgroups(&self) -> &Cgroups {
        match self {
            Self::Embedded(embedded) => embedded.cgroups(),
            Self::Oci(oci) => oci.cgroups(),
        }
    }

    fn clean(&self, running: &HashSet<String>) -> Result<(), RuntimeError> {
        match self {
            Self::Embedded(embedded) => embedded.cgroups().clean(running),
            Self::Oci(oci) => oci.clean(running),
        }
    }
}

impl Runtime {
    /// Takes the state directory and learns what the system can do.
    ///
    /// # Errors
    /// When the state directory cannot be used or another runtime uses it, or the external runtime
    /// is not there.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let dir = &config.state_dir;
        let state = |path: &Path, action| {
            let path = path.to_owned();
            move |source| RuntimeError::State {
                path,
                action,
                source,
            }
        };
        let scratch = dir.join("scratch");
        let mut builder = std::fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(&scratch);
        created.map_err(state(&scratch, "create"))?;
        let dir = dir.canonicalize().map_err(state(dir, "resolve"))?;
        let lock = StateLock::take(&dir)?;
        let meta = dir.metadata().map_err(state(&dir, "stat"))?;
        let tag = cgroup::tag(meta.dev(), meta.ino());
        let cgroups =
            Cgroups::new(&config.cgroup, tag, &dir).map_err(|source| RuntimeError::Sandbox {
                action: "learn about cgroups",
                source,
            })?;
        let (dns, adj) = (config.dns, config.oom_score_adj);
        let engine = match config.kind {
            RuntimeKind::Embedded => {
                Engine::Embedded(Embedded::new(dir.join("scratch"), cgroups, dns, adj)?)
            }
            RuntimeKind::Oci(path) => Engine::Oci(Oci::new(path, dir, cgroups, dns, adj)?),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                running: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// Refuses limits that this machine cannot keep for any step: processors and memory nodes that it does not have.
    ///
    /// # Errors
    /// [`RuntimeError::NotAvailable`] for the first such limit.
    pub fn check_limits(&self, resources: &Resources) -> Result<(), RuntimeError> {
        self.shared.engine.cgroups().check(resources)
    }

    /// Runs one step to its end. When this returns, also with an error, every process of the step is
    /// dead and every mount of it gone. Dropping the future kills the step.
    ///
    /// # Errors
    /// When the sandbox cannot be set up, the program cannot be started, or `cancel` was called.
    pub async fn run(
        &self,
        step: StepSpec,
        stdio: Stdio,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, RuntimeError> {
        let (process, _) = oneshot::channel();
        self.run_telling(step, stdio, cancel, process).await
    }

    /// As [`Runtime::run`]; tells of the step's first process when it has started. An external
    /// runtime drops the sender instead: its processes can neither be sent signals nor joined.
    ///
    /// # Errors
    /// As [`Runtime::run`].
    pub async fn run_telling(
        &self,
        step: StepSpec,
        stdio: Stdio,
        cancel: CancellationToken,
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        check::step(&step)?;
        let running = Running::enter(&self.shared, &step.id)?;
        let shared = self.shared.clone();
        let supervise = move |streams, control: &Control, made| {
            let result = shared
                .engine
                .supervise(step, streams, control, made, process);
            drop(running);
            result
        };
        run(supervise, stdio, cancel).await
    }

    /// Runs a program in the sandbox of a running step, to its end: in its namespaces and cgroups,
    /// with its mounts. Of `step` only what concerns the process counts. Dropping the future kills
    /// the program, and so does the end of the step.
    ///
    /// # Errors
    /// When the program cannot be started, or `cancel` was called.
    pub async fn join(
        &self,
        inside: StepProcess,
        step: StepSpec,
        stdio: Stdio,
        cancel: CancellationToken,
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        check::step(&step)?;
        let shared = self.shared.clone();
        let supervise = move |streams, control: &Control, _| {
            shared
                .engine
                .join(&inside, &step, streams, control, process)
        };
        run(supervise, stdio, cancel).await
    }

    /// Ends and removes what steps of a killed process left: processes, cgroups, containers of an
    /// external runtime, bundles. To be called once before the first step.
    ///
    /// # Errors
    /// When something is there that cannot be removed.
    pub async fn clean_leftovers(&self) -> Result<(), RuntimeError> {
        let shared = self.shared.clone();
        let cleaning = tokio::task::spawn_blocking(move || {
            let running = shared.running();
            shared.engine.clean(&running)
        });
        cleaning.await.map_err(|_| RuntimeError::SupervisorLost)?
    }
}

impl Shared {
    fn running(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail(action: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Sandbox { action, source }
}

/// A step's id is taken as long as this lives.
struct Running {
    shared: Arc<Shared>,
    id: String,
}

impl Running {
    fn enter(shared: &Arc<Shared>, id: &str) -> Result<Self, RuntimeError> {
        if !shared.running().insert(id.to_owned()) {
            return Err(RuntimeError::InvalidSpec {
                field: "id",
                reason: format!("a step {id:?} is running"),
            });
        }
        Ok(Self {
            shared: shared.clone(),
            id: id.to_owned(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running().remove(&self.id);
    }
}

async fn run(
    supervise: impl FnOnce(
        Streams,
        &Control,
        oneshot::Sender<Vec<Listener>>,
    ) -> Result<ExitStatus, RuntimeError>
    + Send
    + 'static,
    stdio: Stdio,
    cancel: CancellationToken,
) -> Result<ExitStatus, RuntimeError> {
    let (mut pump, streams) = output::pump(stdio).map_err(fail("make pipes"))?;
    let control = Arc::new(Control::new().map_err(fail("make an event"))?);
    let _kill = KillOnDrop(control.clone());
    let (done, mut ended) = oneshot::channel();
    let (made, mut listeners) = oneshot::channel();
    let supervised = control.clone();
    let supervise = move || {
        // Nobody waits if the step was given up.
        let _ = done.send(supervise(streams, &supervised, made));
    };
    std::thread::Builder::new()
        .name("weld-step".to_owned())
        .spawn(supervise)
        .map_err(fail("start a thread"))?;
    let mut forwarders = Forwarders::default();
    let (mut cancelled, mut waiting, mut pumped) = (false, true, false);
    let result = loop {
        tokio::select! {
            result = &mut ended => break result.map_err(|_| RuntimeError::SupervisorLost)?,
            () = cancel.cancelled(), if !cancelled => {
                cancelled = true;
                control.kill();
            }
            made = &mut listeners, if waiting => {
                waiting = false;
                forwarders.start(made.unwrap_or_default());
            }
            () = pump.run(), if !pumped => pumped = true,
        }
    };
    tokio::select! {
        () = pump.drain() => {}
        () = cancel.cancelled() => cancelled = true,
    }
    match result {
        Ok(_) if cancelled => Err(RuntimeError::Cancelled),
        result => result,
    }
}
