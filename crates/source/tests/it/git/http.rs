//! Repositories over HTTP, with what servers ask of clients.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use weld_source::Secret;
use weld_source::git::{GitAuth, GitSpec};
use weld_source::progress::{Progress, ProgressSink, Status};

use super::{Repository, World, names, read, spec};
use crate::support::server::{Reply, Request, Server};

/// `git http-backend` behind the server, for requests that `allow` lets through.
pub(super) async fn backend(
    root: &Path,
    allow: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> Server {
    let (root, allow) = (root.to_owned(), Arc::new(allow));
    Server::with(Arc::new(move |request| -> BoxFuture<'static, Reply> {
        let (root, allow) = (root.clone(), Arc::clone(&allow));
        Box::pin(async move {
            if !allow(&request) {
                return Reply::new(401, []).header("www-authenticate", "Basic realm=\"git\"");
            }
            cgi(&root, &request).await
        })
    }))
    .await
}

async fn cgi(root: &Path, request: &Request) -> Reply {
    let mut child = tokio::process::Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", request.path())
        .env("QUERY_STRING", request.query())
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("GIT_PROTOCOL", request.header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let written = tokio::spawn(async move { stdin.write_all(&body).await });
    let output = child.wait_with_output().await.unwrap();
    let _ = written.await.unwrap();
    let split = output
        .stdout
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let mut reply = Reply::new(200, &output.stdout[split + 4..]);
    for line in String::from_utf8_lossy(&output.stdout[..split]).lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            reply.status = value[..3].parse().unwrap();
        } else {
            reply = reply.header(name, value);
        }
    }
    reply
}

#[tokio::test]
async fn repositories_come_over_smart_and_plain_http() {
    let (repository, world) = (Repository::new(), World::new());
    let smart = backend(repository.path(), |_| true).await;
    for reference in ["main", "v1", &repository.of("light")] {
        let directory = world
            .checkout(&spec(&smart.url("/.git"), reference))
            .await
            .unwrap();
        assert!(names(directory.path()).contains(&"file".to_owned()));
    }
    let root = repository.path().join(".git");
    repository.git(&["update-server-info"]);
    let plain = Server::new(move |request| {
        match std::fs::read(root.join(request.path().trim_start_matches('/'))) {
            Ok(content) => Reply::new(200, content),
            Err(_) => Reply::new(404, []),
        }
    })
    .await;
    for reference in ["main", "v1", &repository.of("light")] {
        let directory = world
            .checkout(&spec(&plain.url("/"), reference))
            .await
            .unwrap();
        assert!(names(directory.path()).contains(&"file".to_owned()));
    }
}

#[derive(Default)]
struct Lines(Mutex<String>);

impl ProgressSink for Lines {
    fn report(&self, status: &Status<'_>) {
        self.log(status.id, status.name);
    }
    fn log(&self, _id: &str, text: &str) {
        let mut lines = self.0.lock().unwrap();
        lines.push_str(text);
        lines.push('\n');
    }
}

#[tokio::test]
async fn secrets_let_in_and_are_never_shown() {
    let (repository, world) = (Repository::new(), World::new());
    let server = backend(repository.path(), |request| {
        // user:hidden, x-access-token:hidden
        matches!(
            request.header("authorization"),
            "Basic dXNlcjpoaWRkZW4=" | "basic eC1hY2Nlc3MtdG9rZW46aGlkZGVu"
        )
    })
    .await;
    let plain = server.url("/.git");
    let in_url = format!("http://user:hidden@{}/.git", server.host);
    let by_token = GitSpec {
        auth: GitAuth {
            header: Some(GitAuth::token_header(&Secret::new("hidden\n"))),
            ..GitAuth::default()
        },
        ..spec(&plain, "main")
    };
    let mut kept = spec(&in_url, "main");
    kept.keep_git_dir = true;
    for spec in [by_token, kept] {
        let lines = Arc::new(Lines::default());
        let progress = Progress::new(lines.clone());
        let resolved = world.source.resolve(&spec, &progress).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        world
            .source
            .checkout(&spec, &resolved, directory.path(), &progress)
            .await
            .unwrap();
        assert_eq!(read(&directory, "file"), "two");
        for place in [directory.path(), world.state.path()] {
            let found = Command::new("grep")
                .args(["-rE", "hidden|dXNlc"])
                .arg(place)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&found.stdout), "");
        }
        let lines = lines.0.lock().unwrap();
        assert!(
            lines.contains(&plain) && !lines.contains("hidden"),
            "{lines}"
        );
    }
    let wrong = format!("http://user:hidden2@{}/.git", server.host);
    let error = world.resolve(&spec(&wrong, "main")).await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(text.contains(&plain) && !text.contains("hidden"), "{text}");
    }
}

#[tokio::test]
async fn a_cancelled_checkout_leaves_no_program_behind() {
    let stalled = Server::with(Arc::new(|_| Box::pin(std::future::pending()))).await;
    let world = World::new();
    let spec = spec(&stalled.url("/x.git"), "main");
    let resolve = world.resolve(&spec);
    assert!(
        tokio::time::timeout(Duration::from_millis(700), resolve)
            .await
            .is_err()
    );
    assert_eq!(stalled.requests().len(), 1);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let left = Command::new("pgrep")
            .args(["-f", &stalled.host])
            .output()
            .unwrap();
        if left.stdout.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
