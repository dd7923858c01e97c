//! Solves an arithmetic graph with two jobs whose vertices have different digests but equal cache keys: the edges merge, every
//! operation runs once, and both jobs hear of it under their own digests.
//!
//! Run with `cargo run -p weld-solver --example arithmetic`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use weld_solver::{
    CacheMap, Definition, Digest, Job, JobOptions, MemoryKeyStore, MemoryResultStore, Op,
    OpContext, OpDefinition, OpError, Output, ProgressEvent, ResultRef, SolveError, Solver,
    SolverOptions, VertexDef, VertexOptions,
};

/// Adds a constant to the sum of the inputs.
struct Add {
    constant: i64,
    runs: Arc<AtomicU32>,
}

#[async_trait]
impl Op<i64> for Add {
    async fn cache_map(&self, _: &OpContext<i64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(Digest::of(format!("add {}", self.constant))))
    }

    async fn exec(
        &self,
        _: &OpContext<i64>,
        inputs: Vec<ResultRef<i64>>,
    ) -> Result<Vec<i64>, OpError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let sum = inputs
            .iter()
            .try_fold(self.constant, |sum, input| sum.checked_add(**input));
        Ok(vec![
            sum.ok_or_else(|| OpError::failed("the sum does not fit"))?,
        ])
    }
}

/// Builds definitions; `prefix` makes their digests differ.
struct Graph {
    prefix: &'static str,
    runs: Arc<AtomicU32>,
    vertices: Vec<VertexDef<Arc<dyn Op<i64>>>>,
}

impl Graph {
    fn add(&mut self, constant: i64, inputs: &[Output]) -> Output {
        let name = format!("{} {constant} over {inputs:?}", self.prefix);
        self.vertices.push(VertexDef {
            digest: Digest::of(&name),
            name: name.into(),
            op: Arc::new(Add {
                constant,
                runs: Arc::clone(&self.runs),
            }),
            inputs: inputs.to_vec(),
            options: VertexOptions::default(),
        });
        Output {
            vertex: self.vertices.len() as u32 - 1,
            index: 0,
        }
    }

    /// 1 + ((0 + 7 + 2) + (0 + 7 + 2) + 2 + 2 + 19) = 42
    fn answer(
        prefix: &'static str,
        runs: &Arc<AtomicU32>,
    ) -> Result<OpDefinition<i64>, SolveError<i64>> {
        let mut graph = Self {
            prefix,
            runs: Arc::clone(runs),
            vertices: Vec::new(),
        };
        let (seven, two, nineteen) = (graph.add(7, &[]), graph.add(2, &[]), graph.add(19, &[]));
        let nine = graph.add(0, &[seven, two]);
        let root = graph.add(1, &[nine, nine, two, two, nineteen]);
        Ok(Definition::new(graph.vertices, root)?)
    }
}

async fn solve(job: Job<i64>, definition: OpDefinition<i64>) -> Result<i64, SolveError<i64>> {
    let mut progress = job.progress();
    let built = job.solve(definition).await?;
    let id = Arc::clone(job.id());
    job.discard().await;
    while let Some(event) = progress.next().await {
        if let ProgressEvent::Vertex(vertex) = event
            && vertex.completed.is_some()
        {
            println!(
                "{id}: {} {}",
                vertex.name,
                if vertex.cached { "cached" } else { "done" }
            );
        }
    }
    Ok(*built.value)
}

#[tokio::main]
async fn main() -> Result<(), SolveError<i64>> {
    let solver = Solver::new(
        SolverOptions::default(),
        Arc::new(MemoryKeyStore::default()),
        Arc::new(MemoryResultStore::default()),
    );
    let runs = Arc::new(AtomicU32::new(0));
    let first = solver.new_job(JobOptions::new("first")).await?;
    let second = solver.new_job(JobOptions::new("second")).await?;
    let (a, b) = tokio::try_join!(
        solve(first, Graph::answer("a", &runs)?),
        solve(second, Graph::answer("b", &runs)?),
    )?;
    println!("{a} {b}, operations run: {}", runs.load(Ordering::Relaxed));
    let third = solver.new_job(JobOptions::new("third")).await?;
    let c = solve(third, Graph::answer("c", &runs)?).await?;
    println!(
        "{c} again, operations run: {}, alive: {:?}",
        runs.load(Ordering::Relaxed),
        solver.census().await?
    );
    Ok(())
}
