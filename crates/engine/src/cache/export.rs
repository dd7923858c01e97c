//! The caches that a build writes.

mod anew;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weld_digest::Digest;
use weld_export::InlineCache;
use weld_export::cache::{
    ANNOTATION_CREATED, ANNOTATION_DESCRIPTION, ANNOTATION_UNCOMPRESSED, CacheDestination,
    CacheExportOptions, CacheLayer, CacheSink, CacheWriteError, Destination, MountPlace, Remote,
    WrittenCache, ignores_errors, merge_into, write_cache,
};
use weld_llb::reference::Reference;
use weld_op::Tree;
use weld_op::lazy::{ANNOTATION_HOME, ANNOTATION_MADE, Home};
use weld_solver::chain::{CacheChains, Candidate, ChainMode, ChainOptions, ChainResult};
use weld_solver::keystore::Record;
use weld_solver::{CacheSourceId, RecordId, Root};
use weld_source::blob_store::BlobStore;
use weld_source::image::Descriptor;
use weld_source::objects::Bucket;
use weld_source::progress::Progress;
use weld_source::registry::Registry;
use weld_store::SnapshotId;
use weld_store::layer::Compression;
use weld_store::snapshot::{LayerBlob, LayerOptions, Made, SnapshotError, SnapshotRef};

use self::anew::{Fetch, ItemOrigin, Ready, ToMake, lost_layers};
use super::import::Imported;
use super::mounts;
use super::origin::repositories;
use super::{CacheExport, CacheExportError};
use crate::internal::Internal;
use crate::job::JobCore;

/// The key of a response under which clients find the manifest of a cache.
const RESPONSE: &str = "cache.manifest";
/// How many layers are made at once: each uses all processors already, but small ones leave them idle in between.
const LAYERS_AT_ONCE: usize = 4;
/// How often what is lost is made anew: what is made is here, so once is enough, unless something else is lost meanwhile.
const RENEWALS: usize = 3;
/// How many records are loaded at once: each is a few look-ups in the database, on a thread that may block.
const LOADS_AT_ONCE: usize = 64;

/// Writes the caches that a build is to write, all but those in images; what the client is told.
pub(crate) async fn all(
    job: &Arc<JobCore>,
    roots: &[Root],
    exports: &[CacheExport],
) -> Result<BTreeMap<String, String>, CacheExportError> {
    let mut response = BTreeMap::new();
    for (number, export) in exports.iter().enumerate() {
        let key = job.own_key(&number.to_string());
        let options = match CacheExportOptions::parse(&export.kind, &export.attrs) {
            Err(error) if ignores_errors(&export.attrs) => {
                let step = Internal::begin(&job.progress, "exporting cache", &key);
                drop(step.end(Err::<(), _>(error)));
                continue;
            }
            parsed => parsed?,
        };
        let name = match &options.destination {
            CacheDestination::Registry { .. } => "exporting cache to registry",
            CacheDestination::Store(_) => "exporting cache to client directory",
            CacheDestination::Objects(cache) => match cache.location.bucket {
                Bucket::S3(_) => "exporting cache to Amazon S3",
                Bucket::Azure(_) => "exporting cache to Azure Blob Storage",
                Bucket::Actions(_) => "exporting to GitHub Actions Cache",
            },
            CacheDestination::Mounts(_) => "exporting cache mounts",
            CacheDestination::Inline => continue,
        };
        let step = Internal::begin(&job.progress, name, &key);
        let written = match &options.destination {
            CacheDestination::Mounts(wanted) => {
                let written = mounts::export(job, wanted, options.patience, &step);
                let written = written.boxed().await;
                // A build is none the worse without them; the step tells why.
                step.end(written).or(Ok(None))
            }
            _ => {
                let writing = Writing {
                    job,
                    options: &options,
                    step: &step,
                    progress: step.transfers(),
                };
                let mut written = writing.write(roots).await;
                if let Err(CacheExportError::Write(CacheWriteError::Damaged { .. })) = &written {
                    let warning = written.err().map(|error| format!("WARNING: {error}"));
                    step.warn(warning.unwrap_or_default());
                    written = writing.write(roots).await;
                }
                step.end(written)
            }
        };
        match written {
            Ok(Some(manifest)) => {
                // A client that has a directory of its own lists this one in it.
                let is_local = is_local(&options.destination);
                if is_local || !response.contains_key(RESPONSE) {
                    response.insert(RESPONSE.to_owned(), manifest.clone());
                }
                if exports.len() > 1 {
                    response.insert(format!("{RESPONSE}/{number}"), manifest);
                }
            }
            Ok(None) => {}
            // The step tells why.
            Err(_) if options.ignore_error => {}
            Err(error) => return Err(error),
        }
    }
    Ok(response)
}

/// The chains of one result for the config of its image, where the layers are snapshots.
pub(crate) async fn inline(
    job: &Arc<JobCore>,
    root: Root,
) -> Result<InlineCache, CacheExportError> {
    let options = ChainOptions {
        mode: ChainMode::Max,
        ..ChainOptions::default()
    };
    let chains = chains(job, &[root], options).await?;
    let mut stacks = HashMap::new();
    for item in &chains.items {
        for result in &item.results {
            let record = result.value.record;
            // What was found in another cache is declared here with the layers that the image has.
            if stacks.contains_key(&(record.source, record.id)) {
                continue;
            }
            let loaded = job.solver.load_record(record).await.ok();
            let snapshot = loaded.and_then(|tree| tree.snapshot().cloned());
            let layers = snapshot.map(|snapshot| {
                let layers = snapshot.layer_snapshots();
                let stack: Vec<_> = layers.iter().map(SnapshotRef::id).collect();
                (stack, layers.last().and_then(made_elsewhere))
            });
            stacks.insert((record.source, record.id), layers);
        }
    }
    Ok(InlineCache::new(chains.with_results(|results| {
        let stacks = results.into_iter().filter_map(|result| {
            let record = result.value.record;
            let (value, made) = stacks.get(&(record.source, record.id))?.clone()?;
            Some(ChainResult {
                value,
                created: made.unwrap_or(result.created),
            })
        });
        stacks.collect()
    })))
}

async fn chains(
    job: &Arc<JobCore>,
    roots: &[Root],
    options: ChainOptions,
) -> Result<CacheChains<Candidate>, CacheExportError> {
    let failed = |error: String| CacheExportError::Chains(error);
    let solved = job
        .solver_job()
        .map_err(|error| failed(error.to_string()))?;
    solved
        .cache_chains(roots, options)
        .await
        .map_err(|error| failed(error.to_string()))
}

/// One cache on its way out.
struct Writing<'a> {
    job: &'a Arc<JobCore>,
    options: &'a CacheExportOptions,
    step: &'a Internal,
    progress: Progress,
}

/// A record of the solver's.
type Key = (CacheSourceId, RecordId);

/// What is known of the layers of a cache.
#[derive(Default)]
struct Layers {
    by_digest: HashMap<Digest, CacheLayer>,
    /// With the moments when they were made, where that was elsewhere.
    by_record: HashMap<Key, Option<(Remote, Option<u64>)>>,
}

impl Layers {
    /// Adds the layer of a result. Of equal ones there is one blob, and each has the time when it was made.
    fn add(&mut self, layer: CacheLayer) -> Arc<Descriptor> {
        let own = Arc::clone(&layer.descriptor);
        let digest = own.digest.clone();
        let known = self
            .by_digest
            .entry(digest)
            .or_insert_with(|| layer.clone());
        // One that is elsewhere for one result may be here for another.
        if known.blob.is_none() {
            known.blob = layer.blob;
        }
        let known = &known.descriptor;
        let created = known.annotations.get(ANNOTATION_CREATED);
        match own.annotations.get(ANNOTATION_CREATED) == created {
            true => Arc::clone(known),
            false => own,
        }
    }
}

impl Writing<'_> {
    /// Writes it; its manifest's descriptor, unless there is nothing to write or it has none.
    async fn write(&self, roots: &[Root]) -> Result<Option<String>, CacheExportError> {
        let sink = self.sink().await?;
        let fetch = Fetch::new(self.job);
        let (ready, there) = self.made_sure(roots, &sink, &fetch).await?;
        let (store, manifest) = (&self.job.worker.store, self.options.manifest);
        let (remotes, progress) = (ready.remotes, &self.progress);
        let written = match self.options.merge {
            true => {
                let merging = merge_into(store, &sink, there, remotes, manifest, &fetch, progress);
                Box::pin(merging).await?
            }
            false => write_cache(store, &sink, &there, remotes, manifest, progress).await?,
        };
        let Some(written) = written else {
            let skipping = "skipping cache export for empty result";
            self.progress.start(skipping, skipping, None).complete();
            return Ok(None);
        };
        let WrittenCache::Manifest(written) = written else {
            return Ok(None);
        };
        let descriptor = serde_json::to_string(&written.descriptor)
            .map_err(weld_export::cache::CacheWriteError::from)?;
        Ok(Some(descriptor))
    }

    /// Makes sure of all layers at the destination. What cannot be had is a miss: what made it runs again, and what it makes is exported.
    async fn made_sure(
        &self,
        roots: &[Root],
        sink: &CacheSink,
        fetch: &Fetch<'_>,
    ) -> Result<(Ready, Destination), CacheExportError> {
        let mut there = Destination::default();
        let mut round = 0;
        loop {
            let ready = self.prepare(roots, &fetch.lost()).await?;
            let progress = &self.progress;
            there
                .take(sink, &ready.remotes, &ready.layers, fetch, progress)
                .await?;
            let lost = fetch.lost();
            let mut anew = ready.to_make_anew(&lost);
            if round == RENEWALS && !anew.roots.is_empty() {
                let text = "WARNING: what was made anew is lost again: it is left out of the cache";
                self.step.warn(text.to_owned());
                anew = ToMake::default();
            }
            fetch.tell(self.step, &anew.layers);
            if anew.roots.is_empty() {
                return Ok((ready, there));
            }
            anew::make(self.job, anew.roots, &lost).boxed().await?;
            round += 1;
        }
    }

    /// The chains, with the layers of each result that are not lost.
    async fn prepare(
        &self,
        roots: &[Root],
        lost: &Arc<HashSet<Digest>>,
    ) -> Result<Ready, CacheExportError> {
        let preparing = "preparing build cache for export";
        let transfer = self.progress.start(preparing, preparing, None);
        let options = ChainOptions {
            mode: self.options.mode,
            ..ChainOptions::default()
        };
        let chains = chains(self.job, roots, options).await?;
        let mut layers = Layers::default();
        // What is made first may be a part of what is only taken if it is there.
        for make in [true, false] {
            self.collect(&chains, make, lost, &mut layers).await?;
        }
        let Layers {
            by_digest,
            by_record,
        } = layers;
        let mut origins = Vec::with_capacity(chains.items.len());
        let remotes = chains.with_results(|results| {
            let mut origin = ItemOrigin::default();
            let mut usable = Vec::new();
            for result in results {
                let Candidate { record, make, root } = result.value;
                if make {
                    origin.root = origin.root.or(root);
                }
                let Some(Some((remote, made))) = by_record.get(&(record.source, record.id)) else {
                    continue;
                };
                let before = origin.lost.len();
                origin
                    .lost
                    .extend(lost_layers(remote, &by_digest, lost).cloned());
                if origin.lost.len() == before && usable.is_empty() {
                    usable.push(ChainResult {
                        value: remote.clone(),
                        created: made.unwrap_or(result.created),
                    });
                }
            }
            if !usable.is_empty() {
                origin.lost.clear();
            }
            origins.push(origin);
            usable
        });
        transfer.complete();
        Ok(Ready {
            remotes,
            layers: by_digest,
            origins,
        })
    }

    async fn sink(&self) -> Result<CacheSink, CacheExportError> {
        match &self.options.destination {
            CacheDestination::Registry {
                reference,
                insecure,
            } => {
                let registry = registry_of(self.job, reference, *insecure);
                let registry = registry.impatient(self.options.patience);
                Ok(CacheSink::Registry(registry, reference.clone()))
            }
            CacheDestination::Store(id) => Ok(CacheSink::Store(store_of(self.job, id).await?)),
            CacheDestination::Objects(cache) => Ok(CacheSink::objects(cache).await?),
            CacheDestination::Inline | CacheDestination::Mounts(_) => {
                Err(CacheExportError::NoStore("none".to_owned()))
            }
        }
    }

    /// Finds the layers of those records that may be made, or of the others; what is lost is made of files that are here.
    async fn collect(
        &self,
        chains: &CacheChains<Candidate>,
        make: bool,
        lost: &Arc<HashSet<Digest>>,
        layers: &mut Layers,
    ) -> Result<(), CacheExportError> {
        let mut wanted: Vec<(Key, Record)> = Vec::new();
        for candidate in chains.items.iter().flat_map(|item| &item.results) {
            let record = candidate.value.record;
            let key = (record.source, record.id);
            if candidate.value.make != make || layers.by_record.contains_key(&key) {
                continue;
            }
            let remote = match self.job.imports.get(record.source) {
                Some(imported) => {
                    let remote = imported.remote(record.id);
                    remote.map(|remote| (elsewhere(&imported, remote, layers), None))
                }
                None => {
                    wanted.push((key, record));
                    None
                }
            };
            layers.by_record.insert(key, remote);
        }
        let stacks = self.stacks(wanted).await;
        let blobs = self.blobs(&stacks, make, lost).await?;
        for (key, stack) in stacks {
            let found = stack.iter().map(|layer| blobs.get(&layer.id()));
            let Some(found) = found.collect::<Option<Vec<_>>>() else {
                continue;
            };
            let remote = Remote {
                layers: found
                    .into_iter()
                    .map(|one| layers.add(one.clone()))
                    .collect(),
            };
            let made = stack.last().and_then(made_elsewhere);
            layers.by_record.insert(key, Some((remote, made)));
        }
        Ok(())
    }

    /// The layers of records. One that is gone is left out.
    async fn stacks(&self, records: Vec<(Key, Record)>) -> Vec<(Key, Vec<SnapshotRef>)> {
        let loads = records.into_iter().map(|(key, record)| async move {
            let loaded = self.job.solver.load_record(record).await.ok();
            let snapshot = loaded.as_deref().and_then(Tree::snapshot);
            Some((key, snapshot?.layer_snapshots()))
        });
        let loads = futures_util::stream::iter(loads).buffered(LOADS_AT_ONCE);
        loads.filter_map(std::future::ready).collect().boxed().await
    }

    /// The blob of each layer that is in one of the stacks, made if it may be.
    async fn blobs(
        &self,
        stacks: &[(Key, Vec<SnapshotRef>)],
        make: bool,
        lost: &Arc<HashSet<Digest>>,
    ) -> Result<HashMap<SnapshotId, CacheLayer>, CacheExportError> {
        let mut distinct: BTreeMap<SnapshotId, SnapshotRef> = BTreeMap::new();
        for layer in stacks.iter().flat_map(|(_, stack)| stack) {
            distinct.entry(layer.id()).or_insert_with(|| layer.clone());
        }
        let (snapshots, distinct): (_, Vec<SnapshotRef>) = (
            self.job.worker.snapshots.clone(),
            distinct.into_values().collect(),
        );
        let (distinct, made) = tokio::task::spawn_blocking(move || {
            let made = snapshots.made(&distinct)?;
            Ok::<_, SnapshotError>((distinct, made))
        })
        .await??;
        let (compression, force) = (self.options.compression, self.options.force_compression);
        let work = distinct.into_iter().zip(made).map(|(layer, made)| {
            let lost = Arc::clone(lost);
            tokio::task::spawn_blocking(move || {
                let blob = blob(&layer, make, &lost, compression, force)?;
                let layer_of = blob.and_then(|blob| cache_layer(blob, made));
                Ok::<_, SnapshotError>((layer.id(), layer_of))
            })
        });
        let mut work = futures_util::stream::iter(work).buffer_unordered(LAYERS_AT_ONCE);
        let mut blobs = HashMap::new();
        while let Some(done) = work.next().await {
            let (id, layer) = done??;
            blobs.extend(layer.map(|layer| (id, layer)));
        }
        Ok(blobs)
    }
}

fn is_local(destination: &CacheDestination) -> bool {
    match destination {
        CacheDestination::Store(_) => true,
        CacheDestination::Mounts(mounts) => matches!(mounts.place, MountPlace::Store { .. }),
        _ => false,
    }
}

/// A registry, as the client of a build.
pub(super) fn registry_of(job: &JobCore, reference: &Reference, insecure: bool) -> Registry {
    let registry = &job.worker.registry;
    let registry = registry.with_credentials(job.session.credentials());
    match insecure {
        true => registry.trusting(reference.repository().domain()),
        false => registry,
    }
}

/// A store of a build's client.
pub(super) async fn store_of(
    job: &JobCore,
    id: &str,
) -> Result<Arc<dyn BlobStore>, CacheExportError> {
    let store = job.session.blob_store(id).await?;
    store.ok_or_else(|| CacheExportError::NoStore(id.to_owned()))
}

/// When the result that has this uppermost layer was made, if it was found in another cache: in milliseconds since 1970.
fn made_elsewhere(top: &SnapshotRef) -> Option<u64> {
    let known = top.known_blob(Compression::Gzip(None), false).ok()??;
    let made = known.descriptor.annotations.get(ANNOTATION_MADE)?;
    made.parse().ok()
}

fn blob(
    layer: &SnapshotRef,
    make: bool,
    lost: &HashSet<Digest>,
    compression: Compression,
    force: bool,
) -> Result<Option<LayerBlob>, SnapshotError> {
    let known = layer.known_blob(compression, force)?;
    let is_lost =
        |known: &LayerBlob| known.blob.is_none() && lost.contains(&known.descriptor.digest);
    // Of a lost one whose files are here another is made.
    if known.as_ref().is_some_and(|known| !is_lost(known)) || !make {
        return Ok(known);
    }
    let options = LayerOptions {
        force,
        ..LayerOptions::new(compression)
    };
    match layer.layer(&options) {
        // It is elsewhere in another compression than is wanted.
        Err(SnapshotError::NotUnpacked { .. }) => layer.known_blob(compression, false),
        other => other.map(Some),
    }
}

/// A layer of this store's as a cache has it; `None` if its blob is neither here nor elsewhere.
fn cache_layer(layer: LayerBlob, made: Option<Made>) -> Option<CacheLayer> {
    let LayerBlob { descriptor, blob } = layer;
    let home = descriptor.annotations.get(ANNOTATION_HOME);
    let home: Option<Home> = home.and_then(|home| home.parse().ok());
    if blob.is_none() && home.is_none() {
        return None;
    }
    let mut stated = Descriptor::new(
        descriptor.media_type.clone(),
        descriptor.digest.clone(),
        descriptor.size,
    );
    let mut note = |key: &str, value: String| stated.annotations.insert(key.to_owned(), value);
    note(ANNOTATION_UNCOMPRESSED, descriptor.diff_id.to_string());
    // When and by what it was made: as the cache says that it came from, else as is known here.
    let made_here = made.map(|made| {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(made.at)).ok();
        let at = at.and_then(|at| at.format(&Rfc3339).ok());
        (at.unwrap_or_default(), made.description)
    });
    let (at, description) = made_here.unwrap_or_default();
    for (key, here) in [
        (ANNOTATION_CREATED, at),
        (ANNOTATION_DESCRIPTION, description),
    ] {
        let value = descriptor.annotations.get(key).cloned().unwrap_or(here);
        if !value.is_empty() {
            note(key, value);
        }
    }
    let source = blob.as_ref().and_then(|blob| {
        let source = blob.info().labels.get(weld_store::snapshot::LABEL_SOURCE)?;
        source.parse().ok()
    });
    let mut others = home.as_ref().map(repositories).unwrap_or_default();
    others.extend(source);
    Some(CacheLayer {
        descriptor: Arc::new(stated),
        lazy: blob.is_none().then(|| Arc::new(descriptor)),
        blob,
        repositories: others,
    })
}

/// The layers of a result that another cache has.
fn elsewhere(imported: &Imported, remote: &Remote, layers: &mut Layers) -> Remote {
    let found = remote.layers.iter().map(|layer| {
        layers.add(CacheLayer {
            descriptor: Arc::clone(layer),
            blob: None,
            lazy: imported.lazy(layer).map(Arc::new),
            repositories: repositories(&imported.home),
        })
    });
    Remote {
        layers: found.collect(),
    }
}
