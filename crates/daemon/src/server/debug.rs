//! The debug address: metrics, and a look at what runs. Plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::{ListenError, Shared, listen};
use crate::config::ListenConfig;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 64;

/// Any connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on `HOST:PORT` or `unix://PATH`.
    pub(super) async fn bind(address: &str) -> Result<Self, ListenError> {
        if let Some(path) = address.strip_prefix("unix://") {
            let owner = ListenConfig::default();
            return Ok(Self::Unix(listen::bind_unix(path, address, &owner).await?));
        }
        let host = address.strip_prefix("tcp://").unwrap_or(address);
        let listener = TcpListener::bind(host).await;
        Ok(Self::Tcp(listener.map_err(|source| ListenError::Bind {
            address: address.to_owned(),
            source,
        })?))
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }

    pub(super) async fn serve(self, shared: Arc<Shared>) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= MAX_CONNECTIONS {
                connections.join_next().await;
            }
            let stream = match self.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the debug address cannot be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&shared, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(hyper_util::rt::TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the debug address broke");
                }
            });
        }
    }
}

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().trim_end_matches('/');
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/metrics" => {
            let metrics = shared
                .metrics
                .render(shared.builds.count(), shared.sessions.count());
            let mut response = text(StatusCode::OK, metrics);
            if let Ok(kind) = "text/plain; version=0.0.4".parse() {
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            response
        }
        "/debug/builds" => text(StatusCode::OK, builds(shared)),
        "/debug/graph" | "/debug/trace" => text(
            StatusCode::NOT_IMPLEMENTED,
            format!("{path} needs the solver's trace, which this version does not write\n"),
        ),
        path if path.starts_with("/debug/pprof") => text(
            StatusCode::NOT_IMPLEMENTED,
            "profiles in this form are those of Go programs; use perf\n".to_owned(),
        ),
        "" | "/debug" => text(StatusCode::OK, "/metrics\n/debug/builds\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

/// One line of JSON for each build that runs.
fn builds(shared: &Shared) -> String {
    let mut lines = String::new();
    for build in shared.builds.running() {
        let summary = build.journal.summary();
        let line = serde_json::json!({
            "ref": build.reference,
            "frontend": build.frontend,
            "seconds": build.started.elapsed().unwrap_or_default().as_secs_f64(),
            "steps": summary.total,
            "completed": summary.completed,
            "cached": summary.cached,
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
