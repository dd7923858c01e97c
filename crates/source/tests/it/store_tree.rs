use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use weld_fileset::{SelectionOptions, Timestamp};
use weld_source::local::{
    Differ, HostDir, ProviderError, Stat, StoredTree, TreeIndex, TreeProvider, sync_into_store,
};
use weld_source::progress::Progress;
use weld_store::content_key::KeyOptions;
use weld_store::snapshot::{SnapshotRef, Snapshots};

use weld_store::{NewUsage, RecordType, Store, StoreOptions};

struct World {
    from: tempfile::TempDir,
    _state: tempfile::TempDir,
    store: Store,
    snapshots: Snapshots,
}

impl World {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), StoreOptions::default()).unwrap();
        Self {
            from: tempfile::tempdir().unwrap(),
            snapshots: Snapshots::open(&store).unwrap(),
            store,
            _state: state,
        }
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.from.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    async fn sync(&self) -> SnapshotRef {
        let snapshot = sync_to(&self.snapshots, self.from.path()).await;
        // The name of the copy commits later; another build comes later too.
        self.store.db().flush().unwrap();
        snapshot
    }
}

async fn sync_to(snapshots: &Snapshots, from: &Path) -> SnapshotRef {
    sync_by(Differ::Metadata, snapshots, from).await.snapshot
}

async fn sync_by(differ: Differ, snapshots: &Snapshots, from: &Path) -> StoredTree {
    let provider = Arc::new(HostDir::open(from, SelectionOptions::default()).unwrap());
    sync_all(differ, snapshots, provider).await
}

async fn sync_all<P: TreeProvider>(
    differ: Differ,
    snapshots: &Snapshots,
    provider: Arc<P>,
) -> StoredTree {
    let usage = NewUsage {
        record_type: RecordType::LocalSource,
        description: "local source".to_owned(),
        mutable: false,
        size: None,
    };
    sync_into_store(
        provider,
        snapshots,
        "context",
        differ,
        usage,
        &Progress::none(),
    )
    .await
    .unwrap()
}

/// The keys of all that is at the top of a copy: its root is the engine's.
fn keys(snapshot: &SnapshotRef, from: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(from)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let key = |name| snapshot.content_key(&format!("/{name}"), &KeyOptions::default());
    names
        .into_iter()
        .map(|name| key(name).unwrap().to_string())
        .collect()
}

fn tree(snapshot: &SnapshotRef) -> BTreeMap<PathBuf, String> {
    let mut listing = crate::local::listing(&snapshot.mount().unwrap().path());
    // Copies share files, so that they have more names than in their tree.
    for text in listing.values_mut() {
        if let Some(start) = text.find("link Some(")
            && let Some(length) = text[start..].find(") ")
        {
            text.replace_range(start..start + length + 2, "");
        }
    }
    listing
}

#[tokio::test]
async fn the_copy_in_the_store_follows_and_its_keys_are_those_of_its_files() {
    let world = World::new();
    let edits: [&dyn Fn(); 5] = [
        &|| {
            world.write("a/file", "one");
            world.write("a/other", "other");
            world.write("b/c/deep", "deep");
            symlink("file", world.from.path().join("a/link")).unwrap();
        },
        &|| world.write("a/file", "two"),
        &|| {
            let path = world.from.path().join("a/other");
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
            let path = world.from.path().join("b");
            fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        },
        &|| {
            fs::remove_dir_all(world.from.path().join("b")).unwrap();
            fs::hard_link(
                world.from.path().join("a/file"),
                world.from.path().join("hard"),
            )
            .unwrap();
        },
        &|| {
            fs::remove_file(world.from.path().join("a/link")).unwrap();
            symlink("other", world.from.path().join("a/link")).unwrap();
        },
    ];
    let mut held = Vec::new();
    for (number, edit) in edits.into_iter().enumerate() {
        edit();
        let snapshot = world.sync().await;
        // From nothing, with keys found by reading.
        let fresh = World::new();
        let expected = sync_to(&fresh.snapshots, world.from.path()).await;
        let known = fresh.store.snapshot_dir(expected.id()).join("keys");
        fs::remove_file(known).unwrap();
        let from = world.from.path();
        assert_eq!(
            keys(&snapshot, from),
            keys(&expected, from),
            "edit {number}"
        );
        // What is held is not changed under its holder.
        if number % 2 == 0 {
            held.push((tree(&snapshot), snapshot));
        }
    }
    for (before, snapshot) in held {
        assert_eq!(tree(&snapshot), before);
    }
}

#[tokio::test]
async fn an_unchanged_tree_is_the_same_snapshot() {
    let world = World::new();
    let empty = world.sync().await.id();
    assert_eq!(world.sync().await.id(), empty);
    world.write("file", "one");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let first = world.sync().await.id();
    assert_eq!(world.sync().await.id(), first);
}

#[tokio::test]
async fn without_a_differ_every_file_is_transferred() {
    let world = World::new();
    world.write("a", "one");
    world.write("sub/b", "two");
    // What changed within the last clock tick is read once more.
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.sync().await;
    let sync = |differ| {
        let (snapshots, from) = (world.snapshots.clone(), world.from.path().to_owned());
        async move { sync_by(differ, &snapshots, &from).await }
    };
    let trusting = sync(Differ::Metadata).await;
    assert_eq!(trusting.synced.fetched, 0);
    let all = sync(Differ::None).await;
    assert_eq!(all.synced.fetched, 6);
    assert_eq!(
        keys(&trusting.snapshot, world.from.path()),
        keys(&all.snapshot, world.from.path())
    );
}

/// A file of a client, of which size and time are all that tells of changes.
struct Sent {
    mtime: Timestamp,
    content: &'static str,
}

impl TreeProvider for Sent {
    fn stats(&self, _known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        Ok(vec![Stat {
            size: self.content.len() as u64,
            mtime: self.mtime,
            ..crate::local::stat("f", 0o100644)
        }])
    }
    fn open(&self, _number: usize, _stat: &Stat) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.content.as_bytes()))
    }
}

#[tokio::test]
async fn a_file_just_written_may_be_of_another_directory() {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    for (differ, seconds_ago, expected) in [
        (Differ::Settled, 0, "two"),
        // What is older, and has the same size and time, is taken for the same, as every client of BuildKit does.
        (Differ::Settled, 3600, "one"),
        (Differ::Metadata, 0, "one"),
    ] {
        // The same of both files, as of those that are written in a loop.
        let mtime = Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap() - seconds_ago,
            nanoseconds: now.subsec_nanos(),
        };
        let world = World::new();
        let mut found = String::new();
        for content in ["one", "two"] {
            let sent = Arc::new(Sent { mtime, content });
            let stored = sync_all(differ, &world.snapshots, sent).await;
            world.store.db().flush().unwrap();
            let mount = stored.snapshot.mount().unwrap();
            found = fs::read_to_string(mount.path().join("f")).unwrap();
        }
        assert_eq!(found, expected, "{differ:?}");
    }
}
