//! What a client at the other end of a connection offers its build.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_util::io::StreamReader;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use weld_fileset::SelectionOptions;
use weld_op::session::{Layout, Secret, Session, SessionError, Upload};
use weld_proto::session::secrets::{GET_SECRET, GetSecretRequest, GetSecretResponse};
use weld_proto::session::{BytesMessage, content, filesync, upload};
use weld_runtime::AgentConnector;
use weld_source::blob_store::BlobStore;
use weld_source::local::TreeProvider;
use weld_source::registry::Credentials;

use super::manager::{ClientSession, SessionManager};
use super::{agent, blobs, credentials, files};

/// How large a secret may be, in bytes: what BuildKit's clients send.
const MAX_SECRET: usize = 500 << 10;

/// A session as the engine asks it.
pub struct SessionOffers {
    session: Arc<ClientSession>,
    credentials: Arc<dyn Credentials>,
    all: SessionManager,
}

impl SessionOffers {
    /// What the client of `session` offers, which is one of `all`.
    pub fn new(session: Arc<ClientSession>, all: SessionManager) -> Self {
        Self {
            all,
            credentials: Arc::new(credentials::ClientCredentials::new(Arc::clone(&session))),
            session,
        }
    }
}

#[async_trait]
impl Session for SessionOffers {
    fn id(&self) -> &str {
        self.session.id()
    }

    fn is_there(&self) -> bool {
        self.session.is_connected()
    }

    async fn directory(
        &self,
        name: &str,
        selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, SessionError> {
        let error = |status: Status| SessionError::Directory {
            name: name.to_owned(),
            reason: reason(&status),
        };
        let connection = self.session.connection().await.map_err(error)?;
        if !connection.serves(filesync::DIFF_COPY) {
            return Ok(None);
        }
        let stall = self.session.config.stall;
        match files::diff_copy(&connection.caller, name, &selection, stall).await {
            Ok(tree) => Ok(Some(Arc::new(tree))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(error(status)),
        }
    }

    fn directory_identity(&self, name: &str) -> Option<String> {
        // buildctl tells nothing of whose directories they are.
        let key = self.session.shared_key();
        (!key.is_empty()).then(|| format!("{}:{key}:{name}", key.len()))
    }

    async fn layout(&self, name: &str) -> Result<Option<Layout>, SessionError> {
        let error = |status: Status| SessionError::Layout {
            name: name.to_owned(),
            reason: reason(&status),
        };
        if !self.session.serves(content::READ).await.map_err(error)? {
            return Ok(None);
        }
        let blobs = blobs::ClientBlobs::layout(Arc::clone(&self.session), name);
        Ok(Some(Layout::Blobs(Arc::new(blobs))))
    }

    async fn blob_store(&self, id: &str) -> Result<Option<Arc<dyn BlobStore>>, SessionError> {
        let error = |status: Status| SessionError::BlobStore {
            id: id.to_owned(),
            reason: reason(&status),
        };
        if !self.session.serves(content::READ).await.map_err(error)? {
            return Ok(None);
        }
        let blobs = blobs::ClientBlobs::store(Arc::clone(&self.session), id);
        Ok(Some(Arc::new(blobs)))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        let error = |reason: String| SessionError::Secret {
            id: id.to_owned(),
            reason,
        };
        let connection = self.session.connection().await;
        let connection = connection.map_err(|status| error(reason(&status)))?;
        if !connection.serves(GET_SECRET) {
            return Ok(None);
        }
        let request = Request::new(GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        });
        let answer = connection
            .caller
            .unary::<_, GetSecretResponse>(GET_SECRET, request)
            .await;
        match answer {
            Ok(answer) => {
                let data = answer.into_inner().data;
                if data.len() > MAX_SECRET {
                    return Err(error(format!("it has more than {MAX_SECRET} bytes")));
                }
                Ok(Some(Secret::new(data.into())))
            }
            Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => {
                Ok(None)
            }
            Err(status) => Err(error(reason(&status))),
        }
    }

    async fn agent(&self, id: &str) -> Result<Option<AgentConnector>, SessionError> {
        let offered = agent::check(&self.session, id).await;
        let offered = offered.map_err(|status| SessionError::Agent {
            id: id.to_owned(),
            reason: reason(&status),
        })?;
        Ok(offered.then(|| agent::connector(Arc::clone(&self.session), id)))
    }

    async fn upload(&self, path: &str) -> Result<Option<Upload>, SessionError> {
        let error = |status: Status| SessionError::Upload {
            path: path.to_owned(),
            reason: reason(&status),
        };
        let connection = self.session.connection().await.map_err(error)?;
        if !connection.serves(upload::PULL) {
            return Ok(None);
        }
        let mut request = Request::new(futures_util::stream::empty::<BytesMessage>());
        let value = MetadataValue::try_from(path)
            .map_err(|_| error(Status::invalid_argument("the path is not ASCII text")))?;
        request.metadata_mut().insert(upload::URL_PATH, value);
        request
            .metadata_mut()
            .insert(upload::URL_HOST, MetadataValue::from_static(upload::HOST));
        let answer = connection
            .caller
            .streaming::<_, BytesMessage>(upload::PULL, request)
            .await;
        let pieces = answer
            .map_err(error)?
            .into_inner()
            .map_ok(|message| message.data)
            .map_err(std::io::Error::other);
        Ok(Some(Box::new(StreamReader::new(pieces))))
    }

    async fn other(&self, id: &str) -> Option<Arc<dyn Session>> {
        let session = self.all.get(id).await.ok()?;
        Some(Arc::new(Self::new(session, self.all.clone())))
    }

    fn credentials(&self) -> Arc<dyn Credentials> {
        Arc::clone(&self.credentials)
    }
}

/// What a status says to people.
pub(super) fn reason(status: &Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}
