//! Serves a session to a daemon while it builds.

mod agents;
mod blobs;
mod credentials;
mod files;
mod health;
mod results;
mod secrets;
mod targets;
mod token_authority;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use weld_op::session::Session;
use weld_proto::content::content_server::ContentServer;
use weld_proto::health::health_server::HealthServer;
use weld_proto::session::servers::{
    AuthServer, FileSyncServer, SecretsServer, SshServer, UploadServer,
};
use weld_proto::session::{
    BytesMessage, HEADER_ID, HEADER_METHOD, HEADER_SHARED_KEY, auth, content, filesync,
    health as health_messages, secrets as secret_messages, ssh, upload,
};
use weld_session::{Caller, MAX_MESSAGE, Tunnel};

use crate::ClientError;
pub use targets::Targets;

/// The method of the control service that carries sessions.
const SESSION: &str = "/moby.buildkit.v1.Control/Session";

/// How long to wait before each attempt to connect again: daemons wait for some seconds.
const RECONNECT: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What is served.
pub const METHODS: [&str; 14] = [
    health_messages::CHECK,
    filesync::DIFF_COPY,
    filesync::SEND,
    auth::CREDENTIALS,
    auth::FETCH_TOKEN,
    auth::GET_TOKEN_AUTHORITY,
    auth::VERIFY_TOKEN_AUTHORITY,
    secret_messages::GET_SECRET,
    ssh::CHECK_AGENT,
    ssh::FORWARD_AGENT,
    content::INFO,
    content::READ,
    upload::PULL,
    content::WRITE,
];

/// Serves what a session offers, and takes results.
pub struct SessionServer {
    session: Arc<dyn Session>,
    targets: Arc<Targets>,
}

/// A session that is being served, until dropped. Where the connection breaks off and the daemon
/// is still there, it is made anew.
pub struct Serving {
    ended: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Serving {
    /// Waits for the session to end, which it does only if the daemon is gone.
    pub async fn ended(&self) -> ClientError {
        self.ended.cancelled().await;
        ClientError::Session("the daemon closed the connection".to_owned())
    }
}

impl SessionServer {
    /// Serves `session`; results go to `targets`.
    pub fn new(session: Arc<dyn Session>, targets: Arc<Targets>) -> Self {
        Self { session, targets }
    }

    /// Opens the session's stream to the daemon and serves what it asks.
    ///
    /// # Errors
    /// [`ClientError`] if the daemon does not take it.
    pub async fn start(self, daemon: &Caller) -> Result<Serving, ClientError> {
        let mut connection = self.connect(daemon).await?;
        let ended = CancellationToken::new();
        let over = ended.clone().drop_guard();
        let daemon = daemon.clone();
        let task = tokio::spawn(async move {
            let _over = over;
            loop {
                // Never an error: only this task could abort it, and what panics is over as well.
                let _ = connection.await;
                tracing::debug!("the session's connection broke off");
                match self.reconnect(&daemon).await {
                    Some(next) => connection = next,
                    None => return,
                }
            }
        });
        Ok(Serving {
            ended,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Connects again, which a daemon waits for a little.
    async fn reconnect(&self, daemon: &Caller) -> Option<AbortOnDropHandle<()>> {
        for pause in RECONNECT {
            tokio::time::sleep(pause).await;
            match self.connect(daemon).await {
                Ok(connection) => return Some(connection),
                Err(error) => tracing::debug!(%error, "the session cannot be connected again"),
            }
        }
        None
    }

    /// Opens a stream and serves in it, until that ends.
    async fn connect(&self, daemon: &Caller) -> Result<AbortOnDropHandle<()>, ClientError> {
        let (answers, incoming) = tokio::sync::oneshot::channel();
        let incoming = futures_util::stream::once(incoming);
        let incoming = futures_util::StreamExt::flat_map(incoming, |stream| match stream {
            Ok(stream) => futures_util::future::Either::Left(stream),
            Err(_) => futures_util::future::Either::Right(futures_util::stream::empty()),
        });
        let (tunnel, mut outgoing) = Tunnel::new(Box::pin(incoming));
        let mut request = Request::new(futures_util::stream::poll_fn(move |cx| {
            outgoing.poll_recv(cx)
        }));
        self.describe(request.metadata_mut())?;
        // The daemon's answer may begin with the first that is asked over the stream.
        let task = self.over(tunnel);
        let answer = daemon
            .streaming::<_, BytesMessage>(SESSION, request)
            .await?;
        drop(answers.send(answer.into_inner()));
        Ok(task)
    }

    /// Serves over a connection that is there, until it ends or the handle is dropped.
    pub fn over<T>(&self, connection: T) -> AbortOnDropHandle<()>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = TowerToHyperService::new(self.routes());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http2().max_header_list_size(1 << 20);
            let builder = builder.http2_only();
            let connection = builder.serve_connection(TokioIo::new(connection), service);
            if let Err(error) = connection.await {
                tracing::debug!("the session ended: {error}");
            }
        }))
    }

    fn describe(&self, metadata: &mut tonic::metadata::MetadataMap) -> Result<(), ClientError> {
        let value = |text: &str| {
            MetadataValue::try_from(text).map_err(|error| ClientError::Session(error.to_string()))
        };
        metadata.insert(HEADER_ID, value(self.session.id())?);
        metadata.insert(HEADER_SHARED_KEY, value(&self.shared_key())?);
        for method in METHODS {
            metadata.append(HEADER_METHOD, MetadataValue::from_static(method));
        }
        Ok(())
    }

    /// What tells this user's directories from those of others: not what they are called, but
    /// where they are.
    fn shared_key(&self) -> String {
        let machine = rustix::system::uname();
        let context = self.session.directory_identity("context");
        let text = format!(
            "{:?}\n{}\n{}",
            machine.nodename(),
            rustix::process::getuid().as_raw(),
            context.unwrap_or_default()
        );
        weld_digest::Digest::sha256_of(text.as_bytes()).hex()
    }

    fn routes(&self) -> Routes {
        let session = || Arc::clone(&self.session);
        Routes::new(HealthServer::new(health::Alive))
            .add_service(
                FileSyncServer::new(files::Directories(session()))
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(results::FileSend(Arc::clone(&self.targets)))
            .add_service(AuthServer::new(credentials::Offered::new(session())))
            .add_service(SecretsServer::new(secrets::Offered(session())))
            .add_service(SshServer::new(agents::Offered(session())))
            .add_service(ContentServer::new(blobs::Stores(session())))
            .add_service(UploadServer::new(uploads::Offered(session())))
    }
}
