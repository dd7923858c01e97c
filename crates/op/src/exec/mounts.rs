//! What a step sees: its root, its mounts, its secrets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weld_llb::{BindMount, MountKind, SecretMount, SshMount};
use weld_runtime::{
    AgentConnector, AgentSocket, MountPlan, Overlay, Secret, Source, StepMount, UpperDirs,
};
use weld_solver::{LentSessions, OpContext, OpError, ResultRef};
use weld_store::mount::{MountSource, MountSpec};
use weld_store::snapshot::{MutableSnapshot, SnapshotRef};
use weld_store::{NewUsage, RecordType};

use super::{Exec, ExecError};
use crate::blocking::blocking;
use crate::{Tree, room, session};

/// Everything that a step needs, held until its results are committed.
pub(super) struct Prepared {
    root: Option<(Source, bool)>,
    pub(super) mounts: Vec<StepMount>,
    pub(super) secrets: Vec<Secret>,
    pub(super) secret_env: Vec<(String, String)>,
    pub(super) agents: Vec<AgentSocket>,
    pub(super) outputs: Vec<(usize, Made)>,
    /// Which mount each output, or each snapshot that nobody gets, is of.
    places: Vec<(usize, Place)>,
    /// Snapshots that the step may write and nobody gets.
    discarded: Vec<MutableSnapshot>,
    /// Directories of cache mounts, held while the step runs.
    pub(super) caches: Vec<weld_store::CacheMount>,
    /// Inputs, kept from being pruned while they are mounted.
    _inputs: Vec<ResultRef<Tree>>,
}

/// What becomes an output.
pub(super) enum Made {
    Changed(MutableSnapshot),
    AsIs(Tree),
}

/// Where a mount's tree is once the step has ended.
enum Place {
    /// Among the outputs, by its position there.
    Output(usize),
    /// Among the snapshots that nobody gets.
    Discarded(usize),
    /// It is what it was.
    Input(Tree),
}

/// Prepares all mounts of a step. Cache mounts that are in use elsewhere are waited for.
pub(super) async fn prepare(
    exec: &Exec,
    ctx: &OpContext<Tree>,
    inputs: &[ResultRef<Tree>],
) -> Result<Prepared, OpError> {
    let mut prepared = Prepared {
        root: None,
        mounts: Vec::new(),
        secrets: Vec::new(),
        secret_env: Vec::new(),
        agents: Vec::new(),
        outputs: Vec::new(),
        places: Vec::new(),
        discarded: Vec::new(),
        caches: Vec::new(),
        _inputs: inputs.to_vec(),
    };
    for (index, mount) in exec.op.mounts.iter().enumerate() {
        let tree = |input: Option<usize>| {
            input
                .and_then(|input| inputs.get(input))
                .map(|tree| (**tree).clone())
        };
        match &mount.kind {
            MountKind::Bind(bind) => {
                prepared
                    .bind(exec, (index, &mount.dest), bind, tree(bind.input))
                    .await?;
            }
            MountKind::Tmpfs { size } => {
                let size = (*size > 0).then_some(*size);
                prepared.mount(exec, &mount.dest, Source::Tmpfs { size }, "", false);
            }
            MountKind::Secret(secret) => prepared.secret(exec, ctx, &mount.dest, secret).await?,
            MountKind::Ssh(ssh) => prepared.agent(exec, ctx, &mount.dest, ssh).await?,
            // After all others: while one is waited for, nothing that others wait for is held.
            MountKind::Cache(_) => {}
        }
    }
    for secret in &exec.op.secret_env {
        // One that nobody offers and nobody needs is an empty variable, as in BuildKit.
        let found = find_secret(ctx, &secret.id, secret.optional).await?;
        let content = found.map_or_else(Vec::new, |content| content.expose().to_vec());
        let text = String::from_utf8(content)
            .ok()
            .filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| OpError::failed(ExecError::SecretText(secret.id.clone())))?;
        prepared.secret_env.push((secret.name.clone(), text));
    }
    prepared.caches(exec, ctx, inputs).await?;
    // A mount beneath another comes after it.
    prepared.mounts.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(prepared)
}

impl Prepared {
    /// A name for the step that no other running one has.
    pub(super) fn step_id(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        format!(
            "step-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// The root and whether it is read-only.
    pub(super) fn take_root(&mut self) -> (Source, bool) {
        // An exec operation without a root is refused when its definition is decoded.
        self.root
            .take()
            .unwrap_or((Source::Tmpfs { size: None }, true))
    }

    /// Turns what the step changed into results, in the order of the outputs.
    pub(super) async fn commit(self, exec: &Exec) -> Result<Vec<Tree>, OpError> {
        let mut outputs = self.outputs;
        outputs.sort_by_key(|(index, _)| *index);
        let description = exec.description.clone();
        blocking(move || {
            outputs
                .into_iter()
                .map(|(_, made)| match made {
                    Made::AsIs(tree) => Ok(tree),
                    Made::Changed(snapshot) => snapshot
                        .commit(NewUsage {
                            record_type: RecordType::Regular,
                            description: description.clone(),
                            mutable: false,
                            size: None,
                        })
                        .map(Tree::of)
                        .map_err(|source| ExecError::Snapshot {
                            action: "commit what the step changed".into(),
                            source: source.into(),
                        }),
                })
                .collect::<Result<Vec<_>, _>>()
        })
        .await
    }

    /// What the mounts of a step that failed came to, for whoever looks into the failure. What
    /// cannot be kept is only missed there.
    pub(super) async fn keep(self, exec: &Exec) -> Vec<Option<Tree>> {
        let usage = NewUsage {
            record_type: RecordType::Internal,
            description: format!("failed: {}", exec.description),
            mutable: false,
            size: None,
        };
        let mut mounts: Vec<Option<Tree>> = vec![None; exec.op.mounts.len()];
        let mut outputs: Vec<_> = self
            .outputs
            .into_iter()
            .map(|(_, made)| Some(made))
            .collect();
        let mut discarded: Vec<_> = self.discarded.into_iter().map(Some).collect();
        let places = self.places;
        let kept = tokio::task::spawn_blocking(move || {
            for (mount, place) in places {
                let made = match place {
                    Place::Input(tree) => Some(Made::AsIs(tree)),
                    Place::Output(output) => outputs.get_mut(output).and_then(Option::take),
                    Place::Discarded(index) => discarded
                        .get_mut(index)
                        .and_then(Option::take)
                        .map(Made::Changed),
                };
                let tree = match made {
                    Some(Made::AsIs(tree)) => Some(tree),
                    Some(Made::Changed(snapshot)) => {
                        snapshot.commit(usage.clone()).map(Tree::of).ok()
                    }
                    None => None,
                };
                if let Some(slot) = mounts.get_mut(mount) {
                    *slot = tree;
                }
            }
            mounts
        });
        kept.await.unwrap_or_default()
    }

    pub(super) fn mount(
        &mut self,
        exec: &Exec,
        dest: &str,
        source: Source,
        selector: &str,
        read_only: bool,
    ) {
        self.mounts.push(StepMount {
            source,
            sub_path: PathBuf::from(selector.trim_start_matches('/')),
            target: absolute(&exec.op.process.cwd, dest),
            read_only,
            no_suid: false,
        });
    }

    async fn bind(
        &mut self,
        exec: &Exec,
        (index, dest): (usize, &str),
        bind: &BindMount,
        input: Option<Tree>,
    ) -> Result<(), OpError> {
        let is_root = dest == "/";
        let base = input.as_ref().and_then(Tree::snapshot).cloned();
        // A read-only mount that is an output hands its input on.
        let hands_on = bind.readonly && !is_root && base.is_some();
        let source = if let (Some(output), true) = (bind.output, hands_on) {
            let tree = input.unwrap_or_else(Tree::scratch);
            self.places.push((index, Place::Input(tree.clone())));
            self.outputs.push((output, Made::AsIs(tree)));
            self.shown(exec, dest, base)?
        } else if bind.output.is_some() || base.is_none() || is_root || !bind.readonly {
            let snapshot = child(exec, dest, base).await?;
            room::writes_into(snapshot.files());
            let source = plan(
                &snapshot
                    .mount_spec()
                    .map_err(|source| snapshot_error(dest, source))?,
            );
            match bind.output {
                Some(output) => {
                    self.places.push((index, Place::Output(self.outputs.len())));
                    self.outputs.push((output, Made::Changed(snapshot)));
                }
                None => {
                    self.places
                        .push((index, Place::Discarded(self.discarded.len())));
                    self.discarded.push(snapshot);
                }
            }
            source
        } else {
            let tree = input.unwrap_or_else(Tree::scratch);
            self.places.push((index, Place::Input(tree)));
            self.shown(exec, dest, base)?
        };
        if is_root {
            self.root = Some((source, bind.readonly));
        } else {
            self.mount(exec, dest, source, &bind.selector, bind.readonly);
        }
        Ok(())
    }

    fn shown(
        &self,
        _exec: &Exec,
        dest: &str,
        snapshot: Option<SnapshotRef>,
    ) -> Result<Source, OpError> {
        match snapshot {
            Some(snapshot) => {
                let spec = snapshot
                    .mount_spec()
                    .map_err(|source| snapshot_error(dest, source))?;
                Ok(plan(&spec))
            }
            None => Ok(Source::Tmpfs { size: None }),
        }
    }

    async fn secret(
        &mut self,
        exec: &Exec,
        ctx: &OpContext<Tree>,
        dest: &str,
        secret: &SecretMount,
    ) -> Result<(), OpError> {
        if let Some(content) = find_secret(ctx, &secret.id, secret.optional).await? {
            self.secrets.push(Secret {
                target: absolute(&exec.op.process.cwd, dest),
                data: content.expose().to_vec(),
                mode: secret.mode,
                uid: secret.uid,
                gid: secret.gid,
            });
        }
        Ok(())
    }

    async fn agent(
        &mut self,
        exec: &Exec,
        ctx: &OpContext<Tree>,
        dest: &str,
        ssh: &SshMount,
    ) -> Result<(), OpError> {
        let id = if ssh.id.is_empty() {
            "default"
        } else {
            &ssh.id
        };
        let sessions = ctx.sessions();
        match find_agent(&sessions, id).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(OpError::Gone(_)) if ssh.optional => return Ok(()),
            Ok(None) => return Err(OpError::gone(ExecError::NoAgent(id.to_owned()))),
            Err(error) => return Err(error),
        }
        // Each connection leads to a client that is there then: the step outlives the one that it was begun for.
        let id: Arc<str> = Arc::from(id);
        let connector = AgentConnector::new(move || {
            let (sessions, id) = (sessions.clone(), Arc::clone(&id));
            Box::pin(async move {
                let found = find_agent(&sessions, &id).await;
                let connector = found.map_err(std::io::Error::other)?;
                let none = || std::io::Error::other(ExecError::NoAgent(id.to_string()));
                connector.ok_or_else(none)?.connect().await
            })
        });
        self.agents.push(AgentSocket {
            target: absolute(&exec.op.process.cwd, dest),
            mode: ssh.mode,
            uid: ssh.uid,
            gid: ssh.gid,
            connector,
        });
        Ok(())
    }
}

async fn child(
    exec: &Exec,
    dest: &str,
    base: Option<SnapshotRef>,
) -> Result<MutableSnapshot, OpError> {
    let (snapshots, dest) = (exec.worker.snapshots.clone(), dest.to_owned());
    blocking(move || {
        snapshots
            .create(base.as_ref())
            .map_err(|source| ExecError::Snapshot {
                action: format!("make a snapshot for {dest}"),
                source: source.into(),
            })
    })
    .await
}

fn snapshot_error(dest: &str, source: weld_store::snapshot::SnapshotError) -> OpError {
    OpError::failed(ExecError::Snapshot {
        action: format!("mount {dest}"),
        source: source.into(),
    })
}

/// An agent of one of the clients that the step works for.
async fn find_agent(
    sessions: &LentSessions<Tree>,
    id: &str,
) -> Result<Option<AgentConnector>, OpError> {
    let ask = |handle| async move {
        match session::of(&handle) {
            Some(session) => session.agent(id).await.map_err(OpError::failed),
            None => Ok(None),
        }
    };
    sessions.with_first(session::PATIENCE, ask).await
}

async fn find_secret(
    ctx: &OpContext<Tree>,
    id: &str,
    optional: bool,
) -> Result<Option<session::Secret>, OpError> {
    let found = ctx
        .sessions()
        .with_first(session::PATIENCE, |handle| {
            let session = session::of(&handle);
            async move {
                match session {
                    Some(session) => session
                        .secret(id)
                        .await
                        .map_err(|error| OpError::failed(ExecError::Session(error))),
                    None => Ok(None),
                }
            }
        })
        .await;
    match found {
        Ok(Some(secret)) => Ok(Some(secret)),
        Ok(None) | Err(OpError::Gone(_)) if optional => Ok(None),
        Ok(None) => Err(OpError::gone(ExecError::NoSecret(id.to_owned()))),
        Err(error) => Err(error),
    }
}

/// A mount point; a relative one is below the working directory.
pub(super) fn absolute(cwd: &str, dest: &str) -> PathBuf {
    Path::new("/").join(cwd).join(dest)
}

/// The store's description of a mount in the runtime's words.
fn plan(spec: &MountSpec) -> Source {
    Source::Plan(match &spec.source {
        MountSource::Bind(path) => MountPlan::Bind(path.clone()),
        MountSource::Overlay(overlay) => MountPlan::Overlay(Overlay {
            lowers: overlay.lowers.clone(),
            upper: overlay.upper.as_ref().map(|upper| UpperDirs {
                upper: upper.upper.clone(),
                work: upper.work.clone(),
            }),
            options: [
                (overlay.userxattr, "userxattr"),
                // The kernel would write the whole file system back at the end of each step; the
                // store has its own means against a power loss.
                (overlay.upper.is_some(), "volatile"),
            ]
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, name)| (name.to_owned(), None))
            .collect(),
        }),
    })
}
