//! One simulated run: the core, the world around it, and what must be true of what comes out.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use super::{
    model::{OpInfo, SimOp, Universe},
    rng::Rng,
    step::{Action, Step},
};
use crate::{
    Digest, Failure, KeyQuery, OpError, Record, RecordId, SaveKey,
    core::{
        Built, Call, Census, Core, Effect, Effects, Fault, Input, JobId, LoadFailure, Outcome,
        QueryId, Reply, RootId, TaskId, Ticket,
    },
    keystore::{Answer, KeyStore, MemoryKeyStore},
};

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that is broken.
    pub invariant: String,
    /// What was seen.
    pub detail: String,
}

fn violation(invariant: &str, detail: impl std::fmt::Debug) -> Result<(), Violation> {
    Err(Violation {
        invariant: invariant.to_owned(),
        detail: format!("{detail:?}"),
    })
}

/// A result as the core holds it.
#[derive(Clone, Debug)]
pub(super) struct SimValue(Rc<ValueInfo>);

#[derive(Debug)]
struct ValueInfo {
    id: u64,
    value: u64,
    /// The operation that computed it; `None` where it came from a record.
    by: Option<Arc<OpInfo>>,
    domain: u64,
    public: bool,
    /// From a run that was cancelled: must not be used.
    poisoned: bool,
    alive: Rc<RefCell<u64>>,
}

impl Drop for ValueInfo {
    fn drop(&mut self) {
        *self.alive.borrow_mut() -= 1;
    }
}

struct Stored {
    value: u64,
    domain: u64,
    public: bool,
}

struct SimJob {
    id: JobId,
    domain: u64,
    session: Option<u64>,
    roots: Vec<Root>,
}

struct Root {
    id: RootId,
    spec: usize,
    output: u32,
    info: Arc<OpInfo>,
    /// Bound operations below it that may be merged.
    bound: BTreeSet<usize>,
    last: Option<u32>,
}

enum Asked {
    Open,
    Load {
        job: u64,
        spec: usize,
        output: u32,
        info: Arc<OpInfo>,
        bound: BTreeSet<usize>,
    },
    Build {
        job: u64,
        root: usize,
    },
    Nested {
        task: TaskId,
    },
    Session {
        task: TaskId,
    },
    Discard,
}

struct Request {
    asked: Asked,
    since: u64,
}

struct Running {
    id: TaskId,
    call: Call<SimOp, SimValue>,
    cancelled: bool,
    nested: Nested,
    /// The answer to a question about sessions.
    session: Option<Option<u64>>,
}

#[derive(Clone, PartialEq, Eq)]
enum Nested {
    Not,
    Asked,
    Built(u64),
    Failed,
}

pub(super) struct World {
    core: Core<SimOp, SimValue>,
    universe: Universe,
    keys: MemoryKeyStore,
    records: BTreeMap<RecordId, Stored>,
    jobs: BTreeMap<u64, SimJob>,
    requests: BTreeMap<Ticket, Request>,
    running: Vec<Running>,
    queries: Vec<(QueryId, KeyQuery)>,
    effects: Effects<SimOp, SimValue>,
    /// Executions that have not ended, by instance of the operation.
    executing: BTreeSet<u64>,
    /// Steps at which a failure was made up, by its number.
    made_up: BTreeMap<u64, u64>,
    /// Classes of which a vertex was loaded with an option that keeps it from being merged.
    alone: BTreeSet<u64>,
    released: BTreeSet<u64>,
    produced: u64,
    alive: Rc<RefCell<u64>>,
    next: u64,
    next_job: u64,
    instances: u64,
    now: u64,
    may_cancel: BTreeSet<Ticket>,
    /// Everything that was seen, hashed: equal for equal runs.
    pub(super) digest: u64,
    pub(super) handled: u64,
    pub(super) merges: u64,
    /// Prints everything that is seen.
    pub(super) loud: bool,
}

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut core = Core::new();
        core.set_fault(fault);
        core.set_tracing(true);
        Self {
            core,
            universe: Universe::draw(&mut Rng::new(seed)),
            keys: MemoryKeyStore::default(),
            records: BTreeMap::new(),
            jobs: BTreeMap::new(),
            requests: BTreeMap::new(),
            running: Vec::new(),
            queries: Vec::new(),
            effects: Effects::default(),
            executing: BTreeSet::new(),
            made_up: BTreeMap::new(),
            alone: BTreeSet::new(),
            released: BTreeSet::new(),
            produced: 0,
            alive: Rc::default(),
            next: 1,
            next_job: 1,
            instances: 0,
            now: 0,
            may_cancel: BTreeSet::new(),
            digest: 0,
            handled: 0,
            merges: 0,
            loud: std::env::var_os("WELD_SIM_LOUD").is_some(),
        }
    }

    /// The live graph.
    pub(super) fn describe(&self) -> String {
        self.core.describe()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn ask(
        &mut self,
        asked: Asked,
        input: impl FnOnce(Ticket) -> Input<SimOp, SimValue>,
    ) -> Result<(), Violation> {
        let ticket = self.number();
        self.requests.insert(
            ticket,
            Request {
                asked,
                since: self.now,
            },
        );
        self.handle(input(ticket))
    }

    fn handle(&mut self, input: Input<SimOp, SimValue>) -> Result<(), Violation> {
        self.now += 1;
        self.handled += 1;
        self.core.handle(self.now, input, &mut self.effects);
        let effects = std::mem::take(&mut self.effects);
        for effect in effects.list {
            self.note(&effect);
            self.effect(effect)?;
        }
        for value in effects.released {
            self.release(&value)?;
        }
        self.may_cancel.clear();
        self.core.check().map_err(|broken| Violation {
            invariant: broken.invariant.to_owned(),
            detail: broken.detail,
        })
    }

    /// Mixes what was seen into the digest of the run.
    fn note(&mut self, effect: &Effect<SimOp, SimValue>) {
        let seen = match effect {
            Effect::Trace(event) => {
                self.merges += u64::from(matches!(event, crate::TraceEvent::Merged { .. }));
                format!("{event:?}")
            }
            Effect::Reply { ticket, .. } => format!("reply {ticket}"),
            Effect::Start { task, .. } => format!("start {task:?}"),
            Effect::Cancel { task } => format!("cancel {task:?}"),
            Effect::Query { query, .. } => format!("query {query:?}"),
            Effect::Save { keys, .. } => format!("save {keys:?}"),
            Effect::Progress { news, .. } => format!("{news:?}"),
            Effect::Lost { .. } | Effect::DropRecord { .. } => String::new(),
        };
        if self.loud {
            println!("{} {seen}", self.now);
        }
        let sum = seen.bytes().fold(self.digest, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        self.digest = sum;
    }

    fn release(&mut self, value: &SimValue) -> Result<(), Violation> {
        if !self.released.insert(value.0.id) {
            return violation("a result is released once", value.0.id);
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect<SimOp, SimValue>) -> Result<(), Violation> {
        match effect {
            Effect::Reply { ticket, reply } => self.replied(ticket, reply)?,
            Effect::Query { query, ask, .. } => self.queries.push((query, ask)),
            Effect::Start { task, call } => self.started(task, call)?,
            Effect::Cancel { task } => {
                if let Some(running) = self.running.iter_mut().find(|running| running.id == task) {
                    running.cancelled = true;
                }
            }
            Effect::Save { keys, value } => self.save(keys, value),
            Effect::Lost { value, record } => {
                self.release(&value)?;
                if let Some(record) = record {
                    self.drop_record(record.id);
                }
            }
            Effect::DropRecord { record } => self.drop_record(record.id),
            Effect::Progress { .. } | Effect::Trace(_) => {}
        }
        Ok(())
    }

    fn save(&mut self, keys: Vec<SaveKey>, value: Option<SimValue>) {
        let record = value.map(|value| {
            let id = RecordId(self.number());
            let stored = Stored {
                value: value.0.value,
                domain: value.0.domain,
                public: value.0.public,
            };
            self.records.insert(id, stored);
            Record {
                id,
                created: self.now,
                priority: 0,
                source: crate::CacheSourceId::LOCAL,
            }
        });
        keys.into_iter()
            .for_each(|key| self.keys.save(SaveKey { record, ..key }));
    }

    fn drop_record(&mut self, record: RecordId) {
        self.records.remove(&record);
        self.keys.drop_record(record);
    }

    fn started(&mut self, id: TaskId, call: Call<SimOp, SimValue>) -> Result<(), Violation> {
        let inputs: &[SimValue] = match &call {
            Call::Exec { op, inputs } => {
                if !self.executing.insert(op.0.instance) {
                    return violation("an operation runs at most once at a time", op);
                }
                inputs
            }
            Call::Preprocess { value, .. } | Call::SlowKey { value, .. } => {
                std::slice::from_ref(value)
            }
            Call::CacheMap { .. } | Call::Load { .. } => &[],
        };
        if inputs.iter().any(|value| value.0.poisoned) {
            return violation("a result of a cancelled run is not used", id);
        }
        self.running.push(Running {
            id,
            call,
            cancelled: false,
            nested: Nested::Not,
            session: None,
        });
        Ok(())
    }

    fn replied(
        &mut self,
        ticket: Ticket,
        reply: Result<Reply<SimOp, SimValue>, Failure<SimValue>>,
    ) -> Result<(), Violation> {
        let Some(Request { asked, since }) = self.requests.remove(&ticket) else {
            return violation("a request is answered once", ticket);
        };
        if let Err(failure) = &reply
            && !matches!(asked, Asked::Discard)
        {
            self.check_failure(ticket, &asked, since, failure)?;
        }
        match (asked, reply) {
            (Asked::Open, Ok(Reply::Job(id))) => {
                let number = self.next_job - 1;
                if let Some(job) = self.jobs.get_mut(&number) {
                    job.id = id;
                }
            }
            (
                Asked::Load {
                    job,
                    spec,
                    output,
                    info,
                    bound,
                },
                Ok(Reply::Root(id)),
            ) => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.roots.push(Root {
                        id,
                        spec,
                        output,
                        info,
                        bound,
                        last: None,
                    });
                }
            }
            (Asked::Build { job, root }, Ok(Reply::Built(built))) => {
                self.check_built(job, root, &built)?
            }
            (Asked::Nested { task }, reply) => {
                if let Some(running) = self.running.iter_mut().find(|running| running.id == task) {
                    running.nested = match reply {
                        Ok(Reply::Built(built)) => Nested::Built(built.value.0.value),
                        _ => Nested::Failed,
                    };
                }
            }
            (Asked::Session { task }, Ok(Reply::Session(session))) => {
                self.check_session(task, session)?
            }
            _ => {}
        }
        Ok(())
    }

    fn check_failure(
        &self,
        ticket: Ticket,
        asked: &Asked,
        since: u64,
        failure: &Failure<SimValue>,
    ) -> Result<(), Violation> {
        match failure {
            Failure::Cancelled if self.may_cancel.contains(&ticket) => Ok(()),
            Failure::Cancelled if matches!(asked, Asked::Nested { .. } | Asked::Session { .. }) => {
                Ok(())
            }
            Failure::Op { failure, .. } => match &failure.error {
                OpError::Failed(error) => {
                    let number = error.to_string().parse().ok();
                    let made_up = number.and_then(|number: u64| self.made_up.get(&number));
                    if made_up.is_none_or(|step| *step < since) {
                        return violation(
                            "a failure reaches those who asked before it",
                            (ticket, error.to_string()),
                        );
                    }
                    Ok(())
                }
                OpError::Gone(_) => self.check_stranded(asked, &failure.name),
                other => violation(
                    "only failures of operations are delivered",
                    (ticket, other.to_string()),
                ),
            },
            Failure::ResultLost { .. } => Ok(()),
            other => violation("no healthy request fails", (ticket, other.to_string())),
        }
    }

    /// A job may only hear that something went away if its own operation could not have helped.
    fn check_stranded(&self, asked: &Asked, name: &str) -> Result<(), Violation> {
        let Asked::Build { job, root } = asked else {
            return Ok(());
        };
        let Ok(spec) = name.parse::<usize>() else {
            return Ok(());
        };
        let Some(state) = self.jobs.get(job).filter(|state| state.session.is_some()) else {
            return Ok(());
        };
        let spec = &self.universe.specs[spec];
        let own = state.roots[*root]
            .bound
            .iter()
            .any(|own| self.universe.specs[*own].class == spec.class);
        let busy = self
            .running
            .iter()
            .any(|running| matches!(&running.call, Call::Exec { op, .. } if op.0.job == *job));
        // Another operation of the same class may be a different key; only leaves are surely the same.
        let alone = self.alone.contains(&spec.class);
        if own && !alone && !busy && spec.inputs.is_empty() && spec.maps == 1 {
            return violation(
                "the operation of another interested job is tried",
                (job, name),
            );
        }
        Ok(())
    }

    fn check_built(
        &mut self,
        job: u64,
        root: usize,
        built: &Built<SimValue>,
    ) -> Result<(), Violation> {
        let Some(state) = self.jobs.get_mut(&job) else {
            return violation("no answer after the discard", job);
        };
        let domain = state.domain;
        let root = &mut state.roots[root];
        root.last = Some(built.generation);
        let value = &built.value.0;
        let expected = self.universe.value(root.spec, root.output);
        if value.value != expected {
            return violation(
                "a result is what the plain evaluation gives",
                (root.spec, value.value, expected),
            );
        }
        if value.poisoned {
            return violation("a result of a cancelled run is not delivered", job);
        }
        if value.domain != domain && !value.public {
            return violation("domains share nothing", (job, value.domain));
        }
        let bound = self.universe.specs[root.spec].bound;
        let by = value.by.as_ref();
        if root.info.ignore_cache && !bound && by.is_none_or(|by| !by.ignore_cache) {
            return violation("an ignore-cache vertex runs", &root.info);
        }
        if root.info.never_merge && by.is_some_and(|by| by.digest != root.info.digest) {
            return violation("a never-merge vertex is not merged", &root.info);
        }
        Ok(())
    }

    fn check_session(&mut self, task: TaskId, session: Option<u64>) -> Result<(), Violation> {
        if let Some(number) = session {
            let lender = self.jobs.values().find(|job| job.session == Some(number));
            if !lender.is_some_and(|job| self.core.reaches(job.id, task)) {
                return violation(
                    "a session is lent to what its job is interested in",
                    (task, number),
                );
            }
        }
        if let Some(running) = self.running.iter_mut().find(|running| running.id == task) {
            running.session = Some(session);
        }
        Ok(())
    }

    /// Takes one step; one that makes no sense now is skipped.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Violation> {
        let Step { action, a, b } = step;
        match action {
            Action::Open => self.open(a),
            Action::Load => self.load(a, b),
            Action::Build => self.build(a, b),
            Action::Rebuild => self.rebuild(a, b),
            Action::Cancel => self.cancel(a),
            Action::Discard => self.discard(a),
            Action::Finish => self.finish(a, b, Ending::Well),
            Action::Fail => self.finish(a, b, Ending::Failure),
            Action::LoseInput => self.finish(a, b, Ending::LostInput),
            Action::Answer => self.answer(a),
            Action::CloseSession => self.close_session(a),
            Action::DropRecord => {
                if let Some(record) =
                    pick(self.records.len(), a).and_then(|at| self.records.keys().nth(at))
                {
                    self.records.remove(&record.clone());
                }
                Ok(())
            }
            Action::Subscribe => match self.job(a) {
                Some(job) => self.handle(Input::Subscribe {
                    job: self.jobs[&job].id,
                }),
                None => Ok(()),
            },
        }
    }

    fn job(&self, a: u64) -> Option<u64> {
        pick(self.jobs.len(), a)
            .and_then(|at| self.jobs.keys().nth(at))
            .copied()
    }

    fn open(&mut self, a: u64) -> Result<(), Violation> {
        if self.jobs.len() >= 5 {
            return Ok(());
        }
        let number = self.next_job;
        self.next_job += 1;
        let domain = u64::from(a.is_multiple_of(5));
        let session = (!a.is_multiple_of(3)).then_some(number);
        let job = SimJob {
            id: JobId::default(),
            domain,
            session,
            roots: Vec::new(),
        };
        self.jobs.insert(number, job);
        let domain = (domain != 0).then(|| Digest::of(b"domain"));
        self.ask(Asked::Open, |ticket| Input::Open {
            ticket,
            id: format!("{number}").into(),
            domain,
            session,
        })
    }

    fn load(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let mut rng = Rng::new(b);
        let count = self.universe.specs.len() as u64;
        // High ones more often: they have more below them.
        let spec = rng.below(count).max(rng.below(count)) as usize;
        let output = rng.below(u64::from(self.universe.specs[spec].outputs)) as u32;
        // Few choices, so that jobs load the same now and then.
        let choice = rng.below(6);
        let domain = self.jobs[&job].domain;
        let (definition, infos) =
            self.universe
                .definition(spec, output, choice, (job, domain), &mut self.instances);
        let Some(state) = self.jobs.get(&job) else {
            return Ok(());
        };
        let mut bound = BTreeSet::new();
        for info in &infos {
            if info.never_merge || info.ignore_cache {
                self.alone.insert(self.universe.specs[info.spec].class);
            } else if self.universe.specs[info.spec].bound {
                bound.insert(info.spec);
            }
        }
        let id = state.id;
        let info = Arc::clone(&infos[spec]);
        self.ask(
            Asked::Load {
                job,
                spec,
                output,
                info,
                bound,
            },
            |ticket| Input::Load {
                ticket,
                job: id,
                definition,
            },
        )
    }

    fn root(&self, a: u64, b: u64) -> Option<(u64, usize)> {
        let job = self.job(a)?;
        Some((job, pick(self.jobs[&job].roots.len(), b)?))
    }

    fn build(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some((job, at)) = self.root(a, b) else {
            return Ok(());
        };
        let (id, root) = (self.jobs[&job].id, self.jobs[&job].roots[at].id);
        self.ask(Asked::Build { job, root: at }, |ticket| Input::Build {
            ticket,
            job: id,
            root,
        })
    }

    fn rebuild(&mut self, a: u64, b: u64) -> Result<(), Violation> {
        let Some((job, at)) = self.root(a, b) else {
            return Ok(());
        };
        let (id, root) = (self.jobs[&job].id, &self.jobs[&job].roots[at]);
        let Some(generation) = root.last else {
            return Ok(());
        };
        let root = root.id;
        self.ask(Asked::Build { job, root: at }, |ticket| Input::Rebuild {
            ticket,
            job: id,
            root,
            generation,
        })
    }

    fn cancel(&mut self, a: u64) -> Result<(), Violation> {
        let open: Vec<Ticket> = self.builds().map(|(ticket, _)| ticket).collect();
        let Some(at) = pick(open.len(), a) else {
            return Ok(());
        };
        let ticket = open[at];
        self.may_cancel.insert(ticket);
        self.handle(Input::Cancel { ticket })?;
        if self.requests.contains_key(&ticket) {
            return violation("a cancelled request is answered at once", ticket);
        }
        Ok(())
    }

    fn builds(&self) -> impl Iterator<Item = (Ticket, u64)> + '_ {
        self.requests
            .iter()
            .filter_map(|(ticket, request)| match request.asked {
                Asked::Build { job, .. } => Some((*ticket, job)),
                _ => None,
            })
    }

    fn discard(&mut self, a: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let cancelled: Vec<Ticket> = self
            .builds()
            .filter(|(_, owner)| *owner == job)
            .map(|(ticket, _)| ticket)
            .collect();
        self.may_cancel.extend(cancelled);
        let Some(state) = self.jobs.remove(&job) else {
            return Ok(());
        };
        self.ask(Asked::Discard, |ticket| Input::Discard {
            ticket,
            job: state.id,
        })?;
        if let Some((ticket, _)) = self.builds().find(|(_, owner)| *owner == job) {
            return violation("the requests of a discarded job are answered", ticket);
        }
        Ok(())
    }

    fn close_session(&mut self, a: u64) -> Result<(), Violation> {
        let Some(job) = self.job(a) else {
            return Ok(());
        };
        let Some(state) = self.jobs.get_mut(&job) else {
            return Ok(());
        };
        state.session = None;
        let id = state.id;
        self.handle(Input::Session {
            job: id,
            session: None,
        })
    }

    fn answer(&mut self, a: u64) -> Result<(), Violation> {
        let Some(at) = pick(self.queries.len(), a) else {
            return Ok(());
        };
        let (query, ask) = self.queries.remove(at);
        let Answer::Ready(matches) = self.keys.query(ask) else {
            return Ok(());
        };
        self.handle(Input::Answer { query, matches })
    }

    fn finish(&mut self, a: u64, b: u64, ending: Ending) -> Result<(), Violation> {
        let Some(at) = pick(self.running.len(), a) else {
            return Ok(());
        };
        if !self.prepare(at)? {
            return Ok(());
        }
        let Some(at) = self.running.get(at).map(|_| at) else {
            return Ok(());
        };
        let running = self.running.remove(at);
        let outcome = self.outcome(&running, b, ending);
        if let Call::Exec { op, .. } = &running.call {
            self.executing.remove(&op.0.instance);
        }
        let task = running.id;
        drop(running);
        self.handle(Input::Finished { task, outcome })
    }

    /// Lets an execution ask for its build and its session. Returns whether it may end.
    fn prepare(&mut self, at: usize) -> Result<bool, Violation> {
        let running = &self.running[at];
        let Call::Exec { op, .. } = &running.call else {
            return Ok(true);
        };
        if running.cancelled {
            return Ok(true);
        }
        let (task, info) = (running.id, Arc::clone(&op.0));
        let spec = &self.universe.specs[info.spec];
        if let (Some(nested), Nested::Not) = (spec.nested, &running.nested) {
            self.running[at].nested = Nested::Asked;
            let choice = info.instance % 5;
            let (definition, _) = self.universe.definition(
                nested,
                0,
                choice,
                (info.job, info.domain),
                &mut self.instances,
            );
            self.ask(Asked::Nested { task }, |ticket| Input::SubBuild {
                ticket,
                task,
                definition,
            })?;
            return Ok(false);
        }
        if running.nested == Nested::Asked {
            return Ok(false);
        }
        if spec.wants_session && running.session.is_none() {
            self.ask(Asked::Session { task }, |ticket| Input::NextSession {
                ticket,
                task,
                tried: Vec::new(),
            })?;
            return Ok(false);
        }
        Ok(true)
    }

    fn made_up(&mut self) -> OpError {
        let number = self.number();
        self.made_up.insert(number, self.now + 1);
        OpError::failed(number.to_string())
    }

    fn outcome(&mut self, running: &Running, b: u64, ending: Ending) -> Outcome<SimValue> {
        let gave_up = running.cancelled && b.is_multiple_of(2);
        match &running.call {
            Call::CacheMap { op, index } => Outcome::CacheMap(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                _ => Ok(self.universe.cache_map(op.0.spec, *index)),
            }),
            Call::Preprocess { .. } => Outcome::Preprocess(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                Ending::LostInput => Err(OpError::lost_input(0, "lost")),
                Ending::Well => Ok(()),
            }),
            Call::SlowKey { op, input, value } => Outcome::SlowKey(match ending {
                _ if gave_up => Err(OpError::Cancelled),
                Ending::Failure => Err(self.made_up()),
                Ending::LostInput => Err(OpError::lost_input(0, "lost")),
                Ending::Well => {
                    let input = &self.universe.specs[op.0.spec].inputs[*input as usize];
                    Ok(Some(Digest::of(input.view(value.0.value).to_le_bytes())))
                }
            }),
            Call::Load { record } => Outcome::Load(match (ending, self.records.get(&record.id)) {
                (Ending::Failure, _) => Err(LoadFailure {
                    gone: false,
                    reason: "made up".into(),
                }),
                (_, None) => Err(LoadFailure {
                    gone: true,
                    reason: "gone".into(),
                }),
                (_, Some(stored)) => {
                    let (value, domain, public) = (stored.value, stored.domain, stored.public);
                    Ok(self.produce(value, None, domain, public, running.cancelled))
                }
            }),
            Call::Exec { op, inputs } => {
                Outcome::Exec(self.execute(running, &op.0, inputs, b, ending, gave_up))
            }
        }
    }

    fn execute(
        &mut self,
        running: &Running,
        op: &Arc<OpInfo>,
        inputs: &[SimValue],
        b: u64,
        ending: Ending,
        gave_up: bool,
    ) -> Result<Vec<SimValue>, OpError> {
        let spec = self.universe.specs[op.spec].clone();
        if gave_up {
            return Err(OpError::Cancelled);
        }
        if running.nested == Nested::Failed || ending == Ending::Failure {
            return Err(self.made_up());
        }
        if ending == Ending::LostInput && !inputs.is_empty() {
            return Err(OpError::lost_input(
                (b % inputs.len() as u64) as u32,
                "lost",
            ));
        }
        let job = self.jobs.get(&op.job);
        if spec.bound && job.is_none_or(|job| job.session.is_none()) {
            return Err(OpError::gone("the job is gone"));
        }
        if running.session == Some(None) && spec.bound {
            return Err(OpError::gone("no session"));
        }
        let values: Vec<u64> = inputs.iter().map(|input| input.0.value).collect();
        let nested = match running.nested {
            Nested::Built(value) => Some(value),
            // A cancelled run that ends all the same: whatever it computes must not be used.
            _ => spec.nested.map(|_| 0),
        };
        // Some operations have more outputs than anyone refers to.
        let outputs = spec.outputs + u32::from(op.spec.is_multiple_of(3));
        let made = (0..outputs).map(|output| {
            let value = self.universe.compute(op.spec, output, &values, nested);
            self.produce(
                value,
                Some(Arc::clone(op)),
                op.domain,
                spec.public,
                running.cancelled,
            )
        });
        Ok(made.collect())
    }

    fn produce(
        &mut self,
        value: u64,
        by: Option<Arc<OpInfo>>,
        domain: u64,
        public: bool,
        poisoned: bool,
    ) -> SimValue {
        self.produced += 1;
        *self.alive.borrow_mut() += 1;
        let alive = Rc::clone(&self.alive);
        SimValue(Rc::new(ValueInfo {
            id: self.produced,
            value,
            by,
            domain,
            public,
            poisoned,
            alive,
        }))
    }

    /// Lets everything come to an end: first all that is under way, then the jobs, then what is winding down.
    pub(super) fn drain(&mut self) -> Result<(), Violation> {
        self.settle()?;
        if let Some((ticket, _)) = self.builds().next() {
            return violation("every request is answered in the end", ticket);
        }
        while let Some(job) = self.jobs.keys().next().copied() {
            let at = self
                .jobs
                .keys()
                .position(|other| *other == job)
                .unwrap_or(0) as u64;
            self.discard(at)?;
        }
        self.settle()?;
        if self.core.census() != Census::default() {
            return violation("nothing is left", self.core.census());
        }
        if !self.requests.is_empty() {
            return violation("every request is answered in the end", self.requests.len());
        }
        if self.released.len() as u64 != self.produced {
            return violation(
                "every result is released",
                (self.produced, self.released.len()),
            );
        }
        if *self.alive.borrow() != 0 {
            return violation("no handle of a result is left", *self.alive.borrow());
        }
        Ok(())
    }

    /// Ends everything that is under way, well, in the order of its beginning.
    fn settle(&mut self) -> Result<(), Violation> {
        let mut rounds = 0;
        while !self.running.is_empty() || !self.queries.is_empty() {
            rounds += 1;
            if rounds > 20_000 {
                return violation(
                    "work comes to an end",
                    (self.running.len(), self.queries.len()),
                );
            }
            while !self.queries.is_empty() {
                self.answer(0)?;
            }
            let before = (self.running.len(), self.handled);
            for at in (0..self.running.len()).rev() {
                if at < self.running.len() {
                    self.finish(at as u64, 1, Ending::Well)?;
                }
            }
            if !self.running.is_empty() && before == (self.running.len(), self.handled) {
                return violation(
                    "work comes to an end",
                    "every execution waits for a build of its own",
                );
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    Failure,
    LostInput,
}

fn pick(len: usize, a: u64) -> Option<usize> {
    (len > 0).then(|| (a % len as u64) as usize)
}
