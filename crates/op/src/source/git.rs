//! Commits of git repositories as trees.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, OnceCell};
use tokio_util::task::AbortOnDropHandle;
use weld_digest::FieldHasher;
use weld_llb::{BlobSource, GitSource as Wanted};
use weld_runtime::AgentConnector;
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::git::{
    GitAuth, GitObjects, GitSpec, GitUrl, MtimePolicy, ResolvedCommit, is_commit_name,
};
use weld_source::progress::Progress;
use weld_store::snapshot::SnapshotError;
use weld_store::{NewUsage, RecordType};

use super::answers::Answers;
use super::blob::{Blob, BlobPlace, Staged};
use super::secrets;
use crate::blocking::blocking;
use crate::captured::Pin;
use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::session::{self, Session};
use crate::{Tree, Worker};

/// Why a commit does not become a tree, other than what git says.
#[derive(Debug, thiserror::Error)]
enum CheckoutError {
    #[error("ssh agent {0}: not found: offer it with --ssh {0}")]
    NoAgent(String),
    #[error("ssh agent {id}: cannot forward it: {source}")]
    Agent { id: String, source: io::Error },
    #[error("git bundle {locator:?}: expected docker-image+blob:// or oci-layout+blob://")]
    Locator { locator: String },
    #[error("the objects of a commit in a git bundle are not given")]
    BundledObjects,
    #[error("cannot keep a checkout of {name}: {source}")]
    Snapshot {
        name: String,
        source: Box<SnapshotError>,
    },
}

/// What references turned out to stand for, by session, remote and reference.
pub(crate) type Commits = Answers<(String, String, String), ResolvedCommit>;

/// A commit as a vertex.
pub(crate) struct Git {
    worker: Arc<Worker>,
    wanted: Wanted,
    description: String,
    /// What the reference stands for, once it was asked.
    resolved: Mutex<Option<ResolvedCommit>>,
    /// The bundle that takes the remote's place, once it was needed.
    bundle: Mutex<Option<Arc<Staged>>>,
}

/// What is asked of the remote, and what must live as long as it is asked.
struct Access {
    spec: GitSpec,
    _agent: Option<ForwardedAgent>,
}

/// A socket that leads to a client's agent, for this process's user only.
struct ForwardedAgent {
    socket: PathBuf,
    _directory: tempfile::TempDir,
    _task: AbortOnDropHandle<()>,
}

impl Git {
    pub(crate) fn new(worker: Arc<Worker>, wanted: Wanted, description: String) -> Self {
        Self {
            worker,
            wanted,
            description,
            resolved: Mutex::default(),
            bundle: Mutex::default(),
        }
    }

    /// The bundle that the client says to take in the remote's place.
    async fn bundle(&self, ctx: &OpContext<Tree>) -> Result<Option<PathBuf>, OpError> {
        let Some(wanted) = &self.wanted.bundle else {
            return Ok(None);
        };
        let mut staged = self.bundle.lock().await;
        if let Some(staged) = &*staged {
            return Ok(Some(staged.path().to_owned()));
        }
        let schemes = [
            ("docker-image+blob://", BlobPlace::Registry),
            ("oci-layout+blob://", BlobPlace::Layout),
        ];
        let found = schemes.into_iter().find_map(|(scheme, place)| {
            let reference = wanted.locator.strip_prefix(scheme)?;
            Some((reference.to_owned(), place))
        });
        let (reference, place) = found.ok_or_else(|| {
            OpError::failed(CheckoutError::Locator {
                locator: wanted.locator.clone(),
            })
        })?;
        let blob = Blob {
            worker: Arc::clone(&self.worker),
            wanted: BlobSource {
                reference,
                session: wanted.session.clone(),
                store: wanted.store.clone(),
                ..BlobSource::default()
            },
            place,
        };
        let fetched = Arc::new(blob.stage(ctx).await?);
        let path = fetched.path().to_owned();
        *staged = Some(fetched);
        Ok(Some(path))
    }

    /// What is wanted, with nobody to be.
    fn spec(&self) -> GitSpec {
        let wanted = &self.wanted;
        let remote = wanted.url.as_ref().unwrap_or(&wanted.id);
        GitSpec {
            remote: match GitUrl::is_meant(remote) {
                true => remote.clone(),
                false => format!("https://{remote}"),
            },
            // A bundle says nothing of a default branch, and is pinned to a commit.
            reference: match (&wanted.bundle, &wanted.checksum) {
                (Some(_), Some(commit)) if wanted.reference.is_empty() => commit.clone(),
                _ => wanted.reference.clone(),
            },
            subdir: wanted.subdir.clone(),
            checksum: wanted.checksum.clone(),
            keep_git_dir: wanted.keep_git_dir,
            skip_submodules: wanted.skip_submodules,
            fetch_by_commit: wanted.fetch_by_commit,
            mtime: match wanted.mtime.as_deref() {
                Some("commit") => MtimePolicy::Commit,
                _ => MtimePolicy::Checkout,
            },
            bundle: None,
            checkout_bundle: wanted.checkout_bundle,
            auth: GitAuth::default(),
            owner: self.worker.domain().name().map(|name| name.to_string()),
        }
    }

    async fn access(&self, ctx: &OpContext<Tree>) -> Result<Access, OpError> {
        self.access_by(Clients::Of(ctx)).await
    }

    async fn access_by(&self, clients: Clients<'_>) -> Result<Access, OpError> {
        let mut spec = self.spec();
        let agent = match self.wanted.mount_ssh_sock.as_deref() {
            Some(id) => {
                let id = if id.is_empty() { "default" } else { id };
                Some(forward(clients.agent(id).await?, id)?)
            }
            None => None,
        };
        spec.auth = GitAuth {
            header: self.header(clients, &spec.remote).await?,
            ssh_agent: agent.as_ref().map(|agent| agent.socket.clone()),
            known_hosts: self.wanted.known_ssh_hosts.clone(),
        };
        Ok(Access {
            spec,
            _agent: agent,
        })
    }

    /// The header that a secret makes: one for this host before one for all, a header before a
    /// token.
    async fn header(
        &self,
        clients: Clients<'_>,
        remote: &str,
    ) -> Result<Option<weld_source::Secret>, OpError> {
        let Ok(url) = GitUrl::parse(remote) else {
            return Ok(None);
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Ok(None);
        }
        let stated = [
            (&self.wanted.auth_header_secret, false),
            (&self.wanted.auth_token_secret, true),
        ];
        let stated: Vec<_> = stated
            .into_iter()
            .filter_map(|(name, is_token)| Some((name.as_ref()?, is_token)))
            .collect();
        let of_host = stated
            .iter()
            .map(|(name, is_token)| (format!("{name}.{}", url.host()), *is_token));
        let of_all = stated
            .iter()
            .map(|(name, is_token)| ((*name).clone(), *is_token));
        let (names, are_tokens): (Vec<_>, Vec<_>) = of_host.chain(of_all).unzip();
        let found = match clients {
            Clients::Of(ctx) => secrets::first(ctx, &names).await?,
            Clients::One(session) => secrets::of(session, &names).await?,
        };
        Ok(found.map(|(index, value)| {
            let is_token = are_tokens.get(index).copied().unwrap_or(false);
            match is_token {
                true => GitAuth::token_header(&value),
                false => value,
            }
        }))
    }

    async fn resolve(
        &self,
        ctx: &OpContext<Tree>,
        access: &Access,
    ) -> Result<ResolvedCommit, OpError> {
        let mut known = self.resolved.lock().await;
        if let Some(resolved) = known.as_ref() {
            return Ok(resolved.clone());
        }
        let source = self.worker.git_source().await;
        let is_named = is_commit_name(&access.spec.reference);
        let bundle = match is_named {
            true => None,
            false => self.bundle(ctx).await?,
        };
        let answer = match bundle {
            None => self.answer(ctx, &access.spec).await,
            // The remote said nothing.
            Some(_) => Arc::default(),
        };
        let spec = &GitSpec {
            bundle,
            ..access.spec.clone()
        };
        let work = reporting(ctx, |progress| async move {
            source.resolve_once(spec, answer.as_ref(), &progress).await
        });
        let resolved = tokio::select! {
            resolved = work => resolved.map_err(OpError::failed)?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        *known = Some(resolved.clone());
        Ok(resolved)
    }

    /// Where the remote's answer is kept for the session: a frontend may ask before it builds, by
    /// another vertex, and its build is to get what it was told.
    async fn answer(&self, ctx: &OpContext<Tree>, spec: &GitSpec) -> Arc<OnceCell<ResolvedCommit>> {
        let handle = ctx.next_session(&[]).await;
        let Some(session) = handle.as_ref().and_then(session::of) else {
            return Arc::default();
        };
        // Ids of sessions are chosen by clients.
        let owner = self.worker.domain().scoped(session.id().to_owned());
        let key = (owner, spec.remote.clone(), spec.reference.clone());
        self.worker.commits.entry(key)
    }

    fn usage(&self) -> NewUsage {
        let spec = self.spec();
        let remote = match GitUrl::parse(&spec.remote) {
            Ok(url) => url.remote().to_owned(),
            Err(_) => self.description.clone(),
        };
        NewUsage {
            record_type: RecordType::GitCheckout,
            description: format!("git snapshot for {remote}#{}", spec.reference),
            mutable: false,
            size: None,
        }
    }
}

/// Who may have the secrets and agents that a remote wants.
#[derive(Clone, Copy)]
enum Clients<'a> {
    /// All that want the vertex.
    Of(&'a OpContext<Tree>),
    /// One.
    One(&'a dyn Session),
}

impl Clients<'_> {
    /// An agent, of the first that has it.
    async fn agent(self, id: &str) -> Result<AgentConnector, OpError> {
        let absent = || OpError::gone(CheckoutError::NoAgent(id.to_owned()));
        match self {
            Self::One(session) => {
                let connector = session.agent(id).await.map_err(OpError::failed)?;
                connector.ok_or_else(absent)
            }
            Self::Of(ctx) => {
                ctx.with_session(|handle| async move {
                    let connector = match session::of(&handle) {
                        Some(session) => session.agent(id).await.map_err(OpError::failed)?,
                        None => None,
                    };
                    connector.ok_or_else(absent)
                })
                .await
            }
        }
    }
}

impl Worker {
    /// The objects of a commit, and of the tag that names it, as git has them. `wanted` is what was
    /// resolved; who asks is the client of `session`.
    ///
    /// # Errors
    /// [`OpError`], if they cannot be had.
    pub async fn git_objects(
        self: &Arc<Self>,
        session: &dyn Session,
        wanted: &Wanted,
        resolved: &ResolvedCommit,
        progress: &Progress,
    ) -> Result<GitObjects, OpError> {
        if wanted.bundle.is_some() {
            return Err(OpError::failed(CheckoutError::BundledObjects));
        }
        let git = Git::new(Arc::clone(self), wanted.clone(), wanted.id.clone());
        let access = git.access_by(Clients::One(session)).await?;
        let source = self.git_source().await;
        let objects = source.objects(&access.spec, resolved, progress).await;
        objects.map_err(OpError::failed)
    }
}

/// Makes a socket that leads to an agent.
fn forward(connector: AgentConnector, id: &str) -> Result<ForwardedAgent, OpError> {
    let failed = |source| {
        OpError::failed(CheckoutError::Agent {
            id: id.to_owned(),
            source,
        })
    };
    // Its directory lets nobody else in; the state directory's path may be too long for a socket.
    let directory = tempfile::Builder::new()
        .prefix("weld-agent-")
        .tempdir()
        .map_err(failed)?;
    let socket = directory.path().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket).map_err(failed)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connector.serve(listener).await {
            tracing::warn!("an SSH agent cannot be forwarded to git: {error}");
        }
    });
    Ok(ForwardedAgent {
        socket,
        _directory: directory,
        _task: AbortOnDropHandle::new(task),
    })
}

impl crate::recall::Step for Git {
    fn pin(&self) -> Option<Pin> {
        // It is held while the remote is asked, which is before anybody wants to know.
        let resolved = self.resolved.try_lock().ok()?;
        Some(Pin::Commit(resolved.as_ref()?.clone()))
    }
}

#[async_trait]
impl Op<Tree> for Git {
    /// The commit is what counts, wherever it is from: mirrors of a repository share results.
    async fn cache_map(&self, ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let access = self.access(ctx).await?;
        let what = || format!("resolve {}", self.description);
        let resolved = ctx.told_when_slow(what, self.resolve(ctx, &access)).await?;
        let digest = FieldHasher::new("weld.op.git.v1")
            .text(&resolved.cache_key(&access.spec))
            .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let mut access = self.access(ctx).await?;
        let resolved = self.resolve(ctx, &access).await?;
        access.spec.bundle = self.bundle(ctx).await?;
        let source = self.worker.git_source().await;
        let failed = |source| CheckoutError::Snapshot {
            name: self.description.clone(),
            source: Box::new(source),
        };
        let worker = Arc::clone(&self.worker);
        let made = tokio::task::spawn_blocking(move || worker.snapshots.create(None));
        let snapshot = made
            .await
            .map_err(OpError::failed)?
            .map_err(|source| OpError::failed(failed(source)))?;
        let (spec, resolved, directory) = (&access.spec, &resolved, snapshot.files());
        let work = reporting(ctx, |progress| async move {
            source.checkout(spec, resolved, directory, &progress).await
        });
        tokio::select! {
            done = work => done.map_err(OpError::failed)?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        }
        let usage = self.usage();
        let name = self.description.clone();
        let tree = blocking(move || {
            snapshot
                .commit(usage)
                .map_err(|source| CheckoutError::Snapshot {
                    name,
                    source: Box::new(source),
                })
        });
        tree.await.map(|tree| vec![Tree::of(tree)])
    }
}
