//! Trees over fsutil's protocol: what is sent arrives, and what is malformed is an error to the
//! one who receives it, with nothing written where it must not be.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tonic::Status;
use weld_fileset::SelectionOptions;
use weld_proto::fsutil::{Packet, PacketType, Stat};
use weld_session::transfer::{ReceiveOptions, RemoteTree, Sent, packets, send};
use weld_source::local::{DirTarget, HostDir, SyncError, Synced, TreeIndex, sync};
use weld_source::progress::Progress;

const DIRECTORY: u32 = 1 << 31 | 0o755;
const FILE: u32 = 0o644;
const SYMLINK: u32 = 1 << 27 | 0o777;
const DEVICE: u32 = 1 << 26 | 1 << 21 | 0o600;

fn stat(path: &str, mode: u32) -> Stat {
    Stat {
        path: path.to_owned(),
        mode,
        ..Stat::default()
    }
}

fn listed(stat: Stat) -> Packet {
    Packet {
        stat: Some(stat),
        ..Packet::default()
    }
}

fn packet(kind: PacketType) -> Packet {
    Packet {
        r#type: kind.into(),
        ..Packet::default()
    }
}

fn data(id: u32, content: &'static [u8]) -> Packet {
    Packet {
        id,
        data: Bytes::from_static(content),
        ..packet(PacketType::Data)
    }
}

/// A file of four bytes, asked for and sent.
fn transcript() -> Vec<Packet> {
    let file = Stat {
        size: 4,
        ..stat("dir/file", FILE)
    };
    vec![
        listed(stat("dir", DIRECTORY)),
        listed(file),
        packet(PacketType::Stat),
        data(1, b"con"),
        data(1, b"t"),
        data(1, b""),
        packet(PacketType::Fin),
    ]
}

fn options() -> ReceiveOptions {
    ReceiveOptions {
        stall: Duration::from_secs(20),
        max_paths: 1000,
        ..ReceiveOptions::default()
    }
}

/// Receives what a sender says that does not listen.
async fn receive(
    packets: impl Stream<Item = Packet> + Send + Unpin + 'static,
    options: ReceiveOptions,
    into: &Path,
) -> Result<Synced, SyncError> {
    let (outgoing, _requests) = mpsc::channel(1000);
    let tree = RemoteTree::start(paced(packets).map(Ok).boxed(), outgoing, options);
    into_directory(tree, into, TreeIndex::empty()).await
}

/// What is sent in answer to requests must not come before them.
fn paced(
    packets: impl Stream<Item = Packet> + Send + 'static,
) -> impl Stream<Item = Packet> + Send + 'static {
    packets.then(|packet| async move {
        if packet.r#type != i32::from(PacketType::Stat) {
            tokio::task::yield_now().await;
        }
        packet
    })
}

async fn into_directory(
    tree: RemoteTree,
    into: &Path,
    previous: TreeIndex,
) -> Result<Synced, SyncError> {
    let target = Arc::new(DirTarget::open(into).unwrap());
    sync(
        Arc::new(tree),
        target,
        Arc::new(previous),
        &Progress::none(),
    )
    .await
}

async fn refused(packets: Vec<Packet>, part: &str) {
    let into = tempfile::tempdir().unwrap();
    let inner = into.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    let what = format!("{packets:?}");
    let outcome = receive(stream::iter(packets), options(), &inner).await;
    let error = outcome.expect_err(&what).to_string();
    assert!(error.contains(part), "{what}: {error}");
    let outside: Vec<_> = fs::read_dir(into.path().join("a")).unwrap().collect();
    assert_eq!(outside.len(), 1, "{what}: something was written outside");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_no_tree_is_refused() {
    let after = |stat: Stat| vec![listed(stat), packet(PacketType::Stat)];
    for path in [
        "../x",
        "..",
        "/etc/passwd",
        "",
        ".",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a\0b",
    ] {
        refused(after(stat(path, FILE)), "is not a plain relative path").await;
    }
    refused(after(stat("no/parent", FILE)), "is not in a directory").await;
    refused(after(stat("x", SYMLINK)), "symbolic link without a target").await;
    refused(after(stat("x", 1 << 31 | 1 << 27)), "which no file has").await;
    refused(after(stat("x", 1 << 15)), "which no file has").await;
    let size = |size| Stat {
        size,
        ..stat("x", FILE)
    };
    refused(after(size(-1)), "has size -1").await;
    let device = Stat {
        devmajor: -1,
        ..stat("x", DEVICE)
    };
    refused(after(device), "which there cannot be").await;
    let link = Stat {
        linkname: "../../etc/passwd".into(),
        ..stat("x", FILE)
    };
    refused(after(link), "which is no file listed before").await;
    refused(after(stat(&"x/".repeat(3000), FILE)), "too long").await;
    for pair in [["b", "a"], ["a", "a"]] {
        let mut packets: Vec<_> = pair.map(|path| listed(stat(path, FILE))).into();
        packets.push(packet(PacketType::Stat));
        refused(packets, "is out of order").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_through_a_link_leads_nowhere() {
    // The link is listed as one: a path beneath it has no directory.
    let link = Stat {
        linkname: "/tmp".into(),
        ..stat("link", SYMLINK)
    };
    let packets = vec![
        listed(link),
        listed(stat("link/file", FILE)),
        packet(PacketType::Stat),
    ];
    refused(packets, "is not in a directory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_out_of_turn_are_refused() {
    refused(vec![packet(PacketType::Fin)], "unexpected final").await;
    refused(vec![packet(PacketType::Req)], "unexpected request").await;
    let unknown = Packet {
        r#type: 77,
        ..Packet::default()
    };
    refused(vec![unknown], "unexpected unknown").await;
    refused(vec![data(0, b"x")], "was not asked for").await;
    let told = Packet {
        data: Bytes::from_static(b"disk on fire"),
        ..packet(PacketType::Err)
    };
    refused(vec![told], "disk on fire").await;
    let mut twice = transcript();
    twice.insert(3, packet(PacketType::Stat));
    refused(twice, "unexpected stat").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_anywhere_is_an_error() {
    let whole = transcript().len();
    for length in 0..whole {
        let into = tempfile::tempdir().unwrap();
        let (outgoing, mut requests) = mpsc::channel(10);
        let (incoming, packets) = mpsc::channel::<Result<Packet, Status>>(10);
        let stream = stream::unfold(packets, |mut packets| async move {
            Some((packets.recv().await?, packets))
        });
        let tree = RemoteTree::start(stream.boxed(), outgoing, options());
        let feed = async move {
            for packet in transcript().into_iter().take(length) {
                let kind = PacketType::try_from(packet.r#type).unwrap();
                let first = kind == PacketType::Data && packet.data.len() == 3;
                if first || kind == PacketType::Fin {
                    requests.recv().await;
                }
                drop(incoming.send(Ok(packet)).await);
            }
        };
        let (outcome, ()) =
            tokio::join!(into_directory(tree, into.path(), TreeIndex::empty()), feed);
        let error = outcome.expect_err("it was cut").to_string();
        assert!(
            error.contains("ended before it was complete"),
            "{length}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_an_error_after_a_while() {
    for length in 0..3 {
        let into = tempfile::tempdir().unwrap();
        let packets = transcript().into_iter().take(length);
        let silent = stream::iter(packets).chain(stream::pending());
        let short = ReceiveOptions {
            stall: Duration::from_millis(50),
            ..options()
        };
        let error = receive(silent.boxed(), short, into.path())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("nothing came for"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_is_an_error() {
    let into = tempfile::tempdir().unwrap();
    let stats = stream::iter(0..).map(|number: u64| listed(stat(&format!("{number:020}"), FILE)));
    let error = receive(stats.boxed(), options(), into.path())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger than allowed"), "{error}");

    let (outgoing, mut requests) = mpsc::channel(10);
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    let content = stream::once(async move { requests.recv().await })
        .filter_map(|_| async { None })
        .chain(stream::repeat(Packet {
            id: 0,
            data: piece,
            ..packet(PacketType::Data)
        }));
    let packets = stream::iter([listed(stat("file", FILE)), packet(PacketType::Stat)]);
    let tree = RemoteTree::start(packets.chain(content).map(Ok).boxed(), outgoing, options());
    let outcome = into_directory(tree, into.path(), TreeIndex::empty()).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("far larger"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_size_allocates_nothing() {
    let into = tempfile::tempdir().unwrap();
    let file = Stat {
        size: i64::MAX,
        ..stat("file", FILE)
    };
    let packets = stream::iter([listed(file), packet(PacketType::Stat)]);
    let error = receive(packets.boxed(), options(), into.path())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ended before"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_transfer_ends_at_once() {
    let into = tempfile::tempdir().unwrap();
    let (outgoing, mut requests) = mpsc::channel(10);
    let packets = transcript().into_iter().take(3);
    let silent = stream::iter(packets).map(Ok).chain(stream::pending());
    let tree = RemoteTree::start(silent.boxed(), outgoing, options());
    let path = into.path().to_owned();
    let task = tokio::spawn(async move {
        into_directory(tree, &path, TreeIndex::empty())
            .await
            .map(drop)
    });
    assert_eq!(
        requests.recv().await.unwrap().id,
        1,
        "the file is asked for"
    );
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // The threads let go of the tree, and with it of the way to the other end.
    assert!(requests.recv().await.is_none());
}

/// Sends a directory into another.
async fn copy(
    from: &Path,
    into: &Path,
    previous: TreeIndex,
) -> (Result<Sent, String>, Result<Synced, String>) {
    let (to_receiver, incoming) = packets();
    let (to_sender, requests) = mpsc::channel::<Packet>(8);
    let pour = |receiver: mpsc::Receiver<Packet>| {
        stream::unfold(receiver, |mut receiver| async move {
            Some((Ok::<_, Status>(receiver.recv().await?), receiver))
        })
        .boxed()
    };
    let provider = Arc::new(HostDir::open(from, SelectionOptions::default()).unwrap());
    let incoming = incoming.map(Ok::<_, Status>);
    let tree = RemoteTree::start(incoming, to_sender, options());
    let (sent, synced) = tokio::join!(
        send(provider, pour(requests), to_receiver),
        into_directory(tree, into, previous)
    );
    (
        sent.map_err(|error| error.to_string()),
        synced.map_err(|error| error.to_string()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_arrives_as_it_is_and_the_second_time_only_what_changed() {
    let from = tempfile::tempdir().unwrap();
    let into = tempfile::tempdir().unwrap();
    let at = |path: &str| from.path().join(path);
    fs::create_dir_all(at("sub/deep")).unwrap();
    fs::write(at("sub/small"), "small").unwrap();
    fs::write(at("sub-before"), "sorts by components").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("big"), vec![7; 3 << 20]).unwrap();
    fs::hard_link(at("sub/small"), at("sub/zlink")).unwrap();
    symlink("sub/small", at("symlink")).unwrap();
    fs::set_permissions(at("sub/deep"), fs::Permissions::from_mode(0o1750)).unwrap();
    fs::set_permissions(at("big"), fs::Permissions::from_mode(0o4755)).unwrap();
    for number in 0..600 {
        fs::write(at(&format!("sub/deep/{number}")), format!("{number}")).unwrap();
    }

    let (sent, synced) = copy(from.path(), into.path(), TreeIndex::empty()).await;
    let (sent, synced) = (sent.unwrap(), synced.unwrap());
    assert_eq!(sent.files, 604);
    let same = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([from.path(), into.path()])
        .output()
        .unwrap();
    assert!(same.status.success(), "{same:?}");
    for path in ["sub/deep", "big", "sub/small", "empty"] {
        let (one, other) = (fs::metadata(at(path)), fs::metadata(into.path().join(path)));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.mode(), other.mode(), "{path}");
        assert_eq!(
            (one.mtime(), one.mtime_nsec()),
            (other.mtime(), other.mtime_nsec()),
            "{path}"
        );
    }
    let inode = |path: &str| fs::metadata(into.path().join(path)).unwrap().ino();
    assert_eq!(inode("sub/small"), inode("sub/zlink"));

    let (sent, again) = copy(from.path(), into.path(), synced.index).await;
    let again = again.unwrap();
    assert_eq!(sent.unwrap().files, 0, "an unchanged tree costs its stats");
    assert!(!again.tree_changed);

    fs::write(at("sub/deep/77"), "changed").unwrap();
    fs::remove_file(at("empty")).unwrap();
    let (sent, changed) = copy(from.path(), into.path(), again.index).await;
    assert_eq!(sent.unwrap().files, 1);
    changed.unwrap();
    assert_eq!(
        fs::read_to_string(into.path().join("sub/deep/77")).unwrap(),
        "changed"
    );
    assert!(!into.path().join("empty").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sender_cannot_read_fails_the_transfer() {
    let from = tempfile::tempdir().unwrap();
    let into = tempfile::tempdir().unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
    fs::write(from.path().join(name), "latin").unwrap();
    let (sent, synced) = copy(from.path(), into.path(), TreeIndex::empty()).await;
    assert!(sent.unwrap_err().contains("not valid UTF-8"));
    assert!(synced.unwrap_err().contains("not valid UTF-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_what_there_is_not_are_refused() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("file"), "x").unwrap();
    for ids in [vec![0], vec![2], vec![u32::MAX], vec![1, 1]] {
        let provider = Arc::new(HostDir::open(from.path(), SelectionOptions::default()).unwrap());
        let (outgoing, mut packets) = packets();
        let (ask, requests) = mpsc::channel::<Packet>(10);
        let requests = stream::unfold(requests, |mut requests| async move {
            Some((Ok::<_, Status>(requests.recv().await?), requests))
        });
        let talk = async move {
            // All stats first.
            while packets
                .next()
                .await
                .is_some_and(|packet: Packet| packet.stat.is_some())
            {}
            for id in ids {
                let request = Packet {
                    id,
                    ..packet(PacketType::Req)
                };
                drop(ask.send(request).await);
            }
            let mut told = String::new();
            while let Some(packet) = packets.next().await {
                if packet.r#type == i32::from(PacketType::Err) {
                    told = String::from_utf8_lossy(&packet.data).into_owned();
                }
            }
            told
        };
        let (sent, told) = tokio::join!(send(provider, requests.boxed(), outgoing), talk);
        assert!(sent.unwrap_err().to_string().contains("was asked for"));
        assert!(told.contains("was asked for"), "{told}");
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let path = prop_oneof!["[a-c]", "[a-c]/[a-c]", "(\\.\\./)*[a-c./]{0,6}"];
    let mode = prop_oneof![Just(FILE), Just(DIRECTORY), Just(SYMLINK), any::<u32>()];
    let stat = (path, mode, any::<i64>(), any::<i64>(), "[a-c./]{0,3}").prop_map(
        |(path, mode, size, mod_time, linkname)| Stat {
            path,
            mode,
            size,
            mod_time,
            linkname,
            ..Stat::default()
        },
    );
    let data = proptest::collection::vec(any::<u8>(), 0..8);
    (
        0..5i32,
        proptest::option::weighted(0.8, stat),
        0..4u32,
        data,
    )
        .prop_map(|(r#type, stat, id, data)| Packet {
            r#type,
            stat,
            id,
            data: data.into(),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_packets_write_outside_or_hang(packets in proptest::collection::vec(any_packet(), 0..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let outcome = runtime.block_on(async {
            let received = receive(stream::iter(packets), options(), &inner);
            tokio::time::timeout(Duration::from_secs(60), received).await
        });
        prop_assert!(outcome.is_ok(), "it hangs");
        prop_assert_eq!(fs::read_dir(outer.path().join("a")).unwrap().count(), 1);
        prop_assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    }
}
