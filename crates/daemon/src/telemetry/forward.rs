//! Passing spans on to a collector.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use weld_proto::telemetry::ExportTraceServiceRequest;

use super::collector::Collector;

/// How many requests may wait for the collector.
const QUEUE: usize = 256;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// `grpc`.
    #[default]
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
}

/// Where spans go, as OpenTelemetry's variables say (`OTEL_EXPORTER_OTLP_…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpConfig {
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// The collector, `http://HOST:PORT` or `https://HOST:PORT`; by HTTP with the path that takes
    /// spans.
    pub endpoint: String,
    /// What is sent along, such as a key.
    pub headers: BTreeMap<String, String>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Who signed the collector's certificate; the system's authorities if `None`.
    pub certificate: Option<PathBuf>,
}

/// Why spans cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The protocol is not spoken.
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL: {0:?} is not supported (known: grpc, http/protobuf)")]
    Protocol(String),
    /// The timeout is none.
    #[error("OTEL_EXPORTER_OTLP_TIMEOUT: {0:?} is no number of milliseconds")]
    Timeout(String),
    /// A header is none.
    #[error("OTEL_EXPORTER_OTLP_HEADERS: {0:?} is no header")]
    Header(String),
    /// The collector's address is none, or TLS cannot be used.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?}: {source}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate cannot be read.
    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE: {path}: {source}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl OtlpConfig {
    /// What the variables say; `None` if they name no collector.
    ///
    /// # Errors
    /// [`ForwardError`] if they say what cannot be done.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ForwardError> {
        let get = |name: &str| {
            let names = [
                format!("OTEL_EXPORTER_OTLP_TRACES_{name}"),
                format!("OTEL_EXPORTER_OTLP_{name}"),
            ];
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find(|value| !value.is_empty())
        };
        let disabled = variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none")
            || variable("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled == "true");
        let Some(endpoint) = get("ENDPOINT").filter(|_| !disabled) else {
            return Ok(None);
        };
        let protocol = match get("PROTOCOL").as_deref() {
            None | Some("grpc") => OtlpProtocol::Grpc,
            Some("http/protobuf") => OtlpProtocol::HttpProtobuf,
            Some(other) => return Err(ForwardError::Protocol(other.to_owned())),
        };
        let mut endpoint = match endpoint.contains("://") {
            true => endpoint,
            false => format!("http://{endpoint}"),
        };
        // An address for all signals is that of their paths, one for spans alone is whole.
        let is_whole = variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .is_some_and(|endpoint| !endpoint.is_empty());
        if protocol == OtlpProtocol::HttpProtobuf && !is_whole {
            endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        }
        let timeout = match get("TIMEOUT") {
            None => Duration::from_secs(10),
            Some(text) => {
                let milliseconds = text.parse().map_err(|_| ForwardError::Timeout(text))?;
                Duration::from_millis(milliseconds)
            }
        };
        let headers = get("HEADERS").unwrap_or_default();
        let headers = headers.split(',').filter(|pair| !pair.trim().is_empty());
        let headers = headers.map(|pair| {
            // A value may be a secret: only the name is told.
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = key.trim().to_ascii_lowercase();
            match pair.contains('=') {
                // As in a URL, so that a value may have a comma.
                true => match percent_decode_str(value.trim()).decode_utf8() {
                    Ok(value) => Ok((key, value.into_owned())),
                    Err(_) => Err(ForwardError::Header(key)),
                },
                false => Err(ForwardError::Header(key)),
            }
        });
        Ok(Some(Self {
            protocol,
            endpoint,
            headers: headers.collect::<Result<_, _>>()?,
            timeout,
            certificate: get("CERTIFICATE").map(PathBuf::from),
        }))
    }
}

/// Sends spans to a collector until it is dropped.
pub(super) struct Forwarder {
    queue: mpsc::Sender<(ExportTraceServiceRequest, u64)>,
    counts: Arc<Counts>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Counts {
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

/// How many spans there are in a request.
pub(super) fn count(request: &ExportTraceServiceRequest) -> u64 {
    let scopes = request.resource_spans.iter();
    let scopes = scopes.flat_map(|resource| &resource.scope_spans);
    scopes.map(|scope| scope.spans.len() as u64).sum()
}

impl Forwarder {
    pub(super) fn start(config: &OtlpConfig) -> Result<Self, ForwardError> {
        let mut collector = Collector::new(config)?;
        let (queue, mut requests) = mpsc::channel::<(ExportTraceServiceRequest, u64)>(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut failing = false;
            while let Some((spans, count)) = requests.recv().await {
                match collector.export(spans).await {
                    Ok(()) => {
                        failing = false;
                        counted.forwarded.fetch_add(count, Ordering::Relaxed);
                    }
                    Err(error) => {
                        counted.dropped.fetch_add(count, Ordering::Relaxed);
                        // Once is enough while it goes on.
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "spans cannot be passed on to the collector");
                        }
                    }
                }
            }
        });
        Ok(Self {
            queue,
            counts,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Sends spans, or drops them if the collector is too slow.
    pub(super) fn send(&self, request: ExportTraceServiceRequest, count: u64) {
        if self.queue.try_send((request, count)).is_err() {
            self.counts.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many were sent, and how many dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (get(&self.counts.forwarded), get(&self.counts.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<OtlpConfig>, String> {
        let find = |name: &str| {
            let mut found = variables.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        OtlpConfig::from_variables(find).map_err(|error| error.to_string())
    }

    #[test]
    fn the_variables_of_opentelemetry_are_understood() {
        assert_eq!(read(&[]), Ok(None));
        let config = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=secret, b=c=d"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ]);
        let config = config.unwrap().unwrap();
        assert_eq!(config.endpoint, "http://collector:4317");
        assert_eq!(config.headers["api-key"], "secret");
        assert_eq!(config.headers["b"], "c=d");
        assert_eq!(config.timeout, Duration::from_millis(250));
        assert_eq!(config.protocol, OtlpProtocol::Grpc);
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        for (variable, endpoint, whole) in [
            ("ENDPOINT", "http://x:1/", "http://x:1/v1/traces"),
            ("ENDPOINT", "https://x/a", "https://x/a/v1/traces"),
            ("TRACES_ENDPOINT", "http://x:1/spans", "http://x:1/spans"),
        ] {
            let name = format!("OTEL_EXPORTER_OTLP_{variable}");
            let headers = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b%2Cc");
            let config = read(&[http, (&name, endpoint), headers]).unwrap().unwrap();
            assert_eq!(config.protocol, OtlpProtocol::HttpProtobuf);
            assert_eq!(config.endpoint, whole);
            assert_eq!(config.headers["a"], "b,c");
        }
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:1");
        let off = [endpoint, ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(read(&off), Ok(None));
        for (wrong, part) in [
            (
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
                "known: grpc, http/protobuf",
            ),
            (("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), "milliseconds"),
            (("OTEL_EXPORTER_OTLP_HEADERS", "lonely"), "no header"),
        ] {
            let error = read(&[endpoint, wrong]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
