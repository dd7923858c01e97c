//! Servers that break, lie, refuse, and clients that give up.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weld_digest::Digest;
use weld_source::image::Descriptor;
use weld_source::progress::Progress;
use weld_source::registry::{Failure, HostConfig};
use weld_source::sink::{BlobSink, MemorySink, Verdict};

use crate::support::server::{Fault, Reply, Server};
use crate::support::{Counter, Layout, RealRegistry, noise};

use super::{blob_server, config, fetch, reference, registry};

#[tokio::test]
async fn broken_downloads_go_on_where_they_broke() {
    let content = noise(1_000_000, 1);
    for fault in [
        Fault::Cut(300_000),
        Fault::Reset(300_000),
        Fault::Stall(300_000),
        Fault::NoAnswer,
    ] {
        let calls = Counter::default();
        let server = blob_server(content.clone(), move |_, reply| match calls.next() {
            0 | 1 => reply.fault(fault),
            _ => reply,
        })
        .await;
        let descriptor = Descriptor::of("x", &content);
        let fetched = fetch(&registry(config()), &server.host, &descriptor)
            .await
            .unwrap();
        assert!(fetched == content, "{fault:?}");
        let requests = server.requests();
        assert_eq!(requests.len(), 3, "{fault:?}");
        if matches!(fault, Fault::Cut(_) | Fault::Stall(_)) {
            assert_eq!(requests[1].header("range"), "bytes=300000-");
            assert_eq!(requests[2].header("range"), "bytes=600000-");
        }
    }
}

#[tokio::test]
async fn a_download_may_break_often_if_it_gets_on() {
    let content = noise(1_000_000, 1);
    let server = blob_server(content.clone(), |_, reply| {
        let length = reply.body.len().min(70_000);
        reply.fault(Fault::Cut(length))
    })
    .await;
    let descriptor = Descriptor::of("x", &content);
    let fetched = fetch(&registry(config()), &server.host, &descriptor)
        .await
        .unwrap();
    assert!(fetched == content);
    assert_eq!(server.requests().len(), 15);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start() {
    let content = noise(500_000, 1);
    let calls = Counter::default();
    let whole = content.clone();
    let server = Server::new(move |_| {
        let reply = Reply::new(200, whole.clone());
        if calls.next() == 0 {
            reply.fault(Fault::Cut(200_000))
        } else {
            reply
        }
    })
    .await;
    let descriptor = Descriptor::of("x", &content);
    let fetched = fetch(&registry(config()), &server.host, &descriptor)
        .await
        .unwrap();
    assert!(fetched == content);
}

#[tokio::test]
async fn wrong_content_is_fetched_again_and_never_accepted() {
    let content = noise(100_000, 1);
    let descriptor = Descriptor::of("x", &content);
    let garble = |mut reply: Reply| {
        reply.body[5] ^= 1;
        reply
    };
    let calls = Counter::default();
    let once = blob_server(content.clone(), move |_, reply| match calls.next() {
        0 => garble(reply),
        _ => reply,
    })
    .await;
    assert!(
        fetch(&registry(config()), &once.host, &descriptor)
            .await
            .unwrap()
            == content
    );
    let always = blob_server(content.clone(), move |_, reply| garble(reply)).await;
    let error = fetch(&registry(config()), &always.host, &descriptor)
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure(), Some(Failure::Digest { .. })),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("instead of {}", descriptor.digest)),
        "{error}"
    );
    let longer = blob_server([content.clone(), vec![0]].concat(), |_, reply| reply).await;
    let error = fetch(&registry(config()), &longer.host, &descriptor)
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure(), Some(Failure::Size { .. })),
        "{error}"
    );
    let shorter = blob_server(content[1..].to_vec(), |_, reply| match reply.status {
        206 => Reply::new(416, []),
        _ => reply,
    })
    .await;
    let error = fetch(&registry(config()), &shorter.host, &descriptor)
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure(), Some(Failure::Size { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_blob_in_a_real_registry_is_found() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[50_000]));
    layout.push(&format!("{}/app:v1", real.host));
    let layer = &layout.manifest.layers[0];
    let file = real.blob_file(&layer.digest);
    let mut content = std::fs::read(&file).unwrap();
    content[100] ^= 1;
    std::fs::write(&file, content).unwrap();
    let error = fetch(&registry(config()), &real.host, layer)
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure(), Some(Failure::Digest { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_busy_server_is_asked_again_when_it_says() {
    let content = noise(1000, 1);
    let descriptor = Descriptor::of("x", &content);
    let calls = Counter::default();
    let server = blob_server(content.clone(), move |_, reply| match calls.next() {
        0 => Reply::new(429, "slow down").header("retry-after", "1"),
        1 => Reply::new(503, []),
        _ => reply,
    })
    .await;
    let started = Instant::now();
    assert!(
        fetch(&registry(config()), &server.host, &descriptor)
            .await
            .unwrap()
            == content
    );
    assert!(started.elapsed() >= Duration::from_secs(1));
    let down = Server::new(|_| Reply::new(500, r#"{"errors":[{"message":"out of order"}]}"#)).await;
    let error = fetch(&registry(config()), &down.host, &descriptor)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("status 500 Internal Server Error: out of order"),
        "{error}"
    );
    assert_eq!(down.requests().len(), 4);
    let forbidden = Server::new(|_| Reply::new(403, "<html>no</html>")).await;
    let error = fetch(&registry(config()), &forbidden.host, &descriptor)
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("forbidden: no reason given"),
        "{error}"
    );
    assert_eq!(forbidden.requests().len(), 1);
}

#[tokio::test]
async fn a_mirror_goes_on_where_another_broke() {
    let content = noise(400_000, 1);
    let descriptor = Descriptor::of("x", &content);
    let dying = {
        let calls = Counter::default();
        blob_server(content.clone(), move |_, reply| match calls.next() {
            0 => reply.fault(Fault::Cut(100_000)),
            _ => Reply::new(404, []),
        })
        .await
    };
    let origin = blob_server(content.clone(), |_, reply| reply).await;
    let mut config = config();
    let mirrors = vec![dying.host.clone()];
    config.hosts.insert(
        origin.host.clone(),
        HostConfig {
            mirrors,
            ..HostConfig::default()
        },
    );
    assert!(
        fetch(&registry(config), &origin.host, &descriptor)
            .await
            .unwrap()
            == content
    );
    assert_eq!(origin.requests()[0].header("range"), "bytes=100000-");
}

#[tokio::test]
async fn a_cancelled_fetch_lets_go_of_the_connection_and_the_sink() {
    let content = noise(100_000, 1);
    let server = blob_server(content.clone(), |_, reply| {
        reply.fault(Fault::Stall(50_000))
    })
    .await;
    let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
    struct Held {
        sink: MemorySink,
        started: Option<tokio::sync::oneshot::Sender<()>>,
        _dropped: tokio::sync::oneshot::Sender<()>,
    }
    impl BlobSink for Held {
        fn position(&self) -> u64 {
            self.sink.position()
        }
        fn write(&mut self, chunk: Bytes) -> io::Result<()> {
            if let Some(started) = self.started.take() {
                let _ = started.send(());
            }
            self.sink.write(chunk)
        }
        fn restart(&mut self) -> io::Result<()> {
            self.sink.restart()
        }
        fn finish(&mut self, expected: &Digest) -> io::Result<Verdict> {
            self.sink.finish(expected)
        }
    }
    let (started, begun) = tokio::sync::oneshot::channel();
    let sink = Held {
        sink: MemorySink::new(),
        started: Some(started),
        _dropped: dropped,
    };
    let mut config = config();
    config.timeouts.read = Duration::from_secs(60);
    let registry = registry(config);
    let reference = reference(&format!("{}/app", server.host));
    let descriptor = Descriptor::of("x", &content);
    let progress = Progress::none();
    {
        let fetch = registry.fetch_blob(reference.repository(), &descriptor, sink, &progress);
        tokio::pin!(fetch);
        tokio::select! {
            _ = &mut fetch => panic!("it stalls"),
            begun = begun => begun.unwrap(),
        }
    }
    // The sink's end of the channel is dropped with it.
    assert!(
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .unwrap()
            .is_err()
    );
}

#[tokio::test]
async fn a_sink_that_fails_fails_the_fetch() {
    struct Full;
    impl BlobSink for Full {
        fn position(&self) -> u64 {
            0
        }
        fn write(&mut self, _chunk: Bytes) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn restart(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn finish(&mut self, _expected: &Digest) -> io::Result<Verdict> {
            Ok(Verdict::Right)
        }
    }
    let content = noise(5_000_000, 1);
    let server = blob_server(content.clone(), |_, reply| reply).await;
    let reference = reference(&format!("{}/app", server.host));
    let descriptor = Descriptor::of("x", &content);
    let registry = registry(config());
    let progress = Progress::none();
    let fetched = registry.fetch_blob(reference.repository(), &descriptor, Full, &progress);
    let error = fetched.await.err().unwrap().to_string();
    assert!(error.contains("No space left on device"), "{error}");
}
