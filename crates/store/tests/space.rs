//! Room is made before something is written, and what does not fit is refused.
#![allow(clippy::unwrap_used)]

mod world;

use std::path::Path;
use std::process::Command;

use weld_store::snapshot::Snapshots;
use weld_store::{
    BlobError, BlobInfo, Expected, NewUsage, NoRoom, Object, RecordType, SpaceError, Started,
    Store, StoreOptions,
};
use world::{Made, make_result};

const MIB: u64 = 1 << 20;

fn open(root: &Path, ceiling: u64) -> Store {
    let options = StoreOptions {
        ceiling: Some(ceiling),
        ..StoreOptions::default()
    };
    Store::open(root, options).unwrap()
}

/// A small file system of its own, if this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(directory.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            Some(Self(directory))
        } else {
            println!("skipped: this process may not mount");
            None
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status()
            .unwrap();
    }
}

/// Bytes on disk, as `du` has it.
fn on_disk(root: &Path) -> u64 {
    let output = Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(root)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// A blob of so many bytes that no other has.
fn content(number: u64, len: u64) -> Vec<u8> {
    let mut content = vec![7; usize::try_from(len).unwrap()];
    content[..8].copy_from_slice(&number.to_le_bytes());
    content
}

/// Takes a blob in, in pieces; with its length told before, or not.
fn ingest(store: &Store, content: &[u8], told: bool) -> Result<Object, BlobError> {
    let expected = Expected {
        size: told.then_some(content.len() as u64),
        ..Expected::default()
    };
    let Started::Ingest(mut ingest) = store.blobs().ingest(None, expected)? else {
        unreachable!("its digest was not told");
    };
    for piece in content.chunks(256 << 10) {
        ingest.append(piece)?;
    }
    let blob = ingest.commit(BlobInfo::default())?;
    let object = Object::Blob(blob.digest().clone());
    store.results().save(vec![object.clone()], Vec::new())?;
    Ok(object)
}

fn cause(error: &BlobError) -> &SpaceError {
    match error {
        BlobError::Space { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_written_stays_below_the_ceiling_by_removing_what_is_not_used() {
    // Of its own, so that nobody else's files come and go on it.
    let Some(disk) = SmallDisk::mount(512) else {
        return;
    };
    let root = disk.0.path();
    let ceiling = 64 * MIB;
    let store = open(root, ceiling);
    let mut last = None;
    for number in 0..60 {
        let told = number % 2 == 0;
        last = Some(ingest(&store, &content(number, 4 * MIB), told).unwrap());
        let held = on_disk(root);
        assert!(held <= ceiling, "{held} bytes after blob {number}");
    }
    let Some(Object::Blob(digest)) = last else {
        unreachable!("blobs were made");
    };
    assert!(store.blobs().contains(&digest).unwrap());
    let kept = store.disk_usage(&[]).unwrap().len();
    assert!((5..16).contains(&kept), "{kept} of 60 are kept");
}

#[test]
fn what_is_in_use_is_not_touched_and_what_does_not_fit_is_told() {
    let root = tempfile::tempdir().unwrap();
    let ceiling = 64 * MIB;
    let store = open(root.path(), ceiling);
    let made = Made {
        bytes: usize::try_from(20 * MIB).unwrap(),
        ..Made::default()
    };
    let pinned: Vec<_> = (0..2).map(|_| make_result(&store, &made)).collect();
    for told in [true, false] {
        let error = ingest(&store, &content(1, 40 * MIB), told).unwrap_err();
        let SpaceError::Ceiling {
            ceiling: told,
            used,
            in_use,
            ..
        } = cause(&error)
        else {
            panic!("{error}");
        };
        assert_eq!(*told, ceiling);
        assert!(*in_use >= 40 * MIB && used >= in_use, "{error}");
        assert!(error.to_string().contains("--disk-limit"), "{error}");
        assert!(NoRoom::in_error(&error) == Some(NoRoom::Known));
        assert!(on_disk(root.path()) <= ceiling);
    }
    for (_, result) in &pinned {
        assert!(store.results().load(*result).unwrap().is_some());
    }
    // Nobody uses them any more.
    drop(pinned);
    ingest(&store, &content(1, 40 * MIB), true).unwrap();
    assert!(on_disk(root.path()) <= ceiling);
    store.sweep().unwrap();
    assert!(store.check(|_| {}).unwrap().problems.is_empty());
}

#[test]
fn what_transfers_put_by_nobody_else_gets() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), 64 * MIB);
    let space = store.space();
    let first = space.reserve(40 * MIB).unwrap();
    assert!(space.ensure(30 * MIB).is_err());
    std::thread::scope(|scope| {
        let second = scope.spawn(|| space.reserve(30 * MIB).map(drop));
        // It gets them when the first has given them back.
        drop(first);
        second.join().unwrap().unwrap();
    });
    space.ensure(30 * MIB).unwrap();
}

#[test]
fn a_layer_is_unpacked_only_as_far_as_there_is_room() {
    // Of its own: where others free as much as is written, that is noticed with the next measurement.
    let Some(disk) = SmallDisk::mount(512) else {
        return;
    };
    let root = disk.0.path();
    let layers = tempfile::tempdir().unwrap();
    let ceiling = 64 * MIB;
    let store = open(root, ceiling);
    let snapshots = Snapshots::open_copying(&store).unwrap();
    // Zeros that are written and no hole: they take next to nothing when compressed.
    std::fs::write(layers.path().join("file"), content(1, 300 * MIB)).unwrap();
    let tar = layers.path().join("layer.tar");
    let packed = Command::new("tar")
        .args(["-C", layers.path().to_str().unwrap(), "-cf"])
        .args([tar.to_str().unwrap(), "file"])
        .status()
        .unwrap();
    assert!(packed.success());
    let digest = weld_digest::Digest::sha256_of(std::fs::read(&tar).unwrap());
    let descriptor = weld_store::snapshot::LayerDescriptor {
        diff_id: digest.clone(),
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        digest,
        size: std::fs::metadata(&tar).unwrap().len(),
        annotations: Default::default(),
    };
    let usage = NewUsage {
        record_type: RecordType::Regular,
        description: "pulled".into(),
        mutable: false,
        size: None,
    };
    let layer = std::fs::File::open(&tar).unwrap();
    let error = snapshots
        .apply(None, layer, &descriptor, usage)
        .unwrap_err();
    assert!(NoRoom::in_error(&error) == Some(NoRoom::Known), "{error}");
    assert!(error.to_string().contains("--disk-limit"), "{error}");
    assert!(on_disk(root) <= ceiling);
    store.collect_garbage().unwrap();
    ingest(&store, &content(2, 30 * MIB), true).unwrap();
}

#[test]
fn a_disk_that_fills_is_made_room_on() {
    let Some(disk) = SmallDisk::mount(96) else {
        return;
    };
    let root = disk.0.path();
    let store = Store::open(root, StoreOptions::default()).unwrap();
    for number in 0..60 {
        ingest(&store, &content(number, 4 * MIB), number % 2 == 0).unwrap();
    }
    let error = ingest(&store, &content(1, 200 * MIB), true).unwrap_err();
    assert!(matches!(cause(&error), SpaceError::Disk { .. }), "{error}");
    // Nothing of it is in the way of what fits.
    ingest(&store, &content(61, 4 * MIB), false).unwrap();
    store.sweep().unwrap();
    assert!(store.check(|_| {}).unwrap().problems.is_empty());
}

#[test]
fn the_databases_log_does_not_take_the_room_of_what_is_written() {
    const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("test");
    let root = tempfile::tempdir().unwrap();
    let ceiling = 64 * MIB;
    let store = open(root.path(), ceiling);
    let made = Made {
        bytes: usize::try_from(20 * MIB).unwrap(),
        ..Made::default()
    };
    let _pinned = make_result(&store, &made);
    // The same again and again: the log has each state of it.
    for number in 0..60 {
        let value = vec![u8::try_from(number).unwrap(); 200_000];
        let written = store.db().update(move |tx| {
            tx.open_table(TABLE)?.insert(0, value.as_slice())?;
            Ok(())
        });
        written.wait().unwrap();
    }
    let log = on_disk(&root.path().join("db"));
    assert!(log > 12 * MIB, "{log} bytes");
    ingest(&store, &content(1, 34 * MIB), true).unwrap();
    let folded = on_disk(&root.path().join("db"));
    assert!(folded < log / 2, "{folded} of {log} bytes");
}
