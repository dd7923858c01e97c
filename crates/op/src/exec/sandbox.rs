//! A sandbox for processes that are no steps: what a frontend runs itself.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::OpenTreeFlags;
use weld_llb::CacheSharingOpt;
use weld_runtime::{AgentSocket, MountPlan, Secret, Source, StepMount, StepSpec};
use weld_store::mount::{MountSpec, Mounted};
use weld_store::snapshot::{MutableSnapshot, SnapshotError};
use weld_store::{CacheMountRequest, RecordType, Sharing};

use super::ExecError;
use super::mounts::absolute;
use crate::session::Session;
use crate::{Tree, Worker};

/// A mount of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxMount {
    /// Where it is mounted; `/` for the root.
    pub dest: String,
    /// Only this path of it.
    pub selector: String,
    /// Whether it is read-only.
    pub readonly: bool,
    /// What it is.
    pub kind: SandboxMountKind,
}

/// What a mount of a sandbox is.
#[derive(Clone, Debug)]
pub enum SandboxMountKind {
    /// A tree, whose changes nobody gets.
    Bind(Tree),
    /// A file system in memory.
    Tmpfs {
        /// Its size in bytes; 0 for the default.
        size: u64,
    },
    /// A directory that is kept from run to run.
    Cache {
        /// Its name.
        id: String,
        /// Who else may use it meanwhile.
        sharing: CacheSharingOpt,
    },
    /// A read-only file in memory.
    File {
        /// Its content.
        data: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret of the client's.
    Secret(weld_llb::SecretMount),
    /// An SSH agent of the client's.
    Ssh(weld_llb::SshMount),
}

/// The file systems of a sandbox, held until it is dropped. Its first process takes them.
pub struct Sandbox {
    root: Option<(Source, bool)>,
    mounts: Vec<StepMount>,
    secrets: Vec<Secret>,
    agents: Vec<AgentSocket>,
    /// What is seen of each mount from outside, in their order.
    views: Vec<Option<Arc<Mounted>>>,
    _trees: Vec<Tree>,
    _snapshots: Vec<MutableSnapshot>,
    _caches: Vec<weld_store::CacheMount>,
}

impl Sandbox {
    /// Prepares the mounts; cache mounts that are in use elsewhere are waited for.
    ///
    /// # Errors
    /// [`ExecError`].
    pub async fn prepare(
        worker: &Arc<Worker>,
        session: &Arc<dyn Session>,
        mounts: Vec<SandboxMount>,
    ) -> Result<Self, ExecError> {
        let mut sandbox = Self {
            root: None,
            mounts: Vec::new(),
            secrets: Vec::new(),
            agents: Vec::new(),
            views: Vec::new(),
            _trees: Vec::new(),
            _snapshots: Vec::new(),
            _caches: Vec::new(),
        };
        for mount in mounts {
            let view = sandbox.add(worker, session, mount).await?;
            sandbox.views.push(view);
        }
        sandbox.mounts.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(sandbox)
    }

    async fn add(
        &mut self,
        worker: &Arc<Worker>,
        session: &Arc<dyn Session>,
        mount: SandboxMount,
    ) -> Result<Option<Arc<Mounted>>, ExecError> {
        let SandboxMount {
            dest,
            selector,
            readonly,
            kind,
        } = mount;
        let target = absolute("/", &dest);
        let is_root = dest == "/";
        match kind {
            SandboxMountKind::Bind(tree) => {
                let read_only = readonly && !is_root && tree.snapshot().is_some();
                let (mounted, snapshot) = mounted(worker, &dest, tree.clone(), read_only).await?;
                self._trees.push(tree);
                self._snapshots.extend(snapshot);
                let view = Arc::new(mounted);
                let source = Source::Detached(copy(&view, &dest)?);
                if is_root {
                    self.root = Some((source, readonly));
                } else {
                    self.mount(target, source, &selector, readonly);
                }
                return Ok(Some(view));
            }
            SandboxMountKind::Tmpfs { size } => {
                let size = (size > 0).then_some(size);
                self.mount(target, Source::Tmpfs { size }, "", false);
            }
            SandboxMountKind::Cache { id, sharing } => {
                let cache = cache(worker, &dest, &id, sharing).await?;
                let source = Source::Plan(MountPlan::Bind(cache.path()));
                let view = Mounted::open(&MountSpec::bind(cache.path(), true));
                let view = view.map_err(|source| ExecError::Mount {
                    dest: dest.clone(),
                    source: std::io::Error::other(source),
                })?;
                self._caches.push(cache);
                self.mount(target, source, &selector, readonly);
                return Ok(Some(Arc::new(view)));
            }
            SandboxMountKind::File { data, mode } => self.secrets.push(Secret {
                target,
                data,
                mode,
                uid: 0,
                gid: 0,
            }),
            SandboxMountKind::Secret(secret) => match session.secret(&secret.id).await? {
                Some(content) => self.secrets.push(Secret {
                    target,
                    data: content.expose().to_vec(),
                    mode: secret.mode,
                    uid: secret.uid,
                    gid: secret.gid,
                }),
                None if secret.optional => {}
                None => return Err(ExecError::NoSecret(secret.id)),
            },
            SandboxMountKind::Ssh(ssh) => {
                let id = match ssh.id.as_str() {
                    "" => "default",
                    id => id,
                };
                match session.agent(id).await? {
                    Some(connector) => self.agents.push(AgentSocket {
                        target,
                        mode: ssh.mode,
                        uid: ssh.uid,
                        gid: ssh.gid,
                        connector,
                    }),
                    None if ssh.optional => {}
                    None => return Err(ExecError::NoAgent(id.to_owned())),
                }
            }
        }
        Ok(None)
    }

    fn mount(&mut self, target: PathBuf, source: Source, selector: &str, read_only: bool) {
        self.mounts.push(StepMount {
            source,
            sub_path: PathBuf::from(selector.trim_start_matches('/')),
            target,
            read_only,
            no_suid: false,
        });
    }

    /// A spec of the first process, which gets all mounts; `None` if there was one, or there is no
    /// root.
    pub fn first(&mut self, id: String, args: Vec<String>) -> Option<StepSpec> {
        let (root, read_only) = self.root.take()?;
        let mut spec = StepSpec::new(id, root, args);
        spec.read_only_root = read_only;
        spec.mounts = std::mem::take(&mut self.mounts);
        spec.secrets = std::mem::take(&mut self.secrets);
        spec.agents = std::mem::take(&mut self.agents);
        Some(spec)
    }

    /// How many mounts there are.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there is no mount.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// The root directory of a mount, as the sandbox's processes see it; `None` for one that is no
    /// tree.
    pub fn view(&self, mount: usize) -> Option<Arc<Mounted>> {
        self.views.get(mount)?.clone()
    }
}

/// A mount of a tree, of its own unless it is read-only.
async fn mounted(
    worker: &Arc<Worker>,
    dest: &str,
    tree: Tree,
    read_only: bool,
) -> Result<(Mounted, Option<MutableSnapshot>), ExecError> {
    let snapshots = worker.snapshots.clone();
    let mount = move || -> Result<_, SnapshotError> {
        if let (Some(snapshot), true) = (tree.snapshot(), read_only) {
            return Ok((snapshot.mount()?, None));
        }
        let snapshot = snapshots.create(tree.snapshot())?;
        Ok((snapshot.mount()?, Some(snapshot)))
    };
    let action = format!("mount {dest}");
    match tokio::task::spawn_blocking(mount).await {
        Ok(mounted) => mounted.map_err(|source| ExecError::Snapshot {
            action,
            source: source.into(),
        }),
        Err(stopped) => Err(ExecError::Stopped { action, stopped }),
    }
}

/// The same mount once more, for a sandbox to consume.
fn copy(mounted: &Mounted, dest: &str) -> Result<OwnedFd, ExecError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copied = rustix::mount::open_tree(mounted.as_fd(), "", flags);
    copied.map_err(|errno| ExecError::Mount {
        dest: dest.to_owned(),
        source: errno.into(),
    })
}

async fn cache(
    worker: &Arc<Worker>,
    dest: &str,
    id: &str,
    sharing: CacheSharingOpt,
) -> Result<weld_store::CacheMount, ExecError> {
    let id = if id.is_empty() { dest } else { id };
    let request = CacheMountRequest {
        id: worker.domain().scoped(id.to_owned()),
        key: worker.domain().scoped(id.to_owned()),
        sharing: match sharing {
            CacheSharingOpt::Shared => Sharing::Shared,
            CacheSharingOpt::Private => Sharing::Private,
            CacheSharingOpt::Locked => Sharing::Locked,
        },
        refills: false,
        record_type: RecordType::CacheMount,
        description: format!("cached mount {dest} of a frontend's container"),
    };
    let empty = |_: &Path| Ok(());
    let acquired = worker.store.cache_mounts().acquire(&request, empty).await;
    acquired.map_err(|source| ExecError::CacheMount {
        dest: dest.to_owned(),
        source: source.into(),
    })
}
