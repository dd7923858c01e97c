//! A check finds each kind of damage, and a repair drops exactly what is damaged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use weld_digest::Digest;
use weld_store::check::Problem;
use weld_store::layer::Compression;
use weld_store::snapshot::{LayerDescriptor, LayerOptions, SnapshotRef, Snapshots};
use weld_store::{
    BlobInfo, NewUsage, Object, RecordType, Reference, Store, StoreOptions, names, refs,
};

/// Two stacks of two snapshots, each named by a result, and two named blobs.
struct Fixture {
    // Closed before its directory goes.
    store: Store,
    sound: Stack,
    hurt: Stack,
    root: tempfile::TempDir,
}

struct Stack {
    lower: Object,
    upper: Object,
    result: u64,
    blob: Digest,
}

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: "a test".to_owned(),
        mutable: false,
        size: None,
    }
}

fn stack(store: &Store, name: &str) -> Stack {
    let snapshots = Snapshots::open_copying(store).unwrap();
    let make = |parent: Option<&SnapshotRef>| {
        let snapshot = snapshots.create(parent).unwrap();
        fs::write(snapshot.files().join(name), "content").unwrap();
        snapshot.commit(usage()).unwrap()
    };
    let lower = make(None);
    let upper = make(Some(&lower));
    let object = Object::Snapshot(upper.id());
    let result = store.results().save(vec![object], Vec::new()).unwrap();
    let blob = store.blobs().put(name.as_bytes(), BlobInfo::default());
    let blob = blob.unwrap().digest().clone();
    let (held, label) = (Object::Blob(blob.clone()), name.to_owned());
    store
        .db()
        .update(move |tx| names::set(tx, &label, &held))
        .wait()
        .unwrap();
    Stack {
        lower: Object::Snapshot(lower.id()),
        upper: Object::Snapshot(upper.id()),
        result,
        blob,
    }
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path().join("state"), StoreOptions::default()).unwrap();
    let (sound, hurt) = (stack(&store, "sound"), stack(&store, "hurt"));
    Fixture {
        store,
        sound,
        hurt,
        root,
    }
}

impl Fixture {
    fn blob_file(&self) -> PathBuf {
        let blobs = self.root.path().join("state/content/blobs/sha256");
        blobs.join(self.hurt.blob.hex())
    }

    fn files(&self, object: &Object) -> PathBuf {
        let Object::Snapshot(id) = object else {
            panic!("{object} has no directory")
        };
        self.store.snapshot_dir(*id)
    }

    fn problems(&self) -> Vec<Problem> {
        self.store.check(|_| {}).unwrap().problems
    }

    /// Damages the store, and checks what is found, what is left by a repair, and that it is sound then.
    fn expect(self, damage: impl FnOnce(&Self), found: &[Problem], result_stays: bool) -> Self {
        assert_eq!(self.problems(), []);
        damage(&self);
        let report = self.store.check(|_| {}).unwrap();
        assert_eq!(report.problems, found);
        self.store.repair(&report).unwrap();
        assert_eq!(self.problems(), []);
        let results = self.store.results();
        assert!(results.load(self.sound.result).unwrap().is_some());
        assert!(self.store.blobs().get(&self.sound.blob).unwrap().is_some());
        let left = results.load(self.hurt.result).unwrap().is_some();
        assert_eq!(left, result_stays);
        self
    }
}

fn set(path: &Path, content: &str) {
    // A blob's file may be read only.
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_sound_directory_has_no_problems() {
    let fixture = fixture();
    let report = fixture.store.check(|_| {}).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.blobs, report.snapshots, report.results), (2, 4, 2));
    assert_eq!(report.bytes, 9);
    // Two snapshots over others, two results, two names.
    assert_eq!(report.references, 6);
}

#[test]
fn blobs_are_read_whole() {
    let fixture = fixture();
    let digest = fixture.hurt.blob.clone();
    let flipped = Problem::BlobContent {
        digest: digest.clone(),
        actual: Some(Digest::sha256_of("hunt")),
    };
    let fixture = fixture.expect(|it| set(&it.blob_file(), "hunt"), &[flipped], true);
    assert!(fixture.store.blobs().get(&digest).unwrap().is_none());

    let cut = Problem::BlobContent {
        digest: digest.clone(),
        actual: None,
    };
    self::fixture().expect(|it| set(&it.blob_file(), "hur"), &[cut], true);
    let gone = Problem::BlobMissing(digest);
    self::fixture().expect(|it| fs::remove_file(it.blob_file()).unwrap(), &[gone], true);
}

#[test]
fn what_is_made_of_a_lost_snapshot_goes_with_it() {
    let fixture = fixture();
    let Object::Snapshot(lower) = fixture.hurt.lower else {
        panic!("a snapshot was made")
    };
    let directory = fixture.store.snapshot_dir(lower);
    let upper = fixture.hurt.upper.clone();
    let missing = [Problem::FilesMissing(lower, directory.join("fs"))];
    let fixture = fixture.expect(
        |it| fs::remove_dir_all(it.files(&it.hurt.lower)).unwrap(),
        &missing,
        false,
    );
    assert!(!fixture.files(&upper).exists());
    // The same where all but its files is there.
    let fixture = self::fixture();
    let Object::Snapshot(lower) = fixture.hurt.lower else {
        panic!("a snapshot was made")
    };
    let files = fixture.store.snapshot_dir(lower).join("fs");
    let missing = [Problem::FilesMissing(lower, files.clone())];
    fixture.expect(|_| fs::remove_dir_all(files).unwrap(), &missing, false);
}

#[test]
fn what_was_unpacked_outlives_its_blob() {
    let fixture = fixture();
    let snapshots = Snapshots::open_copying(&fixture.store).unwrap();
    let Object::Snapshot(lower) = fixture.hurt.lower else {
        panic!("a snapshot was made")
    };
    let snapshot = snapshots.get(lower).unwrap().unwrap();
    let layer = snapshot.layer(&LayerOptions::new(Compression::Gzip(None)));
    let blob = layer.unwrap().blob.unwrap();
    let (digest, path) = (blob.digest().clone(), blob.path().to_owned());
    drop((blob, snapshot));
    fixture.store.db().flush().unwrap();
    let gone = Problem::BlobMissing(digest.clone());
    let fixture = fixture.expect(|_| fs::remove_file(&path).unwrap(), &[gone], true);
    assert!(fixture.store.blobs().get(&digest).unwrap().is_none());
    assert!(fixture.files(&fixture.hurt.lower).exists());
}

#[test]
fn references_are_set_right() {
    let fixture = fixture();
    let Object::Snapshot(upper) = fixture.hurt.upper else {
        panic!("a snapshot was made")
    };
    let (holder, object) = (Reference::Snapshot(upper), fixture.hurt.lower.clone());
    let unheld = Problem::NotHeld {
        holder: holder.clone(),
        object: object.clone(),
    };
    let damage = |it: &Fixture| {
        let update = move |tx: &_| refs::remove(tx, &holder, &object);
        it.store.db().update(update).wait().unwrap();
    };
    let fixture = fixture.expect(damage, &[unheld], true);

    let (holder, object) = (Reference::Result(9_999_999), fixture.hurt.upper.clone());
    let by_nobody = Problem::HolderMissing {
        holder: holder.clone(),
        object: object.clone(),
    };
    let damage = |it: &Fixture| {
        let update = move |tx: &_| refs::add(tx, &holder, &object);
        it.store.db().update(update).wait().unwrap();
    };
    let fixture = fixture.expect(damage, &[by_nobody], true);

    let absent = Object::Blob(Digest::sha256_of("absent"));
    let holder = Reference::Result(fixture.hurt.result);
    let of_nothing = Problem::HeldMissing {
        holder: holder.clone(),
        object: absent.clone(),
    };
    let damage = |it: &Fixture| {
        let update = move |tx: &_| refs::add(tx, &holder, &absent);
        it.store.db().update(update).wait().unwrap();
    };
    fixture.expect(damage, &[of_nothing], false);
}

#[test]
fn a_layer_that_is_elsewhere_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open_copying(&store).unwrap();
    let layer = |name: &str| LayerDescriptor {
        diff_id: Digest::sha256_of(format!("unpacked {name}")),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: Digest::sha256_of(name),
        size: name.len() as u64,
        annotations: std::collections::BTreeMap::new(),
    };
    let declare = |name: &str| snapshots.declare(None, &layer(name), usage()).unwrap();
    let elsewhere = declare("elsewhere");
    // It came meanwhile, for somebody else.
    let later = declare("later");
    let put = |name: &str| {
        let blob = store.blobs().put(name.as_bytes(), BlobInfo::default());
        blob.unwrap()
    };
    let blob = put("later");
    let check = || store.check(|_| ()).unwrap().problems;
    assert!(check().is_empty(), "{:?}", check());
    // What was here and is held is missed.
    let lost = put("lost");
    let holder = declare("lost");
    store.db().flush().unwrap();
    fs::remove_file(lost.path()).unwrap();
    let problems = check();
    assert!(
        matches!(&problems[..], [Problem::BlobMissing(digest)] if digest == lost.digest()),
        "{problems:?}"
    );
    drop((elsewhere, later, blob, holder));
}
