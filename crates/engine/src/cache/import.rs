//! The caches that a build reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::sync::OnceCell;
use weld_export::cache::{
    ANNOTATION_DESCRIPTION, ANNOTATION_UNCOMPRESSED, CacheOrigin, DEFAULT_SCOPE, Remote, timeout,
};
use weld_op::lazy::{ANNOTATION_HOME, ANNOTATION_MADE, Declared, Home, RemoteLayer};
use weld_op::{MountContents, Tree, Worker};
use weld_solver::chain::{ChainResult, import};
use weld_solver::{
    CacheSource, CacheSourceId, LoadError, RecordId, ResultStore, Solver, StoreError,
};
use weld_source::image::{Descriptor, media_type};
use weld_source::objects::Objects;
use weld_store::snapshot::LayerDescriptor;

use super::absence::{Absences, Weight};
use super::origin::{Place, ReadError};
use super::{CacheImport, mounts};
use crate::internal::Internal;
use crate::job::JobCore;

/// How long a cache may take to be read before the build goes on without it, unless its attributes tell.
const BUDGET: Duration = Duration::from_secs(30);
/// The attribute that tells, in seconds or as Go writes durations; also how long its layers may take in which nothing of them comes.
const TIMEOUT: &str = "timeout";

/// The caches that a build reads, each once. What they are to the solver goes with the build.
pub(crate) struct Imports {
    solver: Solver<Tree>,
    absences: Arc<Absences>,
    by_import: Mutex<BTreeMap<CacheImport, Reading>>,
    by_source: Mutex<HashMap<CacheSourceId, Arc<Imported>>>,
    /// Object stores, which are known to the session's builds for as long as somebody holds them.
    objects: Mutex<Vec<Arc<Objects>>>,
    /// Cache mounts, likewise.
    mounts: Mutex<Vec<Arc<dyn MountContents>>>,
}

/// Shared by all who ask for a cache; only the first one reads it.
type Reading = Arc<OnceCell<Vec<CacheSourceId>>>;

impl Imports {
    pub(crate) fn new(solver: Solver<Tree>, absences: Arc<Absences>) -> Self {
        Self {
            solver,
            absences,
            by_import: Mutex::default(),
            by_source: Mutex::default(),
            objects: Mutex::default(),
            mounts: Mutex::default(),
        }
    }

    /// The solver's names of the caches. One that cannot be read is told of and left out.
    pub(crate) async fn sources(
        &self,
        job: &Arc<JobCore>,
        imports: &[CacheImport],
    ) -> Vec<CacheSourceId> {
        let reads = imports.iter().map(|wanted| async {
            let reading = {
                let mut known = self
                    .by_import
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                Arc::clone(known.entry(wanted.clone()).or_default())
            };
            let read = || self.read(job, wanted);
            reading.get_or_init(read).await.clone()
        });
        let mut sources = futures_util::future::join_all(reads).await.concat();
        sources.dedup();
        sources
    }

    /// A cache that was read.
    pub(super) fn get(&self, source: CacheSourceId) -> Option<Arc<Imported>> {
        let known = self
            .by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(&source).cloned()
    }

    async fn read(&self, job: &Arc<JobCore>, wanted: &CacheImport) -> Vec<CacheSourceId> {
        let name = name(wanted);
        let step = Internal::begin(
            &job.progress,
            &format!("importing cache manifest from {name}"),
            &wanted.kind,
        );
        let read = self.read_in_time(job, wanted, &name).await;
        // The build goes on without it; the step tells why.
        step.end(read).unwrap_or_default()
    }

    async fn read_in_time(
        &self,
        job: &Arc<JobCore>,
        wanted: &CacheImport,
        name: &str,
    ) -> Result<Vec<CacheSourceId>, ReadError> {
        let budget = match wanted.attrs.get(TIMEOUT) {
            None => BUDGET,
            Some(text) => timeout(text).ok_or_else(|| ReadError::Timeout(text.clone()))?,
        };
        if let Some(left) = self.absences.left(wanted, Instant::now()) {
            return Err(ReadError::Absent(left));
        }
        let added = match tokio::time::timeout(budget, self.add(job, wanted, name)).await {
            Ok(added) => added,
            Err(_) => Err(ReadError::Slow(budget)),
        };
        match added.as_ref().err().and_then(weight) {
            Some(weight) => self.absences.failed(wanted, weight, Instant::now()),
            None => self.absences.answered(wanted),
        }
        added
    }

    async fn add(
        &self,
        job: &Arc<JobCore>,
        wanted: &CacheImport,
        name: &str,
    ) -> Result<Vec<CacheSourceId>, ReadError> {
        let origin = CacheOrigin::parse(&wanted.kind, &wanted.attrs)?;
        if let CacheOrigin::Mounts(place, selection) = origin {
            let patience = wanted.attrs.get(TIMEOUT).and_then(|text| timeout(text));
            let contents = mounts::import(job, &place, selection, name, patience)
                .boxed()
                .await?;
            let mut held = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            held.push(contents);
            return Ok(Vec::new());
        }
        let insecure = matches!(origin, CacheOrigin::Registry { insecure: true, .. });
        let place = Place::open(&job.worker, &job.session, origin).await?;
        let home = place.home(insecure);
        if let Some(patience) = wanted.attrs.get(TIMEOUT).and_then(|text| timeout(text)) {
            job.worker
                .wait_for_layers(&home, Some(&job.session), patience);
        }
        let mut sources = Vec::new();
        if let Place::Objects(place) = &place {
            self.objects
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::clone(&place.objects));
        }
        for chains in place.chains().await? {
            let importing = tokio::task::spawn_blocking(move || {
                import(chains.with_results(|results| {
                    let dated = results.into_iter().map(|result| ChainResult {
                        value: (result.value, result.created),
                        created: result.created,
                    });
                    dated.collect()
                }))
            });
            let (keys, records) = importing.await??;
            let imported = Arc::new(Imported {
                worker: Arc::clone(&job.worker),
                home: home.clone(),
                description: format!("imported from {name}"),
                records,
                declared: Arc::default(),
            });
            let id = self.solver.add_cache_source(CacheSource {
                keys: Arc::new(keys),
                results: Arc::clone(&imported) as Arc<dyn ResultStore<Tree>>,
            });
            self.by_source
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, imported);
            sources.push(id);
        }
        Ok(sources)
    }
}

impl Drop for Imports {
    fn drop(&mut self) {
        let known = self.by_source.get_mut();
        for source in known.unwrap_or_else(PoisonError::into_inner).keys() {
            self.solver.remove_cache_source(*source);
        }
    }
}

/// What a failure says of the cache; `None` for one that is an answer, or the client's fault.
fn weight(error: &ReadError) -> Option<Weight> {
    match error {
        ReadError::Slow(_) => Some(Weight::All),
        ReadError::Registry(error) if error.failure()?.is_of_the_server() => Some(Weight::One),
        ReadError::Objects(error) if error.is_of_the_server() => Some(Weight::One),
        _ => None,
    }
}

/// What people call a cache.
fn name(import: &CacheImport) -> String {
    if import.kind == "gha" {
        let scope = import.attrs.get("scope");
        return format!("gha:{}", scope.map_or(DEFAULT_SCOPE, String::as_str));
    }
    let place = ["ref", "src"].iter().find_map(|key| import.attrs.get(*key));
    match (place, import.attrs.get("name")) {
        (Some(place), _) => place.clone(),
        (None, Some(name)) => format!("{}:{name}", import.kind),
        (None, None) => import.kind.clone(),
    }
}

/// The results of a cache that was read: layers elsewhere.
pub(super) struct Imported {
    worker: Arc<Worker>,
    pub(super) home: Home,
    description: String,
    /// By the numbers of the records, with the moments when they were made, in milliseconds since 1970.
    records: Vec<(Remote, u64)>,
    declared: Arc<Declared>,
}

impl Imported {
    /// The layers of a record.
    pub(super) fn remote(&self, record: RecordId) -> Option<&Remote> {
        self.record(record).map(|(remote, _)| remote)
    }

    fn record(&self, record: RecordId) -> Option<&(Remote, u64)> {
        self.records.get(usize::try_from(record.0).ok()?)
    }

    /// What the store is told of a layer of its.
    pub(super) fn lazy(&self, layer: &Descriptor) -> Option<LayerDescriptor> {
        let diff_id = layer.annotations.get(ANNOTATION_UNCOMPRESSED)?;
        let mut annotations = layer.annotations.clone();
        annotations.insert(ANNOTATION_HOME.to_owned(), self.home.to_string());
        Some(LayerDescriptor {
            diff_id: diff_id.parse().ok()?,
            media_type: media_type::oci_layer_type(&layer.media_type).to_owned(),
            digest: layer.digest.clone(),
            size: layer.size,
            annotations,
        })
    }

    fn stack(&self, record: RecordId) -> Option<Vec<RemoteLayer>> {
        let (remote, made) = self.record(record)?;
        // One that does not say what it is when unpacked cannot be checked.
        let diff_ids = remote.diff_ids()?;
        let layers = remote.layers.iter().zip(diff_ids);
        let layers = layers.map(|(layer, diff_id)| RemoteLayer {
            description: layer
                .annotations
                .get(ANNOTATION_DESCRIPTION)
                .unwrap_or(&self.description)
                .clone(),
            descriptor: (**layer).clone(),
            diff_id,
        });
        let mut stack: Vec<_> = layers.collect();
        // When it was made stays what it was, so that the same results are the same cache again.
        if let Some(top) = stack.last_mut() {
            let annotations = &mut top.descriptor.annotations;
            annotations.insert(ANNOTATION_MADE.to_owned(), made.to_string());
        }
        Some(stack)
    }
}

#[async_trait]
impl ResultStore<Tree> for Imported {
    fn save(&self, _: &Tree) -> Result<RecordId, StoreError> {
        Err(StoreError::new(
            "save a result",
            "a cache that was imported takes none",
        ))
    }

    async fn load(&self, record: RecordId) -> Result<Tree, LoadError> {
        let stack = self.stack(record).ok_or(LoadError::Gone(record))?;
        let (worker, home) = (Arc::clone(&self.worker), self.home.clone());
        let declared = Arc::clone(&self.declared);
        let failed =
            |source: Arc<dyn std::error::Error + Send + Sync>| LoadError::Failed { record, source };
        let loading = tokio::task::spawn_blocking(move || worker.declare(&declared, &home, &stack));
        match loading.await {
            Ok(loaded) => loaded.map_err(|error| failed(Arc::new(error))),
            Err(stopped) => Err(failed(Arc::new(stopped))),
        }
    }
}
