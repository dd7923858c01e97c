//! Whatever bytes a client sends, it gets an error, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "../../../fuzz/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{Full, StreamBody};
use tonic::Code;
use tonic::body::Body;
use tonic::transport::Channel;
use weld_proto::control::InfoRequest;

use harness::call::framed;
use support::{Daemon, solve};

/// All methods of a daemon.
const METHODS: [&str; 42] = [
    "moby.buildkit.v1.Control/DiskUsage",
    "moby.buildkit.v1.Control/Prune",
    "moby.buildkit.v1.Control/Solve",
    "moby.buildkit.v1.Control/Status",
    "moby.buildkit.v1.Control/Session",
    "moby.buildkit.v1.Control/ListWorkers",
    "moby.buildkit.v1.Control/Info",
    "moby.buildkit.v1.Control/ListenBuildHistory",
    "moby.buildkit.v1.Control/UpdateBuildHistory",
    "moby.buildkit.v1.frontend.LLBBridge/ResolveImageConfig",
    "moby.buildkit.v1.frontend.LLBBridge/ResolveSourceMeta",
    "moby.buildkit.v1.frontend.LLBBridge/Solve",
    "moby.buildkit.v1.frontend.LLBBridge/ReadFile",
    "moby.buildkit.v1.frontend.LLBBridge/ReadDir",
    "moby.buildkit.v1.frontend.LLBBridge/StatFile",
    "moby.buildkit.v1.frontend.LLBBridge/Evaluate",
    "moby.buildkit.v1.frontend.LLBBridge/Ping",
    "moby.buildkit.v1.frontend.LLBBridge/Return",
    "moby.buildkit.v1.frontend.LLBBridge/Inputs",
    "moby.buildkit.v1.frontend.LLBBridge/NewContainer",
    "moby.buildkit.v1.frontend.LLBBridge/ReleaseContainer",
    "moby.buildkit.v1.frontend.LLBBridge/ReadFileContainer",
    "moby.buildkit.v1.frontend.LLBBridge/ReadDirContainer",
    "moby.buildkit.v1.frontend.LLBBridge/StatFileContainer",
    "moby.buildkit.v1.frontend.LLBBridge/Warn",
    "moby.buildkit.v1.frontend.LLBBridge/ExecProcess",
    "containerd.services.content.v1.Content/Info",
    "containerd.services.content.v1.Content/Update",
    "containerd.services.content.v1.Content/List",
    "containerd.services.content.v1.Content/Delete",
    "containerd.services.content.v1.Content/Read",
    "containerd.services.content.v1.Content/Status",
    "containerd.services.content.v1.Content/ListStatuses",
    "containerd.services.content.v1.Content/Write",
    "containerd.services.content.v1.Content/Abort",
    "opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "no.such.Service/Method",
    "moby.buildkit.v1.Control/NoSuchMethod",
];

/// Calls a method with a body; the code that it answers, or `None` if it goes on.
async fn call(channel: &Channel, method: &str, body: Body) -> Option<Code> {
    let session = [("x-docker-expose-session-uuid", "hostile")];
    let patience = Duration::from_millis(500);
    harness::call::call(channel, method, &session, body, patience).await
}

/// A build of somebody else, who must not notice.
async fn others_build(daemon: &Daemon, name: &str) {
    daemon.control().solve(solve(name, name)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_of_a_client_disturb_another() {
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
    let daemon = Daemon::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    let garbage: Vec<Bytes> = (0..12)
        .map(|number: usize| {
            let mut bytes = vec![0; 1 << number];
            random.fill(&mut bytes);
            // Half of them begin as a message does: a field of some number and kind.
            if number.is_multiple_of(2) {
                bytes[0] = random.u8(1..8) << 3 | random.u8(0..6);
            }
            Bytes::from(bytes)
        })
        .collect();
    let daemon = &daemon;
    let garbage = &garbage;
    let hostile = futures_util::stream::iter(METHODS).for_each_concurrent(8, |method| async move {
        let channel = daemon.connect().await;
        let call = |body: Full<Bytes>| call(&channel, method, Body::new(body));
        for bytes in garbage {
            let length = u32::try_from(bytes.len()).unwrap();
            call(Full::new(framed(length, bytes))).await;
        }
        // A session ends well in whatever way its client leaves.
        let refused = |code: Option<Code>| {
            let leaves = method.ends_with("/Session");
            assert!(leaves || code != Some(Code::Ok), "{method}");
        };
        // Nothing at all, and an empty message.
        call(Full::default()).await;
        call(Full::new(framed(0, b""))).await;
        // It ends before it is whole: in its head, and in its content.
        refused(call(Full::new(Bytes::from_static(b"\0\0"))).await);
        refused(call(Full::new(framed(100, b"short"))).await);
        // Larger than anything may be.
        refused(call(Full::new(framed(u32::MAX, b"long"))).await);
        // Compressed in a way that nobody agreed on.
        let mut compressed = framed(5, b"bytes").to_vec();
        compressed[0] = 1;
        refused(call(Full::new(compressed.into())).await);
    });
    let others = async {
        for number in 0..20 {
            others_build(daemon, &format!("other {number}")).await;
        }
    };
    tokio::join!(hostile, others);
    assert_eq!(panics.load(Ordering::SeqCst), 0, "a handler panicked");
    others_build(daemon, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_refused_and_a_slow_one_waited_for() {
    let daemon = Daemon::start().await;
    let channel = daemon.connect().await;
    let large = vec![0; (16 << 20) + 1];
    let length = u32::try_from(large.len()).unwrap();
    let refused = call(
        &channel,
        "moby.buildkit.v1.Control/Solve",
        Body::new(Full::new(framed(length, &large))),
    );
    let code = refused.await;
    assert!(
        matches!(code, Some(Code::OutOfRange | Code::ResourceExhausted)),
        "{code:?}"
    );
    // Half of a message, and nothing more for as long as the client likes.
    let half = futures_util::stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(
        framed(1000, b"half"),
    ))]);
    let slow = Body::new(StreamBody::new(half.chain(futures_util::stream::pending())));
    let waiting = call(&channel, "moby.buildkit.v1.Control/Solve", slow);
    let mut control = daemon.control();
    let (waiting, informed) = tokio::join!(waiting, control.info(InfoRequest {}));
    informed.unwrap();
    assert_eq!(waiting, None);
    others_build(&daemon, "meanwhile").await;
    daemon.end().await;
}
