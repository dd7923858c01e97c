//! The results of a build on their way out.

use weld_export::{Built, ExportKind, ExportRequest};

use crate::build::Build;
use crate::error::BuildError;
use crate::internal::Internal;
use crate::request::BuildResponse;

/// Does all exports of a build, one after another: they share layers.
pub(crate) async fn all(build: &Build<'_>, built: &Built) -> Result<BuildResponse, BuildError> {
    let mut response = BuildResponse::default();
    for (number, request) in build.request.exports.iter().enumerate() {
        let step = Internal::begin(&build.progress, name(request), &number.to_string());
        let credentials = build.request.session.credentials();
        let transfers = step.transfers();
        let exported = build
            .engine
            .exporter
            .export(
                request,
                built,
                credentials,
                &transfers,
                build.cancellation(),
            )
            .await;
        response.attrs.extend(step.end(exported)?);
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
