//! Blobs: what comes in is verified, and can be gone on with.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::io::Read as _;

use weld_digest::{Algorithm, Digest, Hasher};
use weld_store::{BlobError, BlobInfo, Expected, Ingest, Started, Store};
use world::open;

fn expected(content: &[u8]) -> Expected {
    Expected {
        digest: Some(Digest::sha256_of(content)),
        size: Some(content.len() as u64),
    }
}

fn begin(store: &Store, reference: Option<&str>, expected: Expected) -> Box<Ingest> {
    match store.blobs().ingest(reference, expected).unwrap() {
        Started::Ingest(ingest) => ingest,
        Started::Present(blob) => panic!("{blob:?} is here"),
    }
}

fn files(store: &Store, directory: &str) -> usize {
    fs::read_dir(store.root().join(directory)).unwrap().count()
}

#[test]
fn content_can_be_read_whole_and_in_part() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blob = store
        .blobs()
        .put(b"0123456789", BlobInfo::default())
        .unwrap();
    assert_eq!(blob.size(), 10);
    assert_eq!(blob.read_all(10).unwrap(), b"0123456789");
    assert_eq!(blob.read_range(3, 4).unwrap(), b"3456");
    assert!(matches!(blob.read_all(9), Err(BlobError::TooLarge { .. })));
    assert!(matches!(
        blob.read_range(8, 3),
        Err(BlobError::OutOfRange { .. })
    ));
    assert_eq!(
        fs::read(root.path().join("content/oci-layout")).unwrap(),
        br#"{"imageLayoutVersion":"1.0.0"}"#
    );
}

#[test]
fn content_that_is_not_what_was_announced_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut ingest = begin(&store, Some("r"), expected(b"good"));
    ingest.append(b"evil").unwrap();
    let error = ingest.commit(BlobInfo::default()).unwrap_err();
    assert!(matches!(error, BlobError::WrongDigest { .. }), "{error}");
    assert_eq!(files(&store, "ingest"), 0, "it is not gone on with");

    let mut ingest = begin(&store, None, expected(b"good"));
    let error = ingest.append(b"too long").unwrap_err();
    assert!(matches!(error, BlobError::WrongSize { .. }), "{error}");
    drop(ingest);

    let mut ingest = begin(&store, None, expected(b"good"));
    ingest.append(b"go").unwrap();
    let error = ingest.commit(BlobInfo::default()).unwrap_err();
    assert!(matches!(error, BlobError::WrongSize { .. }), "{error}");
    assert_eq!(files(&store, "ingest"), 0);
    assert_eq!(files(&store, "content/blobs/sha256"), 0);
}

#[test]
fn an_ingest_goes_on_where_the_last_one_ended() {
    let root = tempfile::tempdir().unwrap();
    {
        let store = open(root.path());
        let mut ingest = begin(&store, Some("registry/layer"), expected(b"hello world"));
        ingest.append(b"hello ").unwrap();
        drop(ingest);
        let mut ingest = begin(&store, Some("registry/layer"), expected(b"hello world"));
        assert_eq!(ingest.offset(), 6);
        ingest.append(b"wo").unwrap();
    }
    let store = open(root.path());
    let mut ingest = begin(&store, Some("registry/layer"), expected(b"hello world"));
    assert_eq!(ingest.offset(), 8);
    ingest.append(b"rld").unwrap();
    let blob = ingest.commit(BlobInfo::default()).unwrap();
    assert_eq!(blob.read_all(100).unwrap(), b"hello world");
    assert_eq!(files(&store, "ingest"), 0);

    let mut ingest = begin(&store, Some("other"), Expected::default());
    ingest.append(b"xxxx").unwrap();
    ingest.restart().unwrap();
    ingest.append(b"hello world").unwrap();
    let again = ingest.commit(BlobInfo::default()).unwrap();
    assert_eq!(again.digest(), blob.digest());
}

#[test]
fn other_algorithms_are_verified_and_named_by() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"content");
    let digest = hasher.finish();
    let announced = Expected {
        digest: Some(digest.clone()),
        size: None,
    };
    let mut ingest = begin(&store, None, announced);
    ingest.append(b"content").unwrap();
    let blob = ingest.commit(BlobInfo::default()).unwrap();
    assert_eq!(blob.digest(), &digest);
    assert!(
        blob.path()
            .ends_with(format!("blobs/sha512/{}", digest.hex()))
    );
}

#[test]
fn what_is_known_of_a_blob_is_added_to() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let label = |name: &str| BlobInfo {
        labels: [(name.to_owned(), "x".to_owned())].into(),
        ..BlobInfo::default()
    };
    let first = store.blobs().put(b"content", label("a")).unwrap();
    let info = BlobInfo {
        media_type: Some("text/plain".into()),
        ..label("b")
    };
    store.blobs().put(b"content", info).unwrap();
    store.db().flush().unwrap();
    let blob = store.blobs().get(first.digest()).unwrap().unwrap();
    assert_eq!(blob.info().labels.len(), 2);
    assert_eq!(blob.info().media_type.as_deref(), Some("text/plain"));
}

#[test]
fn a_damaged_file_counts_as_absent_and_can_be_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blob = store.blobs().put(b"content", BlobInfo::default()).unwrap();
    for damage in [
        |path: &std::path::Path| fs::write(path, "cont").unwrap(),
        |path: &std::path::Path| fs::remove_file(path).unwrap(),
    ] {
        damage(&blob.path());
        assert!(!store.blobs().contains(blob.digest()).unwrap());
        let again = store.blobs().put(b"content", BlobInfo::default()).unwrap();
        assert_eq!(again.read_all(7).unwrap(), b"content");
        assert!(store.blobs().contains(blob.digest()).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_concurrent_ingests_waits_and_finds_the_blob() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let content = vec![7; 3 << 20];
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (blobs, content) = (store.blobs().clone(), content.clone());
            tokio::spawn(async move {
                let started = blobs.ingest_async(Some("r"), expected(&content)).await;
                match started.unwrap() {
                    Started::Present(blob) => (blob, false),
                    Started::Ingest(ingest) => {
                        assert_eq!(ingest.offset(), 0);
                        let mut feed = ingest.feed();
                        for piece in content.chunks(10_000) {
                            feed.append(piece.to_vec().into()).await.unwrap();
                        }
                        (feed.commit(BlobInfo::default()).await.unwrap(), true)
                    }
                }
            })
        })
        .collect();
    let mut wrote = 0;
    for task in tasks {
        let (blob, did) = task.await.unwrap();
        assert_eq!(blob.size(), content.len() as u64);
        wrote += usize::from(did);
    }
    assert_eq!(wrote, 1);
}

#[test]
fn ingests_without_a_common_reference_both_succeed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut one = begin(&store, Some("a"), expected(b"same"));
    let mut two = begin(&store, None, expected(b"same"));
    one.append(b"same").unwrap();
    two.append(b"same").unwrap();
    let one = one.commit(BlobInfo::default()).unwrap();
    let two = two.commit(BlobInfo::default()).unwrap();
    assert_eq!(one.read_all(4).unwrap(), two.read_all(4).unwrap());
    assert_eq!(files(&store, "ingest"), 0);
}

#[tokio::test]
async fn a_feed_tells_what_went_wrong() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let started = store.blobs().ingest_async(None, expected(b"short")).await;
    let Started::Ingest(ingest) = started.unwrap() else {
        unreachable!()
    };
    let mut feed = ingest.feed();
    let error = loop {
        match feed.append(vec![0; 10].into()).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BlobError::WrongSize { .. }), "{error}");
}

#[test]
fn content_is_read_while_it_comes_in() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut ingest = begin(&store, Some("a"), Expected::default());
    ingest.append(b"one ").unwrap();
    let growth = ingest.follow().unwrap();
    assert_eq!(growth.wait_for(4), 4);
    let (seen, waits) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let length = growth.wait_for(8);
        seen.send(length).unwrap();
        let end = growth.wait_for(1000);
        let mut content = Vec::new();
        growth.file().read_to_end(&mut content).unwrap();
        (end, content)
    });
    ingest.append(b"two ").unwrap();
    assert_eq!(waits.recv().unwrap(), 8);
    ingest.append(b"three").unwrap();
    ingest.commit(BlobInfo::default()).unwrap();
    assert_eq!(reader.join().unwrap(), (13, b"one two three".to_vec()));
}

#[test]
fn who_reads_along_hears_of_an_early_end() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut dropped = begin(&store, None, Expected::default());
    let mut restarted = begin(&store, Some("a"), Expected::default());
    let growths = [dropped.follow().unwrap(), restarted.follow().unwrap()];
    drop(dropped);
    restarted.append(b"one").unwrap();
    restarted.restart().unwrap();
    restarted.append(b"other").unwrap();
    assert_eq!(growths.map(|growth| growth.wait_for(100)), [0, 3]);
}

/// Counts what is told of damage.
struct Damage(std::sync::atomic::AtomicUsize);

impl tracing::Subscriber for Damage {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{value:?}");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains("damaged") {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[test]
fn a_blob_that_comes_and_goes_is_not_damaged() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let damage = std::sync::Arc::new(Damage(Default::default()));
    let digest = Digest::sha256_of(b"fleeting");
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            tracing::subscriber::with_default(damage.clone(), || {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    store.blobs().contains(&digest).unwrap();
                }
            });
        });
        for _ in 0..300 {
            drop(store.blobs().put(b"fleeting", BlobInfo::default()).unwrap());
            store.db().flush().unwrap();
            store.collect_garbage().unwrap();
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        looks.join().unwrap();
    });
    assert_eq!(damage.0.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn a_blob_is_dropped_only_if_it_is_damaged() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let blob = store.blobs().put(b"content", BlobInfo::default()).unwrap();
    assert!(!blob.discard_if_damaged().unwrap());
    fs::write(blob.path(), b"Content").unwrap();
    assert!(store.blobs().contains(blob.digest()).unwrap());
    assert!(blob.discard_if_damaged().unwrap());
    assert!(!store.blobs().contains(blob.digest()).unwrap());
    assert!(!blob.discard_if_damaged().unwrap(), "there is nothing left");
    let again = store.blobs().put(b"content", BlobInfo::default()).unwrap();
    assert_eq!(again.read_all(10).unwrap(), b"content");
}
