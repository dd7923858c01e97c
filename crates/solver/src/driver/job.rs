//! A client's build, as the client holds it.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use hashbrown::HashSet;

use super::{ANY_EPOCH, CoreInput, CoreReply, Owner, Shared, domain_digest, inbox::Message};
use crate::{
    Built, Digest, KeyId, Op, OpDefinition, ProgressStream, ResultRef, Session, SolveError, Value,
    core::{FixedState, JobId, RootId, Ticket},
    keystore::Answer,
    progress::Channel,
};

/// How a job is opened.
#[derive(Clone, Debug, Default)]
pub struct JobOptions {
    /// Id; no other live job may have it.
    pub id: Arc<str>,
    /// The client's session.
    pub session: Option<Session>,
    /// Isolation domain: jobs of different domains share neither work nor records, but for what is
    /// [public](crate::VertexOptions::public).
    pub domain: Option<Arc<str>>,
}

impl JobOptions {
    /// A job without session in the default domain.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            session: None,
            domain: None,
        }
    }
}

/// The root of a graph that a job loaded, or what such a root is made of. Alive until the job is discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Root(pub(crate) RootId);

/// One vertex of a provenance walk.
#[derive(Clone)]
pub struct ProvenanceVertex<T: Value> {
    /// Digest that the job loaded.
    pub digest: Digest,
    /// Name that the job loaded.
    pub name: Arc<str>,
    /// The job's own operation: what the user wrote comes from here.
    pub op: Arc<dyn Op<T>>,
    /// The operation that really ran: what it resolved to comes from here.
    pub ran: Arc<dyn Op<T>>,
    /// Digest of the vertex that really ran.
    pub ran_digest: Digest,
    /// Inputs, as positions in the walk, with the output index.
    pub inputs: Vec<(u32, u32)>,
    /// Whether the result is there.
    pub complete: bool,
    /// Roots of builds that the operation asked for, as positions in the walk.
    pub sub_builds: Vec<u32>,
    /// What the outputs came to that were asked for.
    pub results: Vec<ProvenanceResult<T>>,
}

/// What one output of a [`ProvenanceVertex`] came to.
#[derive(Clone)]
pub struct ProvenanceResult<T: Value> {
    /// Index of the output.
    pub output: u32,
    /// The result, if it is there; what was found through the records of others need not be.
    pub value: Option<ResultRef<T>>,
    /// The keys under which it is recorded: [`Job::recorded`] finds it by them.
    pub keys: Vec<KeyId>,
}

/// A client's build. Dropping it discards it.
pub struct Job<T: Value> {
    pub(super) shared: Arc<Shared<T>>,
    owner: Option<Arc<Owner<T>>>,
    name: Arc<str>,
    pub(super) id: JobId,
    epoch: u32,
    /// Number of the session; 0 for none.
    session: AtomicU64,
    progress: OnceLock<Arc<Channel>>,
    /// Digests of vertices whose results are not to be exported.
    pub(super) private: Mutex<HashSet<Digest, FixedState>>,
}

impl<T: Value> Job<T> {
    pub(super) async fn open(
        shared: Arc<Shared<T>>,
        owner: Arc<Owner<T>>,
        options: JobOptions,
    ) -> Result<Self, SolveError<T>> {
        let JobOptions {
            id: name,
            session,
            domain,
        } = options;
        let number = session.map(|session| shared.sessions.add(session));
        let domain = domain.map(|domain| domain_digest(&domain));
        let id = Arc::clone(&name);
        let opened = shared
            .inbox
            .ask(ANY_EPOCH, |ticket| CoreInput::Open {
                ticket,
                id,
                domain,
                session: number,
            })
            .await;
        match opened {
            Ok(CoreReply::Job(id)) => Ok(Self {
                epoch: shared.inbox.epoch(),
                shared,
                owner: Some(owner),
                name,
                id,
                session: AtomicU64::new(number.unwrap_or(0)),
                progress: OnceLock::new(),
                private: Mutex::default(),
            }),
            other => {
                number
                    .into_iter()
                    .for_each(|number| shared.sessions.remove(number));
                Err(other.err().unwrap_or(SolveError::Shutdown))
            }
        }
    }

    /// The id that the client chose.
    pub fn id(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) async fn ask(
        &self,
        input: impl FnOnce(Ticket) -> CoreInput<T>,
    ) -> Result<CoreReply<T>, SolveError<T>> {
        self.shared.inbox.ask(self.epoch, input).await
    }

    /// Loads a graph. What is live already is shared.
    pub async fn load(&self, definition: OpDefinition<T>) -> Result<Root, SolveError<T>> {
        let job = self.id;
        self.note_private(&definition);
        match self
            .ask(|ticket| CoreInput::Load {
                ticket,
                job,
                definition,
            })
            .await?
        {
            CoreReply::Root(root) => Ok(Root(root)),
            _ => Err(SolveError::Shutdown),
        }
    }

    fn note_private(&self, definition: &OpDefinition<T>) {
        let private = definition
            .vertices()
            .iter()
            .filter(|vertex| !vertex.options.export_cache)
            .map(|vertex| vertex.digest);
        let mut noted = self.private.lock().unwrap_or_else(PoisonError::into_inner);
        noted.extend(private);
    }

    /// Builds a root. Dropping the future cancels the request; work that only it wanted is cancelled then.
    pub async fn build(&self, root: Root) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        let job = self.id;
        self.built(|ticket| CoreInput::Build {
            ticket,
            job,
            root: root.0,
        })
        .await
    }

    /// Loads and builds.
    pub async fn solve(
        &self,
        definition: OpDefinition<T>,
    ) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        let root = self.load(definition).await?;
        self.build(root).await
    }

    /// For a result that turned out to be lost (known, but its bytes are not to be had): drops its record and executes anew.
    pub async fn rebuild(
        &self,
        root: Root,
        lost: &Built<ResultRef<T>>,
    ) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        let (job, generation) = (self.id, lost.generation);
        self.built(|ticket| CoreInput::Rebuild {
            ticket,
            job,
            root: root.0,
            generation,
        })
        .await
    }

    async fn built(
        &self,
        input: impl FnOnce(Ticket) -> CoreInput<T>,
    ) -> Result<Built<ResultRef<T>>, SolveError<T>> {
        match self.ask(input).await? {
            CoreReply::Built(built) => Ok(built),
            _ => Err(SolveError::Shutdown),
        }
    }

    /// Every vertex of a root, inputs first, with the operation that really ran for it.
    pub async fn provenance(&self, root: Root) -> Result<Vec<ProvenanceVertex<T>>, SolveError<T>> {
        let job = self.id;
        match self
            .ask(|ticket| CoreInput::Walk {
                ticket,
                job,
                root: root.0,
            })
            .await?
        {
            CoreReply::Walk(walked) => Ok(walked
                .into_iter()
                .map(|vertex| ProvenanceVertex {
                    digest: vertex.digest,
                    name: vertex.name,
                    op: vertex.op,
                    ran: vertex.ran,
                    ran_digest: vertex.ran_digest,
                    inputs: vertex.inputs,
                    complete: vertex.complete,
                    sub_builds: vertex.sub_builds,
                    results: vertex
                        .results
                        .into_iter()
                        .map(|result| ProvenanceResult {
                            output: result.output,
                            value: result.value,
                            keys: result.keys,
                        })
                        .collect(),
                })
                .collect()),
            _ => Err(SolveError::Shutdown),
        }
    }

    /// The result that is recorded under one of these keys here, if one can still be loaded.
    pub async fn recorded(&self, keys: &[KeyId]) -> Option<ResultRef<T>> {
        let local = &self.shared.sources.local;
        for key in keys {
            let entry = match local.keys.entry(*key) {
                Answer::Ready(entry) => entry,
                Answer::Later(entry) => entry.await.ok().flatten(),
            };
            for record in entry.into_iter().flat_map(|entry| entry.records) {
                if let Ok(value) = local.results.load(record.id).await {
                    return Some(ResultRef::new(value, Arc::clone(&local.results)));
                }
            }
        }
        None
    }

    /// What happens to the job's vertices, from the first one that it loaded. Streams of one job share its events.
    pub fn progress(&self) -> ProgressStream {
        let channel = self.progress.get_or_init(|| {
            let channel = Arc::new(Channel::default());
            self.shared.inbox.tell_pump(Message::Subscribe(
                self.epoch,
                self.id,
                Arc::clone(&channel),
            ));
            channel
        });
        ProgressStream(Arc::clone(channel))
    }

    /// Replaces the job's session.
    pub fn set_session(&self, session: Option<Session>) {
        let number = session.map(|session| self.shared.sessions.add(session));
        let old = self.session.swap(number.unwrap_or(0), Ordering::AcqRel);
        self.shared.sessions.remove(old);
        let input = CoreInput::Session {
            job: self.id,
            session: number,
        };
        self.shared
            .inbox
            .tell_pump(Message::Tell(self.epoch, input));
    }

    /// Ends the job: its requests are cancelled, and what only it needed goes. Returns when that has happened; calls of operations
    /// that were cancelled may still be ending.
    pub async fn discard(mut self) {
        // The answer only says that it is done; a job that is gone already is as good.
        let job = self.id;
        let _ = self.ask(|ticket| CoreInput::Discard { ticket, job }).await;
        self.owner = None;
    }
}

impl<T: Value> Drop for Job<T> {
    fn drop(&mut self) {
        self.shared
            .sessions
            .remove(self.session.load(Ordering::Acquire));
        if self.owner.is_some() {
            let ticket = self.shared.inbox.ticket();
            self.shared.inbox.tell_pump(Message::Tell(
                self.epoch,
                CoreInput::Discard {
                    ticket,
                    job: self.id,
                },
            ));
        }
        if let Some(channel) = self.progress.get() {
            channel.close();
        }
    }
}
