//! Directories of clients.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Request, Status};
use weld_fileset::SelectionOptions;
use weld_proto::fsutil::Packet;
use weld_proto::session::filesync::{
    DIFF_COPY, DIR_NAME, EXCLUDE_PATTERNS, FOLLOW_PATHS, INCLUDE_PATTERNS,
};
use weld_session::transfer::{ReceiveOptions, RemoteTree};
use weld_session::{Caller, metadata};

/// How many requests for files may wait to be sent.
const QUEUE: usize = 256;

/// Begins to transfer a directory.
pub(super) async fn diff_copy(
    caller: &Caller,
    name: &str,
    selection: &SelectionOptions,
    stall: Duration,
) -> Result<RemoteTree, Status> {
    let (outgoing, mut requests) = mpsc::channel::<Packet>(QUEUE);
    let requests = futures_util::stream::poll_fn(move |cx| requests.poll_recv(cx));
    let mut request = Request::new(requests);
    let texts = [
        (INCLUDE_PATTERNS, &selection.include_patterns),
        (EXCLUDE_PATTERNS, &selection.exclude_patterns),
        (FOLLOW_PATHS, &selection.follow_paths),
    ];
    let map = request.metadata_mut();
    metadata::put(map, DIR_NAME, [name]);
    for (key, values) in texts {
        metadata::put(map, key, values.iter().map(String::as_str));
    }
    let call = caller.streaming::<_, Packet>(DIFF_COPY, request);
    let answer = tokio::time::timeout(stall, call)
        .await
        .map_err(|_| Status::deadline_exceeded(format!("nothing came for {stall:?}")))?;
    let options = ReceiveOptions {
        stall,
        ..ReceiveOptions::default()
    };
    Ok(RemoteTree::start(answer?.into_inner(), outgoing, options))
}
