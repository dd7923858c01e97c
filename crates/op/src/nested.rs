//! Builds inside of builds: an operation whose input says what is to be built.
//!
//! What may be had through a definition that comes out of a build is for the outer build to say ([`OuterBuild`]): the definition is
//! treated as if the outer build's client had sent it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use prost::Message as _;
use weld_digest::{Digest, FieldHasher};
use weld_llb::{BuildOp, Graph};
use weld_proto::{attr, pb};
use weld_solver::{
    CacheMap, CacheSourceId, Failure, Op, OpContext, OpError, ResultRef, SolveError,
};

use crate::digest::to_solver;
use crate::resolve::Loading;
use crate::{Origin, ResolveError, Tree, Worker, definition_from};

/// How many builds may be inside of each other.
const MAX_DEPTH: u32 = 16;

/// The build that others are inside of.
#[async_trait]
pub trait OuterBuild: Send + Sync + 'static {
    /// What builds have in common that may do the same; `None` for those that were given no rights and no rules. Builds with other
    /// rights never have the result of a build inside of this one.
    fn rights(&self) -> Option<Digest>;

    /// What tells the build from all others: what is inside of it ends with it, so no other build may depend on it alone.
    fn id(&self) -> Digest;

    /// What the definition in a file of a tree asks for, if the outer build may have it, and with the sources that the outer build
    /// would use.
    ///
    /// # Errors
    /// [`NestedError`].
    async fn admit(&self, tree: &Tree, file: &str) -> Result<Graph, NestedError>;
}

/// Why a build inside of a build does not begin.
#[derive(Debug, thiserror::Error)]
pub enum NestedError {
    /// The outer build has ended.
    #[error("the build that it is part of has ended")]
    Ended,
    /// There is no definition, or one that the outer build may not have.
    #[error(transparent)]
    Refused(Box<dyn std::error::Error + Send + Sync>),
}

/// How the builds inside of a build are to be done.
#[derive(Clone)]
pub struct Nesting {
    outer: Arc<dyn OuterBuild>,
    depth: u32,
}

impl Nesting {
    /// Those inside of a build.
    pub fn new(outer: Arc<dyn OuterBuild>) -> Self {
        Self { outer, depth: 0 }
    }

    pub(crate) fn id(&self) -> Digest {
        self.outer.id()
    }
}

impl fmt::Debug for Nesting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Nesting");
        debug.field("depth", &self.depth).finish_non_exhaustive()
    }
}

/// A failed build inside of a build.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {failure}")]
pub struct NestedFailure {
    /// The file that the definition is in.
    pub file: String,
    /// What failed.
    pub failure: SolveError<Tree>,
    /// What was to be built.
    pub graph: Graph,
}

impl NestedFailure {
    /// The failure that is behind one, where that is of a build inside of a build.
    pub fn behind(failure: &SolveError<Tree>) -> Option<&Self> {
        let Failure::Op { failure, .. } = failure else {
            return None;
        };
        match &failure.error {
            OpError::Failed(error) | OpError::Gone(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// Why a step that is to build a definition cannot.
#[derive(Debug, thiserror::Error)]
enum BuildInsideError {
    #[error("only definitions are built: a builder of its own is not supported")]
    Builder,
    #[error("no input {0} is given, which has the definition")]
    NoInput(&'static str),
    #[error("it is inside of {MAX_DEPTH} other builds, and no more are allowed")]
    TooDeep,
    #[error("{file}: {source}")]
    Refused {
        file: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{file}: {source}")]
    Resolve { file: String, source: ResolveError },
}

/// Builds what a definition says that a file of an input has.
pub(crate) struct Build {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: BuildOp,
    pub(crate) inputs: usize,
    pub(crate) nesting: Nesting,
    pub(crate) no_cache: bool,
    pub(crate) origin: Origin,
    pub(crate) sources: Vec<CacheSourceId>,
    pub(crate) description: String,
}

impl Build {
    fn file(&self) -> &str {
        let named = self.op.attrs.get(attr::LLB_DEFINITION_FILENAME);
        named.map_or(pb::LLB_DEFINITION_INPUT, String::as_str)
    }

    /// Does what a graph says, for this step.
    async fn solve(
        &self,
        ctx: &OpContext<Tree>,
        graph: &Graph,
        no_cache: bool,
    ) -> Result<Tree, OpError> {
        let loading = Loading {
            no_cache,
            origin: Origin {
                scope: format!("{}/{}/{}", self.origin.scope, self.description, self.file()),
                build_args: self.origin.build_args.clone(),
            },
            sources: self.sources.clone(),
            nesting: Some(Nesting {
                outer: Arc::clone(&self.nesting.outer),
                depth: self.nesting.depth + 1,
            }),
            // Whoever shares this step shares what is inside of it.
            session: None,
        };
        let definition = definition_from(&self.worker, graph, loading).map_err(|source| {
            OpError::failed(BuildInsideError::Resolve {
                file: self.file().to_owned(),
                source,
            })
        })?;
        let Some(definition) = definition else {
            return Ok(Tree::scratch());
        };
        match ctx.build(definition).await {
            Ok(built) => Ok((*built.value).clone()),
            Err(Failure::Cancelled | Failure::Discarded) => Err(OpError::Cancelled),
            Err(failure) => Err(self.failed(failure, graph)),
        }
    }

    fn failed(&self, failure: SolveError<Tree>, graph: &Graph) -> OpError {
        // What went away with a job may be there for another one.
        let is_gone = matches!(&failure, Failure::Op { failure, .. }
            if matches!(failure.error, OpError::Gone(_)));
        let failure = NestedFailure {
            file: self.file().to_owned(),
            failure,
            graph: graph.clone(),
        };
        match is_gone {
            true => OpError::gone(failure),
            false => OpError::failed(failure),
        }
    }
}

impl crate::recall::Step for Build {}

#[async_trait]
impl Op<Tree> for Build {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        // Fields of the message are in order, and so are the keys of its maps.
        let mut hasher = FieldHasher::new("weld.op.build.v1")
            .bytes(&self.op.to_pb().encode_to_vec())
            .number(self.inputs as u64);
        // What builds of some rights came to is not for those of others, which might not get there.
        if let Some(rights) = self.nesting.outer.rights() {
            hasher = hasher.digest(&rights);
        }
        Ok(CacheMap::new(to_solver(&hasher.finish())))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        if self.op.builder.is_some() {
            return Err(OpError::failed(BuildInsideError::Builder));
        }
        if self.nesting.depth >= MAX_DEPTH {
            return Err(OpError::failed(BuildInsideError::TooDeep));
        }
        let input = self.op.inputs.get(pb::LLB_DEFINITION_INPUT);
        let tree = input
            .and_then(|input| inputs.get(*input))
            .ok_or_else(|| OpError::failed(BuildInsideError::NoInput(pb::LLB_DEFINITION_INPUT)))?;
        // Whoever decides on the definition's sources may have some of them fetched first.
        let admit = ctx.without_slot(self.nesting.outer.admit(tree, self.file()));
        let admitted = tokio::select! {
            admitted = admit => admitted,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        let graph = admitted.map_err(|error| match error {
            NestedError::Ended => OpError::gone(error),
            NestedError::Refused(source) => OpError::failed(BuildInsideError::Refused {
                file: self.file().to_owned(),
                source,
            }),
        })?;
        let built = self.solve(ctx, &graph, self.no_cache).await?;
        // A result of which cached layers were lost came to nothing before: it must not come to the same again.
        let lost = ctx.is_after_loss()
            && match self.worker.realize_input(ctx, 0, &built).await {
                Ok(()) => false,
                Err(OpError::LostInput { .. }) => true,
                Err(error) => return Err(error),
            };
        Ok(vec![match lost {
            true => self.solve(ctx, &graph, true).await?,
            false => built,
        }])
    }
}
