//! Where a client wants its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use serde::Deserialize;
use tonic::Status;
use weld_engine::{ExportKind, ExportRequest, ExportTarget};
use weld_proto::control::{BuildResultInfo, Descriptor, Exporter};

use crate::session::{ClientSession, client_target};

/// What is wanted, as the engine has it.
pub(super) fn requests(
    exporters: &[Exporter],
    to_client: impl Fn(usize) -> Result<ExportTarget, Status>,
) -> Result<Vec<ExportRequest>, Status> {
    let request = |(number, exporter): (usize, &Exporter)| {
        let kind = kind(&exporter.kind)?;
        let target = match kind {
            ExportKind::Image | ExportKind::CacheOnly => ExportTarget::Nowhere,
            _ => to_client(number)?,
        };
        Ok(ExportRequest {
            kind,
            attrs: exporter.attrs.clone(),
            target,
        })
    };
    exporters.iter().enumerate().map(request).collect()
}

/// The client as a target.
pub(super) fn to_client(
    client: Option<&Arc<ClientSession>>,
    number: usize,
) -> Result<ExportTarget, Status> {
    let absent = || Status::invalid_argument("results can only be sent to a client with a session");
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
        other => Err(Status::invalid_argument(format!(
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
pub(super) fn results(
    exporters: &[Exporter],
    response: &BTreeMap<String, String>,
) -> Option<BuildResultInfo> {
    let encoded = response.get("containerimage.descriptor")?;
    let json = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let descriptor: OciDescriptor = serde_json::from_slice(&json).ok()?;
    let descriptor = Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations,
    };
    let is_image =
        |exporter: &Exporter| matches!(exporter.kind.as_str(), "image" | "oci" | "docker");
    let images = exporters
        .iter()
        .enumerate()
        .filter(|(_, exporter)| is_image(exporter));
    let numbers = images.filter_map(|(number, _)| i64::try_from(number).ok());
    Some(BuildResultInfo {
        results: numbers.map(|number| (number, descriptor.clone())).collect(),
        result_deprecated: Some(descriptor),
        attestations: Vec::new(),
    })
}
