use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};
use weld_engine::{BuildInput, BuildRequest, BuildResponse};
use weld_export::ExportRequest;
use weld_proto::control::control_client::ControlClient;
use weld_proto::control::{
    CacheOptions, CacheOptionsEntry, Exporter, InfoRequest, InfoResponse, SolveRequest,
    StatusRequest,
};
use weld_session::{Caller, MAX_MESSAGE};

use crate::serve::{SessionServer, Targets};
use crate::{Address, ClientError, TlsOptions, status};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a daemon that says nothing is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long the progress of a build that has ended may still come.
const LAST_PROGRESS: Duration = Duration::from_secs(5);
/// How much may be under way, in bytes.
const WINDOW: u32 = 4 << 20;

/// A connection to a daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channel: Channel,
}

impl Client {
    /// Connects to the daemon at an address.
    ///
    /// # Errors
    /// [`ClientError`] if there is none, or TLS cannot be used.
    pub async fn connect(address: &Address, tls: &TlsOptions) -> Result<Self, ClientError> {
        let channel = match address {
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    UnixStream::connect(path.clone()).map(|stream| stream.map(TokioIo::new))
                });
                let endpoint = settled(Endpoint::from_static("http://localhost"));
                endpoint.connect_with_connector(connector).await
            }
            Address::Tcp(host) => {
                let scheme = if tls.is_empty() { "http" } else { "https" };
                let uri = format!("{scheme}://{host}");
                let endpoint =
                    Endpoint::from_shared(uri).map_err(|error| connect_error(address, &error))?;
                let endpoint = match tls.is_empty() {
                    true => settled(endpoint),
                    false => {
                        let name = host
                            .rsplit_once(':')
                            .map_or(host.as_str(), |(name, _)| name);
                        let config = tls.config(name.trim_matches(['[', ']']))?;
                        settled(endpoint)
                            .tls_config(config)
                            .map_err(crate::TlsError::from)?
                    }
                };
                endpoint.connect().await
            }
        };
        let channel = channel.map_err(|error| connect_error(address, &error))?;
        Ok(Self { channel })
    }

    /// Who the daemon is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn info(&self) -> Result<InfoResponse, ClientError> {
        let answer = self.control().info(Request::new(InfoRequest {})).await?;
        Ok(answer.into_inner())
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Has the daemon build, as an engine in this process would: with what the request's session
    /// offers, and results where the request wants them. When `cancel` fires or the future is
    /// dropped, so does the daemon's build.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn build(
        &self,
        request: BuildRequest,
        progress: weld_progress::Sender,
        cancel: CancellationToken,
    ) -> Result<BuildResponse, ClientError> {
        let wants_provenance = request.provenance;
        let work = |message: SolveRequest| async move {
            let reference = message.reference.clone();
            let answer = self.control().solve(Request::new(message)).await?;
            let provenance = match wants_provenance {
                true => self.provenance(&reference).await?,
                false => Vec::new(),
            };
            Ok(BuildResponse {
                attrs: answer.into_inner().exporter_response,
                exports: Vec::new(),
                provenance,
            })
        };
        self.during(request, progress, cancel, work).await
    }

    /// Does work with the message that asks for a build, while the build's session is served and its
    /// progress passed on.
    pub(crate) async fn during<T, W>(
        &self,
        request: BuildRequest,
        progress: weld_progress::Sender,
        cancel: CancellationToken,
        work: impl FnOnce(SolveRequest) -> W,
    ) -> Result<T, ClientError>
    where
        W: Future<Output = Result<T, ClientError>>,
    {
        let targets = Arc::new(Targets::new(&request.exports)?);
        let mut random = [0; 16];
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(&mut random, flags)
            .map_err(|error| ClientError::Session(error.to_string()))?;
        let reference = weld_digest::Digest::sha256_of(random).hex()[..25].to_owned();
        let server = SessionServer::new(Arc::clone(&request.session), targets);
        let session = server.start(&Caller::new(self.channel.clone())).await?;
        let watching = self.watch(reference.clone(), progress);
        let work = work(solve_request(reference, request));
        let outcome = tokio::select! {
            outcome = work => outcome,
            ended = session.ended() => Err(ended),
            () = cancel.cancelled() => Err(ClientError::Cancelled),
        };
        if !cancel.is_cancelled() {
            // What is still to be told comes at once; a daemon that has nothing more to tell may
            // forget to say so.
            drop(tokio::time::timeout(LAST_PROGRESS, watching).await);
        }
        outcome
    }

    /// Passes the progress of a build on until it ends.
    fn watch(&self, reference: String, progress: weld_progress::Sender) -> AbortOnDropHandle<()> {
        let mut control = self.control();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let request = Request::new(StatusRequest { reference });
            // The build is what fails if the daemon is gone.
            let Ok(answer) = control.status(request).await else {
                return;
            };
            let mut messages = answer.into_inner();
            while let Ok(Some(message)) = messages.message().await {
                status::forward(message, &progress);
            }
        }))
    }
}

fn settled(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
}

fn connect_error(address: &Address, error: &tonic::transport::Error) -> ClientError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    ClientError::Connect {
        address: address.clone(),
        reason,
    }
}

/// By which a build asks weld's daemon to tell why steps were not cached; others know nothing of it.
const EXPLAIN: &str = "weld.explain";

fn solve_request(reference: String, request: BuildRequest) -> SolveRequest {
    let exporters: Vec<Exporter> = request.exports.iter().map(exporter).collect();
    let (deprecated, deprecated_attrs) = match exporters.first() {
        Some(first) => (first.kind.clone(), first.attrs.clone()),
        None => (String::new(), BTreeMap::new()),
    };
    let mut message = SolveRequest {
        reference,
        internal: request.internal,
        session: request.session.id().to_owned(),
        entitlements: request
            .entitlements
            .iter()
            .map(ToString::to_string)
            .collect(),
        exporters,
        exporter_deprecated: deprecated,
        exporter_attrs_deprecated: deprecated_attrs,
        cache: Some(CacheOptions {
            exports: request
                .cache_exports
                .iter()
                .map(|export| CacheOptionsEntry {
                    kind: export.kind.clone(),
                    attrs: export.attrs.clone(),
                })
                .collect(),
            imports: request
                .cache_imports
                .iter()
                .map(|import| CacheOptionsEntry {
                    kind: import.kind.clone(),
                    attrs: import.attrs.clone(),
                })
                .collect(),
            ..CacheOptions::default()
        }),
        ..SolveRequest::default()
    };
    match request.input {
        BuildInput::Dockerfile { mut attrs } => {
            if !request.cache_imports.is_empty() {
                let imports = request.cache_imports.iter();
                let entries: Vec<_> = imports
                    .map(|import| serde_json::json!({"Type": import.kind, "Attrs": import.attrs}))
                    .collect();
                // Where frontends of BuildKit look for them.
                attrs.insert(
                    "cache-imports".to_owned(),
                    serde_json::Value::from(entries).to_string(),
                );
            }
            message.frontend = "dockerfile.v0".to_owned();
            message.frontend_attrs = attrs;
        }
        BuildInput::Definition {
            definition,
            no_cache,
        } => {
            let mut definition = definition.to_message();
            if no_cache {
                for metadata in definition.metadata.values_mut() {
                    metadata.ignore_cache = true;
                }
            }
            message.definition = Some(definition);
        }
    }
    if request.explain {
        message
            .frontend_attrs
            .insert(EXPLAIN.to_owned(), "true".to_owned());
    }
    message
}

fn exporter(export: &ExportRequest) -> Exporter {
    Exporter {
        kind: export.kind.name().to_owned(),
        attrs: export.attrs.clone(),
    }
}
