//! Copies of clients' directories from build to build.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use weld_digest::Digest;
use weld_solver::keystore::{Answer, KeyStore, Record, SaveKey};
use weld_solver::{CacheSourceId, KeyId, RecordId};
use weld_store::content_key::{FileHeader, KeyOptions};
use weld_store::snapshot::{LocalTreeChange, SnapshotRef, Snapshots};
use weld_store::{NewUsage, Object, RecordType, Store, StoreOptions};

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::LocalSource,
        description: "local source".to_owned(),
        mutable: true,
        size: None,
    }
}

fn key_of(content: &str) -> Digest {
    let header = FileHeader {
        kind: rustix::fs::FileType::RegularFile,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: content.len() as u64,
        target: &[],
        device: (0, 0),
        xattrs: &[],
    };
    let mut hasher = header.hasher();
    hasher.update(content.as_bytes());
    hasher.finish()
}

/// Makes a file anew, as a sync does, and says its key.
fn put(change: &LocalTreeChange, name: &str, content: &str) -> (PathBuf, Option<Digest>) {
    let path = change.files().join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    (name.into(), Some(key_of(content)))
}

fn key(snapshot: &SnapshotRef, path: &str) -> Digest {
    snapshot.content_key(path, &KeyOptions::default()).unwrap()
}

fn read(snapshot: &SnapshotRef, name: &str) -> String {
    fs::read_to_string(snapshot.mount().unwrap().path().join(name)).unwrap()
}

fn inode(store: &Store, snapshot: &SnapshotRef, name: &str) -> u64 {
    let path = store.snapshot_dir(snapshot.id()).join("fs").join(name);
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_copy_goes_on_from_where_it_was() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();

    let tree = snapshots.local_tree("context").unwrap();
    assert!(tree.index().is_empty() && tree.unchanged().is_none());
    let change = tree.change().unwrap();
    assert!(!change.is_shared());
    let keys = vec![put(&change, "a", "one"), put(&change, "b", "two")];
    let first = change.commit(b"index 1", keys, usage()).unwrap();
    assert_eq!(key(&first, "a"), key_of("one"));
    store.db().flush().unwrap();

    let tree = snapshots.local_tree("context").unwrap();
    assert_eq!(tree.index(), b"index 1");
    assert_eq!(tree.unchanged(), Some(&first));
    let (first_id, kept) = (first.id(), inode(&store, &first, "b"));

    // Somebody still uses the first state: it stays as it is.
    let change = tree.change().unwrap();
    assert!(change.is_shared());
    let keys = vec![put(&change, "a", "three")];
    change.unshare(Path::new("b")).unwrap();
    fs::set_permissions(change.files().join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    let keys = keys.into_iter().chain([(PathBuf::from("b"), None)]);
    let second = change.commit(b"index 2", keys, usage()).unwrap();
    assert_eq!(
        (read(&first, "a"), read(&second, "a")),
        ("one".into(), "three".into())
    );
    assert_ne!(inode(&store, &second, "b"), kept);
    let mode = |snapshot: &SnapshotRef| {
        fs::metadata(store.snapshot_dir(snapshot.id()).join("fs/b"))
            .unwrap()
            .mode()
            & 0o777
    };
    assert_eq!((mode(&first), mode(&second)), (0o644, 0o600));
    assert_ne!(key(&second, "b"), key(&first, "b"));
    store.db().flush().unwrap();

    // Nobody uses the second: it is changed in place and is gone.
    let (second_id, kept) = (second.id(), inode(&store, &second, "b"));
    drop(second);
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    assert!(!change.is_shared());
    let keys = vec![put(&change, "c", "four")];
    let third = change.commit(b"index 3", keys, usage()).unwrap();
    assert_eq!(inode(&store, &third, "b"), kept);
    assert_eq!(read(&third, "a"), "three");
    assert!(snapshots.get(second_id).unwrap().is_none());
    assert!(snapshots.get(first_id).unwrap().is_some());

    // What is told of a file's key is taken; nothing is read.
    store.db().flush().unwrap();
    drop(third);
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    let told = key_of("what the file is said to hold");
    let fourth = change
        .commit(b"index 4", [("a".into(), Some(told.clone()))], usage())
        .unwrap();
    assert_eq!(key(&fourth, "a"), told);
    assert_eq!(key(&fourth, "c"), key_of("four"));
}

#[test]
fn a_change_that_is_given_up_leaves_nothing_to_trust() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    let keys = [put(&change, "a", "one")];
    drop(change.commit(b"index", keys, usage()).unwrap());
    store.db().flush().unwrap();
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    put(&change, "a", "half");
    drop(change);
    store.db().flush().unwrap();
    let tree = snapshots.local_tree("context").unwrap();
    assert!(tree.index().is_empty() && tree.unchanged().is_none());
}

#[test]
fn keys_of_directories_follow_what_changes_beneath_them() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let directories = ["", "a", "a/b", "a/c", "d"];
    let keys = |snapshot: &SnapshotRef| directories.map(|path| key(snapshot, path));
    let make = |name: &str, files: &[(&str, &str)]| {
        let change = snapshots.local_tree(name).unwrap().change().unwrap();
        for directory in directories {
            fs::create_dir_all(change.files().join(directory)).unwrap();
        }
        let keys: Vec<_> = files
            .iter()
            .map(|(name, content)| put(&change, name, content))
            .collect();
        change.commit(b"index", keys, usage()).unwrap()
    };
    let files = [
        ("a/b/x", "one"),
        ("a/b/y", "two"),
        ("a/c/z", "three"),
        ("d/w", "four"),
    ];
    let before = keys(&make("context", &files));

    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    let changed = vec![put(&change, "a/b/x", "other")];
    fs::remove_file(change.files().join("d/w")).unwrap();
    let gone = [(PathBuf::from("d/w"), None)];
    let changed = changed.into_iter().chain(gone);
    let after = keys(&change.commit(b"index", changed, usage()).unwrap());
    let files = [("a/b/x", "other"), ("a/b/y", "two"), ("a/c/z", "three")];
    assert_eq!(after, keys(&make("another", &files)));
    let same: Vec<_> = (0..directories.len())
        .filter(|place| before[*place] == after[*place])
        .map(|place| directories[place])
        .collect();
    assert_eq!(same, ["a/c"]);
}

fn lead_to(store: &Store, result: u64) -> KeyId {
    let op = weld_solver::Digest::of(result.to_le_bytes());
    store.keys().save(SaveKey {
        key: KeyId(op),
        op,
        output: 0,
        inputs: Vec::new(),
        record: Some(Record {
            id: RecordId(result),
            created: 0,
            priority: 0,
            source: CacheSourceId::LOCAL,
        }),
    });
    KeyId(op)
}

#[test]
fn what_is_changed_in_place_is_forgotten_by_the_cache_keys_too() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    let keys = [put(&change, "a", "one")];
    let first = change.commit(b"index", keys, usage()).unwrap();
    let object = Object::Snapshot(first.id());
    let result = store.results().save(vec![object], Vec::new()).unwrap();
    lead_to(&store, result);
    store.db().flush().unwrap();
    drop(first);
    let change = snapshots.local_tree("context").unwrap().change().unwrap();
    let keys = [put(&change, "a", "two")];
    drop(change.commit(b"index", keys, usage()).unwrap());
    let report = store.check(|_| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_sweep_has_the_cache_keys_forget_what_an_earlier_process_dropped() {
    let state = tempfile::tempdir().unwrap();
    let (kept, gone) = {
        let store = Store::open(state.path(), StoreOptions::default()).unwrap();
        let save = || store.results().save(Vec::new(), Vec::new()).unwrap();
        let (kept, gone) = (save(), save());
        let keys = (lead_to(&store, kept), lead_to(&store, gone));
        // As a kill between the two updates leaves it.
        store.results().forget(gone);
        store.db().flush().unwrap();
        keys
    };
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let report = store.check(|_| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let is_there = |key| match store.keys().entry(key) {
        Answer::Ready(entry) => entry.is_some(),
        Answer::Later(_) => panic!("a key of the store is had at once"),
    };
    assert!(is_there(kept) && !is_there(gone));
}
