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
    steady::{Steady, is_calm},
};
use crate::{
    Digest, KeyQuery, Record, RecordId, SaveKey, TraceEvent, TraceStamp,
    core::{Call, Core, Effect, Effects, Fault, Input, JobId, QueryId, RootId, TaskId, Ticket},
    keystore::{KeyStore, MemoryKeyStore},
};

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant that is broken.
    pub invariant: String,
    /// What was seen.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

pub(super) fn violation(invariant: &str, detail: impl std::fmt::Debug) -> Result<(), Violation> {
    Err(Violation {
        invariant: invariant.to_owned(),
        detail: format!("{detail:?}"),
    })
}

/// A result as the core holds it.
#[derive(Clone, Debug)]
pub(super) struct SimValue(pub(super) Rc<ValueInfo>);

#[derive(Debug)]
pub(super) struct ValueInfo {
    pub(super) id: u64,
    pub(super) value: u64,
    /// The operation that computed it; `None` where it came from a record.
    pub(super) by: Option<Arc<OpInfo>>,
    /// Whether it was computed for a vertex that is forced to run.
    pub(super) forced: bool,
    pub(super) domain: u64,
    pub(super) public: bool,
    /// From a run that was cancelled: must not be used.
    pub(super) poisoned: bool,
    pub(super) alive: Rc<RefCell<u64>>,
}

impl Drop for ValueInfo {
    fn drop(&mut self) {
        *self.alive.borrow_mut() -= 1;
    }
}

pub(super) struct Stored {
    pub(super) value: u64,
    pub(super) domain: u64,
    pub(super) public: bool,
}

pub(super) struct SimJob {
    pub(super) id: JobId,
    pub(super) domain: u64,
    pub(super) session: Option<u64>,
    pub(super) roots: Vec<Root>,
    pub(super) listens: bool,
}

pub(super) struct Root {
    pub(super) id: RootId,
    pub(super) spec: usize,
    pub(super) output: u32,
    pub(super) info: Arc<OpInfo>,
    /// Bound operations below it that may be merged.
    pub(super) bound: BTreeSet<usize>,
    pub(super) last: Option<u32>,
    /// Whether the job asked for it since it loaded it.
    pub(super) asked: bool,
}

pub(super) enum Asked {
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

pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) since: u64,
}

pub(super) struct Running {
    pub(super) id: TaskId,
    pub(super) call: Call<SimOp, SimValue>,
    pub(super) cancelled: bool,
    pub(super) nested: Nested,
    /// The answer to a question about sessions.
    pub(super) session: Option<Option<u64>>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Nested {
    Not,
    Asked,
    Built(u64),
    Failed,
}

pub(super) struct World {
    pub(super) core: Core<SimOp, SimValue>,
    pub(super) universe: Universe,
    pub(super) keys: MemoryKeyStore,
    pub(super) records: BTreeMap<RecordId, Stored>,
    pub(super) jobs: BTreeMap<u64, SimJob>,
    pub(super) requests: BTreeMap<Ticket, Request>,
    pub(super) running: Vec<Running>,
    pub(super) queries: Vec<(QueryId, KeyQuery)>,
    pub(super) effects: Effects<SimOp, SimValue>,
    /// Executions that have not ended, by instance of the operation.
    pub(super) executing: BTreeSet<u64>,
    /// Steps at which a failure was made up, by its number.
    pub(super) made_up: BTreeMap<u64, u64>,
    /// Classes of which a vertex was loaded with an option that keeps it from being merged.
    pub(super) alone: BTreeSet<u64>,
    /// Vertices whose operations reported on themselves, by the name that the core gave them.
    pub(super) histories: BTreeSet<u64>,
    pub(super) released: BTreeSet<u64>,
    pub(super) produced: u64,
    pub(super) alive: Rc<RefCell<u64>>,
    pub(super) next: u64,
    pub(super) next_job: u64,
    pub(super) instances: u64,
    pub(super) now: u64,
    pub(super) may_cancel: BTreeSet<Ticket>,
    /// Everything that was seen, hashed: equal for equal runs.
    pub(super) digest: u64,
    pub(super) handled: u64,
    pub(super) merges: u64,
    /// What runs and is wanted.
    pub(super) steady: Steady,
    /// Executions that the last input had cancelled.
    pub(super) cancelled: Vec<TaskId>,
    /// Prints everything that is seen.
    pub(super) loud: bool,
    /// The trace, where it is wanted.
    pub(super) events: Option<Vec<(TraceStamp, TraceEvent)>>,
}

impl World {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut core = Core::new();
        core.set_fault(fault);
        core.audit_merges();
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
            histories: BTreeSet::new(),
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
            steady: Steady::default(),
            cancelled: Vec::new(),
            loud: std::env::var_os("WELD_SIM_LOUD").is_some(),
            events: None,
        }
    }

    /// What a job loaded and has yet to ask for keeps what runs for others going.
    fn check_cancelled(&mut self) -> Result<(), Violation> {
        for task in std::mem::take(&mut self.cancelled) {
            let jobs = self.jobs.values();
            let unasked = jobs.flat_map(|job| job.roots.iter().filter(|root| !root.asked));
            if self.core.leads_to(unasked.map(|root| root.id), task) {
                return violation("what runs goes on for who has yet to ask", task);
            }
        }
        Ok(())
    }

    /// The live graph.
    pub(super) fn describe(&self) -> String {
        self.core.describe()
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn ask(
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

    pub(super) fn handle(&mut self, input: Input<SimOp, SimValue>) -> Result<(), Violation> {
        self.now += 1;
        self.handled += 1;
        let calm = is_calm(&input);
        self.core.handle(self.now, input, &mut self.effects);
        self.carry_out()?;
        self.steady.check(calm, &self.core)?;
        self.check_cancelled()?;
        self.may_cancel.clear();
        self.core.check().map_err(|broken| Violation {
            invariant: broken.invariant.to_owned(),
            detail: broken.detail,
        })
    }

    /// Has the core tell what is live, as where tracing begins in the middle.
    pub(super) fn resume_tracing(&mut self) -> Result<(), Violation> {
        self.core.resume_tracing(&mut self.effects);
        self.carry_out()
    }

    /// Does what the core asks for.
    pub(super) fn carry_out(&mut self) -> Result<(), Violation> {
        let effects = std::mem::take(&mut self.effects);
        if let Some(events) = &mut self.events {
            let (position, micros) = (self.core.position(), self.now);
            let stamp = TraceStamp { position, micros };
            events.extend(effects.trace.iter().map(|event| (stamp, event.clone())));
        }
        for event in &effects.trace {
            self.merges += u64::from(matches!(event, crate::TraceEvent::Merged { .. }));
            self.note_text(&format!("{event:?}"));
        }
        for effect in effects.list {
            self.note(&effect);
            self.effect(effect)?;
        }
        for value in effects.released {
            self.release(&value)?;
        }
        Ok(())
    }

    /// Mixes what was seen into the digest of the run.
    fn note(&mut self, effect: &Effect<SimOp, SimValue>) {
        let seen = match effect {
            Effect::Reply { ticket, .. } => format!("reply {ticket}"),
            Effect::Start { task, .. } => format!("start {task:?}"),
            Effect::Cancel { task } => format!("cancel {task:?}"),
            Effect::Query { query, .. } => format!("query {query:?}"),
            Effect::Save { keys, .. } => format!("save {keys:?}"),
            Effect::Progress { news, .. } => format!("{news:?}"),
            Effect::Replay { job, digest, ran } => format!("replay {job:?} {digest:?} {ran}"),
            Effect::Retry { jobs, ran, why } => format!("retry {jobs:?} {ran} {why}"),
            Effect::Forget { ran } => format!("forget {ran}"),
            Effect::Lost { .. } | Effect::DropRecord { .. } => String::new(),
        };
        self.note_text(&seen);
    }

    fn note_text(&mut self, seen: &str) {
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
                    if matches!(running.call, Call::Exec { .. }) {
                        self.cancelled.push(task);
                    }
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
            Effect::Progress { job, news } => self.check_listens(job, news.digest)?,
            Effect::Replay { job, digest, ran } => {
                self.check_listens(job, digest)?;
                if !self.histories.contains(&ran) {
                    return violation("only what was reported is told again", (job, digest));
                }
            }
            Effect::Retry { jobs, ran, .. } => {
                jobs.into_iter()
                    .try_for_each(|(job, digest)| self.check_listens(job, digest))?;
                self.histories.insert(ran);
            }
            Effect::Forget { ran } => {
                if !self.histories.remove(&ran) {
                    return violation("only what was reported is forgotten, and once", ran);
                }
            }
        }
        Ok(())
    }

    /// Whether a job is there, listens, and may hear of a vertex that it calls by this digest.
    pub(super) fn check_listens(&self, job: JobId, digest: Digest) -> Result<(), Violation> {
        let listens = |other: &SimJob| other.id == job && other.listens;
        if !self.jobs.values().any(listens) {
            return violation("only jobs that listen hear", (job, digest));
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
            Call::CacheMap { op, index } => {
                if *index >= self.universe.specs[op.0.spec].maps {
                    return violation("no more cache maps are asked for than there are", op);
                }
                &[]
            }
            Call::Load { .. } => &[],
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
}
