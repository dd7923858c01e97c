use std::path::Path;
use std::process::{Command, Stdio};

use tokio::net::TcpListener;
use weld_llb::{GitSource, Source};

use crate::world::World;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository, and a git daemon that serves it.
struct Remote {
    dir: tempfile::TempDir,
    address: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remote {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("r");
        std::fs::create_dir_all(repository.join("sub")).unwrap();
        git(&repository, &["init", "-q"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let base = dir.path().display().to_string();
        let task = tokio::spawn(async move {
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
        let remote = Self { dir, address, task };
        remote.commit("one");
        remote
    }

    fn repository(&self) -> std::path::PathBuf {
        self.dir.path().join("r")
    }

    fn commit(&self, content: &str) -> String {
        let repository = self.repository();
        std::fs::write(repository.join("top"), content).unwrap();
        std::fs::write(repository.join("sub/file"), content).unwrap();
        git(&repository, &["add", "-A"]);
        git(&repository, &["commit", "-q", "-m", content]);
        git(&repository, &["rev-parse", "HEAD"])
    }

    fn source(&self, reference: &str) -> GitSource {
        GitSource {
            id: format!("{}/r", self.address),
            url: Some(format!("git://{}/r", self.address)),
            reference: reference.to_owned(),
            ..GitSource::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_checked_out_again_only_when_it_moved() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::start().await;
    let world = World::open(dir.path());
    let first = world
        .solve(Source::Git(remote.source("main")))
        .await
        .unwrap();
    let mounted = first.mount().unwrap();
    assert_eq!(
        std::fs::read_to_string(mounted.path().join("top")).unwrap(),
        "one"
    );
    assert!(!mounted.path().join(".git").exists());
    let again = world
        .solve(Source::Git(remote.source("main")))
        .await
        .unwrap();
    assert_eq!(first, again);
    let commit = remote.commit("two");
    let moved = world.solve(Source::Git(remote.source(""))).await.unwrap();
    assert_ne!(first, moved);
    let named = world
        .solve(Source::Git(remote.source(&commit)))
        .await
        .unwrap();
    assert_eq!(moved, named);
    world.worker.store.db().flush().unwrap();
    let kinds = world
        .worker
        .store
        .disk_usage(&["type==source.git.checkout".to_owned()])
        .unwrap();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(
        kinds[0].description.starts_with("git snapshot for git://"),
        "{kinds:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn subdirs_and_git_directories_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::start().await;
    let world = World::open(dir.path());
    let mut source = remote.source("main");
    source.subdir = "sub".to_owned();
    let sub = world.solve(Source::Git(source)).await.unwrap();
    let mounted = sub.mount().unwrap();
    let names: Vec<_> = std::fs::read_dir(mounted.path().join("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"]);
    let mut source = remote.source("main");
    source.keep_git_dir = true;
    let kept = world.solve(Source::Git(source)).await.unwrap();
    assert!(kept.mount().unwrap().path().join(".git/HEAD").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_branch_and_a_missing_agent_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::start().await;
    let world = World::open(dir.path());
    let error = world
        .solve(Source::Git(remote.source("nowhere")))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("does not contain ref nowhere"),
        "{error}"
    );
    let mut source = remote.source("main");
    source.mount_ssh_sock = Some("key".to_owned());
    let error = world.solve(Source::Git(source)).await.unwrap_err();
    assert!(
        error.to_string().contains("ssh agent key: not found"),
        "{error}"
    );
}
