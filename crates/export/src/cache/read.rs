//! From a config to chains.

use std::collections::HashMap;
use std::sync::Arc;

use weld_digest::Digest;
use weld_solver::chain::{CacheChains, ChainItem, ChainLink, ChainResult};
use weld_source::image::{Descriptor, Document};

use super::config::{CONFIG_MEDIA_TYPE, CacheConfig, InputRow, LayerNotes, LayerRow, RecordRow};
use super::{ANNOTATION_CREATED, ANNOTATION_UNCOMPRESSED, Remote};

/// The largest config that is read: some hundred thousand records.
pub(super) const MAX_CONFIG: usize = 256 << 20;
/// What the layers and their lists of all results may take in memory, in bytes: a small config can name the same layers over and over.
const MAX_STACKS: usize = 256 << 20;
/// What of that a layer takes which has a time of its own.
const COPY: usize = 1 << 10;

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheReadError {
    /// It is too large.
    #[error("the cache config has {0} bytes, and {MAX_CONFIG} is the most that is read")]
    TooLarge(usize),
    /// It is not JSON of the right shape.
    #[error("malformed cache config: {0}")]
    Json(#[from] serde_json::Error),
    /// A record refers to one that is not there.
    #[error("record {record} of the cache refers to record {link}, and there are {count}")]
    Record {
        /// The record.
        record: usize,
        /// What it refers to.
        link: i64,
        /// How many there are.
        count: usize,
    },
    /// Records refer to one another in a circle.
    #[error("record {0} of the cache refers to itself, directly or not")]
    Circle(usize),
    /// An input of a record is empty.
    #[error("record {0} of the cache has an input that nothing can stand for")]
    EmptyInput(usize),
    /// A layer is not there.
    #[error("the cache refers to layer {layer}, and there are {count}")]
    Layer {
        /// The layer.
        layer: i64,
        /// How many there are.
        count: usize,
    },
    /// Layers have one another as parents.
    #[error("layer {0} of the cache is among its own parents")]
    Parents(i64),
    /// The results are of too many layers each.
    #[error("the layers of the cache's results would take over {MAX_STACKS} bytes of memory")]
    Stacks,
    /// A record is named by a digest that no key can have.
    #[error("record {record} of the cache is named {digest}, which is not SHA-256")]
    Algorithm {
        /// The record.
        record: usize,
        /// Its name.
        digest: Digest,
    },
}

/// The config of a cache and its layers, as its manifest or index names them; `None` if it is no cache.
pub fn cache_parts(document: Document) -> Option<(Descriptor, Vec<Descriptor>)> {
    match document {
        Document::Manifest(manifest) if manifest.config.media_type == CONFIG_MEDIA_TYPE => {
            Some((manifest.config, manifest.layers))
        }
        Document::Manifest(_) => None,
        Document::Index(index) => {
            let (mut configs, layers): (Vec<_>, Vec<_>) = index
                .manifests
                .into_iter()
                .partition(|entry| entry.media_type == CONFIG_MEDIA_TYPE);
            (!configs.is_empty()).then(|| (configs.swap_remove(0), layers))
        }
    }
}

/// Reads a config. A result whose layers are not all among `blobs` is left out.
///
/// # Errors
/// [`CacheReadError`] says what is wrong, and where.
pub fn read_config(
    bytes: &[u8],
    blobs: &HashMap<Digest, Arc<Descriptor>>,
) -> Result<CacheChains<Remote>, CacheReadError> {
    if bytes.len() > MAX_CONFIG {
        return Err(CacheReadError::TooLarge(bytes.len()));
    }
    chains(serde_json::from_slice(bytes)?, blobs)
}

/// Reads a config whose layers tell themselves what they are, as object stores have it. A result of whose layers one does not is left
/// out.
///
/// # Errors
/// [`CacheReadError`] says what is wrong, and where.
pub fn read_noted(bytes: &[u8]) -> Result<CacheChains<Remote>, CacheReadError> {
    if bytes.len() > MAX_CONFIG {
        return Err(CacheReadError::TooLarge(bytes.len()));
    }
    let config: CacheConfig = serde_json::from_slice(bytes)?;
    let mut blobs = HashMap::new();
    for layer in &config.layers {
        if let Some(descriptor) = noted(layer) {
            blobs.insert(layer.blob.clone(), Arc::new(descriptor));
        }
    }
    chains(config, &blobs)
}

fn noted(layer: &LayerRow) -> Option<Descriptor> {
    let notes = layer.notes.as_ref()?;
    let diff_id = notes.diff_id.as_ref()?;
    let media_type = match notes.media_type.as_str() {
        "" => return None,
        known => known.to_owned(),
    };
    let mut descriptor = Descriptor::new(media_type, layer.blob.clone(), notes.size);
    let mut note = |key: &str, value: String| descriptor.annotations.insert(key.to_owned(), value);
    note(ANNOTATION_UNCOMPRESSED, diff_id.to_string());
    if let Some(created) = made_at(notes) {
        note(ANNOTATION_CREATED, created.clone());
    }
    Some(descriptor)
}

/// When a layer was made. The year 1 is BuildKit's way to say that it does not know.
fn made_at(notes: &LayerNotes) -> Option<&String> {
    let created = notes.created_at.as_ref();
    created.filter(|created| !created.starts_with("0001-"))
}

/// Reads the records that an image's config carries; they mean the image's layers, lowest first.
///
/// # Errors
/// [`CacheReadError`] says what is wrong, and where.
pub fn read_inline(
    records: &[u8],
    layers: &[Arc<Descriptor>],
) -> Result<CacheChains<Remote>, CacheReadError> {
    if records.len() > MAX_CONFIG {
        return Err(CacheReadError::TooLarge(records.len()));
    }
    let rows = (-1..).zip(layers).map(|(parent, layer)| LayerRow {
        blob: layer.digest.clone(),
        parent,
        notes: None,
    });
    let config = CacheConfig {
        layers: rows.collect(),
        records: serde_json::from_slice(records)?,
    };
    let blobs = layers
        .iter()
        .map(|layer| (layer.digest.clone(), Arc::clone(layer)))
        .collect();
    chains(config, &blobs)
}

fn chains(
    config: CacheConfig,
    blobs: &HashMap<Digest, Arc<Descriptor>>,
) -> Result<CacheChains<Remote>, CacheReadError> {
    let order = in_order(&config.records)?;
    let mut places = vec![0; order.len()];
    for (place, at) in (0..).zip(&order) {
        if let Some(slot) = places.get_mut(*at) {
            *slot = place;
        }
    }
    let mut room = MAX_STACKS;
    let rows = described(&config, blobs, &mut room)?;
    let mut items = Vec::with_capacity(order.len());
    for at in order {
        let Some(record) = config.records.get(at) else {
            continue;
        };
        items.push(ChainItem {
            class: class(at, &record.digest)?,
            inputs: record
                .inputs
                .iter()
                .map(|input| input.iter().filter_map(|row| link(row, &places)).collect())
                .collect(),
            results: results(record, &config, &rows, &mut room)?,
        });
    }
    Ok(CacheChains { items })
}

fn class(record: usize, digest: &Digest) -> Result<weld_solver::Digest, CacheReadError> {
    match digest.as_sha256() {
        Some(hash) => Ok(weld_solver::Digest(*hash)),
        None => Err(CacheReadError::Algorithm {
            record,
            digest: digest.clone(),
        }),
    }
}

fn link(row: &InputRow, places: &[u32]) -> Option<ChainLink> {
    let item = *places.get(usize::try_from(row.link).ok()?)?;
    let selector = (!row.selector.is_empty()).then(|| {
        let parsed = row.selector.parse::<Digest>().ok();
        let hash = parsed.as_ref().and_then(Digest::as_sha256).copied();
        // A selector of another form is as good as a name.
        hash.map_or_else(
            || weld_solver::Digest::of(&row.selector),
            weld_solver::Digest,
        )
    });
    Some(ChainLink { item, selector })
}

/// Records, inputs before what uses them: BuildKit sorts them by their digests.
fn in_order(records: &[RecordRow]) -> Result<Vec<usize>, CacheReadError> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut states = vec![State::New; records.len()];
    let mut order = Vec::with_capacity(records.len());
    let mut work: Vec<(usize, bool)> = Vec::new();
    for start in 0..records.len() {
        work.push((start, false));
        while let Some((at, done)) = work.pop() {
            let (Some(state), Some(record)) = (states.get_mut(at), records.get(at)) else {
                continue;
            };
            if done {
                *state = State::Done;
                order.push(at);
                continue;
            }
            match *state {
                State::Done => continue,
                State::Open => return Err(CacheReadError::Circle(at)),
                State::New => *state = State::Open,
            }
            work.push((at, true));
            for input in &record.inputs {
                if input.is_empty() {
                    return Err(CacheReadError::EmptyInput(at));
                }
                for row in input {
                    let below = usize::try_from(row.link).ok();
                    let below = below.filter(|below| *below < records.len()).ok_or(
                        CacheReadError::Record {
                            record: at,
                            link: row.link,
                            count: records.len(),
                        },
                    )?;
                    match states.get(below) {
                        Some(State::Open) => return Err(CacheReadError::Circle(below)),
                        Some(State::New) => work.push((below, false)),
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(order)
}

fn results(
    record: &RecordRow,
    config: &CacheConfig,
    rows: &[Option<Arc<Descriptor>>],
    room: &mut usize,
) -> Result<Vec<ChainResult<Remote>>, CacheReadError> {
    let mut results = Vec::new();
    let mut add = |layers: &[i64], created: time::OffsetDateTime| {
        let remote = remote(layers, rows)?;
        let created = u64::try_from(created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        results.extend(remote.map(|value| ChainResult { value, created }));
        Ok::<_, CacheReadError>(())
    };
    for result in &record.results {
        add(&stack(result.layer, config, room)?, result.created_at)?;
    }
    for chain in &record.chains {
        take(room, chain.layers.len())?;
        add(&chain.layers, chain.created_at)?;
    }
    results.sort_by_key(|result| std::cmp::Reverse(result.created));
    Ok(results)
}

/// Takes the room of so many layers of a result.
fn take(room: &mut usize, layers: usize) -> Result<(), CacheReadError> {
    let bytes = layers.saturating_mul(size_of::<Arc<Descriptor>>());
    *room = room.checked_sub(bytes).ok_or(CacheReadError::Stacks)?;
    Ok(())
}

/// A layer with its parents, lowest first.
fn stack(top: i64, config: &CacheConfig, room: &mut usize) -> Result<Vec<i64>, CacheReadError> {
    let mut stack = Vec::new();
    let mut next = top;
    while next != -1 {
        if stack.len() == config.layers.len() && !stack.is_empty() {
            return Err(CacheReadError::Parents(top));
        }
        take(room, 1)?;
        stack.push(next);
        let at = usize::try_from(next).ok();
        let row = at.and_then(|at| config.layers.get(at));
        next = row
            .ok_or(CacheReadError::Layer {
                layer: next,
                count: config.layers.len(),
            })?
            .parent;
    }
    stack.reverse();
    Ok(stack)
}

/// The layer of each row; `None` where no blob is known. One that says itself when it was made is a copy.
fn described(
    config: &CacheConfig,
    blobs: &HashMap<Digest, Arc<Descriptor>>,
    room: &mut usize,
) -> Result<Vec<Option<Arc<Descriptor>>>, CacheReadError> {
    let described = |row: &LayerRow| {
        let Some(named) = blobs.get(&row.blob) else {
            return Ok(None);
        };
        let Some(notes) = &row.notes else {
            return Ok(Some(Arc::clone(named)));
        };
        let created = made_at(notes);
        if named.annotations.get(ANNOTATION_CREATED) == created {
            return Ok(Some(Arc::clone(named)));
        }
        *room = room.checked_sub(COPY).ok_or(CacheReadError::Stacks)?;
        let mut own = Descriptor::clone(named);
        match created {
            Some(created) => own
                .annotations
                .insert(ANNOTATION_CREATED.to_owned(), created.clone()),
            None => own.annotations.remove(ANNOTATION_CREATED),
        };
        Ok(Some(Arc::new(own)))
    };
    config.layers.iter().map(described).collect()
}

fn remote(
    layers: &[i64],
    rows: &[Option<Arc<Descriptor>>],
) -> Result<Option<Remote>, CacheReadError> {
    let mut found = Vec::with_capacity(layers.len());
    for layer in layers {
        let at = usize::try_from(*layer).ok();
        let row = at.and_then(|at| rows.get(at));
        let row = row.ok_or(CacheReadError::Layer {
            layer: *layer,
            count: rows.len(),
        })?;
        match row {
            Some(descriptor) => found.push(Arc::clone(descriptor)),
            None => return Ok(None),
        }
    }
    Ok((!found.is_empty()).then_some(Remote { layers: found }))
}
