//! Snapshots as root on a real file system, on overlays and on copies.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use support::{Listing, kept, list, ops, perform};
use weld_store::layer::Compression;
use weld_store::snapshot::{LayerOptions, SnapshotError, SnapshotRef, Snapshots};
use weld_store::{NewUsage, Object, RecordType, Store, StoreOptions};

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: "a test".to_owned(),
        mutable: false,
        size: None,
    }
}

struct Fixture {
    // Closed before its directory goes.
    snapshots: Snapshots,
    store: Store,
    root: tempfile::TempDir,
}

fn fixture(overlay: bool) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path().join("state"), StoreOptions::default()).unwrap();
    let snapshots = if overlay {
        Snapshots::open(&store).unwrap()
    } else {
        Snapshots::open_copying(&store).unwrap()
    };
    assert_eq!(snapshots.is_overlay(), overlay);
    Fixture {
        snapshots,
        store,
        root,
    }
}

impl Fixture {
    fn make(&self, parent: Option<&SnapshotRef>, change: impl FnOnce(&Path)) -> SnapshotRef {
        let snapshot = self.snapshots.create(parent).unwrap();
        let mount = snapshot.mount().unwrap();
        change(&mount.path());
        drop(mount);
        snapshot.commit(usage()).unwrap()
    }
}

fn listing(snapshot: &SnapshotRef) -> Listing {
    let mount = snapshot.mount().unwrap();
    list(&mount.path().join("."))
}

fn names(snapshot: &SnapshotRef) -> Vec<String> {
    listing(snapshot)
        .into_keys()
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn a_chain_shows_its_changes_and_survives_the_process() {
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let base = fixture.make(None, |root| {
            fs::create_dir(root.join("dir")).unwrap();
            fs::write(root.join("dir/kept"), "1").unwrap();
            fs::write(root.join("dir/gone"), "1").unwrap();
        });
        let next = fixture.make(Some(&base), |root| {
            fs::remove_file(root.join("dir/gone")).unwrap();
            fs::write(root.join("new"), "2").unwrap();
        });
        assert_eq!(names(&base), ["dir", "dir/gone", "dir/kept"]);
        assert_eq!(names(&next), ["dir", "dir/kept", "new"]);
        assert!(fs::write(next.mount().unwrap().path().join("x"), "").is_err());
        let (id, expected) = (next.id(), listing(&next));
        fixture
            .store
            .db()
            .update(move |tx| weld_store::names::set(tx, "test", &Object::Snapshot(id)));
        drop((base, next));
        let Fixture {
            snapshots,
            store,
            root,
        } = fixture;
        drop((snapshots, store));
        let store = Store::open(root.path().join("state"), StoreOptions::default()).unwrap();
        let snapshots = Snapshots::open(&store).unwrap();
        let next = snapshots.get(id).unwrap().unwrap();
        if overlay {
            assert_eq!(listing(&next), expected);
        }
        assert_eq!(next.parents().len(), 1);
    }
}

#[test]
fn what_is_not_committed_is_removed() {
    let fixture = fixture(true);
    let base = fixture.make(None, |root| fs::write(root.join("file"), "").unwrap());
    let snapshot = fixture.snapshots.create(Some(&base)).unwrap();
    let directory = fixture.store.snapshot_dir(snapshot.id());
    fs::write(snapshot.mount().unwrap().path().join("new"), "x").unwrap();
    assert!(directory.exists());
    drop(snapshot);
    assert!(!directory.exists());
    assert!(
        fixture
            .snapshots
            .get(weld_store::SnapshotId(999_999))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_mutable_snapshot_is_mounted_any_number_of_times() {
    let fixture = fixture(true);
    let base = fixture.make(None, |root| fs::write(root.join("file"), "").unwrap());
    let snapshot = fixture.snapshots.create(Some(&base)).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(snapshot.mount().unwrap().path().join(name), "x").unwrap();
    }
    let snapshot = snapshot.commit(usage()).unwrap();
    assert_eq!(names(&snapshot), ["a", "b", "c", "file"]);
}

#[test]
fn more_layers_than_a_mount_takes() {
    let fixture = fixture(true);
    let mut top: Option<SnapshotRef> = None;
    let count = 900;
    for index in 0..count {
        let snapshot = fixture.snapshots.create(top.as_ref()).unwrap();
        if index % 7 == 0 {
            fs::create_dir_all(snapshot.files().join("dir")).unwrap();
            fs::write(snapshot.files().join(format!("dir/{index}")), "x").unwrap();
        }
        fs::write(snapshot.files().join("last"), index.to_string()).unwrap();
        top = Some(snapshot.commit(usage()).unwrap());
    }
    let top = top.unwrap();
    let mount = top.mount().unwrap();
    assert_eq!(
        fs::read_to_string(mount.path().join("last")).unwrap(),
        (count - 1).to_string()
    );
    assert_eq!(fs::read_dir(mount.path().join("dir")).unwrap().count(), 129);
    let next = fixture.make(Some(&top), |root| {
        fs::remove_dir_all(root.join("dir")).unwrap()
    });
    assert_eq!(names(&next), ["last"]);
    assert_eq!(top.layer_snapshots().len(), count);
}

#[test]
fn merge_and_diff_mean_what_layers_mean() {
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let base = fixture.make(None, |root| {
            fs::create_dir(root.join("dir")).unwrap();
            fs::write(root.join("dir/base"), "base").unwrap();
            fs::write(root.join("both"), "base").unwrap();
        });
        // Made over nothing, with directories that an overlay marks as hiding what is below.
        let other = fixture.make(None, |root| fs::create_dir(root.join("x")).unwrap());
        let other = fixture.make(Some(&other), |root| {
            fs::create_dir(root.join("dir")).unwrap();
            fs::write(root.join("dir/other"), "other").unwrap();
            fs::write(root.join("both"), "other").unwrap();
        });
        let merged = fixture
            .snapshots
            .merge(&[base.clone(), other.clone()], usage())
            .unwrap();
        assert_eq!(
            names(&merged),
            ["both", "dir", "dir/base", "dir/other", "x"],
            "{overlay}"
        );
        let read = |snapshot: &SnapshotRef, name: &str| {
            fs::read_to_string(snapshot.mount().unwrap().path().join(name)).unwrap()
        };
        assert_eq!(read(&merged, "both"), "other");

        // A removal in what is merged removes from what it is merged onto: all that has the name.
        let removing = fixture.make(Some(&base), |root| {
            fs::remove_dir_all(root.join("dir")).unwrap();
            fs::write(root.join("added"), "").unwrap();
        });
        let removal = fixture
            .snapshots
            .diff(Some(&base), Some(&removing), usage())
            .unwrap();
        assert_eq!(names(&removal), ["added"]);
        let merged = fixture
            .snapshots
            .merge(&[merged, removal], usage())
            .unwrap();
        assert_eq!(names(&merged), ["added", "both", "x"], "{overlay}");
        assert_eq!(merged.layer_snapshots().len(), 4);

        // Of trees that were not made one from another.
        let difference = fixture
            .snapshots
            .diff(Some(&other), Some(&base), usage())
            .unwrap();
        assert_eq!(names(&difference), ["both", "dir", "dir/base"]);
        let changed = fixture
            .snapshots
            .merge(&[other.clone(), difference], usage())
            .unwrap();
        assert_eq!(names(&changed), ["both", "dir", "dir/base"], "{overlay}");

        // On top of a merge as on top of anything.
        let next = fixture.make(Some(&changed), |root| {
            fs::remove_file(root.join("both")).unwrap()
        });
        assert_eq!(names(&next), ["dir", "dir/base"]);
        let all = fixture.snapshots.diff(None, Some(&next), usage()).unwrap();
        assert_eq!(all, next);

        // What makes a tree an empty one removes all of it, and nothing else.
        let removal = fixture.snapshots.diff(Some(&next), None, usage()).unwrap();
        assert_eq!(names(&removal), [""; 0]);
        let file = fixture.make(None, |root| fs::write(root.join("file"), "").unwrap());
        let inputs = [next, file, removal];
        let merged = fixture.snapshots.merge(&inputs, usage()).unwrap();
        assert_eq!(names(&merged), ["file"], "{overlay}");
    }
}

#[test]
fn a_difference_of_merges_has_every_layer_that_was_added() {
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let merge = |inputs: &[&SnapshotRef]| {
            let inputs: Vec<_> = inputs.iter().map(|&input| input.clone()).collect();
            fixture.snapshots.merge(&inputs, usage()).unwrap()
        };
        let diff = |lower, upper| {
            let made = fixture.snapshots.diff(Some(lower), Some(upper), usage());
            made.unwrap()
        };
        let file = |base: Option<&SnapshotRef>, name: &'static str| {
            fixture.make(base, |root| fs::write(root.join(name), name).unwrap())
        };
        let without = |base: &SnapshotRef, name: &'static str| {
            fixture.make(Some(base), |root| fs::remove_file(root.join(name)).unwrap())
        };
        let (a, b, e) = (file(None, "a"), file(None, "b"), file(None, "e"));
        let ab = merge(&[&a, &b]);
        let with_d = file(Some(&ab), "d");

        // `a` is there twice, and what was removed from it and from `d` is removed elsewhere too.
        let again = without(&merge(&[&a, &e]), "a");
        let upper = without(&merge(&[&with_d, &again]), "d");
        assert_eq!(names(&upper), ["b", "e"], "{overlay}");
        let merged = merge(&[&with_d, &diff(&ab, &upper)]);
        assert_eq!(names(&merged), ["b", "e"], "{overlay}");

        // A layer of a difference, with what is below it beside that.
        let both = file(Some(&a), "b");
        let removing = without(&diff(&a, &both), "b");
        let merged = merge(&[&both, &removing]);
        assert_eq!(names(&merged), ["a"], "{overlay}");
        let layers = merged.layer_snapshots();
        assert_eq!(layers, [a.clone(), both.clone(), removing], "{overlay}");

        // What was added to a merge that had to be combined.
        let without_b = without(&ab, "b");
        let removal = diff(&ab, &without_b);
        let lower = merge(&[&ab, &removal]);
        let added = diff(&lower, &merge(&[&ab, &removal, &e]));
        assert_eq!(names(&added), ["e"], "{overlay}");
    }
}

#[test]
fn what_was_only_copied_up_is_no_change() {
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let base = fixture.make(None, |root| {
            fs::create_dir_all(root.join("kept/in")).unwrap();
            fs::create_dir(root.join("changed")).unwrap();
            for name in ["kept/file", "moved", "changed/file"] {
                fs::write(root.join(name), name).unwrap();
            }
        });
        let top = fixture.make(Some(&base), |root| {
            // As for what is mounted in a step: there for some time, then taken away.
            fs::write(root.join("kept/in/stub"), "").unwrap();
            fs::remove_file(root.join("kept/in/stub")).unwrap();
            fs::rename(root.join("moved"), root.join("elsewhere")).unwrap();
            fs::rename(root.join("elsewhere"), root.join("moved")).unwrap();
            fs::write(root.join("changed/file"), "other").unwrap();
        });
        let difference = fixture
            .snapshots
            .diff(Some(&base), Some(&top), usage())
            .unwrap();
        let merged = fixture.snapshots.merge(&[difference], usage()).unwrap();
        let elsewhere = fixture.make(None, |root| fs::write(root.join("x"), "").unwrap());
        let merged = fixture
            .snapshots
            .merge(&[elsewhere, merged], usage())
            .unwrap();
        assert_eq!(
            names(&merged),
            ["changed", "changed/file", "x"],
            "{overlay}"
        );
    }
}

#[test]
fn names_in_other_trees_do_not_count() {
    let mut found = Vec::new();
    for shared in ["nothing", "below", "above"] {
        let fixture = fixture(true);
        let base = fixture.make(None, |root| {
            fs::write(root.join("kept"), "1").unwrap();
            fs::write(root.join("linked"), "2").unwrap();
            fs::write(root.join("changed"), "3").unwrap();
        });
        let top = fixture.make(Some(&base), |root| {
            // Copied up, and the same.
            for name in ["kept", "linked"] {
                let path = root.join(name);
                let permissions = fs::metadata(&path).unwrap().permissions();
                fs::set_permissions(&path, permissions).unwrap();
            }
            fs::hard_link(root.join("linked"), root.join("new")).unwrap();
            fs::write(root.join("changed"), "4").unwrap();
        });
        // As where trees that are copied share files.
        let of = |snapshot: &SnapshotRef| fixture.store.snapshot_dir(snapshot.id()).join("fs");
        let elsewhere = fixture.root.path().join("state/elsewhere");
        match shared {
            "below" => fs::hard_link(of(&base).join("kept"), &elsewhere).unwrap(),
            "above" => fs::hard_link(of(&top).join("kept"), &elsewhere).unwrap(),
            _ => {}
        }
        let blobs = top.layers(Compression::Uncompressed, false).unwrap();
        found.push((blobs[1].descriptor.size, listing(&top)));
    }
    // Three entries with their times, and the end: what was only copied up is none.
    let (size, _) = &found[0];
    assert!(found.iter().all(|other| other.0 == *size), "{found:?}");
    assert_eq!(*size, 6656);
}

#[test]
fn what_differs_by_times_that_are_not_written_is_no_change() {
    let fixture = fixture(true);
    let at = |seconds: u64| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let write = |root: &Path, seconds| {
        fs::write(root.join("file"), "same").unwrap();
        let file = fs::File::options().write(true).open(root.join("file"));
        file.unwrap().set_modified(at(seconds)).unwrap();
    };
    let base = fixture.make(None, |root| write(root, 1_700_000_000));
    let top = fixture.make(Some(&base), |root| write(root, 1_700_000_001));
    let size = |max_mtime| {
        let options = LayerOptions {
            max_mtime,
            ..LayerOptions::new(Compression::Uncompressed)
        };
        top.layer(&options).unwrap().descriptor.size
    };
    let empty = 1024;
    assert!(size(None) > empty);
    assert!(size(Some(1_700_000_001)) > empty);
    assert_eq!(size(Some(1_700_000_000)), empty);
}

#[test]
fn a_file_with_the_size_and_time_of_the_one_before_is_a_change() {
    // What is written within one tick of the clock has one time.
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
    let put = |root: &Path, content: &str| {
        let path = root.join("file");
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    };
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let base = fixture.make(None, |root| put(root, "one"));
        let equal = fixture.make(Some(&base), |root| put(root, "one"));
        let top = fixture.make(Some(&equal), |root| put(root, "two"));
        let changed = |lower, upper| {
            let difference = fixture.snapshots.diff(Some(lower), Some(upper), usage());
            let alone = fixture.snapshots.merge(&[difference.unwrap()], usage());
            names(&alone.unwrap())
        };
        assert_eq!(changed(&base, &equal), [""; 0], "{overlay}");
        assert_eq!(changed(&equal, &top), ["file"], "{overlay}");
        let layers = top.layers(Compression::Uncompressed, false).unwrap();
        let last = layers.last().unwrap();
        let blob = last.blob.as_ref().unwrap().open().unwrap();
        let applied = fixture
            .snapshots
            .apply(None, blob, &last.descriptor, usage())
            .unwrap();
        let mount = applied.mount().unwrap();
        assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"two");
    }
}

#[test]
fn merges_of_merges_cost_no_more_than_they_have_snapshots() {
    let fixture = fixture(true);
    let file =
        |name: &'static str| fixture.make(None, |root| fs::write(root.join(name), name).unwrap());
    let (mut older, mut newer) = (file("a"), file("b"));
    for _ in 0..80 {
        let merged = fixture.snapshots.merge(&[older, newer.clone()], usage());
        (older, newer) = (newer, merged.unwrap());
    }
    assert_eq!(newer.layer_snapshots().len(), 2);
    let difference = fixture.snapshots.diff(Some(&older), Some(&newer), usage());
    assert_eq!(names(&difference.unwrap()), [""; 0]);
}

#[test]
fn layers_are_made_once_and_rebuild_the_snapshot() {
    let fixture = fixture(true);
    let base = fixture.make(None, |root| fs::write(root.join("file"), "1").unwrap());
    let top = fixture.make(Some(&base), |root| {
        fs::remove_file(root.join("file")).unwrap()
    });
    let layers = top.layers(Compression::Gzip(None), false).unwrap();
    assert_eq!(layers.len(), 2);
    let again = top.layers(Compression::Gzip(None), false).unwrap();
    let zstd = top.layers(Compression::Zstd(None), false).unwrap();
    for index in 0..2 {
        assert_eq!(again[index].descriptor, layers[index].descriptor);
        assert_eq!(
            zstd[index].descriptor.diff_id,
            layers[index].descriptor.diff_id
        );
        assert_ne!(
            zstd[index].descriptor.digest,
            layers[index].descriptor.digest
        );
    }
    let mut rebuilt: Option<SnapshotRef> = None;
    for layer in &layers {
        let blob = layer.blob.as_ref().unwrap().open().unwrap();
        let applied = fixture
            .snapshots
            .apply(rebuilt.as_ref(), blob, &layer.descriptor, usage())
            .unwrap();
        rebuilt = Some(applied);
    }
    let rebuilt = rebuilt.unwrap();
    assert_eq!(listing(&rebuilt), listing(&top));
    // What it was made of is its layer, unless another compression is asked for.
    let taken = rebuilt.layers(Compression::Zstd(None), false).unwrap();
    assert_eq!(taken[0].descriptor, layers[0].descriptor);
    let forced = rebuilt.layers(Compression::Zstd(None), true).unwrap();
    assert_eq!(forced[0].descriptor, zstd[0].descriptor);

    let mut wrong = layers[0].descriptor.clone();
    wrong.diff_id = layers[1].descriptor.diff_id.clone();
    let blob = layers[0].blob.as_ref().unwrap().open().unwrap();
    let error = fixture
        .snapshots
        .apply(None, blob, &wrong, usage())
        .unwrap_err();
    assert!(
        matches!(error, SnapshotError::WrongDiffId { .. }),
        "{error}"
    );
}

#[test]
fn a_declared_snapshot_is_unpacked_when_it_is_needed() {
    let fixture = fixture(true);
    let base = fixture.make(None, |root| fs::write(root.join("file"), "1").unwrap());
    let layer = base
        .layers(Compression::Gzip(None), false)
        .unwrap()
        .remove(0);
    let lazy = fixture
        .snapshots
        .declare(None, &layer.descriptor, usage())
        .unwrap();
    assert!(matches!(
        lazy.mount(),
        Err(SnapshotError::NotUnpacked { .. })
    ));
    assert!(fixture.snapshots.create(Some(&lazy)).is_err());
    // It can be exported all the same.
    let known = lazy.layers(Compression::Zstd(None), false).unwrap();
    assert_eq!(known[0].descriptor, layer.descriptor);
    assert_eq!(lazy.lazy_layers().as_slice(), std::slice::from_ref(&lazy));
    for _ in 0..2 {
        let blob = layer.blob.as_ref().unwrap().open().unwrap();
        fixture.snapshots.unpack(&lazy, blob).unwrap();
    }
    assert_eq!(listing(&lazy), listing(&base));
    assert!(lazy.lazy_layers().is_empty());
}

#[test]
fn a_pipe_with_two_names_is_one_pipe_in_what_it_is_merged_into() {
    for overlay in [true, false] {
        let fixture = fixture(overlay);
        let steps = [
            support::Op::Fifo("a".into()),
            support::Op::HardLink("b".into(), "a".into()),
        ];
        let base = fixture.make(None, |root| perform(root, &steps));
        let other = fixture.make(None, |root| perform(root, &[support::Op::Fifo("c".into())]));
        let merged = fixture
            .snapshots
            .merge(&[other, base.clone()], usage())
            .unwrap();
        let expected = kept(listing(&base));
        let found = kept(listing(&merged));
        for name in ["a", "b"].map(Path::new) {
            assert_eq!(found.get(name), expected.get(name), "overlay: {overlay}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_drivers_export_layers_that_rebuild_the_tree(steps in proptest::collection::vec(ops(1..15), 1..4)) {
        for overlay in [true, false] {
            let fixture = fixture(overlay);
            let mut top: Option<SnapshotRef> = None;
            for step in &steps {
                top = Some(fixture.make(top.as_ref(), |root| perform(root, step)));
            }
            let top = top.unwrap();
            let layers = top.layers(Compression::Zstd(None), false).unwrap();
            prop_assert_eq!(layers.len(), steps.len());
            let mut rebuilt: Option<SnapshotRef> = None;
            for layer in &layers {
                let blob = layer.blob.as_ref().unwrap().open().unwrap();
                let applied = fixture.snapshots.apply(rebuilt.as_ref(), blob, &layer.descriptor, usage()).unwrap();
                rebuilt = Some(applied);
            }
            let expected = kept(listing(&top));
            prop_assert_eq!(&kept(listing(&rebuilt.unwrap())), &expected, "overlay: {}", overlay);
            let merged = fixture.snapshots.merge(&[top.clone(), top.clone()], usage()).unwrap();
            prop_assert_eq!(&kept(listing(&merged)), &expected, "overlay: {}", overlay);
        }
    }
}
