//! The results of a build on their way out.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use weld_export::{Built, ExportError, ExportKind, ExportRequest};
use weld_op::lazy::Need;

use crate::error::BuildError;
use crate::internal::Internal;
use crate::job::JobCore;
use crate::request::BuildResponse;

/// Does all exports of a build, one after another: they share layers. What was built is asked for by `built`, again where a blob of it
/// proved damaged: it is fetched or made anew then.
pub(crate) async fn all<'a>(
    job: &Arc<JobCore>,
    exports: &[ExportRequest],
    built: impl Fn() -> BoxFuture<'a, Result<Built, BuildError>>,
) -> Result<BuildResponse, BuildError> {
    let mut response = BuildResponse::default();
    let mut current = built().await?;
    for (number, request) in exports.iter().enumerate() {
        let told = match export(job, &current, request, &number.to_string()).await {
            Err(ExportError::Damaged { .. }) if request.is_repeatable() => {
                current = built().await?;
                export(job, &current, request, &format!("{number} again")).await
            }
            told => told,
        }?;
        response.attrs.extend(told.clone());
        response.exports.push(told);
    }
    Ok(response)
}

async fn export(
    job: &Arc<JobCore>,
    built: &Built,
    request: &ExportRequest,
    key: &str,
) -> Result<BTreeMap<String, String>, ExportError> {
    let step = Internal::begin(&job.progress, name(request), key);
    let (credentials, transfers) = (job.session.credentials(), step.transfers());
    let exporter = &job.exporter;
    let exported = exporter.export(request, built, credentials, &transfers, &job.stop);
    step.end(exported.await)
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
