//! From chains to a manifest.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;
use weld_digest::Digest;
use weld_solver::chain::CacheChains;
use weld_source::image::{Descriptor, Index, Manifest, media_type};

use super::config::{
    CONFIG_MEDIA_TYPE, CacheConfig, ChainRow, InputRow, LayerNotes, LayerRow, RecordRow, ResultRow,
};
use super::order::{Placed, ordered};
use super::{ANNOTATION_CREATED, ANNOTATION_UNCOMPRESSED, Remote};

/// How a manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestOptions {
    /// An image manifest whose config is the cache's; otherwise an index that has it among the layers.
    pub image_manifest: bool,
    /// OCI's media types; otherwise docker's, which only an index may have.
    pub oci_types: bool,
}

impl Default for ManifestOptions {
    fn default() -> Self {
        Self {
            image_manifest: true,
            oci_types: true,
        }
    }
}

/// A cache, ready to be stored.
#[derive(Clone, Debug)]
pub struct CacheManifest {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The config's descriptor.
    pub config_descriptor: Descriptor,
    /// The config.
    pub config: Vec<u8>,
    /// The blobs that the manifest names beside the config, each once.
    pub layers: Vec<Descriptor>,
}

/// Writes the manifest of a cache; `None` if no result is in it.
///
/// # Errors
/// If JSON cannot be made of it.
pub fn write_manifest(
    chains: &CacheChains<Remote>,
    options: ManifestOptions,
) -> Result<Option<CacheManifest>, serde_json::Error> {
    let (config, mut layers) = write_config(chains);
    if config.layers.is_empty() {
        return Ok(None);
    }
    for layer in &mut layers {
        layer.media_type = match options.oci_types {
            true => media_type::oci_layer_type(&layer.media_type).to_owned(),
            false => media_type::docker_layer_type(&layer.media_type).to_owned(),
        };
    }
    let config = serde_json::to_vec(&config)?;
    let config_descriptor = Descriptor::of(CONFIG_MEDIA_TYPE, &config);
    let (media_type, manifest) = if options.image_manifest {
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: config_descriptor.clone(),
            layers: layers.clone(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        (media_type::OCI_MANIFEST, serde_json::to_vec(&manifest)?)
    } else {
        let media_type = match options.oci_types {
            true => media_type::OCI_INDEX,
            false => media_type::DOCKER_MANIFEST_LIST,
        };
        let mut manifests = layers.clone();
        manifests.push(config_descriptor.clone());
        let index = Index {
            schema_version: 2,
            media_type: media_type.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        (media_type, serde_json::to_vec(&index)?)
    };
    Ok(Some(CacheManifest {
        descriptor: Descriptor::of(media_type, &manifest),
        manifest,
        config_descriptor,
        config,
        layers,
    }))
}

/// Writes a config whose layers tell themselves what they are, as object stores have it; `None` if no result is in it.
///
/// # Errors
/// If JSON cannot be made of it.
pub fn write_noted(chains: &CacheChains<Remote>) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let (mut config, layers) = write_config(chains);
    if config.layers.is_empty() {
        return Ok(None);
    }
    let layers: HashMap<&Digest, &Descriptor> =
        layers.iter().map(|layer| (&layer.digest, layer)).collect();
    for row in &mut config.layers {
        if row.notes.is_none() {
            row.notes = layers.get(&row.blob).map(|layer| notes(layer));
        }
    }
    serde_json::to_vec(&config).map(Some)
}

fn notes(layer: &Descriptor) -> LayerNotes {
    LayerNotes {
        media_type: media_type::oci_layer_type(&layer.media_type).to_owned(),
        diff_id: layer
            .annotations
            .get(ANNOTATION_UNCOMPRESSED)
            .and_then(|diff_id| diff_id.parse().ok()),
        size: layer.size,
        created_at: layer.annotations.get(ANNOTATION_CREATED).cloned(),
    }
}

/// The config of a cache, and the blobs that it names, each once. Linear in what there is.
fn write_config(chains: &CacheChains<Remote>) -> (CacheConfig, Vec<Descriptor>) {
    let mut layers = Layers::default();
    let records = ordered(chains)
        .into_iter()
        .map(|placed| write_record(&placed, &mut layers))
        .collect();
    let config = CacheConfig {
        layers: layers.rows,
        records,
    };
    (config, layers.blobs)
}

/// The records of a cache whose results are positions of an image's layers, lowest first.
pub(crate) fn image_records(chains: &CacheChains<Vec<i64>>) -> Result<Vec<u8>, serde_json::Error> {
    let records = ordered(chains).into_iter().map(|placed| {
        let (mut results, mut in_pieces) = (Vec::new(), Vec::new());
        for result in &placed.item.results {
            let created_at = moment(result.created);
            match result.value.last() {
                // The lowest layers of the image, as they are.
                Some(top) if result.value.iter().copied().eq(0..=*top) => results.push(ResultRow {
                    layer: *top,
                    created_at,
                }),
                _ => in_pieces.push(ChainRow {
                    layers: result.value.clone(),
                    created_at,
                }),
            }
        }
        RecordRow {
            chains: in_pieces,
            ..record(&placed, results)
        }
    });
    serde_json::to_vec(&records.collect::<Vec<_>>())
}

fn write_record(placed: &Placed<'_, Remote>, layers: &mut Layers) -> RecordRow {
    let best = placed
        .item
        .results
        .iter()
        .filter(|result| !result.value.layers.is_empty())
        .max_by_key(|result| result.created);
    let results = best.map(|result| ResultRow {
        layer: layers.add(&result.value.layers),
        created_at: moment(result.created),
    });
    record(placed, results.into_iter().collect())
}

fn record<R>(placed: &Placed<'_, R>, results: Vec<ResultRow>) -> RecordRow {
    let inputs = placed.inputs.iter().map(|input| {
        let links = input.iter().map(|link| InputRow {
            selector: link
                .selector
                .map(|selector| Digest::from_sha256(selector.0).to_string())
                .unwrap_or_default(),
            link: i64::from(link.item),
        });
        links.collect()
    });
    RecordRow {
        results,
        chains: Vec::new(),
        digest: Digest::from_sha256(placed.item.class.0),
        inputs: inputs.collect(),
    }
}

/// A moment in milliseconds since 1970; one that no calendar has counts as then.
fn moment(milliseconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[derive(Default)]
struct Layers {
    rows: Vec<LayerRow>,
    /// Rows by blob, parent and when they were made: steps may make the same layer one after the other, such as one without a change.
    places: HashMap<(Digest, i64, Option<String>), i64>,
    blobs: Vec<Descriptor>,
    /// Places among the blobs.
    known: HashMap<Digest, usize>,
}

impl Layers {
    /// Adds a stack of layers; returns the position of the uppermost.
    fn add(&mut self, stack: &[Arc<Descriptor>]) -> i64 {
        let mut parent = -1;
        for layer in stack {
            let next = self.rows.len() as i64;
            let created = layer.annotations.get(ANNOTATION_CREATED);
            let place = *self
                .places
                .entry((layer.digest.clone(), parent, created.cloned()))
                .or_insert(next);
            let blobs = &mut self.blobs;
            let blob = *self.known.entry(layer.digest.clone()).or_insert_with(|| {
                blobs.push(Descriptor::clone(layer));
                blobs.len() - 1
            });
            if place == next {
                // The blob is named once, with the time of the first.
                let named = blobs.get(blob);
                let differs =
                    named.and_then(|named| named.annotations.get(ANNOTATION_CREATED)) != created;
                self.rows.push(LayerRow {
                    blob: layer.digest.clone(),
                    parent,
                    notes: differs.then(|| notes(layer)),
                });
            }
            parent = place;
        }
        parent
    }
}
