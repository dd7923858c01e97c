//! Inputs whose files somebody deleted while they were in use.

use std::path::PathBuf;

use weld_solver::{OpContext, OpError};

use crate::Tree;

/// A directory that is needed and is not there.
#[derive(Debug, thiserror::Error)]
#[error("{}, which the step needs, was deleted: {met}", path.display())]
struct Deleted {
    path: PathBuf,
    met: OpError,
}

/// Looks whether an operation failed because the files of an input are gone, which is then made anew.
pub(crate) async fn judge(
    ctx: &OpContext<Tree>,
    inputs: impl Iterator<Item = (u32, &Tree)>,
    met: OpError,
) -> OpError {
    if !matches!(met, OpError::Failed(_)) {
        return met;
    }
    for (input, tree) in inputs {
        let Some(snapshot) = tree.snapshot().cloned() else {
            continue;
        };
        let looked = tokio::task::spawn_blocking(move || snapshot.missing_files()).await;
        if let Ok(Some(path)) = looked {
            let text = format!(
                "WARNING: {} was deleted: the step that made it runs again\n",
                path.display()
            );
            ctx.log(2, text.into_bytes());
            return OpError::lost_input(input, Deleted { path, met });
        }
    }
    met
}
