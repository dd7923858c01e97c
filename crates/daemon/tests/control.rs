//! The daemon's services, through the wire: a server on a socket, and plain messages.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use tonic::Code;
use weld_daemon::config::Space;
use weld_proto::control::{
    BuildHistoryEventType, BuildHistoryRequest, DiskUsageRequest, Exporter, InfoRequest,
    ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest, UpdateBuildHistoryRequest,
};
use weld_proto::health::health_client::HealthClient;
use weld_proto::session::health::{HealthCheckRequest, ServingStatus};

use support::{Daemon, solve};

async fn steps(daemon: &Daemon, reference: &str) -> Vec<String> {
    let request = StatusRequest {
        reference: reference.to_owned(),
    };
    let response = daemon.control().status(request).await.unwrap();
    assert!(
        response
            .metadata()
            .contains_key("buildkit-current-timestamp")
    );
    let mut messages = response.into_inner();
    let mut completed = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        let done = message
            .vertexes
            .into_iter()
            .filter(|vertex| vertex.completed.is_some());
        completed.extend(done.map(|vertex| vertex.digest));
    }
    completed
}

async fn events(daemon: &Daemon, filter: &[&str]) -> Vec<(i32, String)> {
    let request = BuildHistoryRequest {
        early_exit: true,
        filter: filter.iter().map(|filter| (*filter).to_owned()).collect(),
        ..BuildHistoryRequest::default()
    };
    let mut events = daemon
        .control()
        .listen_build_history(request)
        .await
        .unwrap()
        .into_inner();
    let mut found = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        found.push((event.kind, event.record.unwrap().reference));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_and_the_version_are_told() {
    let daemon = Daemon::start().await;
    let workers = |filter: &[&str]| ListWorkersRequest {
        filter: filter.iter().map(|filter| (*filter).to_owned()).collect(),
    };
    let all = daemon
        .control()
        .list_workers(workers(&[]))
        .await
        .unwrap()
        .into_inner();
    let [worker] = all.record.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!(worker.platforms[0].os, "linux");
    assert!(!worker.gc_policy.is_empty());
    let same = daemon
        .control()
        .list_workers(workers(&[&format!("id=={}", worker.id)]))
        .await;
    assert_eq!(same.unwrap().into_inner().record.len(), 1);
    let none = daemon.control().list_workers(workers(&["id==other"])).await;
    assert!(none.unwrap().into_inner().record.is_empty());
    let wrong = daemon
        .control()
        .list_workers(workers(&["id==\""]))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let info = daemon
        .control()
        .info(InfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(info.buildkit_version.unwrap().version.starts_with('v'));
    daemon.end().await;
}

async fn history_size(daemon: &Daemon) -> i64 {
    let usage = daemon
        .control()
        .disk_usage(DiskUsageRequest {
            filter: vec!["id==history".to_owned()],
            ..DiskUsageRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    usage.record.iter().map(|record| record.size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_builds_are_forgotten_where_all_take_too_much_but_no_pinned_one() {
    let limit = 64 << 10;
    let daemon = Daemon::start_with(|config| config.history.max_used = Space::Bytes(limit)).await;
    let pin = UpdateBuildHistoryRequest {
        reference: "pinned".to_owned(),
        pinned: true,
        delete: false,
        finalize: false,
    };
    daemon
        .control()
        .solve(solve("pinned", "pinned"))
        .await
        .unwrap();
    daemon.control().update_build_history(pin).await.unwrap();
    let mut known = Vec::new();
    for number in 0..100 {
        let reference = format!("build{number}");
        let request = solve(&reference, &reference);
        daemon.control().solve(request).await.unwrap();
        let told = events(&daemon, &[]).await;
        known = told.into_iter().map(|(_, reference)| reference).collect();
        assert!(known.contains(&"pinned".to_owned()), "{known:?}");
        assert!(known.contains(&reference), "{known:?}");
        let size = history_size(&daemon).await;
        assert!(size > 0 && size <= limit as i64, "{size}");
        if !known.contains(&"build0".to_owned()) {
            break;
        }
    }
    assert!(
        known.len() > 1 && !known.contains(&"build0".to_owned()),
        "{known:?}"
    );
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_told_while_it_runs_and_remembered_after_it() {
    let daemon = Daemon::start().await;
    // Opened before the build begins.
    let early = steps(&daemon, "one");
    let mut control = daemon.control();
    let (early, built) = tokio::join!(early, control.solve(solve("one", "a")));
    built.unwrap();
    assert_eq!(early.len(), 1, "{early:?}");
    assert_eq!(steps(&daemon, "one").await, early);
    assert_eq!(steps(&daemon, "one").await, early);

    let complete = i32::from(BuildHistoryEventType::Complete);
    assert_eq!(events(&daemon, &[]).await, [(complete, "one".to_owned())]);
    assert!(events(&daemon, &["status==error"]).await.is_empty());

    let usage = daemon
        .control()
        .disk_usage(DiskUsageRequest::default())
        .await
        .unwrap();
    let usage = usage.into_inner().record;
    assert!(!usage.is_empty() && usage.iter().all(|record| !record.id.starts_with("sha256:")));
    // Its blobs are told of together.
    let history = usage.iter().find(|record| record.id == "history").unwrap();
    assert!(history.size > 0, "{history:?}");
    // As clients wait for it.
    assert!(usage.iter().all(|record| !record.in_use), "{usage:?}");
    let all = PruneRequest {
        all: true,
        ..PruneRequest::default()
    };
    let mut pruned = daemon.control().prune(all).await.unwrap().into_inner();
    assert!(pruned.message().await.unwrap().is_some());
    while pruned.message().await.unwrap().is_some() {}
    let usage = daemon
        .control()
        .disk_usage(DiskUsageRequest::default())
        .await
        .unwrap();
    let usage = usage.into_inner().record;
    assert!(usage.is_empty(), "an empty cache is empty: {usage:?}");

    let change = |pinned, delete| UpdateBuildHistoryRequest {
        reference: "one".to_owned(),
        pinned,
        delete,
        finalize: false,
    };
    daemon
        .control()
        .update_build_history(change(true, false))
        .await
        .unwrap();
    daemon
        .control()
        .update_build_history(change(false, true))
        .await
        .unwrap();
    assert!(events(&daemon, &[]).await.is_empty());
    let gone = daemon
        .control()
        .update_build_history(change(false, true))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_and_remembered() {
    let daemon = Daemon::start().await;
    let request = SolveRequest {
        frontend: "nothing.v0".to_owned(),
        ..solve("bad", "a")
    };
    let error = daemon.control().solve(request).await.unwrap_err();
    assert!(error.message().contains("nothing.v0"), "{error}");
    assert_eq!(events(&daemon, &["status==error"]).await.len(), 1);

    let internal = SolveRequest {
        internal: true,
        ..solve("inside", "a")
    };
    daemon.control().solve(internal).await.unwrap();
    assert_eq!(events(&daemon, &[]).await.len(), 1);
    // In no history, but its progress can still be had.
    assert_eq!(steps(&daemon, "inside").await.len(), 1);

    for (request, code) in [
        (solve("", "a"), Code::InvalidArgument),
        (
            SolveRequest {
                session: "nobody".to_owned(),
                ..solve("alone", "a")
            },
            Code::NotFound,
        ),
        // Clients print other codes in front of the message.
        (
            SolveRequest {
                entitlements: vec!["security.insecure".to_owned()],
                ..solve("root", "a")
            },
            Code::Unknown,
        ),
        (
            SolveRequest {
                exporters: vec![Exporter {
                    kind: "nothing".to_owned(),
                    ..Exporter::default()
                }],
                ..solve("nowhere", "a")
            },
            Code::Unknown,
        ),
    ] {
        let error = daemon.control().solve(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_build() {
    let daemon = Daemon::start().await;
    // Nobody is the frontend of this build: it waits.
    let request = SolveRequest {
        definition: None,
        ..solve("waits", "a")
    };
    let mut control = daemon.control();
    let building = tokio::spawn(async move { control.solve(request).await });
    let mut news = daemon
        .control()
        .listen_build_history(BuildHistoryRequest::default())
        .await
        .unwrap()
        .into_inner();
    let began = news.message().await.unwrap().unwrap();
    assert_eq!(began.kind, i32::from(BuildHistoryEventType::Started));
    building.abort();
    let ended = news.message().await.unwrap().unwrap();
    assert_eq!(ended.kind, i32::from(BuildHistoryEventType::Complete));
    assert!(
        ended
            .record
            .unwrap()
            .error
            .unwrap()
            .message
            .contains("context canceled")
    );
    assert_eq!(events(&daemon, &["status==canceled"]).await.len(), 1);
    drop(news);
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_draining_no_build_begins() {
    let daemon = Daemon::start().await;
    let request = SolveRequest {
        definition: None,
        ..solve("waits", "a")
    };
    let mut control = daemon.control();
    let building = tokio::spawn(async move { control.solve(request).await });
    let mut news = daemon
        .control()
        .listen_build_history(BuildHistoryRequest::default())
        .await
        .unwrap()
        .into_inner();
    news.message().await.unwrap().unwrap();
    let mut health = HealthClient::new(daemon.channel.clone());
    let mut states = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let serving = states.message().await.unwrap().unwrap();
    assert_eq!(serving.status, i32::from(ServingStatus::Serving));
    daemon.stop.cancel();
    let stopping = states.message().await.unwrap().unwrap();
    assert_eq!(stopping.status, i32::from(ServingStatus::NotServing));
    let refused = daemon
        .control()
        .solve(solve("late", "a"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // Whoever comes now learns so at once.
    let socket = daemon.path("sock");
    while tokio::net::UnixStream::connect(&socket).await.is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!socket.exists());
    // The last build ends, and with it the daemon.
    building.abort();
    drop((news, states));
    daemon.served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_none_is_told_as_such() {
    let daemon = Daemon::start().await;
    let request = SolveRequest {
        definition: Some(weld_proto::pb::Definition {
            def: vec![b"zz".to_vec().into()],
            ..Default::default()
        }),
        ..solve("none", "a")
    };
    // No frontend was asked for.
    let error = daemon.control().solve(request).await.unwrap_err();
    assert!(
        error.message().starts_with("the definition is invalid: "),
        "{error}"
    );
    daemon.end().await;
}

/// Who has not cancelled its build does not know why that was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_cancelled_as_the_daemon_ends_is_told_why() {
    let daemon = Daemon::start_with(|config| config.drain_timeout = Duration::ZERO).await;
    let request = SolveRequest {
        definition: None,
        ..solve("waits", "a")
    };
    let mut control = daemon.control();
    let building = tokio::spawn(async move { control.solve(request).await });
    let mut news = daemon
        .control()
        .listen_build_history(BuildHistoryRequest::default())
        .await
        .unwrap()
        .into_inner();
    news.message().await.unwrap().unwrap();
    daemon.stop.cancel();
    let error = building.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error.message().contains("the daemon is shutting down"),
        "{error}"
    );
    let ended = news.message().await.unwrap().unwrap();
    let remembered = ended.record.unwrap().error.unwrap();
    assert!(
        remembered.message.contains("context canceled"),
        "{remembered:?}"
    );
    drop(news);
    daemon.served.await.unwrap();
}

/// Clients open the progress beside the build: of one that is refused it ends at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_a_build_that_is_refused_ends() {
    let daemon = Daemon::start().await;
    let mut early = daemon.control();
    let request = || StatusRequest {
        reference: "refused".to_owned(),
    };
    let waiting = tokio::spawn(async move { early.status(request()).await });
    let refusal = daemon
        .control()
        .solve(SolveRequest {
            reference: "refused".to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            exporter_deprecated: "nosuch".to_owned(),
            ..SolveRequest::default()
        })
        .await
        .unwrap_err();
    assert!(refusal.message().contains("nosuch"), "{refusal}");
    let ends = async {
        let mut early = waiting.await.unwrap().unwrap().into_inner();
        assert!(early.message().await.unwrap().is_none());
        let mut late = daemon
            .control()
            .status(request())
            .await
            .unwrap()
            .into_inner();
        assert!(late.message().await.unwrap().is_none());
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(3), ends).await;
    ended.expect("it waits for a build that does not come");
}
