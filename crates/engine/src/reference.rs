//! File systems that can be built, and what is in them.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Mutex, OnceCell};
use weld_digest::Digest;
use weld_llb::{Graph, pb};
use weld_op::lazy::{LostLayer, Need};
use weld_op::{Loading, Nesting, Origin, Tree, Worker, definition_from, retired_cache_mounts};
use weld_solver::{Built, ProvenanceVertex, ResultRef, Root, SolveError};

use crate::cache::CacheImport;
use crate::error::BuildError;
use crate::files::{self, FileError, FileRange, Stat};
use crate::internal::Internal;
use crate::job::JobCore;

/// A file system that is built when it is first needed. Cheap to clone; its result is kept from
/// being pruned as long as it lives.
#[derive(Clone)]
pub struct Ref(Arc<Inner>);

struct Inner {
    job: Arc<JobCore>,
    graph: Graph,
    how: Building,
    /// What it is in the solver, once it is to be built; nothing where there is nothing to build.
    loaded: OnceCell<Option<Root>>,
    /// Failures of steps are remembered as well; a cancelled attempt is not.
    result: OnceCell<Result<Evaluated, SolveError<Tree>>>,
    /// What took the result's place when that was lost.
    renewed: Mutex<Option<Evaluated>>,
}

/// How a definition is built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Building {
    /// Without the cache.
    pub(crate) no_cache: bool,
    /// With results from these caches.
    pub(crate) imports: Vec<CacheImport>,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// What builds inside of it may do, if it may have some.
    pub(crate) nesting: Option<Nesting>,
}

/// What was built.
#[derive(Clone)]
struct Evaluated {
    tree: Tree,
    /// By what the solver knows it, if it was built by it.
    built: Option<(Root, Built<ResultRef<Tree>>)>,
}

impl From<Tree> for Evaluated {
    fn from(tree: Tree) -> Self {
        Self { tree, built: None }
    }
}

/// How often a result may be lost: what is made anew is not lazy itself, so once is enough.
const RENEWALS: usize = 3;

impl Ref {
    pub(crate) fn new(job: Arc<JobCore>, graph: Graph, how: Building) -> Self {
        Self(Arc::new(Inner {
            job,
            graph,
            how,
            loaded: OnceCell::new(),
            result: OnceCell::new(),
            renewed: Mutex::default(),
        }))
    }

    /// A file system that is there already, of which nobody knows how it was built.
    pub(crate) fn of_tree(job: Arc<JobCore>, tree: Tree) -> Self {
        Self(Arc::new(Inner {
            job,
            graph: Graph::empty(),
            how: Building::default(),
            loaded: OnceCell::new_with(Some(None)),
            result: OnceCell::new_with(Some(Ok(tree.into()))),
            renewed: Mutex::default(),
        }))
    }

    /// What builds it.
    pub fn to_definition(&self) -> pb::Definition {
        self.0.graph.to_pb()
    }

    /// Whether both are one and the same.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The vertex that it is.
    pub(crate) fn head(&self) -> Option<Digest> {
        let graph = &self.0.graph;
        let vertex = graph.vertex(graph.root()?.vertex)?;
        Some(vertex.digest().clone())
    }

    /// Builds it, once for all who ask.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn evaluate(&self) -> Result<(), BuildError> {
        self.evaluated().await.map(drop)
    }

    /// Reads a file, or a part of it.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such file.
    pub async fn read_file(
        &self,
        path: &str,
        range: Option<FileRange>,
    ) -> Result<Bytes, BuildError> {
        let path = path.to_owned();
        self.in_root(move |root| files::read_file(&root, &path, range))
            .await
    }

    /// The entries of a directory, those whose names match a pattern if there is one.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such directory.
    pub async fn read_dir(
        &self,
        path: &str,
        include: Option<&str>,
    ) -> Result<Vec<Stat>, BuildError> {
        let (path, include) = (path.to_owned(), include.map(str::to_owned));
        self.in_root(move |root| files::read_dir(&root, &path, include.as_deref()))
            .await
    }

    /// What is known of a file; links are followed.
    ///
    /// # Errors
    /// [`BuildError`], also if there is no such file.
    pub async fn stat_file(&self, path: &str) -> Result<Stat, BuildError> {
        let path = path.to_owned();
        self.in_root(move |root| files::stat_file(&root, &path))
            .await
    }

    /// Works on the root of the files, on a thread that may block.
    async fn in_root<T: Send + 'static>(
        &self,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let tree = self.tree().await?;
        let snapshot = tree.snapshot().cloned();
        let work = move || match snapshot {
            Some(snapshot) => {
                let root = snapshot
                    .root()
                    .map_err(BuildError::snapshot("open a result"))?;
                Ok(work(root.as_fd())?)
            }
            None => {
                let empty =
                    tempfile::tempdir().and_then(|dir| Ok((std::fs::File::open(dir.path())?, dir)));
                let (root, _directory) = empty.map_err(BuildError::Scratch)?;
                Ok(work(root.as_fd())?)
            }
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// By what the solver knows it, once it is built.
    pub(crate) fn root(&self) -> Option<Root> {
        let evaluated = self.0.result.get()?.as_ref().ok()?;
        evaluated.built.as_ref().map(|(root, _)| *root)
    }

    /// The files, which are here.
    pub(crate) async fn tree(&self) -> Result<Tree, BuildError> {
        self.tree_for(Some(Need::Files)).await
    }

    /// The files, of which what is needed is here. Cached layers that cannot be had are made anew.
    pub(crate) async fn tree_for(&self, need: Option<Need>) -> Result<Tree, BuildError> {
        let evaluated = self.evaluated().await?;
        let Some(need) = need else {
            return Ok(evaluated.tree);
        };
        let work = async {
            let tree = match evaluated.tree.is_lazy() {
                true => self.realize(evaluated, need).await?,
                false => evaluated.tree,
            };
            if need == Need::Blobs {
                self.restore_blobs(&tree).await?;
            }
            Ok(tree)
        };
        let stop = &self.0.job.stop;
        tokio::select! {
            biased;
            tree = work => tree,
            () = stop.cancelled() => Err(BuildError::Cancelled),
        }
    }

    /// Has blobs brought back that are needed and not here any more. What cannot be had is made anew by whoever needs it.
    async fn restore_blobs(&self, tree: &Tree) -> Result<(), BuildError> {
        let job = &self.0.job;
        let (worker, tree) = (Arc::clone(&job.worker), tree.clone());
        let lost = tokio::task::spawn_blocking(move || worker.lost_blobs(&tree)).await?;
        let lost = lost.map_err(BuildError::snapshot("look for the layers of a result"))?;
        if lost.is_empty() {
            return Ok(());
        }
        let step = Internal::begin(
            &job.progress,
            "restoring the blobs of layers",
            &job.own_key(""),
        );
        let (session, progress) = (Some(&job.session), step.transfers());
        let restoring = job.worker.restore_blobs(lost, session, &progress).boxed();
        for warning in restoring.await {
            step.warn(warning);
        }
        step.end(Ok::<_, BuildError>(()))
    }

    async fn realize(&self, first: Evaluated, need: Need) -> Result<Tree, BuildError> {
        let inner = &*self.0;
        // One at a time: they would bring the same.
        let mut renewed = inner.renewed.lock().await;
        let mut current = renewed.clone().unwrap_or(first);
        for round in 0..RENEWALS {
            let key = inner.graph.root().and_then(|edge| {
                let vertex = inner.graph.vertex(edge.vertex)?;
                Some(vertex.digest().to_string())
            });
            let name = "fetching cached layers";
            // A step for each round: what comes after a loss is not to hide it.
            let key = format!("{} {round}", key.unwrap_or_default());
            let key = inner.job.own_key(&key);
            let step = Internal::begin(&inner.job.progress, name, &key);
            let (worker, session) = (&inner.job.worker, Some(&inner.job.session));
            let progress = step.transfers();
            let realized = worker
                .realize(&current.tree, need, session, &progress)
                .boxed();
            let lost = match realized.await {
                // The build was told of it.
                Err(lost) if !lost.is_news => {
                    step.end(Ok::<_, LostLayer>(())).ok();
                    lost
                }
                realized => match step.end(realized) {
                    Ok(()) => return Ok(current.tree),
                    Err(lost) => lost,
                },
            };
            let Some((root, built)) = &current.built else {
                return Err(lost.into());
            };
            let job = inner.job.solver_job()?;
            match job.rebuild(*root, built).await {
                Ok(built) => {
                    current = Evaluated {
                        tree: (*built.value).clone(),
                        built: Some((*root, built)),
                    };
                    *renewed = Some(current.clone());
                }
                Err(failure) => return Err(BuildError::failed(failure, &inner.graph)),
            }
        }
        Ok(current.tree)
    }

    /// Makes it known to the solver.
    async fn load(&self) -> Result<Option<Root>, BuildError> {
        let inner = &*self.0;
        let load = || async {
            let sources = inner
                .job
                .imports
                .sources(&inner.job, &inner.how.imports)
                .boxed();
            let loading = Loading {
                no_cache: inner.how.no_cache,
                origin: inner.how.origin.clone(),
                sources: sources.await,
                nesting: inner.how.nesting.clone(),
                session: Some(inner.job.session.id().to_owned()),
            };
            let definition = definition_from(&inner.job.worker, &inner.graph, loading)?;
            let Some(definition) = definition else {
                return Ok(None);
            };
            let root = inner.job.solver_job()?.load(definition).await;
            root.map(Some)
                .map_err(|failure| BuildError::failed(failure, &inner.graph))
        };
        inner.loaded.get_or_try_init(load).await.copied()
    }

    /// Whether it is built.
    pub(crate) fn is_built(&self) -> bool {
        matches!(self.0.result.get(), Some(Ok(_)))
    }

    /// Every vertex that it is made of, inputs first; nothing of one whose making nobody knows.
    pub(crate) async fn provenance(&self) -> Result<Vec<ProvenanceVertex<Tree>>, BuildError> {
        let Some(root) = self.load().await? else {
            return Ok(Vec::new());
        };
        Ok(self.0.job.solver_job()?.provenance(root).await?)
    }

    /// What was built; cached layers of it may be elsewhere.
    async fn evaluated(&self) -> Result<Evaluated, BuildError> {
        let inner = &*self.0;
        let build = || async {
            let Some(root) = self.load().await? else {
                return Ok(Ok(Tree::scratch().into()));
            };
            retire_cache_mounts(&inner.job.worker, &inner.graph, inner.how.no_cache).await?;
            let job = inner.job.solver_job()?;
            match job.build(root).await {
                Ok(built) => Ok(Ok(Evaluated {
                    tree: (*built.value).clone(),
                    built: Some((root, built)),
                })),
                Err(failure) if is_cancelled(&failure) => Err(BuildError::Cancelled),
                Err(failure) => Ok(Err(failure)),
            }
        };
        let built = tokio::select! {
            biased;
            built = inner.result.get_or_try_init(build) => built?,
            () = inner.job.stop.cancelled() => return Err(BuildError::Cancelled),
        };
        match built {
            Ok(evaluated) => Ok(evaluated.clone()),
            Err(failure) => Err(BuildError::failed(failure.clone(), &inner.graph)),
        }
    }
}

/// Steps that are to run in any case find none of what others left in their cache mounts.
pub(crate) async fn retire_cache_mounts(
    worker: &Worker,
    graph: &Graph,
    no_cache: bool,
) -> Result<(), BuildError> {
    let ids = retired_cache_mounts(worker, graph, no_cache);
    if ids.is_empty() {
        return Ok(());
    }
    let store = worker.store.clone();
    let retire = move || store.cache_mounts().retire(ids);
    Ok(tokio::task::spawn_blocking(retire).await??)
}

const fn is_cancelled(failure: &SolveError<Tree>) -> bool {
    matches!(
        failure,
        weld_solver::Failure::Cancelled | weld_solver::Failure::Discarded
    )
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.0.graph.root();
        let root = root.and_then(|edge| self.0.graph.vertex(edge.vertex));
        f.debug_tuple("Ref")
            .field(&root.map(weld_llb::Vertex::digest))
            .finish()
    }
}
