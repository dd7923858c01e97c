//! Opening, locking and closing a state directory.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::Path;

use weld_store::snapshot::{SnapshotError, Snapshots};
use weld_store::{BlobInfo, OnFullDisk, OpenError, Store, StoreOptions};

fn open(root: &Path) -> Result<Store, OpenError> {
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
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

/// A file system of its own; gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(place.path())
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status();
        assert!(unmount.unwrap().success());
    }
}

#[test]
fn a_disk_that_is_full_of_what_was_taken_away_opens() {
    let disk = SmallDisk::new("16m");
    let root = disk.path().join("state");
    drop(open(&root).unwrap());
    let taken = root.join("trash/1-1");
    fs::create_dir_all(&taken).unwrap();
    fs::write(taken.join("file"), vec![1; 32 << 20]).unwrap_err();
    open(&root).unwrap();
    assert!(!taken.exists());
}

#[test]
fn a_full_disk_opens_with_what_was_put_by_for_that() {
    let disk = SmallDisk::new("40m");
    let root = disk.path().join("state");
    let reserve = root.join("reserve");
    let store = open(&root).unwrap();
    // Before anything can fill the disk.
    assert!(reserve.exists());
    let mut filler = fs::File::create(disk.path().join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    drop(store);

    let refused = || {
        let options = StoreOptions {
            on_full_disk: OnFullDisk::Refuse,
            ..StoreOptions::default()
        };
        Store::open(&root, options).err().unwrap()
    };
    for _ in 0..40 {
        assert!(matches!(refused(), OpenError::Full { .. }));
        assert!(reserve.exists());
        let store = open(&root).unwrap();
        // Builds could fill the disk again.
        assert!(reserve.exists());
        store.collect_garbage().unwrap();
    }
    let size = || fs::metadata(&reserve).unwrap().len();
    let left = size();
    assert!(left > 3 << 20, "{left} bytes are left of what is put by");
    // What is less is made whole where there is room again.
    fs::write(&reserve, [0; 4096]).unwrap();
    filler.set_len(0).unwrap();
    open(&root).unwrap();
    assert_eq!(size(), 4 << 20);
}

#[test]
fn a_database_that_could_not_write_says_why_until_it_can_again() {
    let disk = SmallDisk::new("32m");
    let store = open(&disk.path().join("state")).unwrap();
    let key = store.results().save(Vec::new(), b"kept".to_vec()).unwrap();
    store.db().flush().unwrap();
    let place = disk.path().join("filler");
    let mut filler = fs::File::create(&place).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    let mut failed = 0;
    for _ in 0..10 {
        let large = vec![0; 1 << 20];
        store.results().save(Vec::new(), large).unwrap();
        let flushed = store.db().flush();
        let read = store
            .db()
            .read(|tx| Ok(tx.list_tables()?.count()))
            .map(drop);
        for error in [flushed, read].into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("No space left"), "{error}");
            failed += 1;
        }
    }
    assert!(failed > 0);
    fs::remove_file(place).unwrap();
    drop(filler);
    // ext4 gives the blocks to others once its journal has the removal.
    let synced = std::process::Command::new("sync")
        .arg("--file-system")
        .arg(disk.path())
        .status();
    assert!(synced.unwrap().success());
    assert!(store.results().load(key).unwrap().is_some());
}

#[test]
fn overlay_mounts_that_cannot_be_had_are_an_error_only_where_they_are_wanted() {
    // An overlay mount cannot be the upper directory of another one.
    let disk = SmallDisk::new("16m");
    let path = |name: &str| disk.path().join(name);
    for name in ["lower", "upper", "work", "mounted"] {
        fs::create_dir(path(name)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        path("lower").display(),
        path("upper").display(),
        path("work").display()
    );
    let mounted = std::process::Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay"])
        .arg(path("mounted"))
        .status();
    assert!(mounted.unwrap().success());
    let store = open(&path("mounted").join("state")).unwrap();
    let error = Snapshots::open_overlay(&store).err().unwrap();
    assert!(matches!(error, SnapshotError::NoOverlay(_)), "{error}");
    assert!(!Snapshots::open(&store).unwrap().is_overlay());
    drop(store);
    let unmounted = std::process::Command::new("umount")
        .arg(path("mounted"))
        .status();
    assert!(unmounted.unwrap().success());
}
