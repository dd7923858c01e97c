//! Blobs of layers whose files are here, and that somebody needs none the less.

use std::sync::Arc;

use weld_source::progress::Progress;
use weld_store::snapshot::{LABEL_SOURCE, LayerDescriptor, SnapshotError, SnapshotRef};

use super::{ANNOTATION_HOME, Home, fetch_blob};
use crate::session::Session;
use crate::{Tree, Worker};

/// A layer whose files are here and whose blob is not.
pub struct LostBlob {
    layer: SnapshotRef,
    descriptor: LayerDescriptor,
    /// It was lost, not removed.
    was_here: bool,
}

impl Worker {
    /// Brings back the blobs of layers that are unpacked, if they are not here any more and it is known where they are to be had.
    /// Of the others, whoever needs blobs makes new ones. Says what was lost that should have been here.
    pub async fn restore_blobs(
        self: &Arc<Self>,
        lost: Vec<LostBlob>,
        session: Option<&Arc<dyn Session>>,
        progress: &Progress,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        for LostBlob {
            layer,
            descriptor,
            was_here,
        } in lost
        {
            let brought = fetch_blob(self, &descriptor, session, progress).await;
            let blob = brought.as_ref().ok().cloned();
            let noted = tokio::task::spawn_blocking(move || match blob {
                Some(blob) => layer.keep_blob(&blob).is_ok(),
                None => {
                    // Told of once.
                    drop(layer.give_up_blob());
                    false
                }
            });
            let kept = noted.await.unwrap_or(false);
            let was_sought = descriptor.annotations.contains_key(ANNOTATION_HOME);
            if was_here || was_sought && !kept {
                let done = match kept {
                    true => "it was fetched again".to_owned(),
                    false => {
                        let why = brought.err().map(|lost| format!(" ({})", lost.reason));
                        let why = why.unwrap_or_default();
                        format!("it is made anew of its files, with a digest of its own{why}")
                    }
                };
                let digest = &descriptor.digest;
                warnings.push(format!(
                    "the blob {digest} of a layer was not here any more, or cut off: {done}"
                ));
            }
        }
        warnings
    }

    /// The layers of a tree whose files are here, and whose blobs are not. May block.
    ///
    /// # Errors
    /// What the store meets.
    pub fn lost_blobs(&self, tree: &Tree) -> Result<Vec<LostBlob>, SnapshotError> {
        let mut lost = Vec::new();
        let layers = tree.snapshot().map(SnapshotRef::layer_snapshots);
        for layer in layers.unwrap_or_default() {
            let Some((mut descriptor, info)) = layer.lost_blob()? else {
                continue;
            };
            let source = info.as_ref().and_then(|info| info.labels.get(LABEL_SOURCE));
            if let Some(repository) = source.and_then(|source| source.parse().ok()) {
                let home = Home::Registry {
                    repository,
                    insecure: false,
                };
                let homes = &mut descriptor.annotations;
                homes
                    .entry(ANNOTATION_HOME.to_owned())
                    .or_insert_with(|| home.to_string());
            }
            lost.push(LostBlob {
                layer,
                descriptor,
                was_here: info.is_some(),
            });
        }
        Ok(lost)
    }
}
