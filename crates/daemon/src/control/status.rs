//! The progress of a build: of one that runs, or as the history has it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use tonic::Status;
use weld_digest::Digest;
use weld_proto::control::{BuildHistoryRecord, StatusResponse};

use super::{Answers, blocking};
use crate::builds::{Arrival, LiveBuild, Tail};
use crate::server::Shared;

/// How long a client may be ahead of its build.
const WAIT: Duration = Duration::from_secs(6);

pub(super) async fn open(
    shared: &Arc<Shared>,
    reference: &str,
) -> Result<Answers<StatusResponse>, Status> {
    if let Some(build) = shared.builds.get(reference) {
        return Ok(live(&build));
    }
    if let Some(record) = shared.history.get(reference).await? {
        return replay(shared, &record).await;
    }
    match shared.builds.wait_for(reference, WAIT).await {
        Some(Arrival::Build(build)) => Ok(live(&build)),
        Some(Arrival::Refused) => Ok(Box::pin(futures_util::stream::empty())),
        None => Err(Status::not_found(format!("no such job {reference}"))),
    }
}

fn live(build: &Arc<LiveBuild>) -> Answers<StatusResponse> {
    Box::pin(unfold(Some(build.journal.follow()), |follower| async {
        let mut follower = follower?;
        match follower.next().await {
            Ok(Some(message)) => Some((Ok(message), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(unreadable(&error)), None)),
        }
    }))
}

/// The progress that the history has of a build.
pub(super) async fn replay(
    shared: &Arc<Shared>,
    record: &BuildHistoryRecord,
) -> Result<Answers<StatusResponse>, Status> {
    let Some(logs) = &record.logs else {
        return Ok(Box::pin(futures_util::stream::empty()));
    };
    let digest: Digest = logs
        .digest
        .parse()
        .map_err(|_| Status::internal(format!("{} is no digest", logs.digest)))?;
    let blobs = shared.engine.store().blobs().clone();
    let blob = blocking(move || blobs.get(&digest)).await?;
    let blob = blob.ok_or_else(|| {
        Status::not_found(format!("the logs of {} are not there", record.reference))
    })?;
    let size = blob.size();
    let (file, pin) =
        blocking(move || Ok::<_, weld_store::BlobError>((blob.open()?, blob))).await?;
    let state = (tail(file), pin);
    Ok(Box::pin(unfold(Some(state), move |state| async move {
        let (mut tail, pin) = state?;
        match tail.next(size).await {
            Ok(Some(message)) => Some((Ok(message), Some((tail, pin)))),
            Ok(None) => None,
            Err(error) => Some((Err(unreadable(&error)), None)),
        }
    })))
}

fn tail(file: File) -> Tail {
    Tail::new(Arc::new(file))
}

fn unreadable(error: &io::Error) -> Status {
    Status::internal(format!("the build's progress cannot be read: {error}"))
}
