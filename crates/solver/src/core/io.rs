//! What goes into the core and what comes out of it.

use std::sync::Arc;

use super::{
    arena::Id,
    graph::{EdgeTag, JobTag, TaskTag},
};
use crate::{
    CacheMap, CacheSourceId, Definition, Digest, Failure, KeyId, KeyMatches, KeyQuery, OpError,
    Record, SaveKey, TraceEvent, chain::SolvedEdge,
};

/// Names a request; chosen by the caller, never used twice.
pub type Ticket = u64;
/// Names a job within the core.
pub type JobId = Id<JobTag>;
/// Names a call of an operation or a load of a record.
pub type TaskId = Id<TaskTag>;
/// A session, as far as the core is concerned.
pub type SessionNo = u64;
pub(crate) type EdgeId = Id<EdgeTag>;

/// A root that a job loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RootId(pub(crate) EdgeId);

/// Names one query, so that an answer that comes too late is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryId {
    pub(crate) edge: EdgeId,
    pub(crate) epoch: u32,
    pub(crate) subject: Subject,
}

/// What a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Root,
    Probe(u32),
    Match,
}

/// Something that happened, for the core to handle.
#[derive(Debug)]
pub enum Input<O, V> {
    /// A client starts a job. Answered with [`Reply::Job`].
    Open {
        /// The request.
        ticket: Ticket,
        /// Id chosen by the client; no other live job may have it.
        id: Arc<str>,
        /// Isolation domain; jobs of different domains share nothing.
        domain: Option<Digest>,
        /// The job's session.
        session: Option<SessionNo>,
    },
    /// A job's session opened or closed.
    Session {
        /// The job.
        job: JobId,
        /// The session, if there is one now.
        session: Option<SessionNo>,
    },
    /// A job wants to hear of its vertices.
    Subscribe {
        /// The job.
        job: JobId,
    },
    /// A job loads a graph. Answered with [`Reply::Root`].
    Load {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
        /// The graph.
        definition: Definition<O>,
    },
    /// A job wants the result of a root. Answered with [`Reply::Built`].
    Build {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
        /// The root.
        root: RootId,
    },
    /// The result of a root turned out to be lost. Handled like a build, with a new result. Answered with [`Reply::Built`].
    Rebuild {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
        /// The root.
        root: RootId,
        /// Which result of the root was lost.
        generation: u32,
    },
    /// A request is not wanted any more. It is answered at once with [`Failure::Cancelled`].
    Cancel {
        /// The request.
        ticket: Ticket,
    },
    /// A job ends. Its requests are answered with [`Failure::Cancelled`]; this one with [`Reply::Done`].
    Discard {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
    },
    /// A running operation asks for a build. Answered with [`Reply::Built`].
    SubBuild {
        /// The request.
        ticket: Ticket,
        /// The operation's task.
        task: TaskId,
        /// The graph.
        definition: Definition<O>,
    },
    /// A running operation asks for a session. Answered with [`Reply::Session`].
    NextSession {
        /// The request.
        ticket: Ticket,
        /// The operation's task.
        task: TaskId,
        /// Sessions that were tried already.
        tried: Vec<SessionNo>,
    },
    /// A job wants to know what its root consists of. Answered with [`Reply::Walk`].
    Walk {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
        /// The root.
        root: RootId,
    },
    /// A job wants to know by which keys the results of its roots are found. Answered with [`Reply::Chain`].
    Chain {
        /// The request.
        ticket: Ticket,
        /// The job.
        job: JobId,
        /// The roots.
        roots: Vec<RootId>,
    },
    /// A query is answered.
    Answer {
        /// The query.
        query: QueryId,
        /// The answer.
        matches: KeyMatches,
    },
    /// A task ended.
    Finished {
        /// The task.
        task: TaskId,
        /// What it ended in.
        outcome: Outcome<V>,
    },
}

/// What a task ended in.
#[derive(Debug)]
pub enum Outcome<V> {
    /// Of [`Call::CacheMap`].
    CacheMap(Result<CacheMap, OpError>),
    /// Of [`Call::Preprocess`].
    Preprocess(Result<(), OpError>),
    /// Of [`Call::SlowKey`].
    SlowKey(Result<Option<Digest>, OpError>),
    /// Of [`Call::Load`].
    Load(Result<V, LoadFailure>),
    /// Of [`Call::Exec`].
    Exec(Result<Vec<V>, OpError>),
}

/// Why a record was not loaded.
#[derive(Clone, Debug)]
pub struct LoadFailure {
    /// Whether the record does not exist any more.
    pub gone: bool,
    /// For the trace.
    pub reason: Arc<str>,
}

/// What comes out of one input.
#[derive(Debug)]
pub struct Effects<O, V> {
    /// What to do, in order.
    pub list: Vec<Effect<O, V>>,
    /// Results that the core let go of; to be dropped when the list was worked through.
    pub released: Vec<V>,
    /// Operations that the core let go of; likewise.
    pub retired: Vec<Retired<O>>,
    /// Scheduler events, in order; only while tracing is on.
    pub trace: Vec<TraceEvent>,
}

impl<O, V> Default for Effects<O, V> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            released: Vec::new(),
            retired: Vec::new(),
            trace: Vec::new(),
        }
    }
}

/// An operation that the core let go of.
#[derive(Debug)]
pub struct Retired<O> {
    /// The operation.
    pub op: O,
    /// Whether its vertex came to a result, or was not needed since what is built on it had one.
    pub served: bool,
}

/// What the core asks its surroundings to do.
#[derive(Debug)]
pub enum Effect<O, V> {
    /// A request is answered.
    Reply {
        /// The request.
        ticket: Ticket,
        /// The answer.
        reply: Result<Reply<O, V>, Failure<V>>,
    },
    /// Keys are looked up, in the local store and in `sources`.
    Query {
        /// Goes into the answer.
        query: QueryId,
        /// What is asked.
        ask: KeyQuery,
        /// Sources beside the local one.
        sources: Option<Arc<[CacheSourceId]>>,
    },
    /// A task is to be started. It ends with [`Input::Finished`], whatever happens to it.
    Start {
        /// The task.
        task: TaskId,
        /// What to do.
        call: Call<O, V>,
    },
    /// A task should end soon.
    Cancel {
        /// The task.
        task: TaskId,
    },
    /// Keys and, where there is a value, a record of it are saved.
    Save {
        /// The keys; their records are to be filled in.
        keys: Vec<SaveKey>,
        /// The value to record.
        value: Option<V>,
    },
    /// A result could not be made real: its record is worthless.
    Lost {
        /// The result.
        value: V,
        /// The record that it was loaded from.
        record: Option<Record>,
    },
    /// A record does not exist any more.
    DropRecord {
        /// The record.
        record: Record,
    },
    /// A subscribed job hears of one of its vertices.
    Progress {
        /// The job.
        job: JobId,
        /// What it hears.
        news: VertexNews,
    },
    /// A subscribed job hears what an operation reported of itself before.
    Replay {
        /// The job.
        job: JobId,
        /// The vertex, as the job loaded it.
        digest: Digest,
        /// The vertex whose operation ran.
        ran: u64,
    },
    /// A call is made anew: those who listen hear why, and so do those who come later.
    Retry {
        /// The jobs, each with the vertex as it loaded it.
        jobs: Vec<(JobId, Digest)>,
        /// The vertex whose operation is called.
        ran: u64,
        /// Why, for a person.
        why: Arc<str>,
    },
    /// A vertex whose operation reported on itself is gone.
    Forget {
        /// The vertex.
        ran: u64,
    },
}

/// State of a vertex as one job hears of it; times are those passed to [`Core::handle`](super::Core::handle).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexNews {
    /// Digest that the job loaded.
    pub digest: Digest,
    /// Name.
    pub name: Arc<str>,
    /// Digests of the inputs.
    pub inputs: Arc<[Digest]>,
    /// When it started.
    pub started: Option<u64>,
    /// When it ended.
    pub completed: Option<u64>,
    /// Whether it was cached.
    pub cached: bool,
    /// Why it failed.
    pub error: Option<Arc<str>>,
}

/// What a task does.
#[derive(Debug)]
pub enum Call<O, V> {
    /// Ask for a cache map.
    CacheMap {
        /// The operation.
        op: O,
        /// Which cache map.
        index: u32,
    },
    /// Prepare the result of an input.
    Preprocess {
        /// The operation.
        op: O,
        /// Which input.
        input: u32,
        /// Its result.
        value: V,
    },
    /// Compute a content key.
    SlowKey {
        /// The operation.
        op: O,
        /// Which input.
        input: u32,
        /// Its result.
        value: V,
    },
    /// Load a record.
    Load {
        /// The record.
        record: Record,
    },
    /// Run the operation.
    Exec {
        /// The operation.
        op: O,
        /// Results of the inputs.
        inputs: Vec<V>,
    },
}

/// A successful answer.
#[derive(Debug)]
pub enum Reply<O, V> {
    /// The new job.
    Job(JobId),
    /// The loaded root.
    Root(RootId),
    /// The result.
    Built(Built<V>),
    /// A session of an interested job, or none that was not tried.
    Session(Option<SessionNo>),
    /// The vertices of the root, inputs first.
    Walk(Vec<WalkedVertex<O, V>>),
    /// The edges that the roots are made of.
    Chain(Vec<SolvedEdge>),
    /// It is done.
    Done,
}

/// A result with the keys that lead to it.
#[derive(Clone, Debug)]
pub struct Built<V> {
    /// The result.
    pub value: V,
    /// The cache keys under which it is, or will be, recorded.
    pub keys: Vec<KeyId>,
    /// Tells results of the same root apart, for [`Input::Rebuild`].
    pub generation: u32,
}

/// One vertex of a provenance walk.
#[derive(Clone, Debug)]
pub struct WalkedVertex<O, V> {
    /// Digest that the job loaded.
    pub digest: Digest,
    /// Name that the job loaded.
    pub name: Arc<str>,
    /// The job's own operation: identity comes from here.
    pub op: O,
    /// The operation that really ran for it: facts come from here.
    pub ran: O,
    /// Digest of the vertex that really ran.
    pub ran_digest: Digest,
    /// Positions in the walk of the inputs, with output index.
    pub inputs: Vec<(u32, u32)>,
    /// Whether the result is there.
    pub complete: bool,
    /// Positions in the walk of the roots of builds that the operation asked for.
    pub sub_builds: Vec<u32>,
    /// What the outputs came to that were asked for.
    pub results: Vec<WalkedResult<V>>,
}

/// What one output of a [`WalkedVertex`] came to.
#[derive(Clone, Debug)]
pub struct WalkedResult<V> {
    /// Index of the output.
    pub output: u32,
    /// The result, if it is there.
    pub value: Option<V>,
    /// The keys under which the result is recorded, if it is.
    pub keys: Vec<KeyId>,
}
