use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use redb::WriteTransaction;

use crate::lock::DirectoryLock;

use super::DbError;
use super::engine::Engine;
use super::guard::guarded;
use super::ticket::{Slot, Ticket};

/// At most this many updates share a transaction, so that none waits long for its commit.
const MAX_GROUP_LEN: usize = 1024;

/// An update without its type.
pub(super) trait Job: Send {
    /// Whether it writes nothing and only waits for those before it.
    fn is_barrier(&self) -> bool {
        false
    }

    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), DbError>;
    fn finish(self: Box<Self>, commit: Result<(), DbError>);
}

pub(super) struct Typed<T, F, D> {
    update: F,
    done: D,
    value: Option<T>,
    slot: Arc<Slot<T>>,
}

impl<T, F, D> Typed<T, F, D> {
    pub(super) fn new(update: F, done: D) -> (Self, Ticket<T>) {
        let slot = Slot::new();
        let ticket = slot.ticket();
        let job = Self {
            update,
            done,
            value: None,
            slot,
        };
        (job, ticket)
    }
}

impl<T, F, D> Job for Typed<T, F, D>
where
    T: Send,
    F: Fn(&WriteTransaction) -> Result<T, DbError> + Send,
    D: FnOnce(&Result<T, DbError>) + Send,
{
    fn run(&mut self, transaction: &WriteTransaction) -> Result<(), DbError> {
        self.value = Some(guarded(|| (self.update)(transaction))??);
        Ok(())
    }

    fn finish(self: Box<Self>, commit: Result<(), DbError>) {
        let Self {
            done, value, slot, ..
        } = *self;
        let outcome = commit.and_then(|()| value.ok_or(DbError::Closed));
        done(&outcome);
        slot.fill(outcome);
    }
}

/// Is done when all jobs before it are.
pub(super) struct Barrier(Arc<Slot<()>>);

impl Barrier {
    pub(super) fn new() -> (Self, Ticket<()>) {
        let slot = Slot::new();
        let ticket = slot.ticket();
        (Self(slot), ticket)
    }
}

impl Job for Barrier {
    fn is_barrier(&self) -> bool {
        true
    }

    fn run(&mut self, _: &WriteTransaction) -> Result<(), DbError> {
        Ok(())
    }

    fn finish(self: Box<Self>, commit: Result<(), DbError>) {
        self.0.fill(commit);
    }
}

/// The thread that commits.
pub(super) struct Committer(JoinHandle<()>);

impl Committer {
    pub(super) fn start(
        engine: Arc<Engine>,
        jobs: Receiver<Box<dyn Job>>,
        lock: Arc<DirectoryLock>,
    ) -> Result<Self, DbError> {
        std::thread::Builder::new()
            .name("weld-committer".into())
            .spawn(move || {
                commit_all(&engine, &jobs);
                drop(engine);
                drop(lock);
            })
            .map(Self)
            .map_err(|error| DbError::Thread(Arc::new(error)))
    }

    pub(super) fn join(self) {
        // A panic of the committer already failed the tickets of its group.
        drop(self.0.join());
    }
}

fn commit_all(engine: &Engine, jobs: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = jobs.recv() {
        let mut group = vec![first];
        group.extend(jobs.try_iter().take(MAX_GROUP_LEN - 1));
        let _writing = engine.writing();
        commit_group(engine, group);
    }
}

/// Commits the jobs that succeed in one transaction. A job that fails may have written something
/// before it did, so the transaction is given up and the others start anew without it.
fn commit_group(engine: &Engine, mut group: Vec<Box<dyn Job>>) {
    while !group.is_empty() {
        match try_group(engine, &mut group) {
            Outcome::Committed => {
                for job in group.drain(..) {
                    job.finish(Ok(()));
                }
            }
            Outcome::JobFailed(index, error) => group.remove(index).finish(Err(error)),
            Outcome::CommitFailed(error) => {
                engine.give_up();
                tracing::error!(%error, updates = group.len(), "commit to the state database failed");
                for job in group.drain(..) {
                    job.finish(Err(error.clone()));
                }
            }
        }
    }
}

enum Outcome {
    Committed,
    JobFailed(usize, DbError),
    CommitFailed(DbError),
}

fn try_group(engine: &Engine, group: &mut [Box<dyn Job>]) -> Outcome {
    if group.iter().all(|job| job.is_barrier()) {
        return Outcome::Committed;
    }
    let mut transaction = match engine.begin_write() {
        Ok(transaction) => transaction,
        Err(error) => return Outcome::CommitFailed(error),
    };
    // Keeps the allocator's state with each commit, so that opening after a kill scans nothing.
    transaction.set_quick_repair(true);
    for (index, job) in group.iter_mut().enumerate() {
        match job.run(&transaction) {
            Ok(()) => {}
            Err(error) => {
                engine.note(&error);
                return match error.is_storage_failure() {
                    true => Outcome::CommitFailed(engine.with_cause(error)),
                    false => Outcome::JobFailed(index, error),
                };
            }
        }
    }
    // What makes no sense may also make it panic, which must not be the end of this thread.
    let committed = guarded(|| transaction.commit());
    match committed.and_then(|committed| Ok(committed?)) {
        Ok(()) => Outcome::Committed,
        Err(error) => {
            engine.note(&error);
            Outcome::CommitFailed(engine.with_cause(error))
        }
    }
}
