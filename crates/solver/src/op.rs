//! The operation trait: what the solver asks of a vertex.

use std::{any::Any, error::Error, fmt, sync::Arc};

use async_trait::async_trait;

use crate::{Definition, Digest, OpContext, ResultRef, Value};

/// A definition whose vertices carry runnable operations.
pub type OpDefinition<T> = Definition<Arc<dyn Op<T>>>;

/// How an operation is cached, as far as it can tell without its inputs' results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMap {
    /// Digest of what the operation does, without its inputs.
    pub digest: Digest,
    /// Per input; missing entries count as [`InputMap::default`].
    pub inputs: Vec<InputMap>,
    /// Whether a further cache map (next index) exists. Only an operation without inputs may have several.
    pub more: bool,
}

impl CacheMap {
    /// A cache map whose inputs have neither selector nor content key.
    pub fn new(digest: Digest) -> Self {
        Self {
            digest,
            inputs: Vec::new(),
            more: false,
        }
    }
}

/// How one input takes part in the caching of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputMap {
    /// What part of the input is used; becomes part of the key.
    pub selector: Option<Digest>,
    /// Whether [`Op::slow_key`] can compute a key from the content of this input.
    pub slow_key: bool,
    /// Whether [`Op::preprocess`] must run on this input's result before it is used.
    pub preprocess: bool,
}

/// Why a call of an operation failed.
#[derive(Clone, Debug)]
pub enum OpError {
    /// The operation failed; final for everyone who asked for it.
    Failed(Arc<dyn Error + Send + Sync>),
    /// Something that belonged to a job went away (its session, a secret, a local directory). An equal operation of another
    /// interested job is tried before this is delivered.
    Gone(Arc<dyn Error + Send + Sync>),
    /// The result of an input could not be made real. The input is executed anew, and the call is repeated.
    LostInput {
        /// Index of the input.
        input: u32,
        /// What went wrong.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The operation gave up because its context was cancelled.
    Cancelled,
}

impl OpError {
    /// An ordinary failure.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(Arc::from(error.into()))
    }

    /// What the operation needed went away with its job.
    pub fn gone(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Gone(Arc::from(error.into()))
    }

    /// The result of input `input` could not be made real.
    pub fn lost_input(input: u32, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::LostInput {
            input,
            source: Arc::from(error.into()),
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::Gone(error) => error.fmt(f),
            Self::LostInput { input, source } => {
                write!(f, "the result of input {input} is lost: {source}")
            }
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl Error for OpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) | Self::Gone(error) => error.source(),
            Self::LostInput { source, .. } => Some(source.as_ref()),
            Self::Cancelled => None,
        }
    }
}

/// An operation: what a vertex does, and how that is cached.
///
/// Calls of one operation never overlap with a call of the same kind. A future may be dropped at an await point when the solver
/// shuts down or when the operation does not heed its cancellation in time; blocking work belongs on a blocking pool.
#[async_trait]
pub trait Op<T: Value>: Send + Sync + 'static {
    /// The `index`-th cache map; called with the next index only while the last one said `more` and no record was found.
    async fn cache_map(&self, ctx: &OpContext<T>, index: u32) -> Result<CacheMap, OpError>;

    /// Prepares the result of an input, once per result, before the operation uses it.
    async fn preprocess(
        &self,
        ctx: &OpContext<T>,
        input: u32,
        value: &ResultRef<T>,
    ) -> Result<(), OpError> {
        let _ = (ctx, input, value);
        Ok(())
    }

    /// The key of the content of an input, or `None` where it has none.
    async fn slow_key(
        &self,
        ctx: &OpContext<T>,
        input: u32,
        value: &ResultRef<T>,
    ) -> Result<Option<Digest>, OpError> {
        let _ = (ctx, input, value);
        Ok(None)
    }

    /// The operation itself, for whoever asks a provenance walk what it found out; `None` where that is nobody's concern.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// The solver lets go of the operation: nobody wants anything of its vertex any more. `served` says whether the vertex came to a
    /// result, by whatever way, or was passed over since what is built on it had one. Called from within the solver, so it is to be
    /// quick; not called where the solver itself ends first.
    fn retire(&self, served: bool) {
        let _ = served;
    }

    /// Runs the operation; returns one value per output.
    async fn exec(&self, ctx: &OpContext<T>, inputs: Vec<ResultRef<T>>) -> Result<Vec<T>, OpError>;
}
