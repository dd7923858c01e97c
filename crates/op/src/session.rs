//! What a client offers its build while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use weld_fileset::SelectionOptions;
use weld_runtime::AgentConnector;
use weld_source::blob_store::BlobStore;
use weld_source::local::TreeProvider;
use weld_source::oci_layout::BlobProvider;
use weld_source::registry::Credentials;

/// A client that serves directories, secrets, SSH agents and registry credentials: one in this
/// process, or one at the other end of a connection.
#[async_trait]
pub trait Session: Send + Sync + 'static {
    /// Tells the session from all others.
    fn id(&self) -> &str;

    /// Whether the client can be asked at the moment.
    fn is_there(&self) -> bool {
        true
    }

    /// What `selection` selects of the directory of that name; `None` if the client does not offer
    /// it.
    ///
    /// # Errors
    /// [`SessionError`] if it is offered but cannot be had.
    async fn directory(
        &self,
        name: &str,
        selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, SessionError>;

    /// What tells the directory of that name from those of other clients, such as its path; what
    /// was transferred of it before is found by this.
    fn directory_identity(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// The OCI layout of that name; `None` if the client does not offer it.
    ///
    /// # Errors
    /// [`SessionError`] if the client cannot be asked.
    async fn layout(&self, name: &str) -> Result<Option<Layout>, SessionError>;

    /// The store of blobs that the client has under an id such as `local:DIR`, for build caches;
    /// `None` if it has none.
    ///
    /// # Errors
    /// [`SessionError`] if the client cannot be asked.
    async fn blob_store(&self, id: &str) -> Result<Option<Arc<dyn BlobStore>>, SessionError> {
        let _ = id;
        Ok(None)
    }

    /// The secret of that id; `None` if the client does not offer it.
    ///
    /// # Errors
    /// [`SessionError`] if it is offered but cannot be had.
    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError>;

    /// The SSH agent of that id; `None` if the client does not offer it.
    ///
    /// # Errors
    /// [`SessionError`] if the client cannot be asked.
    async fn agent(&self, id: &str) -> Result<Option<AgentConnector>, SessionError>;

    /// A file that the client has as a stream, by the path of its URL; `None` if the client does
    /// not offer any.
    ///
    /// # Errors
    /// [`SessionError`] if it is offered but cannot be had.
    async fn upload(&self, path: &str) -> Result<Option<Upload>, SessionError> {
        let _ = path;
        Ok(None)
    }

    /// Another session, by its id, of whoever serves this one: a definition may want the directory
    /// of a session that has no build of its own.
    async fn other(&self, id: &str) -> Option<Arc<dyn Session>> {
        let _ = id;
        None
    }

    /// Who the client is at registries.
    fn credentials(&self) -> Arc<dyn Credentials>;
}

/// An OCI layout of a client's.
#[derive(Clone)]
pub enum Layout {
    /// A directory of this machine.
    Directory(PathBuf),
    /// Blobs at the other end of a connection.
    Blobs(Arc<dyn BlobProvider>),
}

/// A way to an SSH agent of a client's.
pub type Agent = AgentConnector;

/// A stream of a client's.
pub type Upload = Box<dyn AsyncRead + Send + Unpin>;

/// Why a client could not serve what it offers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// A directory cannot be had.
    #[error("local directory {name:?}: {reason}")]
    Directory {
        /// The directory's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// An OCI layout cannot be had.
    #[error("OCI layout {name:?}: {reason}")]
    Layout {
        /// The layout's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A store of blobs cannot be had.
    #[error("content store {id:?}: {reason}")]
    BlobStore {
        /// The store's id.
        id: String,
        /// Why.
        reason: String,
    },
    /// An SSH agent cannot be had.
    #[error("SSH agent {id:?}: {reason}")]
    Agent {
        /// The agent's id.
        id: String,
        /// Why.
        reason: String,
    },
    /// A stream cannot be had.
    #[error("uploaded file {path:?}: {reason}")]
    Upload {
        /// The path of its URL.
        path: String,
        /// Why.
        reason: String,
    },
    /// A secret cannot be had.
    #[error("secret {id:?}: {reason}")]
    Secret {
        /// The secret's id.
        id: String,
        /// Why; says nothing of the content.
        reason: String,
    },
}

/// A secret's content; it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the content.
    pub const fn new(content: Vec<u8>) -> Self {
        Self(content)
    }

    /// The content, for the one place that hands it to a step.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How long a client may take to say whether it has a secret or an agent, before the next one is asked, too: one that is frozen keeps
/// its connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What stands for a client in the solver, which knows nothing of what it serves.
struct Client(Arc<dyn Session>);

/// The solver's handle on a session.
pub fn lend(session: Arc<dyn Session>) -> weld_solver::Session {
    let handle = weld_solver::Session::new(session.id(), Arc::new(Client(Arc::clone(&session))));
    handle.there_while(move || session.is_there())
}

/// The session behind the solver's handle.
pub fn of(handle: &weld_solver::Session) -> Option<Arc<dyn Session>> {
    handle
        .client::<Client>()
        .map(|client| Arc::clone(&client.0))
}
