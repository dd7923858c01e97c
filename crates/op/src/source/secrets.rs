//! Secrets of clients for servers and remotes.

use weld_solver::{OpContext, OpError};
use weld_source::Secret;

use crate::Tree;
use crate::session::{self, Session, SessionError};

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("secret {0}: not found")]
    NotFound(String),
    #[error("secret {0}: it is not UTF-8 text, so it cannot be sent")]
    NotText(String),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The first of these secrets that a client has, with its place among `names`.
pub(super) async fn first(
    ctx: &OpContext<Tree>,
    names: &[String],
) -> Result<Option<(usize, Secret)>, OpError> {
    if names.is_empty() {
        return Ok(None);
    }
    let found = ctx
        .sessions()
        .with_first(session::PATIENCE, |handle| {
            let session = session::of(&handle);
            async move {
                let asked = match session {
                    Some(session) => ask(session.as_ref(), names)
                        .await
                        .map_err(OpError::failed)?,
                    None => None,
                };
                // Another client may have it.
                asked.ok_or_else(|| OpError::gone(SecretError::NotFound(names.join(", "))))
            }
        })
        .await;
    match found {
        Ok(found) => Ok(Some(found)),
        Err(OpError::Gone(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first of these secrets that one client has, with its place among `names`.
pub(super) async fn of(
    session: &dyn Session,
    names: &[String],
) -> Result<Option<(usize, Secret)>, OpError> {
    ask(session, names).await.map_err(OpError::failed)
}

/// The error for a secret that must be there and is not.
pub(super) fn missing(name: &str) -> OpError {
    OpError::gone(SecretError::NotFound(name.to_owned()))
}

async fn ask(
    session: &dyn Session,
    names: &[String],
) -> Result<Option<(usize, Secret)>, SecretError> {
    for (index, name) in names.iter().enumerate() {
        if let Some(secret) = session.secret(name).await? {
            let text = std::str::from_utf8(secret.expose())
                .map_err(|_| SecretError::NotText(name.clone()))?;
            return Ok(Some((index, Secret::new(text))));
        }
    }
    Ok(None)
}
