//! Traces of a real solver with operations that only count.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and all of it may fail its test"
)]

pub(crate) mod bed;
pub(crate) mod written;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weld_solver::{
    CacheMap, Definition, Digest, Job, JobOptions, MemoryKeyStore, MemoryResultStore, Op,
    OpContext, OpDefinition, OpError, Output, ResultRef, Solver, SolverOptions, VertexDef,
    VertexOptions,
};
use weld_trace::Tracer;

struct Step {
    key: String,
    fails: bool,
    time: Duration,
    /// Builds these steps first.
    builds: Vec<&'static str>,
}

#[async_trait]
impl Op<u64> for Step {
    async fn cache_map(&self, _: &OpContext<u64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(Digest::of(&self.key)))
    }

    async fn exec(
        &self,
        ctx: &OpContext<u64>,
        _: Vec<ResultRef<u64>>,
    ) -> Result<Vec<u64>, OpError> {
        if !self.builds.is_empty() {
            let built = ctx.build(chain(&self.key, &self.builds)).await;
            built.map_err(|_| OpError::Cancelled)?;
        }
        if self.key == "waits for a lock" {
            let held = tokio::time::sleep(Duration::from_millis(100));
            ctx.wait_for_lock(held).await;
        }
        if self.fails {
            return Err(OpError::failed(std::io::Error::other("told to fail")));
        }
        tokio::select! {
            () = tokio::time::sleep(self.time) => Ok(vec![1]),
            () = ctx.cancellation().cancelled() => Err(OpError::Cancelled),
        }
    }
}

/// A chain of steps with equal keys for every `who`; a step whose name ends in `!` fails, one with `~` takes long. What stands behind a
/// `#` is of the key alone. A step that is called `nests` builds others.
pub(crate) fn chain(who: &str, steps: &[&str]) -> OpDefinition<u64> {
    let vertices = (0..).zip(steps).map(|(at, key)| {
        let name = &key.split('#').next().unwrap_or(key);
        let op = Step {
            key: (*key).to_owned(),
            builds: match *name {
                "nests" => vec!["inner source", "nests more", "inner step"],
                "nests more" => vec!["innermost"],
                _ => Vec::new(),
            },
            fails: name.ends_with('!'),
            time: Duration::from_millis(match *name {
                "a while" => 400,
                name if name.ends_with('~') => 60_000,
                _ => 1,
            }),
        };
        VertexDef {
            digest: Digest::of(format!("{who} {at} {name}")),
            name: Arc::from(*name),
            op: Arc::new(op) as Arc<dyn Op<u64>>,
            inputs: (at > 0)
                .then(|| Output {
                    vertex: at - 1,
                    index: 0,
                })
                .into_iter()
                .collect(),
            options: VertexOptions::default(),
        }
    });
    let root = Output {
        vertex: steps.len() as u32 - 1,
        index: 0,
    };
    Definition::new(vertices.collect(), root).unwrap()
}

pub(crate) fn solver(tracer: &Tracer) -> Solver<u64> {
    solver_of(tracer, SolverOptions::default().parallelism)
}

pub(crate) fn solver_of(tracer: &Tracer, parallelism: Option<usize>) -> Solver<u64> {
    let options = SolverOptions {
        parallelism,
        trace: Some(Arc::new(tracer.clone())),
        ..SolverOptions::default()
    };
    let results = Arc::new(MemoryResultStore::default());
    Solver::new(options, Arc::<MemoryKeyStore>::default(), results)
}

pub(crate) async fn job(solver: &Solver<u64>, id: &str) -> Job<u64> {
    solver.new_job(JobOptions::new(id)).await.unwrap()
}

/// Waits until the solver has let go of everything.
pub(crate) async fn empty(solver: &Solver<u64>) {
    while solver.census().await.unwrap() != weld_solver::Census::default() {
        tokio::task::yield_now().await;
    }
}

/// A trace with merges, a failure, a cancelled build and cached steps.
pub(crate) async fn eventful(file: &Path) {
    let tracer = Tracer::new();
    tracer.start(file).unwrap();
    let solver = solver(&tracer);
    let (a, b) = (job(&solver, "a").await, job(&solver, "b").await);
    let steps = ["source", "compile", "link", "install"];
    let (first, second) = tokio::join!(a.solve(chain("a", &steps)), b.solve(chain("b", &steps)));
    first.unwrap();
    second.unwrap();
    let failing = job(&solver, "failing").await;
    failing
        .solve(chain("f", &["source", "test!"]))
        .await
        .unwrap_err();
    let slow = job(&solver, "slow").await;
    tokio::select! {
        biased;
        _ = slow.solve(chain("s", &["source", "wait~"])) => panic!("it takes a minute"),
        () = tokio::time::sleep(Duration::from_millis(30)) => {}
    }
    for job in [a, b, failing, slow] {
        job.discard().await;
    }
    empty(&solver).await;
    let cached = job(&solver, "cached").await;
    cached.solve(chain("c", &steps)).await.unwrap();
    cached.discard().await;
    empty(&solver).await;
    tracer.stop().unwrap();
}
