//! Opening, locking and closing a state directory.

use std::fs;

use weld_store::{BlobInfo, OpenError, Store, StoreOptions};

fn open(root: &std::path::Path) -> Result<Store, OpenError> {
    Store::open(root, StoreOptions::default())
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let root = tempfile::tempdir().unwrap();
    let info = BlobInfo {
        media_type: Some("text/plain".into()),
        ..BlobInfo::default()
    };
    let digest = {
        let store = open(root.path()).unwrap();
        let blob = store.blobs().put(b"hello", info.clone()).unwrap();
        assert!(store.blobs().contains(blob.digest()).unwrap());
        blob.digest().clone()
    };
    let store = open(root.path()).unwrap();
    let blob = store.blobs().get(&digest).unwrap().unwrap();
    assert_eq!(blob.read_all(5).unwrap(), b"hello");
    assert_eq!(blob.info(), &info);
}

#[test]
fn numbers_are_never_given_twice() {
    let root = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let store = open(root.path()).unwrap();
        for _ in 0..70_000 {
            let next = store.next_sequence().unwrap();
            assert!(next > last);
            last = next;
        }
    }
    assert!(
        last < 210_100,
        "closing gives back what was not used: {last}"
    );
}

#[test]
fn a_second_opener_learns_who_has_it() {
    let root = tempfile::tempdir().unwrap();
    let _store = open(root.path()).unwrap();
    match open(root.path()).err().unwrap() {
        OpenError::InUse {
            holder: Some(holder),
            ..
        } => assert_eq!(holder.pid, std::process::id()),
        other => panic!("{other}"),
    }
}

#[test]
fn a_newer_format_is_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()).unwrap());
    fs::write(root.path().join("format"), "weld-state 99\n").unwrap();
    let error = open(root.path()).err().unwrap();
    assert!(matches!(error, OpenError::TooNew { found: 99, .. }));
    assert!(error.to_string().contains("format 99"), "{error}");
}

#[test]
fn a_directory_with_other_things_is_refused_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("precious"), "").unwrap();
    let error = open(root.path()).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }));
    assert!(!root.path().join("format").exists());
}
