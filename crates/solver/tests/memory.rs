//! J5: what the jobs took is given back. A program of its own, so that nothing else takes memory meanwhile.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests"
)]

use std::sync::Arc;

use async_trait::async_trait;
use weld_solver::{
    CacheMap, Census, Definition, Digest, JobOptions, MemoryKeyStore, MemoryResultStore, Op,
    OpContext, OpDefinition, OpError, Output, ResultRef, Solver, SolverOptions, VertexDef,
    VertexOptions,
};

struct Link(Digest);

#[async_trait]
impl Op<u64> for Link {
    async fn cache_map(&self, _: &OpContext<u64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(self.0))
    }

    async fn exec(
        &self,
        context: &OpContext<u64>,
        inputs: Vec<ResultRef<u64>>,
    ) -> Result<Vec<u64>, OpError> {
        context.log(1, b"a line of output".to_vec());
        Ok(vec![1 + inputs.iter().map(|input| **input).sum::<u64>()])
    }
}

/// A chain whose vertices no other job has, and whose keys each round has anew.
fn chain(who: &str, round: u64, length: u32) -> OpDefinition<u64> {
    let vertices = (0..length).map(|at| VertexDef {
        digest: Digest::of(format!("{who} {round} {at}")),
        name: format!("link {at}").into(),
        op: Arc::new(Link(Digest::of(format!("{} {at}", round % 2)))) as Arc<dyn Op<u64>>,
        inputs: at
            .checked_sub(1)
            .map(|vertex| Output { vertex, index: 0 })
            .into_iter()
            .collect(),
        options: VertexOptions {
            ignore_cache: round.is_multiple_of(3),
            ..VertexOptions::default()
        },
    });
    let root = Output {
        vertex: length - 1,
        index: 0,
    };
    Definition::new(vertices.collect(), root).unwrap()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn memory_returns_when_all_jobs_are_discarded() {
    let keys = Arc::<MemoryKeyStore>::default();
    let solver = Solver::new(
        SolverOptions::default(),
        Arc::clone(&keys) as _,
        Arc::<MemoryResultStore<u64>>::default(),
    );
    let mut before = 0;
    for round in 0..80 {
        let mut jobs = Vec::new();
        for who in ["a", "b", "c", "d"] {
            let job = solver.new_job(JobOptions::new(who)).await.unwrap();
            let stream = job.progress();
            let built = job.solve(chain(who, round, 500)).await.unwrap();
            assert_eq!(*built.value, 500);
            jobs.push((job, stream));
        }
        for (job, stream) in jobs {
            job.discard().await;
            drop(stream);
        }
        while solver.census().await.unwrap() != Census::default() {
            tokio::task::yield_now().await;
        }
        if round == 30 {
            before = resident();
        }
    }
    let grown = resident().saturating_sub(before);
    // A hundred thousand vertices were loaded meanwhile: what stays are records of the forced runs, of eight bytes each and a key.
    assert!(grown < 8 << 20, "{grown} bytes more, {:?}", keys.usage());
}
