//! File systems that can be built, and what is in them.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;
use weld_llb::{Graph, pb};
use weld_op::{Origin, Tree, definition_from, retired_cache_mounts};
use weld_solver::SolveError;

use crate::error::BuildError;
use crate::files::{self, FileError, FileRange, Stat};
use crate::job::JobCore;

/// A file system that is built when it is first needed. Cheap to clone; its result is kept from
/// being pruned as long as it lives.
#[derive(Clone)]
pub struct Ref(Arc<Inner>);

struct Inner {
    job: Arc<JobCore>,
    graph: Graph,
    no_cache: bool,
    origin: Origin,
    /// Failures of steps are remembered as well; a cancelled attempt is not.
    result: OnceCell<Result<Tree, SolveError<Tree>>>,
}

impl Ref {
    pub(crate) fn new(job: Arc<JobCore>, graph: Graph, no_cache: bool, origin: Origin) -> Self {
        Self(Arc::new(Inner {
            job,
            graph,
            no_cache,
            origin,
            result: OnceCell::new(),
        }))
    }

    /// A file system that is there already, of which nobody knows how it was built.
    pub(crate) fn of_tree(job: Arc<JobCore>, tree: Tree) -> Self {
        Self(Arc::new(Inner {
            job,
            graph: Graph::empty(),
            no_cache: false,
            origin: Origin::default(),
            result: OnceCell::new_with(Some(Ok(tree))),
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

    /// Builds it, once for all who ask.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn evaluate(&self) -> Result<(), BuildError> {
        self.tree().await.map(drop)
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

    /// Steps that are to run in any case find none of what others left in their cache mounts.
    async fn retire_cache_mounts(&self) -> Result<(), BuildError> {
        let inner = &*self.0;
        let ids = retired_cache_mounts(&inner.graph, inner.no_cache);
        if ids.is_empty() {
            return Ok(());
        }
        let store = inner.job.worker.store.clone();
        let retire = move || store.cache_mounts().retire(ids);
        Ok(tokio::task::spawn_blocking(retire).await??)
    }

    /// The files.
    pub(crate) async fn tree(&self) -> Result<Tree, BuildError> {
        let inner = &*self.0;
        let build = || async {
            let definition = definition_from(
                &inner.job.worker,
                &inner.graph,
                inner.no_cache,
                inner.origin.clone(),
            )?;
            let Some(definition) = definition else {
                return Ok(Ok(Tree::scratch()));
            };
            self.retire_cache_mounts().await?;
            let job = inner.job.solver_job()?;
            match job.solve(definition).await {
                Ok(built) => Ok(Ok((*built.value).clone())),
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
            Ok(tree) => Ok(tree.clone()),
            Err(failure) => Err(BuildError::failed(failure.clone(), &inner.graph)),
        }
    }
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
