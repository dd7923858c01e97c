//! The debug address: metrics, and a look at what runs. Plain HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::inspect::{GraphFormat, InspectError};
use super::{ListenError, Shared, listen};
use crate::config::ListenConfig;

/// The most connections at once.
const MAX_CONNECTIONS: usize = 64;

/// How many steps of a build are shown that go on; the counts tell of the others.
const MAX_STEPS: usize = 64;

/// What there is.
const INDEX: &str = "/metrics\n/debug/builds\n/debug/graph?format=dot|json|html\n/debug/trace\n\
    POST /debug/trace/on?seconds=300\nPOST /debug/trace/off\n";

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
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
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

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().trim_end_matches('/');
    let posts = matches!(path, "/debug/trace/on" | "/debug/trace/off");
    if (request.method() == Method::POST) != posts
        || !matches!(*request.method(), Method::GET | Method::POST)
    {
        let wanted = if posts { "only POST\n" } else { "only GET\n" };
        return text(StatusCode::METHOD_NOT_ALLOWED, wanted.to_owned());
    }
    match path {
        "/metrics" => of_type("text/plain; version=0.0.4", shared.metrics_text().await),
        "/debug/builds" => text(StatusCode::OK, builds(shared)),
        "/debug/graph" | "/debug/trace" | "/debug/trace/on" | "/debug/trace/off" => {
            match inspect(shared, path, request.uri().query().unwrap_or_default()).await {
                Ok(response) => response,
                Err(error) => text(status_of(&error), format!("{error}\n")),
            }
        }
        path if path.starts_with("/debug/pprof") => text(
            StatusCode::NOT_IMPLEMENTED,
            "profiles in this form are those of Go programs; use perf\n".to_owned(),
        ),
        "" | "/debug" => text(StatusCode::OK, INDEX.to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

async fn inspect(
    shared: &Shared,
    path: &str,
    query: &str,
) -> Result<Response<Full<Bytes>>, InspectError> {
    let parameter = |wanted: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == wanted)
            .map_or("", |(_, value)| value)
    };
    let inspector = shared.inspector.as_ref().ok_or(InspectError::Ended)?;
    let engine = &shared.engine;
    Ok(match path {
        "/debug/graph" => {
            let format: GraphFormat = parameter("format").parse()?;
            of_type(format.media_type(), inspector.graph(engine, format).await?)
        }
        "/debug/trace/on" => {
            let begun = inspector.begin(engine, parameter("seconds")).await?;
            of_type("application/json", begun)
        }
        "/debug/trace/off" => of_type("application/json", inspector.end(engine).await?),
        _ => of_type("application/json", inspector.state()),
    })
}

fn status_of(error: &InspectError) -> StatusCode {
    match error {
        InspectError::Format(_) | InspectError::Seconds(_) => StatusCode::BAD_REQUEST,
        InspectError::Trace(weld_trace::TraceError::Busy(_)) => StatusCode::CONFLICT,
        InspectError::Page(_) => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// One line of JSON for each build that runs.
fn builds(shared: &Shared) -> String {
    let mut lines = String::new();
    let since = |time: SystemTime| time.elapsed().unwrap_or_default().as_secs_f64();
    for build in shared.builds.running() {
        let summary = build.journal.summary();
        let steps = build.journal.under_way();
        let steps = steps.iter().take(MAX_STEPS).map(|step| {
            let mut shown = serde_json::json!({"name": step.name, "seconds": since(step.started)});
            if !step.doing.is_empty() {
                shown["doing"] = step.doing.as_str().into();
            }
            shown
        });
        let line = serde_json::json!({
            "ref": build.reference,
            "session": build.session,
            "frontend": build.frontend,
            "seconds": since(build.started),
            "steps": summary.total,
            "completed": summary.completed,
            "cached": summary.cached,
            "under_way": steps.collect::<Vec<_>>(),
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

fn of_type(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
