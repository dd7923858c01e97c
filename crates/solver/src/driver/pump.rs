//! The pump: the one owner of the core. It drains the inbox, lets the core handle each input, and carries out the effects.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    ANY_EPOCH, CoreInput, CoreReply, Shared,
    context::TaskControl,
    inbox::{Message, ReplySender},
    run::{Start, panic_text, run_all},
    sources::{Asked, unite},
};
use crate::{
    CacheSourceId, Op, Record, ResultRef, SaveKey, SolveError, TraceEvent, Value, VertexUpdate,
    core::{Core, Effect, Effects, Input, JobId, Reply, TaskId, Ticket, VertexNews},
    progress::Channel,
};

/// Tasks that are polled first by one tokio task.
const BATCH: usize = 64;

type DriverCore<T> = Core<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverEffects<T> = Effects<Arc<dyn Op<T>>, ResultRef<T>>;
type DriverEffect<T> = Effect<Arc<dyn Op<T>>, ResultRef<T>>;

pub(super) struct Pump<T: Value> {
    shared: Arc<Shared<T>>,
    core: DriverCore<T>,
    epoch: u32,
    effects: DriverEffects<T>,
    /// Inputs that follow from effects, handled before the next message.
    follow_ups: VecDeque<CoreInput<T>>,
    replies: HashMap<Ticket, ReplySender<T>>,
    running: HashMap<TaskId, Arc<TaskControl>>,
    starts: Vec<Start<T>>,
    channels: HashMap<JobId, Arc<Channel>>,
    stopped: bool,
}

impl<T: Value> Pump<T> {
    pub(super) fn new(shared: Arc<Shared<T>>) -> Self {
        let mut core = Core::new();
        core.set_tracing(shared.options.trace.is_some());
        Self {
            shared,
            core,
            epoch: 0,
            effects: Effects::default(),
            follow_ups: VecDeque::new(),
            replies: HashMap::new(),
            running: HashMap::new(),
            starts: Vec::new(),
            channels: HashMap::new(),
            stopped: false,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut batch = Vec::new();
        while !self.stopped {
            shared.inbox.take(&mut batch);
            if batch.is_empty() {
                shared.inbox.wake.notified().await;
                continue;
            }
            for message in batch.drain(..) {
                self.message(message);
            }
            self.start_tasks();
            tokio::task::consume_budget().await;
        }
        self.shut_down();
    }

    fn message(&mut self, message: Message<T>) {
        match message {
            Message::Tell(epoch, input) if epoch == self.epoch || epoch == ANY_EPOCH => {
                self.handle(input)
            }
            Message::Tell(..) => {}
            Message::Ask {
                epoch,
                ticket,
                input,
                reply,
            } => {
                if epoch == self.epoch || epoch == ANY_EPOCH {
                    self.replies.insert(ticket, reply);
                    self.handle(input);
                } else {
                    let invariant = Arc::from("the solver was started anew");
                    // Nobody listens where the client is gone.
                    let _ = reply.send(Err(SolveError::Invariant {
                        invariant,
                        position: self.core.position(),
                    }));
                }
            }
            Message::Reports(epoch, task) if epoch == self.epoch => self.reports(task),
            Message::Reports(..) => {}
            Message::Subscribe(epoch, job, channel) => {
                if epoch == self.epoch {
                    self.channels.insert(job, channel);
                    self.handle(Input::Subscribe { job });
                } else {
                    channel.close();
                }
            }
            Message::Census(reply) => drop(reply.send(self.core.census())),
            Message::Stop => self.stopped = true,
        }
    }

    fn handle(&mut self, input: CoreInput<T>) {
        self.follow_ups.push_back(input);
        while let Some(input) = self.follow_ups.pop_front() {
            if let Input::Finished { task, .. } = &input {
                self.running.remove(task);
            }
            if let Input::Discard { job, .. } = &input
                && let Some(channel) = self.channels.remove(job)
            {
                channel.close();
            }
            let now = now_micros();
            let (core, effects) = (&mut self.core, &mut self.effects);
            if let Err(payload) =
                catch_unwind(AssertUnwindSafe(|| core.handle(now, input, effects)))
            {
                return self.start_anew(&panic_text(payload.as_ref()));
            }
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        let mut list = std::mem::take(&mut self.effects.list);
        for effect in list.drain(..) {
            self.effect(effect);
        }
        self.effects.list = list;
        self.effects.released.clear();
        self.effects.retired.clear();
    }

    fn effect(&mut self, effect: DriverEffect<T>) {
        match effect {
            Effect::Reply { ticket, reply } => self.reply(ticket, reply),
            Effect::Query {
                query,
                ask,
                sources,
            } => {
                match self
                    .shared
                    .sources
                    .ask(ask, sources.as_deref().unwrap_or_default())
                {
                    Asked::Ready(matches) => {
                        self.follow_ups.push_back(Input::Answer { query, matches })
                    }
                    Asked::Later(answers) => {
                        let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
                        tokio::spawn(async move {
                            let timeout = shared.options.source_timeout;
                            let heard = |source, failed: Option<TraceEvent>| {
                                shared.sources.note(source, failed.is_none(), timeout);
                                if let (Some(sink), Some(event)) = (&shared.options.trace, failed) {
                                    sink.event(0, event);
                                }
                            };
                            let matches = unite(answers, timeout, heard).await;
                            shared
                                .inbox
                                .send(Message::Tell(epoch, Input::Answer { query, matches }));
                        });
                    }
                }
            }
            Effect::Start { task, call } => {
                let control = Arc::<TaskControl>::default();
                self.running.insert(task, Arc::clone(&control));
                self.starts.push(Start {
                    task,
                    epoch: self.epoch,
                    call,
                    control,
                });
            }
            Effect::Cancel { task } => self.cancel(task),
            Effect::Save { keys, value } => self.save(keys, value),
            Effect::Lost { value, record } => self.forget_lost(&value, record),
            Effect::DropRecord { record } => self.drop_record(record),
            Effect::Progress { job, news } => {
                if let Some(channel) = self.channels.get(&job) {
                    channel.send_vertex(update(news));
                }
            }
            Effect::Trace(event) => self.trace(event),
        }
    }

    fn trace(&self, event: TraceEvent) {
        if let Some(sink) = &self.shared.options.trace {
            sink.event(self.core.position(), event);
        }
    }

    fn reply(&mut self, ticket: Ticket, reply: Result<CoreReply<T>, SolveError<T>>) {
        let Some(sender) = self.replies.remove(&ticket) else {
            return;
        };
        if let Err(Ok(Reply::Job(job))) = sender.send(reply) {
            // The client went away while it opened the job: nobody else can end it.
            let ticket = self.shared.inbox.ticket();
            self.follow_ups.push_back(Input::Discard { ticket, job });
        }
    }

    fn cancel(&self, task: TaskId) {
        let Some(control) = self.running.get(&task).cloned() else {
            return;
        };
        control.cancel();
        let grace = self.shared.options.cancel_grace;
        let control = Arc::downgrade(&control);
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            if let Some(handle) = control
                .upgrade()
                .as_ref()
                .and_then(|control| control.abort.get())
            {
                handle.abort();
            }
        });
    }

    fn save(&self, keys: Vec<SaveKey>, value: Option<ResultRef<T>>) {
        let local = &self.shared.sources.local;
        let record = value.and_then(|value| {
            match value
                .record()
                .map_or_else(|| local.results.save(&value), Ok)
            {
                Ok(id) => {
                    value.set_record(id);
                    let created = now_micros() / 1000;
                    Some(Record {
                        id,
                        created,
                        priority: 0,
                        source: CacheSourceId::LOCAL,
                    })
                }
                Err(error) => {
                    self.trace(TraceEvent::SaveFailed {
                        reason: error.to_string().into(),
                    });
                    None
                }
            }
        });
        for key in keys {
            local.keys.save(SaveKey { record, ..key });
        }
    }

    fn forget_lost(&self, value: &ResultRef<T>, record: Option<Record>) {
        if let Some(id) = value.record() {
            self.drop_record(Record {
                id,
                created: 0,
                priority: 0,
                source: CacheSourceId::LOCAL,
            });
        }
        if let Some(record) = record.filter(|record| record.source != CacheSourceId::LOCAL) {
            self.drop_record(record);
        }
    }

    fn drop_record(&self, record: Record) {
        if record.source == CacheSourceId::LOCAL {
            self.shared.sources.local.keys.drop_record(record.id);
            self.shared.sources.local.results.forget(record.id);
        } else if let Some(source) = self.shared.sources.get(record.source) {
            source.keys.drop_record(record.id);
        }
    }

    fn reports(&mut self, task: TaskId) {
        let Some(control) = self.running.get(&task) else {
            return;
        };
        let reports = control.reports.take();
        if reports.is_empty() {
            return;
        }
        self.core.reported(now_micros(), task, &mut self.effects);
        self.carry_out();
        for (job, digest) in self.core.listeners(task) {
            if let Some(channel) = self.channels.get(&job) {
                reports
                    .iter()
                    .for_each(|report| channel.send_report(digest, report.clone()));
            }
        }
    }

    /// Hands what is to be started to tokio, in batches.
    fn start_tasks(&mut self) {
        let mut starts = std::mem::take(&mut self.starts).into_iter();
        while !starts.as_slice().is_empty() {
            let batch = starts.by_ref().take(BATCH).collect();
            tokio::spawn(run_all(batch, Arc::clone(&self.shared)));
        }
    }

    /// The core broke an invariant. Whoever waits gets an error that says so; a new core takes over.
    fn start_anew(&mut self, invariant: &str) {
        let invariant: Arc<str> = invariant.into();
        let position = self.core.position();
        self.end_tasks();
        for (_, reply) in self.replies.drain() {
            let _ = reply.send(Err(SolveError::Invariant {
                invariant: Arc::clone(&invariant),
                position,
            }));
        }
        self.shared.inbox.next_epoch();
        self.epoch = self.shared.inbox.epoch();
        self.channels
            .drain()
            .for_each(|(_, channel)| channel.close());
        self.follow_ups.clear();
        self.effects = Effects::default();
        self.core = Core::new();
        self.core.set_tracing(self.shared.options.trace.is_some());
    }

    fn end_tasks(&mut self) {
        self.starts.clear();
        for (_, control) in self.running.drain() {
            control.cancel();
            if let Some(handle) = control.abort.get() {
                handle.abort();
            }
        }
    }

    fn shut_down(&mut self) {
        self.shared.inbox.close();
        self.end_tasks();
        for (_, reply) in self.replies.drain() {
            let _ = reply.send(Err(SolveError::Shutdown));
        }
        self.channels
            .drain()
            .for_each(|(_, channel)| channel.close());
    }
}

fn now_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
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
