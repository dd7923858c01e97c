//! The driver under real tokio tasks with random delays. Seconds by default; `cargo xtask stress` runs it for as long as it takes.
//!
//! `WELD_STRESS_ROUNDS` sets the rounds of the first test, `WELD_STRESS_SECONDS` the time of the second one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use weld_solver::{
    CacheMap, Census, Definition, Digest, InputMap, Job, JobOptions, MemoryKeyStore,
    MemoryResultStore, Op, OpContext, OpDefinition, OpError, Output, ResultRef, SolveError, Solver,
    SolverOptions, VertexDef, VertexOptions,
};

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Random numbers for all tasks; what they are used for depends on the scheduling anyway.
struct Dice(AtomicU64);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    async fn delay(&self) {
        match self.below(16) {
            0..9 => {}
            9..13 => {
                for _ in 0..self.below(4) {
                    tokio::task::yield_now().await;
                }
            }
            13..15 => tokio::time::sleep(Duration::from_micros(self.below(500))).await,
            _ => {
                let _ = tokio::task::spawn_blocking(std::thread::yield_now).await;
            }
        }
    }
}

/// A value that is counted while it lives.
struct Counted {
    value: u64,
    alive: Arc<AtomicI64>,
}

impl Counted {
    fn new(value: u64, alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self {
            value,
            alive: Arc::clone(alive),
        }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(self.value, &self.alive)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Vertices of one definition of everything.
const SPECS: u64 = 24;

/// What all operations share.
struct World {
    dice: Dice,
    alive: Arc<AtomicI64>,
    /// Operations of different epochs have nothing in common.
    epoch: AtomicU64,
    failures: AtomicU64,
}

fn inputs_of(spec: u64) -> Vec<u64> {
    let count = if spec < 3 { 0 } else { spec % 3 + 1 };
    (0..count).map(|at| (spec * 5 + at * 3) % spec).collect()
}

/// The spec that the operation of `spec` builds while it runs.
fn nested_in(spec: u64) -> Option<u64> {
    (spec % 7 == 6).then(|| spec - 4)
}

/// The plain evaluation.
fn expected(spec: u64) -> u64 {
    let inputs: Vec<_> = inputs_of(spec).into_iter().map(expected).collect();
    combined(spec, &inputs, nested_in(spec).map(expected))
}

fn combined(spec: u64, inputs: &[u64], nested: Option<u64>) -> u64 {
    let all = inputs.iter().chain(&nested);
    all.fold(spec + 1, |sum, value| {
        sum.wrapping_mul(31).wrapping_add(*value)
    })
}

struct Work {
    world: Arc<World>,
    spec: u64,
    epoch: u64,
    variant: u64,
}

impl Work {
    fn name(&self) -> String {
        format!("{} {}", self.epoch, self.spec)
    }
}

#[async_trait]
impl Op<Counted> for Work {
    async fn cache_map(&self, _: &OpContext<Counted>, _: u32) -> Result<CacheMap, OpError> {
        self.world.dice.delay().await;
        let mut map = CacheMap::new(Digest::of(self.name()));
        map.inputs = inputs_of(self.spec)
            .iter()
            .map(|input| InputMap {
                selector: None,
                slow_key: (input + self.spec).is_multiple_of(4),
                preprocess: (input + self.spec).is_multiple_of(5),
            })
            .collect();
        Ok(map)
    }

    async fn preprocess(
        &self,
        _: &OpContext<Counted>,
        _: u32,
        _: &ResultRef<Counted>,
    ) -> Result<(), OpError> {
        self.world.dice.delay().await;
        Ok(())
    }

    async fn slow_key(
        &self,
        _: &OpContext<Counted>,
        _: u32,
        value: &ResultRef<Counted>,
    ) -> Result<Option<Digest>, OpError> {
        self.world.dice.delay().await;
        Ok(Some(Digest::of(value.value.to_le_bytes())))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Counted>,
        inputs: Vec<ResultRef<Counted>>,
    ) -> Result<Vec<Counted>, OpError> {
        ctx.log(1, "on its way");
        tokio::select! {
            () = self.world.dice.delay() => {}
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        }
        if self.world.dice.below(500) == 0 {
            self.world.failures.fetch_add(1, Ordering::Relaxed);
            return Err(OpError::failed("made up"));
        }
        let nested = match nested_in(self.spec) {
            None => None,
            Some(spec) => {
                let graph = graph(&self.world, spec, self.epoch, self.variant);
                match ctx.build(graph).await {
                    Ok(built) => Some(built.value.value),
                    Err(SolveError::Cancelled) => return Err(OpError::Cancelled),
                    Err(error) => return Err(OpError::failed(error.to_string())),
                }
            }
        };
        let inputs: Vec<_> = inputs.iter().map(|input| input.value).collect();
        let value = combined(self.spec, &inputs, nested);
        Ok(vec![Counted::new(value, &self.world.alive)])
    }
}

/// The graph of a spec. Variants have equal keys and different digests, so that their edges merge.
fn graph(world: &Arc<World>, spec: u64, epoch: u64, variant: u64) -> OpDefinition<Counted> {
    let vertices = (0..=spec).map(|spec| {
        let op: Arc<dyn Op<Counted>> = Arc::new(Work {
            world: Arc::clone(world),
            spec,
            epoch,
            variant,
        });
        let inputs = inputs_of(spec).into_iter().map(|input| Output {
            vertex: input as u32,
            index: 0,
        });
        VertexDef {
            digest: Digest::of(format!("{variant} {epoch} {spec}")),
            name: format!("{spec}").into(),
            op,
            inputs: inputs.collect(),
            options: VertexOptions {
                ignore_cache: world.dice.below(16) == 0,
                ..VertexOptions::default()
            },
        }
    });
    let root = Output {
        vertex: spec as u32,
        index: 0,
    };
    Definition::new(vertices.collect(), root).unwrap()
}

/// One client's life: it loads, builds, changes its mind, and goes.
async fn client(solver: &Solver<Counted>, world: &Arc<World>, id: String) {
    let dice = &world.dice;
    let job = solver.new_job(JobOptions::new(id)).await.unwrap();
    let mut progress = (dice.below(3) == 0).then(|| job.progress());
    for _ in 0..=dice.below(3) {
        let spec = dice.below(SPECS);
        let epoch = world.epoch.load(Ordering::Relaxed);
        let root = job
            .load(graph(world, spec, epoch, dice.below(3)))
            .await
            .unwrap();
        let patience = Duration::from_micros(dice.below(4000));
        let built = if dice.below(3) == 0 {
            match tokio::time::timeout(patience, job.build(root)).await {
                Ok(built) => built,
                Err(_) => continue,
            }
        } else {
            job.build(root).await
        };
        match built {
            Ok(built) => assert_eq!(built.value.value, expected(spec), "spec {spec}"),
            Err(error) => assert!(error.to_string().contains("made up"), "{error:?}"),
        }
    }
    while progress
        .as_mut()
        .is_some_and(|progress| progress.try_next().is_some())
    {}
    if dice.below(2) == 0 {
        job.discard().await;
    }
}

async fn emptied(solver: &Solver<Counted>) {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let census = solver.census().await.unwrap();
        if census == Census::default() {
            return;
        }
        assert!(Instant::now() < patience, "left over: {census:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_random_delays_every_result_is_right_and_nothing_is_left() {
    let seconds = from_environment("WELD_STRESS_SECONDS", 3);
    let world = Arc::new(World {
        dice: Dice(AtomicU64::new(from_environment("WELD_STRESS_SEED", 1))),
        alive: Arc::default(),
        epoch: AtomicU64::new(0),
        failures: AtomicU64::new(0),
    });
    let results = Arc::new(MemoryResultStore::default());
    let options = SolverOptions {
        parallelism: Some(4),
        ..SolverOptions::default()
    };
    let keys = Arc::<MemoryKeyStore>::default();
    let solver = Solver::new(options, keys, Arc::clone(&results) as _);
    let end = Instant::now() + Duration::from_secs(seconds);
    let rounds = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (solver, world) = (solver.clone(), Arc::clone(&world));
            let rounds = Arc::clone(&rounds);
            tokio::spawn(async move {
                while Instant::now() < end {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    world.epoch.store(round / 200, Ordering::Relaxed);
                    client(&solver, &world, format!("{number} {round}")).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    emptied(&solver).await;
    let failures = world.failures.load(Ordering::Relaxed);
    println!(
        "{rounds:?} jobs, {failures} made-up failures, {} records",
        results.len()
    );
    assert_eq!(world.alive.load(Ordering::SeqCst), results.len() as i64);
    assert!(rounds.load(Ordering::Relaxed) > 100 && failures > 0);
}

struct Nothing(Digest);

#[async_trait]
impl Op<u64> for Nothing {
    async fn cache_map(&self, _: &OpContext<u64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(self.0))
    }

    async fn exec(&self, _: &OpContext<u64>, _: Vec<ResultRef<u64>>) -> Result<Vec<u64>, OpError> {
        Ok(vec![7])
    }
}

fn single(round: u64) -> OpDefinition<u64> {
    let digest = Digest::of(round.to_le_bytes());
    let vertex = VertexDef {
        digest,
        name: "nothing".into(),
        op: Arc::new(Nothing(digest)) as Arc<dyn Op<u64>>,
        inputs: Vec::new(),
        options: VertexOptions::default(),
    };
    let root = Output {
        vertex: 0,
        index: 0,
    };
    Definition::new(vec![vertex], root).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_build_beside_one_that_is_cancelled_at_once_never_fails() {
    let rounds = from_environment("WELD_STRESS_ROUNDS", 20_000);
    let keys = Arc::<MemoryKeyStore>::default();
    let results = Arc::new(MemoryResultStore::default());
    let solver = Solver::new(SolverOptions::default(), keys, results);
    let job = async |name: &str| -> Job<u64> {
        let options = JobOptions::new(name);
        solver.new_job(options).await.unwrap()
    };
    for round in 0..rounds {
        let (doomed, healthy) = (job(&format!("doomed {round}")).await, job("healthy").await);
        let (a, b) = (
            doomed.load(single(round)).await.unwrap(),
            healthy.load(single(round)).await.unwrap(),
        );
        let cancelled = tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = doomed.build(a) => {}
                () = tokio::task::yield_now() => {}
            }
            if round % 2 == 0 {
                doomed.discard().await;
            }
        });
        let built = healthy.build(b).await;
        assert!(
            matches!(&built, Ok(built) if *built.value == 7),
            "round {round}: {built:?}"
        );
        healthy.discard().await;
        cancelled.await.unwrap();
    }
    println!("{rounds} rounds");
}
