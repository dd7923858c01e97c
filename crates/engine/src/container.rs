//! Containers in which a frontend runs processes of its own.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use weld_llb::{HostIp, NetMode, Platform, SecretEnv, SecurityMode};
use weld_op::{Sandbox, SandboxMount, SandboxMountKind, Tree};
use weld_runtime::{ExitStatus, Network, RuntimeError, Security, StepProcess, StepSpec, User};

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::files::{self, FileError, FileRange, Stat};
use crate::job::JobCore;
use crate::reference::Ref;

/// The path of processes that have none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The same, of Windows.
const WINDOWS_PATH: &str =
    r"PATH=c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0";

/// A container that a frontend wants.
#[derive(Clone, Debug, Default)]
pub struct ContainerRequest {
    /// Its mounts, of which one is the root.
    pub mounts: Vec<ContainerMount>,
    /// Its network.
    pub network: Option<NetMode>,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// The host's name.
    pub hostname: String,
    /// Whose programs it runs; that of steps if there is none.
    pub platform: Option<Platform>,
}

/// A mount of a container.
#[derive(Clone, Debug)]
pub struct ContainerMount {
    /// Where it is mounted.
    pub dest: String,
    /// Only this path of it.
    pub selector: String,
    /// Whether it is read-only.
    pub readonly: bool,
    /// What it is.
    pub kind: ContainerMountKind,
}

/// What a mount of a container is.
#[derive(Clone, Debug)]
pub enum ContainerMountKind {
    /// A file system, or an empty one. Nobody gets its changes.
    Ref(Option<Ref>),
    /// Something that is no result of a build's.
    Other(SandboxMountKind),
}

/// A container of a frontend's. Dropping it ends its processes.
pub struct Container {
    core: Arc<JobCore>,
    id: String,
    sandbox: Mutex<Sandbox>,
    first: Mutex<Option<StepProcess>>,
    network: Network,
    extra_hosts: Vec<(String, std::net::IpAddr)>,
    hostname: String,
    /// What its processes have for a path if they say nothing.
    path: &'static str,
    stop: CancellationToken,
    processes: TaskTracker,
}

/// A process that a frontend wants in a container.
#[derive(Debug)]
pub struct ProcessRequest {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` entries.
    pub env: Vec<String>,
    /// Secrets in its environment.
    pub secret_env: Vec<SecretEnv>,
    /// Who runs it; empty for root.
    pub user: String,
    /// Its working directory; empty for the root.
    pub cwd: String,
    /// Whether its streams are a terminal.
    pub terminal: bool,
    /// Its rights.
    pub security: SecurityMode,
    /// Whether directories made for mounts are removed after it.
    pub remove_mount_stubs: bool,
    /// Its streams.
    pub stdio: weld_runtime::Stdio,
}

/// A process of a container. Dropping it kills it.
pub struct Process {
    handle: Option<StepProcess>,
    ended: AbortOnDropHandle<Result<ExitStatus, RuntimeError>>,
}

/// How a process ended that has not succeeded.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// With another code than 0.
    #[error("{0}")]
    Exit(ExitStatus),
    /// It could not be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The task that looks after it ended early.
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

impl Process {
    /// Sends it a signal by its number.
    ///
    /// # Errors
    /// If there is no such signal, or the runtime cannot send one.
    pub fn signal(&self, number: i32) -> std::io::Result<()> {
        match &self.handle {
            Some(handle) => handle.signal(number),
            None => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Another way to its signals.
    pub fn handle(&self) -> Option<StepProcess> {
        self.handle.clone()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`ProcessError`] if it has not succeeded.
    pub async fn wait(self) -> Result<(), ProcessError> {
        let status = self.ended.await??;
        match status.success() {
            true => Ok(()),
            false => Err(ProcessError::Exit(status)),
        }
    }
}

impl Bridge {
    /// Makes a container, whose mounts are there when this returns.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn new_container(&self, request: ContainerRequest) -> Result<Container, BuildError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("container-{}-{number}", std::process::id());
        let network = request.network.unwrap_or(NetMode::Unset);
        self.core
            .allow("container", network, SecurityMode::Sandbox)?;
        let mut mounts = Vec::with_capacity(request.mounts.len());
        for mount in request.mounts {
            let kind = match mount.kind {
                ContainerMountKind::Ref(Some(reference)) => {
                    SandboxMountKind::Bind(reference.tree().await?)
                }
                ContainerMountKind::Ref(None) => SandboxMountKind::Bind(Tree::scratch()),
                ContainerMountKind::Other(kind) => kind,
            };
            mounts.push(SandboxMount {
                dest: mount.dest,
                selector: mount.selector,
                readonly: mount.readonly,
                kind,
            });
        }
        let hosts = request.extra_hosts.into_iter().map(|host| {
            let address = host.ip.parse().map_err(|_| BuildError::Container {
                reason: format!("extra host {}: {:?} is no address", host.host, host.ip),
            })?;
            Ok((host.host, address))
        });
        let extra_hosts = hosts.collect::<Result<_, BuildError>>()?;
        let sandbox = Sandbox::prepare(&self.core.worker, self.session(), mounts);
        let sandbox = sandbox.await.map_err(|error| BuildError::Container {
            reason: error.to_string(),
        })?;
        Ok(Container {
            core: Arc::clone(&self.core),
            id,
            sandbox: Mutex::new(sandbox),
            first: Mutex::new(None),
            network: match network {
                NetMode::Unset | NetMode::Host => Network::Host,
                NetMode::None => Network::None,
            },
            extra_hosts,
            hostname: request.hostname,
            path: match &request.platform {
                Some(platform) if platform.os == "windows" => WINDOWS_PATH,
                _ => DEFAULT_PATH,
            },
            stop: self.core.stop.child_token(),
            processes: TaskTracker::new(),
        })
    }
}

impl Container {
    /// Starts a process: the first is the container's own, and further ones end with it. Whether it
    /// could be run is told when it is waited for.
    ///
    /// # Errors
    /// [`BuildError`] if it cannot be tried.
    pub async fn start(&self, request: ProcessRequest) -> Result<Process, BuildError> {
        self.core
            .allow("container", NetMode::Unset, request.security)?;
        let mut env = request.env;
        let mut default = |entry: &str| {
            let name = entry.split_once('=').map_or(entry, |(name, _)| name);
            let set = |entry: &String| entry.split_once('=').is_some_and(|(set, _)| set == name);
            if !env.iter().any(set) {
                env.push(entry.to_owned());
            }
        };
        default(self.path);
        if request.terminal {
            default("TERM=xterm");
        }
        env.extend(self.secrets(&request.secret_env).await?);
        // Held until the first process has started, so that others can join it.
        let mut first = self.first.lock().await;
        let new = self.sandbox.lock().await.first(self.id.clone(), Vec::new());
        let is_first = new.is_some();
        let mut spec = match (new, &*first) {
            (Some(spec), _) => spec,
            (None, Some(_)) => StepSpec::new(
                &*self.id,
                weld_runtime::Source::Tmpfs { size: None },
                Vec::new(),
            ),
            (None, None) => {
                return Err(BuildError::Container {
                    reason: "there is no process that could be joined".to_owned(),
                });
            }
        };
        spec.args = request.args;
        spec.env = env;
        spec.user = User::Named(request.user);
        spec.cwd = match request.cwd.as_str() {
            "" => "/".into(),
            cwd => std::path::Path::new("/").join(cwd),
        };
        spec.hostname.clone_from(&self.hostname);
        spec.extra_hosts.clone_from(&self.extra_hosts);
        spec.network = self.network;
        spec.remove_stub_parents = request.remove_mount_stubs;
        spec.security = match request.security {
            SecurityMode::Sandbox => Security::Sandbox,
            SecurityMode::Insecure => Security::Insecure,
        };
        let (sender, started) = oneshot::channel();
        let (runtime, stop) = (self.core.worker.runtime.clone(), self.stop.clone());
        let (stdio, inside) = (request.stdio, first.clone());
        let writer = self.core.worker.store.space().writer();
        let run = async move {
            let running = async {
                match inside.filter(|_| !is_first) {
                    Some(inside) => runtime.join(inside, spec, stdio, stop, sender).await,
                    None => runtime.run_telling(spec, stdio, stop, sender).await,
                }
            };
            // Dropped, it is killed.
            tokio::select! {
                biased;
                ended = running => ended,
                shortage = writer.watch() => Err(RuntimeError::Stopped(Box::new(shortage))),
            }
        };
        let ended = AbortOnDropHandle::new(self.processes.spawn(run));
        // Without an answer it could not be started, as it tells who waits for it.
        let handle = started.await.ok();
        if is_first {
            first.clone_from(&handle);
        }
        Ok(Process { handle, ended })
    }

    async fn secrets(&self, wanted: &[SecretEnv]) -> Result<Vec<String>, BuildError> {
        let mut entries = Vec::with_capacity(wanted.len());
        for secret in wanted {
            let found = self.core.session.secret(&secret.id).await?;
            let refuse = |reason: &str| BuildError::Container {
                reason: format!("secret {}: {reason}", secret.id),
            };
            match found {
                Some(content) => {
                    let text = std::str::from_utf8(content.expose());
                    let text = text.map_err(|_| refuse("it is not UTF-8 text"))?;
                    entries.push(format!("{}={text}", secret.name));
                }
                None if secret.optional => {}
                None => return Err(refuse("not found")),
            }
        }
        Ok(entries)
    }

    /// Reads a file of a mount, or a part of it, as the processes see it now.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such mount or file.
    pub async fn read_file(
        &self,
        mount: usize,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, BuildError> {
        let path = path.to_owned();
        self.in_mount(mount, move |root| files::read_file(&root, &path, range))
            .await
    }

    /// The entries of a directory of a mount, those whose names match a pattern if there is one.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such mount or directory.
    pub async fn read_dir(
        &self,
        mount: usize,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, BuildError> {
        let (path, include) = (path.to_owned(), include.map(str::to_owned));
        self.in_mount(mount, move |root| {
            files::read_dir(&root, &path, include.as_deref())
        })
        .await
    }

    /// What is known of a file of a mount.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such mount or file.
    pub async fn stat_file(&self, mount: usize, path: &str) -> Result<Stat, BuildError> {
        let path = path.to_owned();
        self.in_mount(mount, move |root| files::stat_file(&root, &path))
            .await
    }

    async fn in_mount<T: Send + 'static>(
        &self,
        mount: usize,
        work: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let (view, count) = {
            let sandbox = self.sandbox.lock().await;
            (sandbox.view(mount), sandbox.len())
        };
        let view = view.ok_or_else(|| BuildError::Container {
            reason: match mount < count {
                true => format!("mountable {mount} not found"),
                false => format!("mount index {mount} is out of bounds ({count} available)"),
            },
        })?;
        let work = move || work(view.as_fd());
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    /// Ends all processes, and waits until they are gone; whether they had ended by themselves.
    pub async fn release(&self) -> bool {
        let ended = self.processes.is_empty();
        self.stop.cancel();
        self.processes.close();
        self.processes.wait().await;
        ended
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
