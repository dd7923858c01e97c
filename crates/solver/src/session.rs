//! Sessions: what a job's client lends to the operations that work for it.

use std::{any::Any, fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

/// A client connection that can serve secrets, ssh agents, credentials and local files.
#[derive(Clone)]
pub struct Session {
    id: Arc<str>,
    client: Arc<dyn Any + Send + Sync>,
    closed: CancellationToken,
    is_there: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Session {
    /// A session whose services are reached through `client`.
    pub fn new(id: impl Into<Arc<str>>, client: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            id: id.into(),
            client,
            closed: CancellationToken::new(),
            is_there: None,
        }
    }

    /// The same, knowing whether its client is there at the moment: what fails while it is not is done again with another session,
    /// also before this one is closed.
    #[must_use]
    pub fn there_while(mut self, is_there: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.is_there = Some(Arc::new(is_there));
        self
    }

    /// The session's id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The client, if it is a `C`.
    pub fn client<C: Send + Sync + 'static>(&self) -> Option<Arc<C>> {
        Arc::clone(&self.client).downcast().ok()
    }

    /// Marks the session as gone. Operations that use it move on to another one.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether the session is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Whether its client is not there at the moment.
    pub(crate) fn is_away(&self) -> bool {
        self.is_there.as_ref().is_some_and(|is_there| !is_there())
    }

    /// Ends when the session is gone.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("closed", &self.is_closed())
            .finish()
    }
}
