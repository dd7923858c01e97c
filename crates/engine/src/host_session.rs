//! A session in this process: what the command line's user offers a build.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use weld_fileset::SelectionOptions;
use weld_op::session::{Layout, Secret, Session, SessionError as OpSessionError, Upload};
use weld_proto::session::upload::HOST as UPLOAD_HOST;
use weld_runtime::AgentConnector;
use weld_source::blob_store::{BlobStore, LayoutStore};
use weld_source::local::{HostDir, TreeProvider};
use weld_source::oci_layout::{OciLayout, Selector};
use weld_source::registry::{Credentials, DockerConfig};

use crate::ssh_agent::{AgentError, KeyAgent};

/// How large a secret may be, in bytes: docker's limit.
const SECRET_LIMIT: u64 = 500 << 10;

/// Why something cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A directory that is not there, or that cannot be read.
    #[error("directory {name}={}: {source}", .path.display())]
    Directory {
        /// Its name in the build.
        name: String,
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two things of one name.
    #[error("{kind} {name:?} is given twice")]
    Twice {
        /// What it is.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// An OCI layout that cannot be used.
    #[error("OCI layout {}: {source}", .path.display())]
    Layout {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: weld_source::oci_layout::LayoutError,
    },
    /// An image's digest that is none.
    #[error("{source}")]
    Digest {
        /// What was given.
        digest: String,
        /// What is wrong.
        source: weld_digest::ParseDigestError,
    },
    /// A secret that cannot be read.
    #[error("secret {id:?}: {reason}")]
    Secret {
        /// The secret's id.
        id: String,
        /// Why; says nothing of the content.
        reason: String,
    },
    /// An SSH agent that cannot be reached or started.
    #[error("ssh {id:?}: {source}")]
    Agent {
        /// The agent's id.
        id: String,
        /// Why.
        source: AgentError,
    },
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file's content.
    File(PathBuf),
    /// An environment variable's value.
    Variable(String),
}

/// Which image of an OCI layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutReference {
    /// The one with this tag (`org.opencontainers.image.ref.name`).
    Tag(String),
    /// The one with this digest.
    Digest(String),
    /// The only one, or the one tagged `latest`.
    Only,
    /// Whatever a definition names.
    Any,
}

/// What a user offers a build: directories, OCI layouts, secrets, SSH agents, and the registry
/// credentials of docker's configuration.
#[derive(Default)]
pub struct HostSession {
    directories: BTreeMap<String, PathBuf>,
    layouts: BTreeMap<String, PathBuf>,
    stores: BTreeMap<String, Arc<LayoutStore>>,
    secrets: HashMap<String, SecretSource>,
    agents: HashMap<String, AgentConnector>,
    /// By the path of their URLs; each is read once.
    uploads: Mutex<HashMap<String, Upload>>,
    /// Agents that were started for keys; they end with the session.
    key_agents: Vec<KeyAgent>,
}

impl HostSession {
    /// A session that offers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a directory.
    ///
    /// # Errors
    /// If it is not a directory that can be read, or if there is one of that name.
    pub fn add_directory(&mut self, name: &str, path: &Path) -> Result<(), SessionError> {
        let error = |source| SessionError::Directory {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        let path = path.canonicalize().map_err(error)?;
        std::fs::read_dir(&path).map_err(error)?;
        match self.directories.insert(name.to_owned(), path) {
            None => Ok(()),
            Some(_) => Err(SessionError::Twice {
                kind: "directory",
                name: name.to_owned(),
            }),
        }
    }

    /// Offers a directory as the store of a build cache; it is made when something is written. Naming
    /// one twice is naming it once.
    pub fn add_blob_store(&mut self, directory: &str) -> Arc<LayoutStore> {
        let id = format!("local:{directory}");
        let store = self.stores.entry(id);
        Arc::clone(store.or_insert_with(|| Arc::new(LayoutStore::new(directory))))
    }

    /// Offers an OCI layout; returns the address under which the frontend finds the image.
    ///
    /// # Errors
    /// If it is not a layout or does not hold the image, or if there is one of that name.
    pub fn add_layout(
        &mut self,
        name: &str,
        path: &Path,
        reference: LayoutReference,
    ) -> Result<String, SessionError> {
        let error = |source| SessionError::Layout {
            path: path.to_owned(),
            source,
        };
        let layout = OciLayout::open(path).map_err(error)?;
        let selector = match reference {
            LayoutReference::Tag(tag) => Some(Selector::Tag(tag)),
            LayoutReference::Digest(digest) => {
                let digest = digest
                    .parse()
                    .map_err(|source| SessionError::Digest { digest, source })?;
                Some(Selector::Digest(digest))
            }
            LayoutReference::Only => Some(Selector::Only),
            LayoutReference::Any => None,
        };
        let digest = match selector {
            Some(selector) => Some(layout.resolve(&selector).map_err(error)?.descriptor.digest),
            None => None,
        };
        if self
            .layouts
            .insert(name.to_owned(), path.to_owned())
            .is_some()
        {
            return Err(SessionError::Twice {
                kind: "layout",
                name: name.to_owned(),
            });
        }
        Ok(match digest {
            Some(digest) => format!("oci-layout://{name}@{digest}"),
            None => format!("oci-layout://{name}"),
        })
    }

    /// Offers a secret. It is read when a step asks for it, but a file must be there now; a variable that
    /// is not there is an empty secret.
    ///
    /// # Errors
    /// If there is no such file, or if there is a secret of that id.
    pub fn add_secret(&mut self, id: &str, source: SecretSource) -> Result<(), SessionError> {
        let reason = match &source {
            SecretSource::File(path) => match std::fs::metadata(path) {
                Err(error) => Some(format!("{}: {error}", path.display())),
                Ok(metadata) if !metadata.is_file() => {
                    Some(format!("{}: not a file", path.display()))
                }
                Ok(metadata) if metadata.len() > SECRET_LIMIT => Some(format!(
                    "{}: more than {SECRET_LIMIT} bytes",
                    path.display()
                )),
                Ok(_) => None,
            },
            // As with docker, a variable that is not there is an empty one.
            SecretSource::Variable(_) => None,
        };
        if let Some(reason) = reason {
            return Err(SessionError::Secret {
                id: id.to_owned(),
                reason,
            });
        }
        match self.secrets.insert(id.to_owned(), source) {
            None => Ok(()),
            Some(_) => Err(SessionError::Twice {
                kind: "secret",
                name: id.to_owned(),
            }),
        }
    }

    /// Offers an SSH agent: the socket that `paths` names, one that holds the keys that it names,
    /// or the user's own if it is empty.
    ///
    /// # Errors
    /// If there is no such agent or key, or if there is one of that id.
    pub fn add_ssh(&mut self, id: &str, paths: Vec<PathBuf>) -> Result<(), SessionError> {
        let error = |source| SessionError::Agent {
            id: id.to_owned(),
            source,
        };
        let connector = match crate::ssh_agent::choose(paths).map_err(error)? {
            crate::ssh_agent::Choice::Socket(path) => AgentConnector::unix(path),
            crate::ssh_agent::Choice::Keys(keys) => {
                let agent = KeyAgent::start(&keys).map_err(error)?;
                let connector = AgentConnector::unix(agent.socket().to_owned());
                self.key_agents.push(agent);
                connector
            }
        };
        match self.agents.insert(id.to_owned(), connector) {
            None => Ok(()),
            Some(_) => Err(SessionError::Twice {
                kind: "ssh agent",
                name: id.to_owned(),
            }),
        }
    }

    /// Offers a stream, such as standard input, that can be read once; returns its URL.
    pub fn add_upload(&mut self, stream: Upload) -> String {
        let uploads = self.uploads.get_mut();
        let uploads = uploads.unwrap_or_else(PoisonError::into_inner);
        let path = format!("/{}", uploads.len());
        let url = format!("http://{UPLOAD_HOST}{path}");
        uploads.insert(path, stream);
        url
    }

    /// The session, complete.
    pub fn into_session(self) -> Arc<dyn Session> {
        let mut random = [0; 16];
        // Only told apart from other sessions of this process: the address serves if there is no
        // randomness to be had.
        if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_err() {
            random[..8].copy_from_slice(&(std::ptr::from_ref(&self) as u64).to_le_bytes());
        }
        let id = weld_digest::Digest::sha256_of(random).hex()[..25].to_owned();
        Arc::new(Offered {
            id,
            offers: self,
            credentials: Arc::new(DockerConfig::of_user()),
        })
    }
}

struct Offered {
    id: String,
    offers: HostSession,
    credentials: Arc<dyn Credentials>,
}

#[async_trait]
impl Session for Offered {
    fn id(&self) -> &str {
        &self.id
    }

    async fn directory(
        &self,
        name: &str,
        selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, OpSessionError> {
        let Some(path) = self.offers.directories.get(name) else {
            return Ok(None);
        };
        let directory =
            HostDir::open(path, selection).map_err(|error| OpSessionError::Directory {
                name: name.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Some(Arc::new(directory)))
    }

    fn directory_identity(&self, name: &str) -> Option<String> {
        self.offers
            .directories
            .get(name)
            .map(|path| path.display().to_string())
    }

    async fn layout(&self, name: &str) -> Result<Option<Layout>, OpSessionError> {
        let path = self.offers.layouts.get(name).cloned();
        Ok(path.map(Layout::Directory))
    }

    async fn blob_store(&self, id: &str) -> Result<Option<Arc<dyn BlobStore>>, OpSessionError> {
        let store = self.offers.stores.get(id);
        Ok(store.map(|store| Arc::clone(store) as Arc<dyn BlobStore>))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, OpSessionError> {
        let Some(source) = self.offers.secrets.get(id).cloned() else {
            return Ok(None);
        };
        let error = |reason: String| OpSessionError::Secret {
            id: id.to_owned(),
            reason,
        };
        let content = match source {
            SecretSource::Variable(name) => {
                use std::os::unix::ffi::OsStringExt;
                std::env::var_os(&name).unwrap_or_default().into_vec()
            }
            SecretSource::File(path) => tokio::fs::read(&path)
                .await
                .map_err(|source| error(format!("{}: {source}", path.display())))?,
        };
        if content.len() as u64 > SECRET_LIMIT {
            return Err(error(format!("it has more than {SECRET_LIMIT} bytes")));
        }
        Ok(Some(Secret::new(content)))
    }

    async fn agent(&self, id: &str) -> Result<Option<AgentConnector>, OpSessionError> {
        Ok(self.offers.agents.get(id).cloned())
    }

    async fn upload(&self, path: &str) -> Result<Option<Upload>, OpSessionError> {
        let uploads = self.offers.uploads.lock();
        let mut uploads = uploads.unwrap_or_else(PoisonError::into_inner);
        Ok(uploads.remove(path))
    }

    fn credentials(&self) -> Arc<dyn Credentials> {
        Arc::clone(&self.credentials)
    }
}
