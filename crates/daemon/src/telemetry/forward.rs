//! Passing spans on to a collector, by OpenTelemetry's protocol over gRPC.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use weld_proto::telemetry::ExportTraceServiceRequest;
use weld_proto::telemetry::trace_service_client::TraceServiceClient;

/// How many requests may wait for the collector.
const QUEUE: usize = 256;

/// Where spans go, as OpenTelemetry's variables say (`OTEL_EXPORTER_OTLP_…`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpConfig {
    /// The collector, `http://HOST:PORT` or `https://HOST:PORT`.
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
    #[error(
        "OTEL_EXPORTER_OTLP_PROTOCOL: {0:?} is not supported: spans are passed on by grpc only"
    )]
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
        source: tonic::transport::Error,
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
        if let Some(protocol) = get("PROTOCOL").filter(|protocol| protocol != "grpc") {
            return Err(ForwardError::Protocol(protocol));
        }
        let endpoint = match endpoint.contains("://") {
            true => endpoint,
            false => format!("http://{endpoint}"),
        };
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
                true => Ok((key, value.trim().to_owned())),
                false => Err(ForwardError::Header(key)),
            }
        });
        Ok(Some(Self {
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
        let channel = channel(config)?;
        let mut headers = Vec::new();
        for (key, value) in &config.headers {
            let bad = || ForwardError::Header(key.clone());
            let key = MetadataKey::from_bytes(key.as_bytes()).map_err(|_| bad())?;
            let mut value = MetadataValue::try_from(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((key, value));
        }
        let (queue, mut requests) = mpsc::channel::<(ExportTraceServiceRequest, u64)>(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut collector = TraceServiceClient::new(channel);
            let mut failing = false;
            while let Some((spans, count)) = requests.recv().await {
                let mut request = tonic::Request::new(spans);
                for (key, value) in &headers {
                    request.metadata_mut().insert(key.clone(), value.clone());
                }
                match collector.export(request).await {
                    Ok(_) => {
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

/// A connection that is made when there is something to send.
fn channel(config: &OtlpConfig) -> Result<Channel, ForwardError> {
    let bad = |source| ForwardError::Endpoint {
        endpoint: config.endpoint.clone(),
        source,
    };
    let endpoint = Endpoint::from_shared(config.endpoint.clone()).map_err(bad)?;
    let mut endpoint = endpoint
        .timeout(config.timeout)
        .connect_timeout(config.timeout);
    if config.endpoint.starts_with("https://") {
        let tls = match &config.certificate {
            Some(path) => {
                let pem = std::fs::read(path).map_err(|source| ForwardError::Certificate {
                    path: path.clone(),
                    source,
                })?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls).map_err(bad)?;
    }
    Ok(endpoint.connect_lazy())
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
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:1");
        let off = [endpoint, ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(read(&off), Ok(None));
        for (wrong, part) in [
            (
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                "grpc only",
            ),
            (("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), "milliseconds"),
            (("OTEL_EXPORTER_OTLP_HEADERS", "lonely"), "no header"),
        ] {
            let error = read(&[endpoint, wrong]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
