//! Into a cache that is there, which others may be writing at the same moment.
//!
//! What is there is read, merged with what is to be written, and written if it still is what was read. An object store compares
//! and writes in one (`If-Match`). A registry cannot: it is asked right before a manifest is pushed, and the push may take so long
//! and no longer. So who has not seen ours pushes within that time after ours, or never: when the same manifest is there after a longer
//! time, everybody who writes later has seen it. Otherwise it is begun anew.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weld_digest::Digest;
use weld_solver::chain::CacheChains;
use weld_source::blob_store::{LayoutStore, SetAside};
use weld_source::image::{Descriptor, Document, MAX_MANIFEST};
use weld_source::index_lock::LockWait;
use weld_source::objects::Objects;
use weld_source::progress::Progress;
use weld_source::reference::Reference;
use weld_source::registry::{Registry, RegistryError};
use weld_store::Store;

use super::merge::{includes, merge};
use super::read::{MAX_CONFIG, cache_parts};
use super::upload::Destination;
use super::{
    CacheLayer, CacheManifest, CacheSink, CacheWriteError, LayerFetch, ManifestOptions, Remote,
    WrittenCache, read_config, read_noted, write_manifest, write_noted,
};

/// How long a push of a manifest may take after it was looked what is there.
const PUSH: Duration = Duration::from_secs(3);
/// After so long nobody who looked before a push of ours may still push: longer than [`PUSH`].
const SETTLED: Duration = Duration::from_secs(4);
/// Where others write so often that the manifest is never the same twice, in so many looks in a row ours has to be in it.
const LOOKS: usize = 5;
/// What is said of a cache that cannot be read again.
const TOO_LARGE: &str = "what is to be written is too large by itself";
/// How often it is begun anew because others came between.
const ROUNDS: usize = 40;
/// How often in a row a manifest may take too long to be pushed.
const SLOW: u32 = 5;
/// The longest that is waited at random before it is begun anew, so that those who meet do not meet again.
const APART: Duration = Duration::from_millis(500);

/// Merges a cache whose layers were made sure of into what is there; `None` if no result is left that could be written.
///
/// # Errors
/// [`CacheWriteError`]; what was there is there still.
pub async fn merge_into(
    store: &Store,
    sink: &CacheSink,
    mut there: Destination,
    chains: CacheChains<Remote>,
    options: ManifestOptions,
    fetch: &dyn LayerFetch,
    progress: &Progress,
) -> Result<Option<WrittenCache>, CacheWriteError> {
    let ours = there.complete(chains);
    if ours.items.iter().all(|item| item.results.is_empty()) {
        return Ok(None);
    }
    let merging = Merging {
        store,
        sink,
        ours,
        options,
        fetch,
        progress,
    };
    match sink {
        CacheSink::Registry(registry, reference) => {
            let manifest = merging.registry(registry, reference, there).await?;
            Ok(Some(WrittenCache::Manifest(Box::new(manifest))))
        }
        CacheSink::Objects { objects, names, .. } => {
            for name in names {
                merging.document(objects, name, &mut there).await?;
            }
            Ok(Some(WrittenCache::Named))
        }
        CacheSink::Store(store) => Err(CacheWriteError::Merge {
            place: store.name().to_owned(),
            reason: "a client has to do that itself, as `weld build` does".to_owned(),
        }),
    }
}

struct Merging<'a> {
    store: &'a Store,
    sink: &'a CacheSink,
    ours: CacheChains<Remote>,
    options: ManifestOptions,
    fetch: &'a dyn LayerFetch,
    progress: &'a Progress,
}

impl Merging<'_> {
    /// What is there and complete, with ours.
    async fn with(
        &self,
        theirs: CacheChains<Remote>,
        there: &mut Destination,
    ) -> Result<CacheChains<Remote>, CacheWriteError> {
        let layers = of_others(&theirs);
        there
            .take(self.sink, &theirs, &layers, self.fetch, self.progress)
            .await?;
        Ok(merge(self.ours.clone(), there.complete(theirs)))
    }

    async fn registry(
        &self,
        registry: &Registry,
        reference: &Reference,
        mut there: Destination,
    ) -> Result<CacheManifest, CacheWriteError> {
        // What was there when it was looked last, since ours is in it.
        let mut last: Option<CacheManifest> = None;
        let (mut looks, mut slow) = (0, 0);
        for _ in 0..ROUNDS {
            let before = digest_of(registry, reference).await?;
            if let Some(last) = &last
                && before.as_ref() == Some(&last.descriptor.digest)
            {
                return Ok(last.clone());
            }
            let found = match &before {
                Some(digest) => Some(cache_at(registry, reference, digest).await?),
                None => None,
            };
            let merged = match found {
                Some((chains, manifest)) if includes(&chains, &self.ours) => {
                    looks += 1;
                    // Whoever put it there has seen to it that it stays.
                    if last.is_none() || looks == LOOKS {
                        return Ok(manifest);
                    }
                    last = Some(manifest);
                    self.settle().await;
                    continue;
                }
                Some((chains, _)) => self.with(chains, &mut there).await?,
                None => self.ours.clone(),
            };
            looks = 0;
            let encode = |merged: &CacheChains<Remote>| {
                let manifest = write_manifest(merged, self.options)?;
                Ok(manifest.filter(|manifest| {
                    manifest.manifest.len() as u64 <= MAX_MANIFEST
                        && manifest.config.len() <= MAX_CONFIG
                }))
            };
            let manifest = self
                .fitting(merged, encode)?
                .ok_or_else(|| CacheWriteError::Merge {
                    place: reference.to_string(),
                    reason: TOO_LARGE.to_owned(),
                })?;
            self.sink
                .config(self.store, &manifest, self.progress)
                .await?;
            let looked = Instant::now();
            if digest_of(registry, reference).await? != before {
                apart().await;
                continue;
            }
            let push = self
                .sink
                .publish(self.store, &manifest, self.options, self.progress);
            let left = PUSH.saturating_sub(looked.elapsed());
            match tokio::time::timeout(left, push).await {
                Ok(pushed) => {
                    pushed?;
                    slow = 0;
                }
                // It may have come through all the same.
                Err(_) => {
                    tracing::debug!(%reference, "a cache manifest takes long to be pushed");
                    slow += 1;
                }
            }
            if slow == SLOW {
                return Err(CacheWriteError::Merge {
                    place: reference.to_string(),
                    reason: format!(
                        "the registry did not take a manifest within {} s, {SLOW} times in a row: it fails, or is too slow",
                        PUSH.as_secs()
                    ),
                });
            }
            last = Some(manifest);
            self.settle().await;
        }
        Err(CacheWriteError::Merge {
            place: reference.to_string(),
            reason: format!("in {ROUNDS} rounds others came between each time"),
        })
    }

    async fn settle(&self) {
        let waiting = "waiting for others who may be writing this cache";
        let transfer = self.progress.start(waiting, waiting, None);
        tokio::time::sleep(SETTLED).await;
        apart().await;
        transfer.complete();
    }

    async fn document(
        &self,
        objects: &Objects,
        name: &str,
        there: &mut Destination,
    ) -> Result<(), CacheWriteError> {
        let failed = |source| CacheWriteError::Objects {
            what: format!("cache manifest {name}"),
            store: objects.location().to_string(),
            source,
        };
        let refused = |reason: String| CacheWriteError::Merge {
            place: format!("{name} at {}", objects.location()),
            reason,
        };
        for _ in 0..ROUNDS {
            let (found, version) = objects
                .versioned_document(name, MAX_CONFIG as u64)
                .await
                .map_err(failed)?;
            let merged = match found {
                Some(document) => {
                    let theirs = read_noted(&document);
                    let theirs = theirs.map_err(|error| refused(error.to_string()))?;
                    if includes(&theirs, &self.ours) {
                        return Ok(());
                    }
                    self.with(theirs, there).await?
                }
                None => self.ours.clone(),
            };
            let encode = |merged: &CacheChains<Remote>| {
                let config = write_noted(merged)?;
                Ok(config.filter(|config| config.len() <= MAX_CONFIG))
            };
            let config = self.fitting(merged, encode)?;
            let config = config.ok_or_else(|| refused(TOO_LARGE.to_owned()))?;
            let config = Bytes::from(config);
            let text = format!("writing cache manifest {name}");
            let transfer = self
                .progress
                .start(text.clone(), text, Some(config.len() as u64));
            let replaced = objects.replace_document(name, config, version).await;
            if replaced.map_err(failed)? {
                transfer.complete();
                return Ok(());
            }
            apart().await;
        }
        Err(refused(format!(
            "in {ROUNDS} rounds others came between each time"
        )))
    }

    /// Encodes what was merged; if it is too large, without the oldest results of others. `None` if ours is too large by itself.
    fn fitting<T>(
        &self,
        mut merged: CacheChains<Remote>,
        encode: impl Fn(&CacheChains<Remote>) -> Result<Option<T>, serde_json::Error>,
    ) -> Result<Option<T>, serde_json::Error> {
        let own: HashSet<&Digest> = layers(&self.ours).map(|layer| &layer.digest).collect();
        let is_own = |remote: &Remote| {
            remote
                .layers
                .iter()
                .all(|layer| own.contains(&layer.digest))
        };
        loop {
            if let Some(encoded) = encode(&merged)? {
                return Ok(Some(encoded));
            }
            let results = merged.items.iter().flat_map(|item| &item.results);
            let others = results.filter(|result| !is_own(&result.value));
            let mut moments: Vec<u64> = others.map(|result| result.created).collect();
            moments.sort_unstable();
            let Some(oldest) = moments.get(moments.len() / 4).copied() else {
                return Ok(None);
            };
            let text = "leaving the oldest results of others out: the cache would be too large";
            self.progress.start(text, text, None).complete();
            merged = merged
                .with_results(|mut results| {
                    results.retain(|result| is_own(&result.value) || result.created > oldest);
                    results
                })
                .useful();
        }
    }
}

fn layers(chains: &CacheChains<Remote>) -> impl Iterator<Item = &Arc<Descriptor>> {
    let results = chains.items.iter().flat_map(|item| &item.results);
    results.flat_map(|result| &result.value.layers)
}

/// Layers that the destination has, or that are left out.
fn of_others(chains: &CacheChains<Remote>) -> HashMap<Digest, CacheLayer> {
    let known = layers(chains).map(|layer| {
        let known = CacheLayer {
            descriptor: Arc::clone(layer),
            blob: None,
            lazy: None,
            repositories: Vec::new(),
        };
        (layer.digest.clone(), known)
    });
    known.collect()
}

async fn apart() {
    // Seeded by the system, each time anew.
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    let longest = u64::try_from(APART.as_millis()).unwrap_or(1).max(1);
    tokio::time::sleep(Duration::from_millis(random % longest)).await;
}

fn registry_failed(source: RegistryError) -> CacheWriteError {
    CacheWriteError::Registry {
        what: "manifest".to_owned(),
        source: Box::new(source),
    }
}

async fn digest_of(
    registry: &Registry,
    reference: &Reference,
) -> Result<Option<Digest>, CacheWriteError> {
    match registry.resolve_pushed(reference).await {
        Ok(resolved) => Ok(Some(resolved.descriptor.digest)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(registry_failed(error)),
    }
}

/// The cache that has a manifest of this digest.
async fn cache_at(
    registry: &Registry,
    reference: &Reference,
    digest: &Digest,
) -> Result<(CacheChains<Remote>, CacheManifest), CacheWriteError> {
    let refused = |reason: String| CacheWriteError::Merge {
        place: reference.to_string(),
        reason,
    };
    let repository = reference.repository();
    let descriptor = Descriptor::new(String::new(), digest.clone(), 0);
    let served = registry.fetch_document(repository, &descriptor).await;
    let served = served.map_err(registry_failed)?;
    let (config_descriptor, layers) = cache_parts(served.document)
        .ok_or_else(|| refused("what is there is no build cache".to_owned()))?;
    let config = registry.fetch_bytes(repository, &config_descriptor, MAX_CONFIG as u64);
    let config = config.await.map_err(registry_failed)?;
    let chains = read_config(&config, &by_digest(&layers));
    let chains = chains.map_err(|error| refused(error.to_string()))?;
    let manifest = CacheManifest {
        descriptor: served.descriptor,
        manifest: served.bytes.to_vec(),
        config_descriptor,
        config: config.to_vec(),
        layers,
    };
    Ok((chains, manifest))
}

fn by_digest(layers: &[Descriptor]) -> HashMap<Digest, Arc<Descriptor>> {
    let layers = layers.iter();
    layers
        .map(|layer| (layer.digest.clone(), Arc::new(layer.clone())))
        .collect()
}

/// Lists a cache that was written into a directory of this machine under a tag, merged with the one that is listed there.
/// The directory's lock is held meanwhile. What is listed and is damaged or no cache is replaced.
///
/// # Errors
/// What reading and writing meet.
pub fn merge_into_layout(
    layout: &LayoutStore,
    tag: &str,
    written: Descriptor,
    options: ManifestOptions,
    wait: &dyn LockWait,
) -> io::Result<Vec<Unmerged>> {
    let mut unmerged = Vec::new();
    let mut look = Look::new(layout);
    // What can be looked at before nobody else may write the index is.
    if let Ok(Some(listed)) = layout.tagged(tag)
        && let Ok(theirs) = cache_of(layout, &listed)
    {
        for layer in layers(&theirs) {
            look.has(layer);
        }
    }
    let aside = layout.retag(tag, wait, |listed| {
        let Some(listed) = listed else {
            return Ok(written);
        };
        let ours = cache_of(layout, &written)?;
        let theirs = match cache_of(layout, &listed) {
            Ok(theirs) => theirs,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                unmerged.push(Unmerged::Cache(error));
                return Ok(written);
            }
            Err(error) => return Err(error),
        };
        let theirs = theirs
            .with_results(|mut results| {
                results.retain(|result| result.value.layers.iter().all(|layer| look.has(layer)));
                results
            })
            .useful();
        unmerged.extend(look.damaged());
        let Some(merged) = write_manifest(&merge(ours, theirs), options)? else {
            return Ok(written);
        };
        for (descriptor, content) in [
            (&merged.config_descriptor, &merged.config),
            (&merged.descriptor, &merged.manifest),
        ] {
            let mut writer = layout.write(&descriptor.digest)?;
            writer.append(content)?;
            writer.commit()?;
        }
        Ok(merged.descriptor)
    })?;
    unmerged.extend(aside.map(Unmerged::Index));
    Ok(unmerged)
}

/// Most bytes of others' layers that are compared with their digests in one merge, so that it does not take the longer the more builders
/// have written: it is a second of work. What is beyond has its length.
const MOST_LOOKED_AT: u64 = 1 << 30;

/// Looks which layers of others a directory has, each once.
struct Look<'a> {
    layout: &'a LayoutStore,
    left: u64,
    found: HashMap<Digest, bool>,
    /// Those that are others than their digests say.
    damaged: Vec<Digest>,
}

impl<'a> Look<'a> {
    fn new(layout: &'a LayoutStore) -> Self {
        Self {
            layout,
            left: MOST_LOOKED_AT,
            found: HashMap::new(),
            damaged: Vec::new(),
        }
    }

    fn has(&mut self, layer: &Descriptor) -> bool {
        let digest = &layer.digest;
        if let Some(found) = self.found.get(digest) {
            return *found;
        }
        let looked = self
            .layout
            .has_of_others(digest, layer.size, &mut self.left);
        if let Err(error) = &looked
            && error.kind() == io::ErrorKind::InvalidData
        {
            self.damaged.push(digest.clone());
        }
        // What is not there may come.
        if !matches!(looked, Ok(false)) {
            self.found.insert(digest.clone(), looked.is_ok());
        }
        looked.unwrap_or(false)
    }

    fn damaged(&mut self) -> Option<Unmerged> {
        let damaged = std::mem::take(&mut self.damaged);
        (!damaged.is_empty()).then_some(Unmerged::Layers(damaged))
    }
}

/// What was in a directory and could not be merged with.
#[derive(Debug, thiserror::Error)]
pub enum Unmerged {
    /// The whole index is none.
    #[error("its index cannot be read ({}), is {} now, and what it listed is lost", .0.reason, .0.path.display())]
    Index(SetAside),
    /// The cache under the tag is damaged.
    #[error("the cache in it cannot be read and is replaced: {0}")]
    Cache(io::Error),
    /// Layers are others than their digests say.
    #[error("results of others are left out, since layers in it are not what their digests say: {}", list(.0))]
    Layers(Vec<Digest>),
}

fn list(digests: &[Digest]) -> String {
    let texts: Vec<_> = digests.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn cache_of(layout: &LayoutStore, descriptor: &Descriptor) -> io::Result<CacheChains<Remote>> {
    let manifest = document(layout, descriptor, MAX_MANIFEST)?;
    let document = Document::parse(&manifest, &descriptor.media_type).map_err(invalid)?;
    let (config, layers) =
        cache_parts(document).ok_or_else(|| invalid("what is listed there is no build cache"))?;
    let config = self::document(layout, &config, MAX_CONFIG as u64)?;
    read_config(&config, &by_digest(&layers)).map_err(invalid)
}

/// A blob in memory, verified.
fn document(layout: &LayoutStore, descriptor: &Descriptor, limit: u64) -> io::Result<Vec<u8>> {
    let digest = &descriptor.digest;
    let missing = || invalid(format!("blob {digest} is not there"));
    let (file, size) = layout.find(digest)?.ok_or_else(missing)?;
    if size > limit {
        let reason = format!("blob {digest} is larger than {limit} bytes");
        return Err(invalid(reason));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    let mut hasher = weld_digest::Hasher::new(digest.algorithm());
    hasher.update(&content);
    if hasher.finish() != *digest {
        let reason = format!("blob {digest} is damaged");
        return Err(invalid(reason));
    }
    Ok(content)
}
