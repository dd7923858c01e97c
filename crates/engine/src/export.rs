//! The results of a build on their way out.

use std::sync::Arc;

use weld_export::{Built, ExportKind, ExportRequest};
use weld_op::lazy::Need;

use crate::error::BuildError;
use crate::internal::Internal;
use crate::job::JobCore;
use crate::request::BuildResponse;

/// Does all exports of a build, one after another: they share layers.
pub(crate) async fn all(
    job: &Arc<JobCore>,
    built: &Built,
    exports: &[ExportRequest],
) -> Result<BuildResponse, BuildError> {
    let mut response = BuildResponse::default();
    for (number, request) in exports.iter().enumerate() {
        let step = Internal::begin(&job.progress, name(request), &number.to_string());
        let credentials = job.session.credentials();
        let transfers = step.transfers();
        let exported = job
            .exporter
            .export(request, built, credentials, &transfers, &job.stop)
            .await;
        let told = step.end(exported)?;
        response.attrs.extend(told.clone());
        response.exports.push(told);
    }
    Ok(response)
}

/// What exports need of a result; nothing if its being there is enough.
pub(crate) fn need(exports: &[ExportRequest]) -> Option<Need> {
    let is_set = |request: &ExportRequest, attribute: &str| {
        let value = request.attrs.get(attribute);
        value.is_some_and(|value| {
            !matches!(
                value.as_str(),
                "0" | "f" | "F" | "false" | "False" | "FALSE"
            )
        })
    };
    let needs = exports.iter().filter_map(|request| match request.kind {
        ExportKind::CacheOnly => None,
        ExportKind::Local | ExportKind::Tar => Some(Need::Files),
        // Layers that are compressed or written anew are made of files.
        _ if is_set(request, "force-compression") || is_set(request, "rewrite-timestamp") => {
            Some(Need::Files)
        }
        _ => Some(Need::Blobs),
    });
    needs.max()
}

const fn name(request: &ExportRequest) -> &'static str {
    match request.kind {
        ExportKind::Local => "exporting to client directory",
        ExportKind::Tar => "exporting to client tarball",
        ExportKind::OciArchive => "exporting to oci image format",
        ExportKind::DockerArchive => "exporting to docker image format",
        ExportKind::Image => "exporting to image",
        ExportKind::CacheOnly => "exporting to cache",
    }
}
