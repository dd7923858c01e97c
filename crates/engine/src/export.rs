//! The results of a build on their way out.

use std::sync::Arc;

use weld_export::{Built, ExportKind, ExportRequest};

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
