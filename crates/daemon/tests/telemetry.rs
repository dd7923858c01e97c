//! Spans: kept with the build that they belong to, and passed on to a collector.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use weld_daemon::config::{OtlpConfig, OtlpProtocol};
use weld_proto::content::content_client::ContentClient;
use weld_proto::control::{BuildHistoryRequest, UpdateBuildHistoryRequest};
use weld_proto::session::content::ReadContentRequest;
use weld_proto::telemetry::trace_service_client::TraceServiceClient;
use weld_proto::telemetry::trace_service_server::{TraceService, TraceServiceServer};
use weld_proto::telemetry::{
    AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, ResourceSpans,
    ScopeSpans, Span, Value,
};

use support::{Daemon, solve};

const TRACE: [u8; 16] = [7; 16];
const PARENT: &str = "00-07070707070707070707070707070707-0101010101010101-01";

/// Passes on the names of the spans that it gets.
struct Collector(mpsc::Sender<String>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        assert_eq!(request.metadata().get("key").unwrap(), "secret");
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            self.0.send(span.name).await.unwrap();
        }
        Ok(Response::new(ExportTraceServiceResponse {}))
    }
}

fn spans_of_a_client(trace: [u8; 16]) -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: trace.to_vec().into(),
        span_id: vec![1; 8].into(),
        name: "what the client did".to_owned(),
        attributes: vec![KeyValue {
            key: "command".to_owned(),
            value: Some(AnyValue {
                value: Some(Value::String(
                    "type=s3,secret_access_key=hush,name=a".to_owned(),
                )),
            }),
        }],
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// The trace that the history has of a build, a line for each span.
async fn kept(daemon: &Daemon, reference: &str) -> Vec<serde_json::Value> {
    let finalize = UpdateBuildHistoryRequest {
        reference: reference.to_owned(),
        finalize: true,
        ..UpdateBuildHistoryRequest::default()
    };
    daemon
        .control()
        .update_build_history(finalize)
        .await
        .unwrap();
    let request = BuildHistoryRequest {
        reference: reference.to_owned(),
        early_exit: true,
        ..BuildHistoryRequest::default()
    };
    let answer = daemon
        .control()
        .listen_build_history(request)
        .await
        .unwrap();
    let event = answer.into_inner().message().await.unwrap().unwrap();
    let trace = event.record.unwrap().trace.expect("the record has a trace");
    assert_eq!(trace.media_type, "application/vnd.buildkit.otlp.json.v0");
    let read = ReadContentRequest {
        digest: trace.digest,
        ..ReadContentRequest::default()
    };
    let mut content = ContentClient::new(daemon.channel.clone());
    let mut pieces = content.read(read).await.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        text.extend_from_slice(&piece.data);
    }
    let lines = std::str::from_utf8(&text).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_join_the_history_and_reach_the_collector() {
    let (sender, mut collected) = mpsc::channel(100);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let incoming = futures_util::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let collector = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector(sender)))
        .serve_with_incoming(Box::pin(incoming));
    let collector = tokio::spawn(collector);
    let daemon = Daemon::start_with(|config| {
        config.otlp = Some(OtlpConfig {
            protocol: OtlpProtocol::Grpc,
            endpoint,
            headers: BTreeMap::from([("key".to_owned(), "secret".to_owned())]),
            timeout: Duration::from_secs(10),
            certificate: None,
        });
    })
    .await;
    let mut request = Request::new(solve("traced", "a"));
    request
        .metadata_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    daemon.control().solve(request).await.unwrap();
    let mut traces = TraceServiceClient::new(daemon.channel.clone());
    // Of the build's trace, and of another.
    traces.export(spans_of_a_client(TRACE)).await.unwrap();
    traces.export(spans_of_a_client([9; 16])).await.unwrap();

    let spans = kept(&daemon, "traced").await;
    let name = |span: &serde_json::Value| span["Name"].as_str().unwrap().to_owned();
    let names: Vec<_> = spans.iter().map(name).collect();
    assert_eq!(spans.len(), 3, "{names:?}");
    assert!(
        names.contains(&"what the client did".to_owned()),
        "{names:?}"
    );
    let kept = serde_json::to_string(&spans).unwrap();
    assert!(
        kept.contains("type=s3,secret_access_key=…,name=a"),
        "{kept}"
    );
    assert!(!kept.contains("hush"), "{kept}");
    let build = &spans[0];
    assert_eq!(name(build), "moby.buildkit.v1.Control/Solve");
    assert_eq!(build["Parent"]["SpanID"], "0101010101010101");
    assert_eq!(
        build["SpanContext"]["TraceID"],
        "07070707070707070707070707070707"
    );
    let step = &spans[1];
    assert_eq!(step["Parent"]["SpanID"], build["SpanContext"]["SpanID"]);
    assert!(step["StartTime"].as_str().unwrap() <= step["EndTime"].as_str().unwrap());

    let mut passed_on = Vec::new();
    while passed_on.len() < 4 {
        passed_on.push(collected.recv().await.unwrap());
    }
    let count = passed_on
        .iter()
        .filter(|name| *name == "what the client did")
        .count();
    assert_eq!(count, 2, "{passed_on:?}");
    daemon.end().await;
    collector.abort();
}

/// What a collector by HTTP was sent.
#[derive(Debug)]
struct Posted {
    path: String,
    key: String,
    kind: String,
    names: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_by_http() {
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use prost::Message;
    use tonic::codegen::http;

    let (sender, mut posted) = mpsc::channel(100);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let collector = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let text = |name| request.headers()[name].to_str().unwrap().to_owned();
                    let (path, key, kind) =
                        (request.uri().path(), text("key"), text("content-type"));
                    let path = path.to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let spans = ExportTraceServiceRequest::decode(body).unwrap();
                    let scopes = spans.resource_spans.into_iter();
                    let scopes = scopes.flat_map(|resource| resource.scope_spans);
                    let names = scopes.flat_map(|scope| scope.spans).map(|span| span.name);
                    let names = names.collect();
                    let told = Posted {
                        path,
                        key,
                        kind,
                        names,
                    };
                    sender.send(told).await.unwrap();
                    http::Response::builder().status(200).body(String::new())
                }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            let served = hyper::server::conn::http1::Builder::new();
            tokio::spawn(served.serve_connection(stream, service));
        }
    });
    let daemon = Daemon::start_with(|config| {
        config.otlp = Some(OtlpConfig {
            protocol: OtlpProtocol::HttpProtobuf,
            endpoint: format!("http://{address}/v1/traces"),
            headers: BTreeMap::from([("key".to_owned(), "secret".to_owned())]),
            timeout: Duration::from_secs(10),
            certificate: None,
        });
    })
    .await;
    let mut traces = TraceServiceClient::new(daemon.channel.clone());
    for _ in 0..2 {
        traces.export(spans_of_a_client(TRACE)).await.unwrap();
        let told = posted.recv().await.unwrap();
        assert_eq!(told.path, "/v1/traces");
        assert_eq!(told.key, "secret");
        assert_eq!(told.kind, "application/x-protobuf");
        assert_eq!(told.names, ["what the client did"]);
    }
    daemon.end().await;
    collector.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_build_whose_spans_nobody_wanted_they_are_made_when_asked_for() {
    let daemon = Daemon::start().await;
    daemon.control().solve(solve("plain", "a")).await.unwrap();
    let mut failing = solve("failed", "b");
    failing.frontend = "nope.v0".to_owned();
    failing.definition = None;
    daemon.control().solve(failing).await.unwrap_err();

    let spans = kept(&daemon, "plain").await;
    assert_eq!(spans.len(), 2, "{spans:?}");
    let (build, step) = (&spans[0], &spans[1]);
    assert_eq!(build["Name"], "moby.buildkit.v1.Control/Solve");
    assert_eq!(build["Status"]["Code"], "Unset");
    assert_eq!(step["Parent"]["SpanID"], build["SpanContext"]["SpanID"]);
    let time = |span: &serde_json::Value, name: &str| span[name].as_str().unwrap().to_owned();
    assert!(time(build, "StartTime") <= time(step, "StartTime"));
    assert!(time(step, "EndTime") <= time(build, "EndTime"));
    // It is there, and stays the same.
    assert_eq!(kept(&daemon, "plain").await, spans);

    let spans = kept(&daemon, "failed").await;
    assert_eq!(spans[0]["Status"]["Code"], "Error");
    daemon.end().await;
}
