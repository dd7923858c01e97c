//! Clients that decide on the sources of their builds, and what sources stand for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weld_proto::control::{SolveRequest, SolveResponse};
use weld_proto::frontend as wire;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_proto::pb;
use weld_proto::session::policy::check_policy_response::Result as Answer;
use weld_proto::session::policy::{
    CHECK_POLICY, CheckPolicyRequest, CheckPolicyResponse, DecisionResponse, DenyMessage,
};
use weld_proto::session::{BytesMessage, HEADER_ID, HEADER_METHOD};
use weld_proto::sourcepolicy::PolicyAction;
use weld_session::{Caller, Tunnel};

use support::{Daemon, definition};

/// A client that answers one question after another, and notes them.
#[derive(Clone, Default)]
struct Decider {
    answers: Arc<Mutex<VecDeque<Result<Answer, Status>>>>,
    asked: Arc<Mutex<Vec<wire::ResolveSourceMetaResponse>>>,
}

impl Decider {
    fn new(answers: impl IntoIterator<Item = Result<Answer, Status>>) -> Self {
        Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        }
    }

    fn asked(&self) -> Vec<wire::ResolveSourceMetaResponse> {
        self.asked.lock().unwrap().clone()
    }

    /// Opens a session that serves it.
    async fn serve(&self, daemon: &Daemon, id: &'static str) -> AbortOnDropHandle<()> {
        let (answers, incoming) = tokio::sync::oneshot::channel();
        let incoming = futures_util::stream::once(incoming);
        let incoming = futures_util::StreamExt::flat_map(incoming, |stream| match stream {
            Ok(stream) => futures_util::future::Either::Left(stream),
            Err(_) => futures_util::future::Either::Right(futures_util::stream::empty()),
        });
        let (tunnel, mut outgoing) = Tunnel::new(Box::pin(incoming));
        let outgoing = futures_util::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
        let mut request = Request::new(outgoing);
        let metadata = request.metadata_mut();
        metadata.insert(HEADER_ID, MetadataValue::from_static(id));
        metadata.append(HEADER_METHOD, MetadataValue::from_static(CHECK_POLICY));
        let service = TowerToHyperService::new(self.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(
                server
                    .http2_only()
                    .serve_connection(TokioIo::new(tunnel), service)
                    .await,
            );
        }));
        let caller = Caller::new(daemon.connect().await);
        let session = "/moby.buildkit.v1.Control/Session";
        let answer = caller.streaming::<_, BytesMessage>(session, request).await;
        drop(answers.send(answer.unwrap().into_inner()));
        task
    }
}

impl tower::Service<http::Request<hyper::body::Incoming>> for Decider {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let decider = self.clone();
        Box::pin(async move {
            assert_eq!(request.uri().path(), CHECK_POLICY);
            let codec = ProstCodec::<CheckPolicyResponse, CheckPolicyRequest>::default();
            Ok(Grpc::new(codec)
                .unary(decider, request.map(Body::new))
                .await)
        })
    }
}

impl UnaryService<CheckPolicyRequest> for Decider {
    type Response = CheckPolicyResponse;
    type Future = BoxFuture<'static, Result<Response<CheckPolicyResponse>, Status>>;

    fn call(&mut self, request: Request<CheckPolicyRequest>) -> Self::Future {
        let request = request.into_inner();
        assert!(request.platform.is_some(), "{request:?}");
        self.asked.lock().unwrap().extend(request.source);
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(async move {
            let result = answer.ok_or_else(|| Status::unknown("asked too often"))??;
            Ok(Response::new(CheckPolicyResponse {
                result: Some(result),
            }))
        })
    }
}

fn decide(action: PolicyAction, update: Option<pb::SourceOp>) -> Result<Answer, Status> {
    Ok(Answer::Decision(DecisionResponse {
        action: action.into(),
        update,
        deny_messages: match action {
            PolicyAction::Deny => vec![DenyMessage {
                message: "use another".to_owned(),
            }],
            _ => Vec::new(),
        },
    }))
}

fn ask(source: &pb::SourceOp) -> wire::ResolveSourceMetaRequest {
    wire::ResolveSourceMetaRequest {
        source: Some(source.clone()),
        ..wire::ResolveSourceMetaRequest::default()
    }
}

/// Builds a source, which a client decides on.
async fn build(
    daemon: &Daemon,
    decider: &Decider,
    source: &pb::SourceOp,
) -> Result<SolveResponse, Status> {
    let _served = decider.serve(daemon, "decides").await;
    let op = pb::Op {
        op: Some(pb::op::Op::Source(source.clone())),
        platform: Some(pb::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..pb::Platform::default()
        }),
        ..pb::Op::default()
    };
    let request = SolveRequest {
        reference: format!("build{}", decider.answers.lock().unwrap().len()),
        definition: Some(definition(op)),
        source_policy_session: "decides".to_owned(),
        ..SolveRequest::default()
    };
    let built = daemon.control().solve(request).await;
    built.map(Response::into_inner)
}

/// Files by HTTP; the address that they are at.
async fn serve(files: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(
                move |request: http::Request<hyper::body::Incoming>| async move {
                    let path = request.uri().path();
                    let file = files.iter().find(|(name, _)| *name == path);
                    let code = if file.is_some() { 200 } else { 404 };
                    let content = file.map_or("", |(_, content)| *content).to_owned();
                    http::Response::builder().status(code).body(content)
                },
            );
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}")
}

fn at(url: &str) -> pb::SourceOp {
    pb::SourceOp {
        identifier: url.to_owned(),
        attrs: BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_decides_on_each_source() {
    let daemon = Daemon::start().await;
    let server = serve(&[("/a", "content"), ("/b", "other")]).await;
    let source = at(&format!("{server}/a"));

    let allows = Decider::new([decide(PolicyAction::Allow, None)]);
    build(&daemon, &allows, &source).await.unwrap();
    let asked = allows.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].source.as_ref(), Some(&source));
    assert_eq!(asked[0].http, None, "nothing is fetched to ask");

    let denies = Decider::new([decide(PolicyAction::Deny, None)]);
    let denied = build(&daemon, &denies, &source).await.unwrap_err();
    assert!(
        denied
            .message()
            .contains("not allowed by policy: action DENY"),
        "{denied}"
    );
    let details = String::from_utf8_lossy(denied.details()).into_owned();
    assert!(
        details.contains("policysession.DecisionResponse+json"),
        "{details}"
    );
    assert!(details.contains("use another"), "{details}");

    let fails = Decider::new([Err(Status::unknown("nobody is here to decide"))]);
    let failed = build(&daemon, &fails, &source).await.unwrap_err();
    assert!(
        failed.message().contains("nobody is here to decide"),
        "{failed}"
    );

    // What it is converted to is decided on as well.
    let other = at(&format!("{server}/b"));
    let converts = Decider::new([
        decide(PolicyAction::Convert, Some(other.clone())),
        decide(PolicyAction::Allow, None),
    ]);
    build(&daemon, &converts, &source).await.unwrap();
    assert_eq!(converts.asked()[1].source.as_ref(), Some(&other));
    let gone = at(&format!("{server}/gone"));
    let converts = Decider::new([
        decide(PolicyAction::Convert, Some(gone)),
        decide(PolicyAction::Allow, None),
    ]);
    let absent = build(&daemon, &converts, &source).await.unwrap_err();
    assert!(absent.message().contains("404"), "{absent}");
    daemon.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_decides_may_ask_what_a_source_stands_for() {
    let daemon = Daemon::start().await;
    let server = serve(&[("/a", "content")]).await;
    let source = at(&format!("{server}/a"));
    let checksum = |algo, suffix: &'static [u8]| {
        Ok(Answer::Request(wire::ResolveSourceMetaRequest {
            http: Some(wire::ResolveSourceHttpRequest {
                checksum_request: Some(wire::ChecksumRequest {
                    algo,
                    suffix: suffix.into(),
                }),
            }),
            ..ask(&source)
        }))
    };
    let curious = Decider::new([checksum(2, b" and more"), decide(PolicyAction::Allow, None)]);
    build(&daemon, &curious, &source).await.unwrap();
    let known = curious.asked()[1].http.clone().unwrap();
    let digest = |content: &str| weld_digest::Digest::sha256_of(content).to_string();
    assert_eq!(known.checksum, digest("content"));
    let mut hasher = weld_digest::Hasher::new(weld_digest::Algorithm::Sha512);
    hasher.update(b"content and more");
    let response = known.checksum_response.unwrap();
    assert_eq!(response.digest, hasher.finish().to_string());
    assert_eq!(&response.suffix[..], b" and more");

    // Not what is none, not of other sources, and not for ever.
    let other = at(&format!("{server}/b"));
    let endless = || (0..20).map(|_| Ok(Answer::Request(ask(&source))));
    for (answers, part) in [
        (vec![checksum(99, b"")], "unsupported checksum algorithm"),
        (vec![checksum(0, &[0; 4097])], "suffix exceeds max size"),
        (
            vec![Ok(Answer::Request(ask(&other)))],
            "different source identifier",
        ),
        (endless().collect(), "too many policy requests"),
    ] {
        let decider = Decider::new(answers);
        let refused = build(&daemon, &decider, &source).await.unwrap_err();
        assert!(refused.message().contains(part), "{part}: {refused}");
    }
    daemon.end().await;
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=x", "-c", "user.email=x@x"])
        .args(["-c", "init.defaultBranch=main"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Serves the repositories in a directory; the address that they are at.
async fn serve_git(directory: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let base = directory.display().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let stream = std::os::fd::OwnedFd::from(stream);
            let served = tokio::process::Command::new("git")
                .args([
                    "-c",
                    "safe.directory=*",
                    "daemon",
                    "--inetd",
                    "--export-all",
                ])
                .arg(format!("--base-path={base}"))
                .stdin(Stdio::from(stream.try_clone().unwrap()))
                .stdout(Stdio::from(stream))
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .status();
            served.await.unwrap();
        }
    });
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_learns_what_a_git_reference_stands_for() {
    let daemon = Daemon::start().await;
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("r");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    git(
        &repository,
        &["commit", "-q", "--allow-empty", "-m", "first"],
    );
    git(&repository, &["tag", "-a", "v1", "-m", "release"]);
    git(
        &repository,
        &["commit", "-q", "--allow-empty", "-m", "second"],
    );
    let name_of = |what: &str| git(&repository, &["rev-parse", what]);
    let address = serve_git(directory.path()).await;

    let mut control = daemon.control();
    let _served = Decider::default().serve(&daemon, "asks").await;
    let building = tokio::spawn(async move {
        let request = SolveRequest {
            reference: "frontend".to_owned(),
            session: "asks".to_owned(),
            ..SolveRequest::default()
        };
        control.solve(request).await
    });
    let gateway = LlbBridgeClient::new(daemon.channel.clone());
    let resolve_with = async |reference: &str, return_object: bool, attrs: &[&str]| {
        let attrs = attrs
            .iter()
            .map(|name| ((*name).to_owned(), "true".to_owned()));
        let url = ("git.fullurl".to_owned(), format!("git://{address}/r"));
        let source = pb::SourceOp {
            identifier: format!("git://{address}/r{reference}"),
            attrs: attrs.chain([url]).collect(),
        };
        let mut request = Request::new(wire::ResolveSourceMetaRequest {
            git: Some(wire::ResolveSourceGitRequest { return_object }),
            ..ask(&source)
        });
        let metadata = request.metadata_mut();
        metadata.insert("buildkit-controlapi-buildid", "frontend".parse().unwrap());
        let answer = gateway.clone().resolve_source_meta(request).await.unwrap();
        answer.into_inner().git.unwrap()
    };
    let resolve = async |reference: &str, return_object: bool| {
        resolve_with(reference, return_object, &[]).await
    };
    let head = resolve("", false).await;
    assert_eq!(head.r#ref, "refs/heads/main");
    assert_eq!(head.checksum, name_of("main"));
    assert_eq!(head.commit_checksum, "");
    assert!(head.commit_object.is_empty() && head.tag_object.is_empty());

    let tag = resolve("#v1", false).await;
    assert_eq!(tag.r#ref, "refs/tags/v1");
    assert_eq!(tag.checksum, name_of("v1"));
    assert_eq!(tag.commit_checksum, name_of("v1^{commit}"));
    assert!(tag.tag_object.is_empty());

    let objects = resolve("#v1", true).await;
    assert_eq!(objects.commit_checksum, tag.commit_checksum);
    let commit = String::from_utf8(objects.commit_object.to_vec()).unwrap();
    assert!(
        commit.starts_with("tree ") && commit.ends_with("first\n"),
        "{commit}"
    );
    let tag = String::from_utf8(objects.tag_object.to_vec()).unwrap();
    assert!(
        tag.contains(&objects.commit_checksum) && tag.ends_with("release\n"),
        "{tag}"
    );

    // A tag that moves is for the build what it was when it was asked for.
    git(&repository, &["tag", "-f", "v1", "main"]);
    let again = resolve("#v1", false).await;
    assert_eq!(again.checksum, objects.checksum);
    // However the build has it then.
    let other = resolve_with("#v1", false, &["git.skipsubmodules"]).await;
    assert_eq!(other.checksum, objects.checksum);
    building.abort();
    daemon.end().await;
}
