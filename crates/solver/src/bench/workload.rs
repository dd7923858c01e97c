//! What is measured.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::graph;
use crate::{
    Job, JobOptions, KeyStore, MemoryKeyStore, MemoryResultStore, OpDefinition, RecordId,
    ResultStore, SolveError, Solver, SolverOptions, TraceSink,
};

/// A workload of the table in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Everything is executed.
    Cold,
    /// The same again, found in the cache.
    Cached,
    /// Eight jobs load and solve the same graph at once.
    EightJobs,
    /// Four jobs with equal keys and different digests: every edge merges.
    Merge,
    /// A diamond ladder of two jobs: every edge merges.
    Ladder,
    /// Vertices that have all inputs but one in common.
    OneApart,
    /// Vertices that all merge into one.
    OneTarget,
    /// Many jobs with a chain each, all kept.
    KeptJobs,
    /// Discarding them all.
    Discard,
    /// Memory per live vertex, and per vertex after the discard.
    Memory,
    /// A chain that only cancelled calls hold, which end one by one.
    WindDown,
    /// A healthy build beside one that is cancelled at once.
    CancelBeside,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Name of the workload.
    pub workload: &'static str,
    /// Vertices, loads or rounds.
    pub count: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Processor time of all threads together, which a busy machine disturbs less.
    pub busy: Duration,
    /// Further figures.
    pub figures: Vec<(&'static str, f64)>,
}

impl Measured {
    /// One JSON object.
    pub fn to_json(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let rate = self.count as f64 / seconds.max(1e-9);
        let mut text = format!(
            "{{\"workload\":\"{}\",\"count\":{},\"seconds\":{seconds:.6},\"per_second\":{rate:.0},\"cpu_seconds\":{:.6}",
            self.workload,
            self.count,
            self.busy.as_secs_f64()
        );
        for (name, value) in &self.figures {
            text += &format!(",\"{name}\":{value:.1}");
        }
        text.push('}');
        text
    }
}

/// Started before what is measured.
struct Clock {
    start: Instant,
    busy: Duration,
}

impl Clock {
    fn start() -> Self {
        Self {
            busy: busy(),
            start: Instant::now(),
        }
    }

    fn stop(self, workload: Workload, count: usize) -> Measured {
        Measured {
            workload: workload.name(),
            count: count as u64,
            elapsed: self.start.elapsed(),
            busy: busy() - self.busy,
            figures: Vec::new(),
        }
    }
}

struct Bench {
    solver: Solver<u64>,
    keys: Arc<MemoryKeyStore>,
    results: Arc<MemoryResultStore<u64>>,
}

/// Cold solves by one solver: each finds an empty cache.
pub struct ColdSolves {
    bench: Bench,
    /// The last record that was dropped; they count from 1.
    dropped: u64,
}

impl ColdSolves {
    /// A solver whose events go to `trace`.
    pub fn new(trace: Option<Arc<dyn TraceSink>>) -> Self {
        Self {
            bench: Bench::traced(trace),
            dropped: 0,
        }
    }

    /// Measures one, on the current runtime. The job is discarded when it was measured, and what it left in the cache is dropped.
    ///
    /// # Errors
    /// When the build fails.
    pub async fn solve(&mut self, size: usize) -> Result<Measured, SolveError<u64>> {
        let Self { bench, dropped } = self;
        let definition = graph::layers("", size, 200, 3);
        let count = definition.vertices().len();
        let clock = Clock::start();
        let job = solve(bench, definition).await?;
        let measured = clock.stop(Workload::Cold, count);
        job.discard().await;
        bench.empty().await?;
        while !bench.results.is_empty() {
            *dropped += 1;
            let record = RecordId(*dropped);
            bench.keys.drop_record(record);
            bench.results.forget(record);
        }
        Ok(measured)
    }
}

type Outcome<R> = Result<R, SolveError<u64>>;

impl Bench {
    fn new() -> Self {
        Self::traced(None)
    }

    fn traced(trace: Option<Arc<dyn TraceSink>>) -> Self {
        let keys = Arc::<MemoryKeyStore>::default();
        let results = Arc::new(MemoryResultStore::default());
        let options = SolverOptions {
            trace,
            ..SolverOptions::default()
        };
        let solver = Solver::new(options, Arc::clone(&keys) as _, Arc::clone(&results) as _);
        Self {
            solver,
            keys,
            results,
        }
    }

    async fn job(&self, id: &str) -> Outcome<Job<u64>> {
        self.solver.new_job(JobOptions::new(id)).await
    }

    /// Waits until every task has ended and everything is freed.
    async fn empty(&self) -> Outcome<()> {
        while self.solver.census().await?.vertices > 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Cold,
        Self::Cached,
        Self::EightJobs,
        Self::Merge,
        Self::Ladder,
        Self::OneApart,
        Self::OneTarget,
        Self::KeptJobs,
        Self::Discard,
        Self::Memory,
        Self::WindDown,
        Self::CancelBeside,
    ];

    /// Its name in the output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold-solve",
            Self::Cached => "cached-solve",
            Self::EightJobs => "eight-jobs-one-graph",
            Self::Merge => "four-jobs-merge",
            Self::Ladder => "diamond-ladder",
            Self::OneApart => "all-inputs-but-one-equal",
            Self::OneTarget => "all-merge-into-one",
            Self::KeptJobs => "kept-jobs",
            Self::Discard => "discard",
            Self::Memory => "memory",
            Self::WindDown => "wind-down",
            Self::CancelBeside => "cancel-beside-healthy",
        }
    }

    /// Its three sizes.
    pub fn sizes(self) -> [usize; 3] {
        match self {
            Self::Cold | Self::Cached | Self::EightJobs | Self::Memory => [25, 50, 100],
            Self::Merge => [8, 80, 800],
            Self::Ladder | Self::OneApart | Self::OneTarget => [1_000, 10_000, 100_000],
            Self::KeptJobs | Self::Discard => [50, 200, 800],
            Self::WindDown => [1_000, 4_000, 16_000],
            Self::CancelBeside => [10_000, 100_000, 1_000_000],
        }
    }

    /// Measures a cold solve whose events go to `trace`, on the current runtime. The job is discarded when it was measured.
    ///
    /// # Errors
    /// When the build fails.
    pub async fn cold_traced(
        size: usize,
        trace: Option<Arc<dyn TraceSink>>,
    ) -> Result<Measured, SolveError<u64>> {
        ColdSolves::new(trace).solve(size).await
    }

    /// Measures it at one size, on a runtime of its own.
    ///
    /// # Panics
    /// When there is no runtime to be had, or a build fails.
    pub fn measure(self, size: usize) -> Measured {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
        let measured = runtime.block_on(async move { tokio::spawn(self.run(size)).await });
        match measured {
            Ok(Ok(measured)) => measured,
            Ok(Err(error)) => panic!("{}: {error}", self.name()),
            Err(error) => panic!("{}: {error}", self.name()),
        }
    }

    async fn run(self, size: usize) -> Outcome<Measured> {
        let bench = Bench::new();
        match self {
            Self::Cold => self.alone(&bench, graph::layers("", size, 200, 3)).await,
            Self::Cached => {
                solve(&bench, graph::layers("", size, 200, 3))
                    .await?
                    .discard()
                    .await;
                bench.empty().await?;
                self.alone(&bench, graph::layers("", size, 200, 3)).await
            }
            Self::EightJobs => {
                let definitions: Vec<_> = (0..8).map(|_| graph::layers("", size, 200, 3)).collect();
                self.together(&bench, definitions).await
            }
            Self::Merge => {
                let definitions = ["a", "b", "c", "d"].map(|who| graph::layers(who, size, 50, 2));
                self.together(&bench, definitions.into()).await
            }
            Self::Ladder => {
                self.together(
                    &bench,
                    ["a", "b"].map(|who| graph::ladder(who, size)).into(),
                )
                .await
            }
            Self::OneApart => self.alone(&bench, graph::one_apart(size)).await,
            Self::OneTarget => self.alone(&bench, graph::one_target(size)).await,
            Self::KeptJobs => Ok(self.kept(&bench, size).await?.0),
            Self::Discard => {
                let (_, jobs) = self.kept(&bench, size).await?;
                self.timed(size * 100, async {
                    for job in jobs {
                        job.discard().await;
                    }
                    bench.empty().await
                })
                .await
            }
            Self::Memory => self.memory(&bench, size).await,
            Self::WindDown => self.wind_down(&bench, size).await,
            Self::CancelBeside => self.cancel_beside(&bench, size).await,
        }
    }

    async fn alone(self, bench: &Bench, definition: OpDefinition<u64>) -> Outcome<Measured> {
        let count = definition.vertices().len();
        self.timed(count, solve(bench, definition)).await
    }

    async fn timed<R>(
        self,
        count: usize,
        work: impl Future<Output = Outcome<R>>,
    ) -> Outcome<Measured> {
        let clock = Clock::start();
        let kept = work.await?;
        let measured = clock.stop(self, count);
        drop(kept);
        Ok(measured)
    }

    /// Jobs that load and solve at the same time.
    async fn together(
        self,
        bench: &Bench,
        definitions: Vec<OpDefinition<u64>>,
    ) -> Outcome<Measured> {
        let count = definitions
            .iter()
            .map(|definition| definition.vertices().len())
            .sum();
        let mut jobs = Vec::new();
        for at in 0..definitions.len() {
            jobs.push(bench.job(&format!("{at}")).await?);
        }
        self.timed(count, async {
            let running: Vec<_> = jobs
                .into_iter()
                .zip(definitions)
                .map(|(job, definition)| {
                    tokio::spawn(async move {
                        job.solve(definition).await?;
                        Ok::<_, SolveError<u64>>(job)
                    })
                })
                .collect();
            let mut kept = Vec::new();
            for job in running {
                kept.push(job.await.unwrap_or(Err(SolveError::Shutdown))?);
            }
            Ok(kept)
        })
        .await
    }

    async fn kept(self, bench: &Bench, count: usize) -> Outcome<(Measured, Vec<Job<u64>>)> {
        let definitions: Vec<_> = (0..count)
            .map(|at| graph::chain(&format!("{at}"), 100))
            .collect();
        let mut jobs = Vec::new();
        let clock = Clock::start();
        for (at, definition) in definitions.into_iter().enumerate() {
            let job = bench.job(&format!("{at}")).await?;
            job.solve(definition).await?;
            jobs.push(job);
        }
        Ok((clock.stop(self, 100 * count), jobs))
    }

    async fn memory(self, bench: &Bench, size: usize) -> Outcome<Measured> {
        let definition = graph::layers("", size, 200, 3);
        let count = definition.vertices().len();
        let before = resident();
        let clock = Clock::start();
        let job = solve(bench, definition).await?;
        let mut measured = clock.stop(self, count);
        let live = resident();
        let usage = bench.keys.usage();
        job.discard().await;
        bench.empty().await?;
        let each = |bytes: f64| bytes / count as f64;
        let figures = vec![
            (
                "resident_bytes_per_vertex_with_records",
                each(live - before),
            ),
            ("record_bytes_per_vertex", each(usage.bytes as f64)),
            ("keys", usage.keys as f64),
            ("links", usage.links as f64),
        ];
        measured.figures = figures;
        Ok(measured)
    }

    /// From the end of a job with a chain and a twentieth as many calls on top of it until nothing is left.
    async fn wind_down(self, bench: &Bench, length: usize) -> Outcome<Measured> {
        let job = Arc::new(bench.job("job").await?);
        let tops = length / 20;
        let mut requests = tokio::task::JoinSet::new();
        for definition in graph::endless("", length, tops) {
            let root = job.load(definition).await?;
            let job = Arc::clone(&job);
            requests.spawn(async move { job.build(root).await.map(drop) });
        }
        while bench.solver.census().await?.tasks < tops {
            tokio::task::yield_now().await;
        }
        self.timed(length + tops, async {
            requests.shutdown().await;
            let job = Arc::into_inner(job).ok_or(SolveError::Shutdown)?;
            job.discard().await;
            bench.empty().await
        })
        .await
    }

    /// A build and, beside it, one of the same vertex that is cancelled at once.
    async fn cancel_beside(self, bench: &Bench, rounds: usize) -> Outcome<Measured> {
        let mut failed = 0;
        let clock = Clock::start();
        for round in 0..rounds {
            let definition = || graph::chain(&format!("{round}"), 1);
            let (doomed, healthy) = (bench.job("doomed").await?, bench.job("healthy").await?);
            let (a, b) = (
                doomed.load(definition()).await?,
                healthy.load(definition()).await?,
            );
            let cancelled = tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = doomed.build(a) => {}
                    () = tokio::task::yield_now() => {}
                }
                doomed.discard().await;
            });
            failed += u32::from(healthy.build(b).await.is_err());
            healthy.discard().await;
            cancelled.await.unwrap_or_default();
        }
        let mut measured = clock.stop(self, rounds);
        measured.figures = vec![("failed", f64::from(failed))];
        Ok(measured)
    }
}

async fn solve(bench: &Bench, definition: OpDefinition<u64>) -> Outcome<Job<u64>> {
    let job = bench.job("job").await?;
    job.solve(definition).await?;
    Ok(job)
}

/// Processor time of all threads of this process; zero where it cannot be told.
pub(super) fn busy() -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Resident memory of this process in bytes; 0 where it cannot be told.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| {
            text.split_whitespace()
                .nth(1)
                .and_then(|pages| pages.parse::<f64>().ok())
        });
    pages.unwrap_or(0.0) * 4096.0
}
