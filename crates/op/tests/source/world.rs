//! A solver on a state directory, with a client that has secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use weld_fileset::SelectionOptions;
use weld_llb::{Builder, Constraints, Graph, Platform, Source};
use weld_op::session::{Layout, Secret, Session, SessionError, lend};
use weld_op::{Records, Tree, Worker, definition};
use weld_runtime::{AgentConnector, Runtime, RuntimeConfig};
use weld_solver::{JobOptions, SolveError, Solver, SolverOptions};
use weld_source::local::TreeProvider;
use weld_source::registry::{Anonymous, Credentials, Registry, RegistryConfig};
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{Store, StoreOptions};

pub(crate) struct World {
    pub(crate) worker: Arc<Worker>,
    solver: Solver<Tree>,
    jobs: AtomicU32,
    pub(crate) secrets: BTreeMap<String, String>,
    /// OCI layouts that clients offer.
    pub(crate) layouts: BTreeMap<String, PathBuf>,
}

impl World {
    /// A world on the state in `dir`, which an earlier one may have left.
    pub(crate) fn open(dir: &std::path::Path) -> Self {
        let store = Store::open(dir.join("state"), StoreOptions::default()).unwrap();
        let snapshots = Snapshots::open(&store).unwrap();
        let runtime = Runtime::new(RuntimeConfig::embedded(dir.join("runtime"))).unwrap();
        let registry = Registry::new(RegistryConfig::default(), Arc::new(Anonymous));
        let keys = Arc::new(store.keys().clone());
        let worker = Arc::new(Worker::new(store, snapshots, runtime, registry));
        let records = Arc::new(Records::new(Arc::clone(&worker)));
        Self {
            solver: Solver::new(SolverOptions::default(), keys, records),
            worker,
            jobs: AtomicU32::new(0),
            secrets: BTreeMap::new(),
            layouts: BTreeMap::new(),
        }
    }

    pub(crate) async fn solve(&self, source: Source) -> Result<SnapshotRef, SolveError<Tree>> {
        let mut builder = Builder::new();
        let root = builder.add_source(source, Constraints::default());
        let message = builder.definition(Some(root), &Platform::host()).unwrap();
        self.solve_graph(&Graph::from_pb(message).unwrap()).await
    }

    pub(crate) async fn solve_graph(&self, graph: &Graph) -> Result<SnapshotRef, SolveError<Tree>> {
        let definition = definition(&self.worker, graph, false).unwrap().unwrap();
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut job = JobOptions::new(format!("job-{number}"));
        job.session = Some(lend(Arc::new(Client {
            id: format!("client-{number}"),
            secrets: self.secrets.clone(),
            layouts: self.layouts.clone(),
        })));
        let job = self.solver.new_job(job).await.unwrap();
        let built = job.solve(definition).await?;
        Ok(built.value.snapshot().unwrap().clone())
    }
}

struct Client {
    id: String,
    secrets: BTreeMap<String, String>,
    layouts: BTreeMap<String, PathBuf>,
}

#[async_trait]
impl Session for Client {
    fn id(&self) -> &str {
        &self.id
    }

    async fn directory(
        &self,
        _name: &str,
        _selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, SessionError> {
        Ok(None)
    }

    async fn layout(&self, name: &str) -> Result<Option<Layout>, SessionError> {
        Ok(self.layouts.get(name).cloned().map(Layout::Directory))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        let secret = self.secrets.get(id);
        Ok(secret.map(|secret| Secret::new(secret.clone().into_bytes())))
    }

    async fn agent(&self, _id: &str) -> Result<Option<AgentConnector>, SessionError> {
        Ok(None)
    }

    fn credentials(&self) -> Arc<dyn Credentials> {
        Arc::new(Anonymous)
    }
}
