//! File operations as the solver runs and caches them.

use std::sync::Arc;

use weld_llb::{
    Builder, Constraints, CopyAction, FileAction, FileChange, FileInput, FileOp, Graph,
    MkfileAction, Op, Output, Platform,
};
use weld_op::{Records, Tree, Worker, definition};
use weld_runtime::{Runtime, RuntimeConfig};
use weld_solver::{JobOptions, MemoryKeyStore, SolveError, Solver, SolverOptions};
use weld_source::registry::{Anonymous, Registry, RegistryConfig};
use weld_store::snapshot::Snapshots;
use weld_store::{SnapshotId, Store, StoreOptions};

use crate::scratch::*;

fn worker(dir: &std::path::Path) -> Arc<Worker> {
    let store = Store::open(dir.join("state"), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let runtime = Runtime::new(RuntimeConfig::embedded(dir.join("runtime"))).unwrap();
    let registry = Registry::new(RegistryConfig::default(), Arc::new(Anonymous));
    Arc::new(Worker::new(store, snapshots, runtime, registry))
}

/// A tree with these files.
fn files(builder: &mut Builder, files: &[(&str, &'static str)]) -> Output {
    let actions = files
        .iter()
        .enumerate()
        .map(|(at, (path, content))| FileAction {
            input: if at == 0 {
                FileInput::Empty
            } else {
                FileInput::Action(at - 1)
            },
            output: (at + 1 == files.len()).then_some(0),
            change: FileChange::Mkfile(MkfileAction {
                path: (*path).to_owned(),
                mode: 0o644,
                data: (*content).into(),
                owner: None,
                timestamp: None,
            }),
        });
    builder.add(
        Op::File(FileOp {
            actions: actions.collect(),
        }),
        Constraints::default(),
    )
}

fn copied(builder: &mut Builder, from: Output, src: &str) -> Output {
    let action = FileAction {
        input: FileInput::Empty,
        output: Some(0),
        change: FileChange::Copy(CopyAction::new(FileInput::Input(from), src, "/dest")),
    };
    builder.add(
        Op::File(FileOp {
            actions: vec![action],
        }),
        Constraints::default(),
    )
}

struct World {
    worker: Arc<Worker>,
    solver: Solver<Tree>,
    jobs: std::cell::Cell<u32>,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let worker = worker(dir.path());
        let results = Arc::new(Records::new(Arc::clone(&worker)));
        let keys = Arc::new(MemoryKeyStore::default());
        let solver = Solver::new(SolverOptions::default(), keys, results);
        Self {
            worker,
            solver,
            jobs: std::cell::Cell::new(0),
            _dir: dir,
        }
    }

    /// The snapshot that a definition results in, and what is in it.
    async fn solve(
        &self,
        builder: &Builder,
        root: Output,
    ) -> Result<(SnapshotId, Vec<String>), SolveError<Tree>> {
        let message = builder.definition(Some(root), &Platform::host()).unwrap();
        let graph = Graph::from_pb(message).unwrap();
        let definition = definition(&self.worker, &graph, false).unwrap().unwrap();
        self.jobs.set(self.jobs.get() + 1);
        let job = JobOptions::new(format!("job-{}", self.jobs.get()));
        let job = self.solver.new_job(job).await.unwrap();
        let built = job.solve(definition).await?;
        let snapshot = built.value.snapshot().unwrap();
        let mounted = snapshot.mount().unwrap();
        Ok((snapshot.id(), listing(&mounted.path().join("."))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_content_at_another_path_is_a_hit() {
    let world = World::new();
    let mut builder = Builder::new();
    let one = files(&mut builder, &[("/f", "same"), ("/other", "1")]);
    let two = files(&mut builder, &[("/more", "2"), ("/f", "same")]);
    let three = files(&mut builder, &[("/f", "changed")]);
    let (one, two, three) = (
        copied(&mut builder, one, "/f"),
        copied(&mut builder, two, "/./f"),
        copied(&mut builder, three, "/f"),
    );
    let (first, seen) = world.solve(&builder, one).await.unwrap();
    assert_eq!(seen, ["dest = same"]);
    let (second, _) = world.solve(&builder, two).await.unwrap();
    assert_eq!(first, second);
    let (third, seen) = world.solve(&builder, three).await.unwrap();
    assert_ne!(first, third);
    assert_eq!(seen, ["dest = changed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_source_is_named() {
    let world = World::new();
    let mut builder = Builder::new();
    let tree = files(&mut builder, &[("/f", "x")]);
    let copy = copied(&mut builder, tree, "/foo");
    let error = world.solve(&builder, copy).await.unwrap_err();
    assert!(error.to_string().contains("\"/foo\": not found"), "{error}");
}
