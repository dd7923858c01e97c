use std::os::unix::fs::MetadataExt;

use weld_digest::Digest;
use weld_llb::{FileAttributes, HttpSource, Source};

use crate::server::{Server, State};
use crate::world::World;

fn wanted(server: &Server) -> HttpSource {
    HttpSource {
        url: server.url.clone(),
        ..HttpSource::default()
    }
}

fn served() -> State {
    State {
        content: "one",
        etag: "1",
        ..State::default()
    }
}

/// Runs one process's part: all that it left running has ended when this returns.
fn process<T>(part: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(part)
}

#[test]
fn an_unchanged_file_is_not_sent_again_even_by_a_later_process() {
    let dir = tempfile::tempdir().unwrap();
    let serving = tokio::runtime::Runtime::new().unwrap();
    let server = serving.block_on(Server::start(served()));
    let mut source = wanted(&server);
    source.file = FileAttributes {
        mode: Some(0o755),
        uid: Some(7),
        gid: Some(8),
        ..FileAttributes::default()
    };
    let first = process(async {
        let world = World::open(dir.path());
        let first = world.solve(Source::Http(source.clone())).await.unwrap();
        let mounted = first.mount().unwrap();
        let path = mounted.path().join("file.txt");
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()),
            (0o755, 7, 8, 1_420_070_400)
        );
        assert_eq!(
            std::fs::read_dir(mounted.path().join(".")).unwrap().count(),
            1
        );
        let second = world.solve(Source::Http(source.clone())).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(server.answers(), [200, 304]);
        first.id()
    });
    process(async {
        let world = World::open(dir.path());
        let third = world.solve(Source::Http(source.clone())).await.unwrap();
        assert_eq!(third.id(), first);
        assert_eq!(server.answers(), [200, 304, 304]);
        server.set("two", "2");
        let changed = world.solve(Source::Http(source)).await.unwrap();
        assert_ne!(changed.id(), first);
        let mounted = changed.mount().unwrap();
        let text = std::fs::read_to_string(mounted.path().join("file.txt")).unwrap();
        assert_eq!(text, "two");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_checksum_the_server_is_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(served()).await;
    let world = World::open(dir.path());
    let mut source = wanted(&server);
    source.checksum = Some(Digest::sha256_of("one"));
    for _ in 0..2 {
        world.solve(Source::Http(source.clone())).await.unwrap();
        assert_eq!(server.answers(), [200]);
    }
    source.checksum = Some(Digest::sha256_of("other"));
    let error = world.solve(Source::Http(source)).await.unwrap_err();
    assert!(error.to_string().contains("checksum mismatch"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_the_client_authorizes() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = served();
    state.authorization = Some("Basic abc");
    let server = Server::start(state).await;
    let mut world = World::open(dir.path());
    let mut source = wanted(&server);
    let error = world.solve(Source::Http(source.clone())).await.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    source.auth_header_secret = Some("header".to_owned());
    let error = world.solve(Source::Http(source.clone())).await.unwrap_err();
    assert!(
        error.to_string().contains("secret header: not found"),
        "{error}"
    );
    world
        .secrets
        .insert("header".to_owned(), "Basic abc\n".to_owned());
    world.solve(Source::Http(source)).await.unwrap();
    assert_eq!(server.answers(), [401, 200]);
}
