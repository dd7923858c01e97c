//! The results of a build on their way out.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use weld_export::{Built, ExportError, ExportKind, ExportRequest, ExportTarget};
use weld_op::lazy::Need;

use crate::error::BuildError;
use crate::internal::Internal;
use crate::job::JobCore;
use crate::request::BuildResponse;

/// How much more room is made each time that a result does not fit on the disk that it shares with the store, in bytes.
const ROOM: [u64; 4] = [64 << 20, 256 << 20, 1 << 30, 4 << 30];

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
            Err(error) if error.is_full_disk() && is_beside_store(job, request) => {
                with_room(job, &current, request, number, error).await
            }
            told => told,
        }?;
        response.attrs.extend(told.clone());
        response.exports.push(told);
    }
    Ok(response)
}

/// Whether a result goes to the disk that the store is on, where room can be made for it.
fn is_beside_store(job: &JobCore, request: &ExportRequest) -> bool {
    let path = match &request.target {
        ExportTarget::File(path) | ExportTarget::Directory(path) => path,
        ExportTarget::Nowhere | ExportTarget::Stdout | ExportTarget::Client(_) => return false,
    };
    let there = path.ancestors().find_map(|path| path.metadata().ok());
    let store = job.worker.store.root().metadata();
    let same = store.is_ok_and(|store| there.is_some_and(|there| there.dev() == store.dev()));
    same && request.is_repeatable()
}

/// Exports again with ever more room, made of what is worth least in the store, as long as that can be had.
async fn with_room(
    job: &Arc<JobCore>,
    built: &Built,
    request: &ExportRequest,
    number: usize,
    full: ExportError,
) -> Result<BTreeMap<String, String>, ExportError> {
    let mut last = full;
    for (round, more) in ROOM.into_iter().enumerate() {
        let space = job.worker.store.space().clone();
        let root = job.worker.store.root().to_owned();
        let made = tokio::task::spawn_blocking(move || {
            // What was written is gone again, and did not suffice.
            let free = rustix::fs::statvfs(&root).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
            space.ensure(free.saturating_add(more))
        });
        // Where there cannot be as much, what could be made may do.
        let made = made.await;
        let key = format!("{number} with room {round}");
        match export(job, built, request, &key).await {
            Err(error) if error.is_full_disk() => last = error,
            told => return told,
        }
        match made {
            Ok(Ok(())) => {}
            Ok(Err(shortage)) if !last.says_why_full() => {
                let met = Box::new(last);
                return Err(ExportError::Full { met, shortage });
            }
            _ => break,
        }
    }
    Err(last)
}

async fn export(
    job: &Arc<JobCore>,
    built: &Built,
    request: &ExportRequest,
    key: &str,
) -> Result<BTreeMap<String, String>, ExportError> {
    let step = Internal::begin(&job.progress, name(request), &job.own_key(key));
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
