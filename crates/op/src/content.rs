//! Keys of the content of trees: what the solver's slow keys are made of.

use std::sync::Arc;

use weld_digest::FieldHasher;
use weld_solver::{Digest, OpError};
use weld_store::SnapshotId;
use weld_store::content_key::{KeyError, KeyOptions};
use weld_store::snapshot::SnapshotError;

use crate::Tree;
use crate::blocking::blocking;
use crate::digest::to_solver;

/// Why a part of a tree has no key.
#[derive(Debug, thiserror::Error)]
enum ContentError {
    /// What is selected cannot be read.
    #[error("failed to calculate checksum of ref {id}: {source}")]
    Selected { id: SnapshotId, source: KeyError },
    #[error(transparent)]
    Snapshot(SnapshotError),
}

/// What is selected of an input cannot be read. Clients know the first words by heart.
#[derive(Debug, thiserror::Error)]
#[error("{source} in {input}")]
struct OfInput {
    /// The name of what made the input: a context, or the last step of a stage.
    input: String,
    source: Arc<dyn std::error::Error + Send + Sync>,
}

/// An error of [`key`], with the name of what made the tree if it is about what is in that.
pub(crate) fn in_input(error: OpError, input: Option<&String>) -> OpError {
    match (error, input) {
        (OpError::Failed(source), Some(input))
            if matches!(source.downcast_ref(), Some(ContentError::Selected { .. })) =>
        {
            let input = input.clone();
            OpError::failed(OfInput { input, source })
        }
        (error, _) => error,
    }
}

impl From<SnapshotError> for ContentError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Key { id, source } => Self::Selected { id, source },
            other => Self::Snapshot(other),
        }
    }
}

/// A part of a tree whose content counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    /// The path, with `/` for all of the tree.
    pub(crate) path: String,
    /// How the path is read and what counts beneath it.
    pub(crate) options: KeyOptions,
}

impl Selector {
    /// All that is at a path.
    pub(crate) fn path(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            options: KeyOptions::default(),
        }
    }
}

/// The key of the selected content of a tree; of all of it if nothing is selected.
pub(crate) async fn key(tree: &Tree, mut selectors: Vec<Selector>) -> Result<Digest, OpError> {
    if selectors.is_empty() {
        selectors.push(Selector::path("/"));
    }
    let Some(snapshot) = tree.snapshot().cloned() else {
        return Ok(to_solver(
            &FieldHasher::new("weld.content.scratch.v1").finish(),
        ));
    };
    blocking(move || {
        let mut hasher = FieldHasher::new("weld.content.v1").number(selectors.len() as u64);
        for selector in &selectors {
            let key = snapshot
                .content_key(&selector.path, &selector.options)
                .map_err(ContentError::from)?;
            hasher = hasher.digest(&key);
        }
        Ok::<_, ContentError>(to_solver(&hasher.finish()))
    })
    .await
}
