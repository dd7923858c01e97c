//! A solver with its stores, and the ways in which tests ask it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Barrier;
use weld_solver::{
    Built, Census, Job, JobOptions, KeyStore, LoadError, MemoryKeyStore, ProgressEvent,
    ProgressStream, RecordId, ResultRef, ResultStore, Solver, SolverOptions, StoreError,
    TraceEvent, TraceSink, TraceStamp,
};

use super::{Value, Vtx, definition_of};

/// A result store that counts loads and can refuse them.
#[derive(Default)]
pub(crate) struct Results {
    records: Mutex<HashMap<RecordId, Value>>,
    next: AtomicUsize,
    pub(crate) loads: AtomicUsize,
    pub(crate) given: AtomicUsize,
    pub(crate) refuse: AtomicBool,
    pub(crate) released: AtomicUsize,
}

#[async_trait]
impl ResultStore<Value> for Results {
    fn save(&self, value: &Value) -> Result<RecordId, StoreError> {
        let id = RecordId(self.next.fetch_add(1, Ordering::SeqCst) as u64);
        self.records.lock().unwrap().insert(id, value.clone());
        Ok(id)
    }

    async fn load(&self, record: RecordId) -> Result<Value, LoadError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        if self.refuse.load(Ordering::SeqCst) {
            return Err(LoadError::Failed {
                record,
                source: Arc::from(Box::from("refused")),
            });
        }
        let value = self.records.lock().unwrap().get(&record).cloned();
        self.given
            .fetch_add(usize::from(value.is_some()), Ordering::SeqCst);
        value.ok_or(LoadError::Gone(record))
    }

    fn forget(&self, record: RecordId) {
        self.records.lock().unwrap().remove(&record);
    }

    fn release(&self, value: Value) {
        self.released.fetch_add(1, Ordering::SeqCst);
        drop(value);
    }
}

impl Results {
    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// How many loads gave a value.
    pub(crate) fn loaded(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }

    /// The records of a value vanish.
    pub(crate) fn lose(&self, value: &str) {
        let mut records = self.records.lock().unwrap();
        records.retain(|_, recorded| recorded != value);
    }

    /// Every record vanishes.
    pub(crate) fn clear(&self) {
        self.records.lock().unwrap().clear();
    }
}

/// Keeps what the scheduler did.
#[derive(Default)]
pub(crate) struct Trace(pub(crate) Mutex<Vec<TraceEvent>>);

impl TraceSink for Trace {
    fn event(&self, _: u64, _: TraceStamp, event: TraceEvent) {
        self.0.lock().unwrap().push(event);
    }
}

/// A solver with its stores.
pub(crate) struct World {
    pub(crate) solver: Solver<Value>,
    pub(crate) keys: Arc<MemoryKeyStore>,
    pub(crate) results: Arc<Results>,
    pub(crate) trace: Arc<Trace>,
}

static JOBS: AtomicU32 = AtomicU32::new(0);

impl World {
    pub(crate) fn new() -> Self {
        Self::with(SolverOptions::default())
    }

    pub(crate) fn with(options: SolverOptions) -> Self {
        Self::on(options, |keys| keys)
    }

    /// A world whose solver sees the keys through what `keys` makes of them.
    pub(crate) fn on(
        options: SolverOptions,
        keys: impl FnOnce(Arc<dyn KeyStore>) -> Arc<dyn KeyStore>,
    ) -> Self {
        let (memory, results, trace) = (
            Arc::<MemoryKeyStore>::default(),
            Arc::<Results>::default(),
            Arc::<Trace>::default(),
        );
        let options = SolverOptions {
            trace: Some(Arc::clone(&trace) as Arc<dyn TraceSink>),
            ..options
        };
        let solver = Solver::new(
            options,
            keys(Arc::clone(&memory) as Arc<dyn KeyStore>),
            Arc::clone(&results) as Arc<dyn ResultStore<Value>>,
        );
        Self {
            solver,
            keys: memory,
            results,
            trace,
        }
    }

    pub(crate) async fn job(&self) -> Job<Value> {
        let id = format!("job {}", JOBS.fetch_add(1, Ordering::Relaxed));
        self.solver.new_job(JobOptions::new(id)).await.unwrap()
    }

    pub(crate) async fn job_in(&self, domain: &str) -> Job<Value> {
        let id = format!("job {}", JOBS.fetch_add(1, Ordering::Relaxed));
        self.solver
            .new_job(JobOptions {
                domain: Some(domain.into()),
                ..JobOptions::new(id)
            })
            .await
            .unwrap()
    }

    /// Builds a vertex in a job of its own, which ends then.
    pub(crate) async fn once(&self, vertex: &Vtx) -> Value {
        let job = self.job().await;
        let value = solve(&job, vertex).await;
        job.discard().await;
        value
    }

    /// Waits until nothing is alive.
    pub(crate) async fn emptied(&self) {
        self.reaches(Census::default()).await;
    }

    pub(crate) async fn reaches(&self, census: Census) {
        let reached = async {
            while self.solver.census().await.unwrap() != census {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(10), reached).await;
        assert!(
            outcome.is_ok(),
            "{:?} instead of {census:?}",
            self.solver.census().await
        );
    }

    pub(crate) fn saw(&self, matches: impl Fn(&TraceEvent) -> bool) -> usize {
        self.trace
            .0
            .lock()
            .unwrap()
            .iter()
            .filter(|event| matches(event))
            .count()
    }
}

pub(crate) async fn built(job: &Job<Value>, vertex: &Vtx) -> Built<ResultRef<Value>> {
    job.solve(definition_of(vertex, 0)).await.unwrap()
}

/// Builds a vertex in a job and returns its value.
pub(crate) async fn solve(job: &Job<Value>, vertex: &Vtx) -> Value {
    (*built(job, vertex).await.value).clone()
}

/// Builds a vertex that must fail, and returns the error.
pub(crate) async fn failure(job: &Job<Value>, vertex: &Vtx) -> weld_solver::SolveError<Value> {
    job.solve(definition_of(vertex, 0)).await.unwrap_err()
}

pub(crate) fn barrier(count: usize) -> Arc<Barrier> {
    Arc::new(Barrier::new(count))
}

pub(crate) type Request =
    tokio::task::JoinHandle<Result<Built<ResultRef<Value>>, weld_solver::SolveError<Value>>>;

/// Loads a vertex in a job, and asks for it on a task of its own. Aborting the task cancels the request.
pub(crate) async fn spawn(job: Job<Value>, vertex: &Vtx) -> (Arc<Job<Value>>, Request) {
    let job = Arc::new(job);
    let request = ask(&job, vertex).await;
    (job, request)
}

/// As [`spawn`], for a job that asks more than once.
pub(crate) async fn ask(job: &Arc<Job<Value>>, vertex: &Vtx) -> Request {
    let root = job.load(definition_of(vertex, 0)).await.unwrap();
    let asking = Arc::clone(job);
    tokio::spawn(async move { asking.build(root).await })
}

/// Discards a job whose requests have ended, or have been aborted.
pub(crate) async fn end(mut job: Arc<Job<Value>>) {
    loop {
        match Arc::try_unwrap(job) {
            Ok(job) => return job.discard().await,
            Err(still) => job = still,
        }
        tokio::task::yield_now().await;
    }
}

/// Everything that waits in a stream whose job ended.
pub(crate) async fn rest(mut stream: ProgressStream) -> Vec<ProgressEvent> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}
