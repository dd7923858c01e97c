//! A collector of spans, by OpenTelemetry's protocol over gRPC or HTTP.

use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use weld_proto::telemetry::ExportTraceServiceRequest;
use weld_proto::telemetry::trace_service_client::TraceServiceClient;

use super::forward::{ForwardError, OtlpConfig, OtlpProtocol};

/// Who takes spans.
pub(super) enum Collector {
    Grpc {
        client: TraceServiceClient<Channel>,
        headers: HeaderMap,
    },
    Http {
        client: reqwest::Client,
        endpoint: reqwest::Url,
        headers: HeaderMap,
        timeout: Duration,
    },
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("{0}")]
    Grpc(Box<tonic::Status>),
    #[error("{0}")]
    Http(reqwest::Error),
    #[error("{endpoint} answers {status}")]
    Status {
        endpoint: String,
        status: reqwest::StatusCode,
    },
}

impl Collector {
    /// Nothing is connected before there is something to send.
    pub(super) fn new(config: &OtlpConfig) -> Result<Self, ForwardError> {
        let headers = headers(config)?;
        Ok(match config.protocol {
            OtlpProtocol::Grpc => Self::Grpc {
                client: TraceServiceClient::new(channel(config)?),
                headers,
            },
            OtlpProtocol::HttpProtobuf => {
                let endpoint: reqwest::Url = config
                    .endpoint
                    .parse()
                    .map_err(|source| bad_endpoint(config, source))?;
                let ca: Vec<PathBuf> = config.certificate.iter().cloned().collect();
                let host = endpoint.host_str().unwrap_or_default();
                let client = weld_source::posting_client(host, ca, config.timeout);
                Self::Http {
                    client: client.map_err(|source| bad_endpoint(config, source))?,
                    endpoint,
                    headers,
                    timeout: config.timeout,
                }
            }
        })
    }

    pub(super) async fn export(
        &mut self,
        spans: ExportTraceServiceRequest,
    ) -> Result<(), ExportError> {
        match self {
            Self::Grpc { client, headers } => {
                let mut request = tonic::Request::new(spans);
                *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
                let exported = client.export(request).await;
                exported.map_err(|status| ExportError::Grpc(Box::new(status)))?;
                Ok(())
            }
            Self::Http {
                client,
                endpoint,
                headers,
                timeout,
            } => {
                let request = client
                    .post(endpoint.clone())
                    .headers(headers.clone())
                    .header(CONTENT_TYPE, "application/x-protobuf")
                    .timeout(*timeout)
                    .body(spans.encode_to_vec());
                let answer = request.send().await;
                // The address may have a secret in it.
                let answer = answer.map_err(|error| ExportError::Http(error.without_url()))?;
                match answer.status() {
                    status if status.is_success() => Ok(()),
                    status => Err(ExportError::Status {
                        endpoint: endpoint.host_str().unwrap_or_default().to_owned(),
                        status,
                    }),
                }
            }
        }
    }
}

fn headers(config: &OtlpConfig) -> Result<HeaderMap, ForwardError> {
    let mut headers = HeaderMap::new();
    for (key, value) in &config.headers {
        // A value may be a secret: only the name is told.
        let bad = || ForwardError::Header(key.clone());
        let name = HeaderName::from_bytes(key.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn bad_endpoint(
    config: &OtlpConfig,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ForwardError {
    ForwardError::Endpoint {
        endpoint: config.endpoint.clone(),
        source: source.into(),
    }
}

fn channel(config: &OtlpConfig) -> Result<Channel, ForwardError> {
    let endpoint = Endpoint::from_shared(config.endpoint.clone())
        .map_err(|source| bad_endpoint(config, source))?;
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
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|source| bad_endpoint(config, source))?;
    }
    Ok(endpoint.connect_lazy())
}
