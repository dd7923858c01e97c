//! Why a layer cannot be had, and what that says of the place where it should have been.

use std::io;
use std::sync::Arc;

use weld_digest::Digest;
use weld_source::objects::ObjectError;
use weld_source::oci_layout::LayoutError;
use weld_source::registry::Failure;
use weld_store::snapshot::SnapshotError;

use super::ParseHomeError;
use crate::session::SessionError;
use crate::source::layers::LayersError;
use crate::supply::Says;

/// A layer that cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cached layer {digest} ({home}): {reason}")]
pub struct LostLayer {
    /// The layer's blob.
    pub digest: Digest,
    /// Where it should have been.
    pub home: String,
    /// Why it is not to be had.
    pub reason: Arc<dyn std::error::Error + Send + Sync>,
    /// Whether its build was not yet told that this place failed in this way.
    pub is_news: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LazyError {
    #[error(transparent)]
    Home(#[from] ParseHomeError),
    #[error("nobody says where it is")]
    Homeless,
    #[error("the client that has it is not there")]
    NoSession,
    #[error("the client does not offer the content store {0:?}")]
    NoStore(String),
    #[error("the client's key for it is not there: a build that reads this cache has it")]
    NoKey,
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Blob(#[from] weld_store::BlobError),
    #[error("the work was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// How often a layer is asked for at most, while nothing of it comes.
const TRIES: u32 = 6;

impl LazyError {
    /// What it says of the place.
    pub(super) fn says(&self) -> Says {
        match self {
            Self::Objects(error) if error.is_of_the_server() => Says::Nothing,
            Self::Objects(_) => Says::Answer,
            Self::Layers(LayersError::Registry(error)) => match error.failure() {
                Some(Failure::Silent(_) | Failure::Trickle { .. }) => Says::Nothing,
                Some(failure @ (Failure::Digest { .. } | Failure::Size { .. })) => {
                    Says::Wrong(failure.worth(TRIES).0)
                }
                Some(failure) if failure.is_of_the_server() => {
                    let (tries, wait) = failure.worth(TRIES);
                    Says::Server(tries, wait)
                }
                Some(_) => Says::Answer,
                None => Says::Here,
            },
            Self::Layers(LayersError::Layout(error)) => match &**error {
                LayoutError::Read { source, .. } => said(source),
                _ => Says::Answer,
            },
            Self::Layers(LayersError::Read { source, .. }) => said(source),
            _ => Says::Here,
        }
    }

    /// What is wrong, in the same words for all layers.
    pub(super) fn cause(&self) -> String {
        let failure = match self {
            Self::Layers(LayersError::Registry(error)) => error.failure(),
            _ => None,
        };
        match failure {
            Some(Failure::Digest { .. }) => "another digest".to_owned(),
            Some(Failure::Size { .. }) => "another size".to_owned(),
            Some(failure) => failure.to_string(),
            // What names the layer is in hexadecimal digits.
            None => {
                let text = self.to_string();
                let words = text.split(|c: char| !c.is_ascii_alphanumeric());
                let words = words.filter(|word| word.len() < 64);
                words.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// What the failure of a store of blobs says of it. Those that have retries have made them.
fn said(error: &io::Error) -> Says {
    let of_objects = error.get_ref().and_then(|error| error.downcast_ref());
    match of_objects.map(ObjectError::is_of_the_server) {
        Some(true) => Says::Nothing,
        Some(false) => Says::Answer,
        None => match error.kind() {
            io::ErrorKind::TimedOut => Says::Nothing,
            io::ErrorKind::StorageFull => Says::Here,
            _ => Says::Answer,
        },
    }
}
