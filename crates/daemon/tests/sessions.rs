//! Sessions: which one a build asks, and when it comes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use weld_client::serve::{Serving, SessionServer, Targets};
use weld_daemon::config::TlsConfig;
use weld_engine::{HostSession, Session};
use weld_proto::content::content_client::ContentClient;
use weld_proto::control::control_client::ControlClient;
use weld_proto::control::{BuildHistoryRequest, Exporter, SolveRequest, StatusRequest};
use weld_proto::session::content::{InfoRequest, ListContentRequest, ReadContentRequest};
use weld_proto::session::{
    BytesMessage, HEADER_HEALTH_TIMEOUT, HEADER_ID, HEADER_METHOD, filesync,
};
use weld_proto::{Message, pb};
use weld_session::Caller;
use weld_testbed::Authority;

use support::{Daemon, definition, solve};

/// A session that offers one directory.
fn offering(name: &str, directory: &Path) -> Arc<dyn Session> {
    let mut session = HostSession::new();
    session.add_directory(name, directory).unwrap();
    session.into_session()
}

async fn serve(daemon: &Daemon, session: &Arc<dyn Session>) -> Serving {
    let targets = Arc::new(Targets::new(&[]).unwrap());
    let server = SessionServer::new(Arc::clone(session), targets);
    server
        .start(&Caller::new(daemon.connect().await))
        .await
        .unwrap()
}

/// Wants the directory `context`, perhaps of one session and no other.
fn wanting_context(reference: &str, session: &str, of: Option<&str>) -> SolveRequest {
    let attrs = of.map(|id| ("local.session".to_owned(), id.to_owned()));
    let source = pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: "local://context".to_owned(),
            attrs: attrs.into_iter().collect(),
        })),
        ..pb::Op::default()
    };
    SolveRequest {
        session: session.to_owned(),
        definition: Some(definition(source)),
        ..solve(reference, "")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_may_name_a_session_that_has_no_build() {
    let daemon = Daemon::start().await;
    let (mine, shared) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = offering("other", mine.path());
    std::fs::write(shared.path().join("file"), "content").unwrap();
    let other = offering("context", shared.path());
    let _served = (serve(&daemon, &own).await, serve(&daemon, &other).await);
    let named = wanting_context("named", own.id(), Some(other.id()));
    daemon.control().solve(named).await.unwrap();
    // Clients take each start that they hear of for a stretch of time, which has to have an end.
    let status = StatusRequest {
        reference: "named".to_owned(),
    };
    let mut messages = daemon.control().status(status).await.unwrap().into_inner();
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    while let Some(message) = messages.message().await.unwrap() {
        for vertex in message.vertexes {
            let started = vertex.started.map(|at| (at.seconds, at.nanos));
            let Some(started) = started else { continue };
            begun.insert((vertex.digest.clone(), started));
            if vertex.completed.is_some() {
                ended.insert((vertex.digest, started));
            }
        }
    }
    assert!(!begun.is_empty());
    assert_eq!(begun, ended);
    let unnamed = wanting_context("unnamed", own.id(), None);
    let error = daemon.control().solve(unnamed).await.unwrap_err();
    assert!(error.message().contains("context"), "{error}");
    daemon.end().await;
}

/// Builds a Dockerfile with directories of a session of which the build is not.
fn dockerfile_of(other: &Arc<dyn Session>, own: &Arc<dyn Session>) -> SolveRequest {
    let sessions = ["context", "dockerfile", "named"]
        .map(|name| (format!("local-sessionid:{name}"), other.id().to_owned()));
    let named = ("context:base".to_owned(), "local:named".to_owned());
    SolveRequest {
        reference: "dockerfile".to_owned(),
        session: own.id().to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: sessions.into_iter().chain([named]).collect(),
        ..SolveRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_and_contexts_may_be_of_another_session() {
    let daemon = Daemon::start().await;
    let (files, named) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dockerfile = "FROM scratch AS base\nFROM scratch\nCOPY a /a\nCOPY --from=base /b /b\n";
    std::fs::write(files.path().join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(files.path().join("a"), "a").unwrap();
    std::fs::write(named.path().join("b"), "b").unwrap();
    let mut other = HostSession::new();
    for (name, directory) in [
        ("context", &files),
        ("dockerfile", &files),
        ("named", &named),
    ] {
        other.add_directory(name, directory.path()).unwrap();
    }
    let (own, other) = (HostSession::new().into_session(), other.into_session());
    let _served = (serve(&daemon, &own).await, serve(&daemon, &other).await);
    let request = dockerfile_of(&other, &own);
    daemon.control().solve(request).await.unwrap();
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_cannot_be_had_is_shown_where_it_is_asked_for() {
    let daemon = Daemon::start().await;
    let files = tempfile::tempdir().unwrap();
    let dockerfile = "#syntax=127.0.0.1:1/frontend\nFROM scratch\n";
    std::fs::write(files.path().join("Dockerfile"), dockerfile).unwrap();
    let session = offering("dockerfile", files.path());
    let _served = serve(&daemon, &session).await;
    let request = SolveRequest {
        frontend_attrs: std::iter::empty().collect(),
        ..dockerfile_of(&session, &session)
    };
    let error = daemon.control().solve(request).await.unwrap_err();
    let status = weld_proto::google::Status::decode(error.details()).unwrap();
    let sources = status.details.iter();
    let mut sources = sources.filter(|detail| detail.type_url.contains("errdefs.Source"));
    let source: serde_json::Value = serde_json::from_slice(&sources.next().unwrap().value).unwrap();
    assert_eq!(source["info"]["filename"], "Dockerfile");
    assert_eq!(source["ranges"][0]["start"]["line"], 1);
    assert!(sources.next().is_none());
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_come_late_and_come_again() {
    let daemon = Daemon::start().await;
    let directory = tempfile::tempdir().unwrap();
    let session = offering("context", directory.path());
    let mut control = daemon.control();
    let request = wanting_context("late", session.id(), None);
    let building = tokio::spawn(async move { control.solve(request).await });
    // The build begins, and has nobody to ask.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!building.is_finished());
    let first = serve(&daemon, &session).await;
    building.await.unwrap().unwrap();
    drop(first);
    let again = serve(&daemon, &session).await;
    let request = wanting_context("again", session.id(), None);
    daemon.control().solve(request).await.unwrap();
    // While it is served, the same session may be connected once more: the newer one counts.
    let twice = serve(&daemon, &session).await;
    drop(again);
    let request = wanting_context("twice", session.id(), None);
    daemon.control().solve(request).await.unwrap();
    drop(twice);
    daemon.end().await;
}

/// A connection by a certificate.
async fn certified(authority: &Authority, name: &str, port: u16) -> Channel {
    let read = |path| std::fs::read(path).unwrap();
    let identity = Identity::from_pem(read(authority.certificate(name)), read(authority.key(name)));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(
            authority.certificate("authority"),
        )))
        .identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_for_its_own_certificate_where_clients_are_kept_apart() {
    let certificates = tempfile::tempdir().unwrap();
    let authority = Authority::new(certificates.path()).unwrap();
    for name in ["server", "one", "other"] {
        authority.certify(name).unwrap();
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let daemon = Daemon::start_with(|config| {
        config
            .listen
            .addresses
            .push(format!("tcp://127.0.0.1:{port}"));
        config.listen.isolate_clients = true;
        config.sessions.wait = Duration::from_millis(300);
        config.listen.tls = Some(TlsConfig {
            cert: authority.certificate("server"),
            key: authority.key("server"),
            ca: Some(authority.certificate("authority")),
        });
    })
    .await;
    let (one, other) = (
        certified(&authority, "one", port).await,
        certified(&authority, "other", port).await,
    );
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("private"), "content").unwrap();
    let session = offering("context", directory.path());
    let server = SessionServer::new(Arc::clone(&session), Arc::new(Targets::new(&[]).unwrap()));
    let _served = server.start(&Caller::new(one.clone())).await.unwrap();

    let mut own = wanting_context("own", session.id(), None);
    own.exporters.push(Exporter {
        kind: "image".to_owned(),
        attrs: BTreeMap::from([("name".to_owned(), "own:latest".to_owned())]),
    });
    ControlClient::new(one).solve(own).await.unwrap();
    let all = blobs(daemon.connect().await).await;
    let others = blobs(other.clone()).await;
    let layer = all.difference(&others).next();
    let layer = layer.expect("layers are nobody else's").clone();
    let mut content = ContentClient::new(other.clone());
    let asked = InfoRequest {
        digest: layer.clone(),
    };
    let info = content.info(asked).await.unwrap_err();
    assert_eq!(info.code(), tonic::Code::NotFound, "{info}");
    let asked = ReadContentRequest {
        digest: layer,
        ..ReadContentRequest::default()
    };
    let read = content.read(asked).await.map(drop).unwrap_err();
    assert_eq!(read.code(), tonic::Code::NotFound, "{read}");
    for (reference, of) in [("as-its-own", None), ("by-name", Some(session.id()))] {
        let id = if of.is_some() { "" } else { session.id() };
        let stolen = wanting_context(reference, id, of);
        let refused = ControlClient::new(other.clone()).solve(stolen).await;
        assert!(
            refused.is_err(),
            "{reference}: another client's session was used"
        );
    }
    daemon.end().await;
}

/// The digests of all blobs that a client is told of.
async fn blobs(client: Channel) -> BTreeSet<String> {
    let mut content = ContentClient::new(client);
    let listed = content.list(ListContentRequest::default());
    let mut pages = listed.await.unwrap().into_inner();
    let mut blobs = BTreeSet::new();
    while let Some(page) = pages.message().await.unwrap() {
        blobs.extend(page.info.into_iter().map(|info| info.digest));
    }
    blobs
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_stays_of_clients_that_left() {
    const CLIENTS: usize = 40;
    let daemon = Daemon::start().await;
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let before = runtime.metrics().num_alive_tasks();
    let mut present = Vec::new();
    for _ in 0..CLIENTS {
        let session = offering("context", directory.path());
        let serving = serve(&daemon, &session).await;
        let news = daemon
            .control()
            .listen_build_history(BuildHistoryRequest::default())
            .await
            .unwrap();
        present.push((serving, news));
    }
    assert!(
        runtime.metrics().num_alive_tasks() >= before + 2 * CLIENTS,
        "each client has tasks of its own"
    );
    drop(present);
    // Fewer than one for each client: the connection may have some at any time.
    let gone = async {
        while runtime.metrics().num_alive_tasks() >= before + CLIENTS / 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .expect("what served the clients ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_client_that_is_given_up_fails() {
    let daemon = Daemon::start().await;
    // It promises a directory, and says nothing ever.
    let mut silent = tonic::Request::new(futures_util::stream::pending::<BytesMessage>());
    let metadata = [
        (HEADER_ID, "silent"),
        (HEADER_METHOD, filesync::DIFF_COPY),
        (HEADER_HEALTH_TIMEOUT, "1000"),
    ];
    for (key, value) in metadata {
        let value = value.parse().unwrap();
        silent.metadata_mut().insert(key, value);
    }
    let mut asked = daemon.control().session(silent).await.unwrap().into_inner();
    let request = wanting_context("waits", "silent", None);
    let mut control = daemon.control();
    let build = control.solve(request);
    let failed = tokio::time::timeout(Duration::from_secs(120), build).await;
    failed.expect("it waits for ever").unwrap_err();
    // The client hears of it too: its stream ends.
    while asked.message().await.is_ok_and(|message| message.is_some()) {}
    daemon.end().await;
}
