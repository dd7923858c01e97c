//! Where a client wants its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use tonic::Status;
use weld_engine::{ExportKind, ExportRequest, ExportTarget};
use weld_export::Exporter;
use weld_proto::control::{BuildResultInfo, Descriptor, Exporter as AskedExporter};

use crate::gateway::request_error;
use crate::session::{ClientSession, client_target};

/// The metadata of a result that names the image.
const IMAGE_NAME: &str = "image.name";
/// The name that stands for the one that the frontend chose.
const CHOSEN: &str = "*";

/// What is wanted, as the engine has it.
pub(super) fn requests(
    exporters: &[AskedExporter],
    to_client: impl Fn(usize) -> Result<ExportTarget, Status>,
) -> Result<Vec<ExportRequest>, Status> {
    let request = |(number, exporter): (usize, &AskedExporter)| {
        let kind = kind(&exporter.kind)?;
        let target = match kind {
            ExportKind::Image | ExportKind::CacheOnly => ExportTarget::Nowhere,
            _ => to_client(number)?,
        };
        let request = ExportRequest {
            kind,
            attrs: exporter.attrs.clone(),
            target,
        };
        check(&request)?;
        Ok(request)
    };
    exporters.iter().enumerate().map(request).collect()
}

/// Refuses what no result could be exported as, before anything is built.
fn check(request: &ExportRequest) -> Result<(), Status> {
    let mut known = request.clone();
    known.attrs.retain(|key, _| !is_metadata(key));
    if known.attrs.get("name").is_some_and(|name| name == CHOSEN) {
        // The name is not known yet, so nobody can say what may be done with it.
        for attr in ["name", "push", "push-by-digest"] {
            known.attrs.remove(attr);
        }
    }
    Exporter::validate(&known).map_err(|error| request_error(error.to_string()))
}

/// Whether an exporter's attribute is metadata of the result.
fn is_metadata(key: &str) -> bool {
    key.starts_with("containerimage.")
}

/// What a frontend says and what exporters are told complement each other: metadata that is given
/// to an exporter as an attribute is the result's, annotations of the result are those of all its
/// images unless the client says otherwise, and the name `*` is the one that the frontend chose.
pub(super) fn complement(requests: &mut [ExportRequest], metadata: &mut BTreeMap<String, Bytes>) {
    for request in requests {
        let keys: Vec<_> = request
            .attrs
            .keys()
            .filter(|key| is_metadata(key))
            .cloned()
            .collect();
        for key in keys {
            if let Some(value) = request.attrs.remove(&key) {
                metadata.insert(key, Bytes::from(value));
            }
        }
        if request.kind.is_image() {
            let annotations = metadata.iter().filter(|(key, _)| is_annotation(key));
            for (key, value) in annotations {
                let attr = request.attrs.entry(key.clone());
                attr.or_insert_with(|| String::from_utf8_lossy(value).into_owned());
            }
        } else {
            // buildx gives them to every exporter, and files have no place for them.
            request.attrs.retain(|key, _| !is_annotation(key));
        }
        let chosen = metadata.get(IMAGE_NAME).filter(|name| !name.is_empty());
        if let Some(name) = request.attrs.get_mut("name")
            && name == CHOSEN
            && let Some(chosen) = chosen
        {
            *name = String::from_utf8_lossy(chosen).into_owned();
        }
    }
}

/// Whether metadata is an annotation, in the words of the exporters' attributes.
fn is_annotation(key: &str) -> bool {
    let place = key.split(['.', '[']).next().unwrap_or_default();
    matches!(
        place,
        "annotation"
            | "annotation-manifest"
            | "annotation-manifest-descriptor"
            | "annotation-index"
            | "annotation-index-descriptor"
    ) && key != place
}

/// The client as a target.
pub(super) fn to_client(
    client: Option<&Arc<ClientSession>>,
    number: usize,
) -> Result<ExportTarget, Status> {
    let absent = || request_error("results can only be sent to a client with a session");
    let client = Arc::clone(client.ok_or_else(absent)?);
    Ok(ExportTarget::Client(client_target(client, number)))
}

fn kind(name: &str) -> Result<ExportKind, Status> {
    match name {
        "local" => Ok(ExportKind::Local),
        "tar" => Ok(ExportKind::Tar),
        "oci" => Ok(ExportKind::OciArchive),
        "docker" => Ok(ExportKind::DockerArchive),
        "image" => Ok(ExportKind::Image),
        "cacheonly" => Ok(ExportKind::CacheOnly),
        other => Err(request_error(format!(
            "exporter {other:?} could not be found"
        ))),
    }
}

#[derive(Deserialize)]
struct OciDescriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What the history says of the results, from what the exporters told.
pub(super) fn results(exports: &[BTreeMap<String, String>]) -> Option<BuildResultInfo> {
    let images = exports.iter().enumerate().filter_map(|(number, told)| {
        let number = i64::try_from(number).ok()?;
        Some((number, descriptor(told)?))
    });
    let results: BTreeMap<_, _> = images.collect();
    Some(BuildResultInfo {
        result_deprecated: Some(results.first_key_value()?.1.clone()),
        results,
        attestations: Vec::new(),
    })
}

/// The image that an exporter made, if it made one.
fn descriptor(told: &BTreeMap<String, String>) -> Option<Descriptor> {
    let encoded = told.get("containerimage.descriptor")?;
    let json = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let descriptor: OciDescriptor = serde_json::from_slice(&json).ok()?;
    Some(Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations,
    })
}
