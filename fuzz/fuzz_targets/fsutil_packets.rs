//! No packets of a client make the receiver of a tree panic, hang, or write outside of its
//! directory.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio::sync::mpsc;
use weld_proto::fsutil::Packet;
use weld_session::transfer::{ReceiveOptions, RemoteTree};
use weld_source::local::wire::{from_wire, to_wire};
use weld_source::local::{DirTarget, TreeIndex, sync};
use weld_source::progress::Progress;

/// Packets, each behind its length in one byte.
fn packets(mut bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (packet, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        packets.extend(Packet::decode(packet));
        bytes = rest;
    }
    packets
}

fuzz_target!(|bytes: &[u8]| {
    let packets = packets(bytes);
    for stat in packets.iter().filter_map(|packet| packet.stat.clone()) {
        if let Ok(stat) = from_wire(stat) {
            // What was understood can be said again, and is understood in the same way.
            let again = to_wire(&stat).map(from_wire);
            assert!(matches!(again, Ok(Ok(again)) if again == stat));
        }
    }
    // A device would need more than a directory to be made in.
    let harmless = |packet: &Packet| {
        let mode = packet.stat.as_ref().map_or(0, |stat| stat.mode);
        mode & (1 << 26) == 0
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let outer = tempfile::tempdir().expect("a directory");
    let inner = outer.path().join("inner");
    std::fs::create_dir(&inner).expect("a directory");
    let done = runtime.block_on(async {
        let (outgoing, mut requests) = mpsc::channel(64);
        let incoming = futures_util::stream::iter(
            packets
                .into_iter()
                .filter(harmless)
                .map(Ok)
                .collect::<Vec<_>>(),
        );
        let tree = RemoteTree::start(incoming, outgoing, ReceiveOptions::default());
        let target = Arc::new(DirTarget::open(&inner).expect("a target"));
        let listen = async { while requests.recv().await.is_some() {} };
        let work = async {
            let previous = Arc::new(TreeIndex::empty());
            drop(sync(Arc::new(tree), target, previous, &Progress::none()).await);
        };
        tokio::time::timeout(Duration::from_secs(10), async {
            tokio::join!(work, listen)
        })
        .await
    });
    assert!(done.is_ok(), "it hangs");
    assert_eq!(
        std::fs::read_dir(outer.path())
            .expect("a directory")
            .count(),
        1
    );
});
