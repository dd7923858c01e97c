//! The debug address: metrics, what is live in the solver, and its trace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use weld_proto::control::SolveRequest;
use weld_proto::pb;

use support::{Daemon, definition, solve};

async fn start() -> Daemon {
    Daemon::start_with(|config| {
        let root = config.engine.root.parent().unwrap();
        config.debug_address = Some(format!("unix://{}", root.join("debug").display()));
    })
    .await
}

/// Asks the debug address; the status line and what follows the headers.
async fn ask(daemon: &Daemon, request: &str) -> (String, String) {
    let mut stream = UnixStream::connect(daemon.path("debug")).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap();
    (status.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_is_shown_in_every_form() {
    let daemon = start().await;
    let (_, empty) = ask(&daemon, "GET /debug/graph?format=json").await;
    assert_eq!(empty, r#"{"nodes":[]}"#);
    // A registry that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("docker-image://{}/silent:1", silent.local_addr().unwrap());
    let source = pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: image.clone(),
            ..pb::SourceOp::default()
        })),
        ..pb::Op::default()
    };
    let request = SolveRequest {
        definition: Some(definition(source)),
        ..solve("silent", "")
    };
    let mut control = daemon.control();
    let building = tokio::spawn(async move { control.solve(request).await });
    let (connection, _) = silent.accept().await.unwrap();
    let (status, graph) = ask(&daemon, "GET /debug/graph?format=json").await;
    assert!(status.contains("200"), "{status}");
    let graph: serde_json::Value = serde_json::from_str(&graph).unwrap();
    let nodes = graph["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 1, "{graph}");
    assert_eq!(nodes[0]["name"], image.as_str());
    assert_eq!(nodes[0]["outcome"], "running");
    let (_, dot) = ask(&daemon, "GET /debug/graph").await;
    assert!(dot.starts_with("digraph"), "{dot}");
    let (_, page) = ask(&daemon, "GET /debug/graph?format=html").await;
    assert!(page.contains("<html") && page.contains(&image), "{page}");
    let (status, _) = ask(&daemon, "GET /debug/graph?format=gif").await;
    assert!(status.contains("400"), "{status}");
    // Progress arrives a little later.
    let step = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let (_, builds) = ask(&daemon, "GET /debug/builds").await;
            let build: serde_json::Value = serde_json::from_str(&builds).unwrap();
            assert_eq!(build["ref"], "silent", "{builds}");
            let step = &build["under_way"][0];
            if step["doing"].is_string() {
                return step.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let step = step.await.expect("no step goes on");
    assert_eq!(step["name"], image.as_str());
    assert!(step["seconds"].as_f64().is_some(), "{step}");
    let reference = image.trim_start_matches("docker-image://");
    assert_eq!(step["doing"], format!("resolve {reference}"));
    let (_, metrics) = ask(&daemon, "GET /metrics").await;
    for line in [
        "weld_builds_running 1",
        "weld_solver_live{kind=\"vertices\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    building.abort();
    drop(connection);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_switched_on_and_off_while_the_daemon_runs() {
    let daemon = start().await;
    let (_, state) = ask(&daemon, "GET /debug/trace").await;
    assert_eq!(state, "{\"on\":false}\n");
    let (status, _) = ask(&daemon, "GET /debug/trace/on").await;
    assert!(status.contains("405"), "{status}");
    let (status, _) = ask(&daemon, "POST /debug/trace/on?seconds=0").await;
    assert!(status.contains("400"), "{status}");
    let (status, state) = ask(&daemon, "POST /debug/trace/on").await;
    assert!(
        status.contains("200") && state.contains("\"on\":true"),
        "{state}"
    );
    let (status, _) = ask(&daemon, "POST /debug/trace/on").await;
    assert!(status.contains("409"), "{status}");
    daemon.control().solve(solve("traced", "a")).await.unwrap();
    // A look in the middle is no part of the trace.
    ask(&daemon, "GET /debug/graph").await;
    daemon
        .control()
        .solve(solve("traced too", "b"))
        .await
        .unwrap();
    let (_, written) = ask(&daemon, "POST /debug/trace/off").await;
    let written: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["lost"], 0);
    let file = written["file"].as_str().unwrap();
    let trace = weld_trace::Trace::read(std::path::Path::new(file)).unwrap();
    let jobs = weld_trace::jobs(&trace, &weld_trace::Filter::default()).unwrap();
    let jobs: Vec<_> = jobs.jobs.iter().map(|job| job.job.as_str()).collect();
    assert_eq!(jobs, ["traced", "traced too"]);
    let report = weld_trace::check(weld_trace::Reader::open(std::path::Path::new(file)).unwrap());
    assert!(report.unwrap().violations.is_empty());
    // Nor does one go on for longer than it was to.
    ask(&daemon, "POST /debug/trace/on?seconds=1").await;
    let begun = std::time::Instant::now();
    while !ask(&daemon, "GET /debug/trace")
        .await
        .1
        .contains("\"on\":false")
    {
        assert!(begun.elapsed().as_secs() < 10, "it goes on and on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.end().await;
}
