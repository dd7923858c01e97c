//! The pump: the one owner of the core. It drains the inbox, lets the core handle each input, and carries out the effects.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_util::task::AbortOnDropHandle;

use super::{
    ANY_EPOCH, CoreInput, CoreReply, Shared,
    history::Histories,
    inbox::{Message, ReplySender},
    run::{Start, panic_text, spawn_all},
    running::Running,
    sources::{Asked, unite},
};
use crate::{
    CacheSourceId, Digest, Op, Record, ResultRef, SaveKey, SolveError, Status, TraceEvent,
    TraceStamp, Value, VertexUpdate,
    core::{Call, Core, Effect, Effects, Input, JobId, QueryId, Reply, TaskId, Ticket, VertexNews},
    progress::{Channel, Report},
};

/// Tasks that are polled first by one tokio task.
const BATCH: usize = 32;
/// Inputs that are handled before the clock is read again.
const CLOCK_EVERY: u32 = 64;

type DriverCore<T> = Core<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverEffects<T> = Effects<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverEffect<T> = Effect<Arc<dyn Op<T>>, ResultRef<T>>;

/// Who holds it drains the inbox; see [`Inbox::send`](super::inbox::Inbox::send) for whose turn that is. It is never held while an
/// operation is polled, nor across an await.
pub(super) struct Pump<T: Value> {
    core: DriverCore<T>,
    epoch: u32,
    /// Microseconds since the Unix epoch, read now and then.
    now: u64,
    /// Inputs handled since the clock was read.
    since_clock: u32,
    effects: DriverEffects<T>,
    batch: Vec<Message<T>>,
    /// Inputs that follow from effects, handled before the next message.
    follow_ups: VecDeque<CoreInput<T>>,
    replies: HashMap<Ticket, ReplySender<T>>,
    running: Running,
    starts: Vec<Start<T>>,
    channels: HashMap<JobId, Arc<Channel>>,
    /// Queries that take their time, by their number.
    queries: HashMap<u64, (QueryId, AbortOnDropHandle<()>)>,
    asked: u64,
    histories: Histories,
    /// Who waits until nothing is live.
    settled: Vec<tokio::sync::oneshot::Sender<()>>,
    stopped: bool,
    /// The recording that events go to; 0 for none.
    recording: u64,
}

/// Ends the solver when the runtime drops its task.
struct StopOnDrop<T: Value>(Arc<Shared<T>>);

impl<T: Value> Drop for StopOnDrop<T> {
    fn drop(&mut self) {
        self.0.pump().shut_down(&self.0);
    }
}

/// Drains the inbox whenever nobody else is there to do it, until the solver is stopped.
pub(super) async fn run<T: Value>(shared: Arc<Shared<T>>) {
    let guard = StopOnDrop(shared);
    let shared = &guard.0;
    while !shared.pump().stopped {
        shared.inbox.wake.notified().await;
        let starts = shared.pump().drain(shared);
        if !starts.is_empty() {
            spawn_all(starts, shared);
        }
    }
}

impl<T: Value> Pump<T> {
    pub(super) fn new() -> Self {
        Self {
            core: Core::new(),
            epoch: 0,
            now: now_micros(),
            since_clock: 0,
            effects: Effects::default(),
            batch: Vec::new(),
            follow_ups: VecDeque::new(),
            replies: HashMap::new(),
            running: Running::default(),
            starts: Vec::new(),
            channels: HashMap::new(),
            queries: HashMap::new(),
            asked: 0,
            histories: Histories::default(),
            settled: Vec::new(),
            stopped: false,
            recording: 0,
        }
    }

    /// Handles what is in the inbox until it is empty. Returns tasks for the caller to start, fewer than a batch.
    pub(super) fn drain(&mut self, shared: &Arc<Shared<T>>) -> Vec<Start<T>> {
        let mut batch = std::mem::take(&mut self.batch);
        while shared.inbox.take(&mut batch) {
            self.read_clock();
            self.contained(shared, |pump| pump.switch_tracing(shared));
            for message in batch.drain(..) {
                self.contained(shared, |pump| pump.message(shared, message));
                if self.starts.len() >= BATCH {
                    let starts = std::mem::replace(&mut self.starts, Vec::with_capacity(BATCH));
                    spawn_all(starts, shared);
                }
            }
        }
        self.batch = batch;
        if !self.settled.is_empty() && self.core.census() == crate::Census::default() {
            for reply in self.settled.drain(..) {
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
        }
        std::mem::take(&mut self.starts)
    }

    /// Does something that must not end the solver where it panics: not the core, which broke an invariant then, nor what it works
    /// with, such as a store.
    fn contained(&mut self, shared: &Arc<Shared<T>>, work: impl FnOnce(&mut Self)) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(self))) {
            self.start_anew(shared, &panic_text(payload.as_ref()));
        }
    }

    fn read_clock(&mut self) {
        // What happens later is never told as earlier, also where somebody sets the clock back.
        self.now = now_micros().max(self.now);
        self.since_clock = 0;
    }

    fn message(&mut self, shared: &Arc<Shared<T>>, message: Message<T>) {
        if self.stopped {
            return;
        }
        match message {
            Message::Tell(epoch, input) if epoch == self.epoch || epoch == ANY_EPOCH => {
                self.handle(shared, input)
            }
            Message::Tell(..) => {}
            Message::Answered {
                epoch,
                number,
                query,
                matches,
            } => {
                self.queries.remove(&number);
                if epoch == self.epoch {
                    self.handle(shared, Input::Answer { query, matches });
                }
            }
            Message::Ask {
                epoch,
                ticket,
                input,
                reply,
            } => {
                if epoch == self.epoch || epoch == ANY_EPOCH {
                    self.replies.insert(ticket, reply);
                    self.handle(shared, input);
                } else {
                    let invariant = Arc::from("the solver was started anew");
                    // Nobody listens where the client is gone.
                    let _ = reply.send(Err(SolveError::Invariant {
                        invariant,
                        position: self.core.position(),
                    }));
                }
            }
            Message::Reports(epoch, task) if epoch == self.epoch => self.reports(shared, task),
            Message::Reports(..) => {}
            Message::Slot { epoch, task, waits } => {
                if epoch == self.epoch
                    && self.running.is_news(task, waits)
                    && let Some(event) = self.core.slot_event(task, waits)
                {
                    self.trace(shared, event);
                }
            }
            Message::Subscribe(epoch, job, channel) => {
                if epoch == self.epoch {
                    self.channels.insert(job, channel);
                    self.handle(shared, Input::Subscribe { job });
                } else {
                    channel.close();
                }
            }
            Message::Census(reply) => drop(reply.send(self.core.census())),
            Message::Settled(reply) => self.settled.push(reply),
            Message::Stop => self.shut_down(shared),
        }
    }

    fn handle(&mut self, shared: &Arc<Shared<T>>, input: CoreInput<T>) {
        let mut next = Some(input);
        while let Some(input) = next {
            let discards = matches!(input, Input::Discard { .. });
            match &input {
                Input::Finished { task, .. } => self.running.remove(*task),
                Input::Discard { job, .. } => {
                    if let Some(channel) = self.channels.remove(job) {
                        channel.close();
                    }
                }
                _ => {}
            }
            self.since_clock += 1;
            if self.since_clock >= CLOCK_EVERY {
                self.read_clock();
            }
            let (now, core, effects) = (self.now, &mut self.core, &mut self.effects);
            core.handle(now, input, effects);
            self.carry_out(shared);
            if discards && !self.queries.is_empty() {
                // Nobody waits any more for what was asked for edges that are gone.
                let core = &self.core;
                self.queries.retain(|_, (query, _)| core.awaits(*query));
            }
            next = self.follow_ups.pop_front();
        }
    }

    fn carry_out(&mut self, shared: &Arc<Shared<T>>) {
        if !self.effects.trace.is_empty() {
            let at = stamp(self.core.position(), self.now);
            match &shared.options.trace {
                Some(sink) => sink.events(self.recording, at, &mut self.effects.trace),
                None => self.effects.trace.clear(),
            }
        }
        let mut list = std::mem::take(&mut self.effects.list);
        for effect in list.drain(..) {
            self.effect(shared, effect);
        }
        self.effects.list = list;
        self.effects.released.clear();
        for retired in self.effects.retired.drain(..) {
            retired.op.retire(retired.served);
        }
    }

    fn effect(&mut self, shared: &Arc<Shared<T>>, effect: DriverEffect<T>) {
        match effect {
            Effect::Reply { ticket, reply } => self.reply(shared, ticket, reply),
            Effect::Query {
                query,
                ask,
                sources,
            } => {
                match shared
                    .sources
                    .ask(ask, sources.as_deref().unwrap_or_default())
                {
                    Asked::Ready(matches) => {
                        self.follow_ups.push_back(Input::Answer { query, matches })
                    }
                    Asked::Later(answers) => {
                        let (shared, epoch) = (Arc::clone(shared), self.epoch);
                        self.asked += 1;
                        let number = self.asked;
                        let asking = tokio::spawn(async move {
                            let timeout = shared.options.source_timeout;
                            let heard = |source, failed: Option<TraceEvent>| {
                                shared.sources.note(source, failed.is_none(), timeout);
                                if let (Some(sink), Some(event)) = (&shared.options.trace, failed) {
                                    sink.event(sink.recording(), stamp(0, now_micros()), event);
                                }
                            };
                            let matches = unite(answers, timeout, heard).await;
                            shared.inbox.tell_pump(Message::Answered {
                                epoch,
                                number,
                                query,
                                matches,
                            });
                        });
                        self.queries
                            .insert(number, (query, AbortOnDropHandle::new(asking)));
                    }
                }
            }
            Effect::Start { task, call } => {
                let control = self.running.insert(task, self.now);
                let is_exec = matches!(call, Call::Exec { .. });
                self.starts.push(Start {
                    task,
                    epoch: self.epoch,
                    call,
                    control,
                    holder: self.core.job_of(task),
                    after_loss: is_exec && self.core.is_after_loss(task),
                });
            }
            Effect::Cancel { task } => self.cancel(shared, task),
            Effect::Save { keys, value } => self.save(shared, keys, value),
            Effect::Lost { value, record } => self.forget_lost(shared, &value, record),
            Effect::DropRecord { record } => drop_record(shared, record),
            Effect::Progress { job, news } => {
                if let Some(channel) = self.channels.get(&job) {
                    channel.send_vertex(update(news));
                }
            }
            Effect::Replay { job, digest, ran } => {
                if let Some(channel) = self.channels.get(&job) {
                    self.histories
                        .replay(ran, |report| channel.send_report(digest, report));
                }
            }
            Effect::Retry { jobs, ran, why } => self.retried(&jobs, ran, why),
            Effect::Forget { ran } => self.histories.forget(ran),
        }
    }

    fn trace(&self, shared: &Shared<T>, event: TraceEvent) {
        if let Some(sink) = &shared.options.trace {
            sink.event(self.recording, stamp(self.core.position(), self.now), event);
        }
    }

    /// Follows the sink: between two batches it may want events, or no more.
    fn switch_tracing(&mut self, shared: &Arc<Shared<T>>) {
        let Some(sink) = &shared.options.trace else {
            return;
        };
        let recording = sink.recording();
        if std::mem::replace(&mut self.recording, recording) == recording {
            return;
        }
        let on = recording != 0;
        if on && self.core.census() != crate::Census::default() {
            self.core.resume_tracing(&mut self.effects);
            self.carry_out(shared);
            self.trace_under_way(shared);
        } else {
            self.core.set_tracing(on);
        }
    }

    /// Tells of the tasks that were under way before the trace began.
    fn trace_under_way(&mut self, shared: &Shared<T>) {
        let mut events = Vec::new();
        for place in self.running.iter_mut() {
            place.told_to_wait = place.control.waits_for();
            let micros = self.now.saturating_sub(place.began);
            events.extend(self.core.under_way_event(place.task, micros));
            if place.told_to_wait.is_some() {
                events.extend(self.core.slot_event(place.task, place.told_to_wait));
            }
        }
        for event in events {
            self.trace(shared, event);
        }
    }

    fn reply(
        &mut self,
        shared: &Shared<T>,
        ticket: Ticket,
        reply: Result<CoreReply<T>, SolveError<T>>,
    ) {
        let Some(sender) = self.replies.remove(&ticket) else {
            return;
        };
        if let Err(Ok(Reply::Job(job))) = sender.send(reply) {
            // The client went away while it opened the job: nobody else can end it.
            let ticket = shared.inbox.ticket();
            self.follow_ups.push_back(Input::Discard { ticket, job });
        }
    }

    fn cancel(&self, shared: &Shared<T>, task: TaskId) {
        let Some(control) = self.running.get(task) else {
            return;
        };
        control.cancel();
        let grace = shared.options.cancel_grace;
        let watched = Arc::downgrade(control);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if let Some(control) = watched.upgrade() {
                control.abort();
            }
        });
        control.watched_by(timer.abort_handle());
    }

    fn save(&self, shared: &Shared<T>, keys: Vec<SaveKey>, value: Option<ResultRef<T>>) {
        let local = &shared.sources.local;
        let record = value.and_then(|value| {
            match value
                .record()
                .map_or_else(|| local.results.save(&value), Ok)
            {
                Ok(id) => {
                    value.set_record(id);
                    let created = self.now / 1000;
                    Some(Record {
                        id,
                        created,
                        priority: 0,
                        source: CacheSourceId::LOCAL,
                    })
                }
                Err(error) => {
                    let reason = error.to_string().into();
                    self.trace(shared, TraceEvent::SaveFailed { reason });
                    None
                }
            }
        });
        for key in keys {
            local.keys.save(SaveKey { record, ..key });
        }
    }

    fn forget_lost(&self, shared: &Shared<T>, value: &ResultRef<T>, record: Option<Record>) {
        if let Some(id) = value.record() {
            let record = Record {
                id,
                created: 0,
                priority: 0,
                source: CacheSourceId::LOCAL,
            };
            drop_record(shared, record);
        }
        if let Some(record) = record.filter(|record| record.source != CacheSourceId::LOCAL) {
            drop_record(shared, record);
        }
    }

    fn reports(&mut self, shared: &Arc<Shared<T>>, task: TaskId) {
        let Some(control) = self.running.get(task) else {
            return;
        };
        let reports = control.reports.take();
        if reports.is_empty() {
            return;
        }
        let since = reports.iter().filter_map(Report::since).min();
        let since = since.map_or(self.now, micros);
        let ran = self.core.reported(self.now, since, task, &mut self.effects);
        if let Some(ran) = ran {
            self.histories.add(ran, &reports);
        }
        self.carry_out(shared);
        for why in reports.iter().filter_map(Report::explanation) {
            if let Some(vertex) = self.core.vertex_of(task) {
                let why = Arc::clone(why);
                self.trace(shared, TraceEvent::Explained { vertex, why });
            }
        }
        for (job, digest) in self.core.listeners(task) {
            if let Some(channel) = self.channels.get(&job) {
                reports
                    .iter()
                    .for_each(|report| channel.send_report(digest, report.clone()));
            }
        }
    }

    /// A call is made anew, which people see as something that happened in its step.
    fn retried(&mut self, jobs: &[(JobId, Digest)], ran: u64, why: Arc<str>) {
        let at = Some(time(self.now));
        let report = Report::Status(Status {
            id: why,
            name: "".into(),
            current: 0,
            total: 0,
            started: at,
            completed: at,
        });
        self.histories.add(ran, std::slice::from_ref(&report));
        for (job, digest) in jobs {
            if let Some(channel) = self.channels.get(job) {
                channel.send_report(*digest, report.clone());
            }
        }
    }

    /// The core broke an invariant, or a store panicked. Whoever waits gets an error that says so; a new core takes over.
    fn start_anew(&mut self, shared: &Shared<T>, invariant: &str) {
        let invariant: Arc<str> = invariant.into();
        let position = self.core.position();
        let event = TraceEvent::Broken {
            invariant: Arc::clone(&invariant),
        };
        // The sink may be what panicked.
        let _ = catch_unwind(AssertUnwindSafe(|| self.trace(shared, event)));
        self.end_tasks();
        for (_, reply) in self.replies.drain() {
            let _ = reply.send(Err(SolveError::Invariant {
                invariant: Arc::clone(&invariant),
                position,
            }));
        }
        shared.inbox.next_epoch();
        self.epoch = shared.inbox.epoch();
        self.start_over();
    }

    fn start_over(&mut self) {
        self.channels
            .drain()
            .for_each(|(_, channel)| channel.close());
        self.follow_ups.clear();
        self.queries.clear();
        self.histories = Histories::default();
        let effects = std::mem::take(&mut self.effects);
        let core = std::mem::take(&mut self.core);
        // A store may panic when it is given back what they hold.
        let _ = catch_unwind(AssertUnwindSafe(|| drop((effects, core))));
        self.recording = 0;
    }

    fn end_tasks(&mut self) {
        self.starts.clear();
        for control in std::mem::take(&mut self.running).into_controls() {
            control.abandon();
        }
    }

    fn shut_down(&mut self, shared: &Shared<T>) {
        self.stopped = true;
        self.settled.clear();
        shared.inbox.close();
        self.end_tasks();
        for (_, reply) in self.replies.drain() {
            let _ = reply.send(Err(SolveError::Shutdown));
        }
        self.start_over();
    }
}

fn drop_record<T: Value>(shared: &Shared<T>, record: Record) {
    if record.source == CacheSourceId::LOCAL {
        shared.sources.local.keys.drop_record(record.id);
        shared.sources.local.results.forget(record.id);
    } else if let Some(source) = shared.sources.get(record.source) {
        source.keys.drop_record(record.id);
    }
}

pub(super) fn stamp(position: u64, micros: u64) -> TraceStamp {
    TraceStamp { position, micros }
}

pub(super) fn now_micros() -> u64 {
    micros(SystemTime::now())
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

fn time(micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(micros)
}

fn update(news: VertexNews) -> VertexUpdate {
    VertexUpdate {
        digest: news.digest,
        name: news.name,
        inputs: news.inputs,
        started: news.started.map(time),
        completed: news.completed.map(time),
        cached: news.cached,
        error: news.error,
    }
}
