//! What is cached, and what `prune` removes of it.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::{Duration, Instant};

use weld_store::{
    BlobInfo, Object, PruneOptions, RecordType, Reference, SnapshotId, Store, UsageInfo, refs,
};
use world::{Made, directory, id, make, make_result, open};

fn ids(infos: &[UsageInfo]) -> Vec<&str> {
    infos.iter().map(|info| info.id.as_str()).collect()
}

/// Three snapshots, each the parent of the next, all named by results and not in use.
fn chain(store: &Store) -> ([String; 3], [u64; 3]) {
    let (a, a_result) = make_result(store, &Made::default());
    let (b, b_result) = make_result(
        store,
        &Made {
            parent: Some(&a),
            ..Made::default()
        },
    );
    let (c, c_result) = make_result(
        store,
        &Made {
            parent: Some(&b),
            ..Made::default()
        },
    );
    store.db().flush().unwrap();
    ([id(&a), id(&b), id(&c)], [a_result, b_result, c_result])
}

#[test]
fn usage_is_told_with_parents_sizes_and_use() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (a, _) = make_result(&store, &Made::default());
    let made = Made {
        parent: Some(&a),
        record_type: RecordType::LocalSource,
        description: "local source context",
        bytes: 10_000,
    };
    let (b, result) = make_result(&store, &made);
    store.db().flush().unwrap();

    let infos = store.disk_usage(&[]).unwrap();
    assert_eq!(ids(&infos), [id(&a), id(&b)]);
    assert_eq!(infos[1].parents, [id(&a)]);
    assert!(infos[1].size.unwrap() >= 10_000);
    assert!(infos.iter().all(|info| info.in_use && !info.shared));

    drop(a);
    let infos = store.disk_usage(&[]).unwrap();
    assert!(
        infos[0].in_use,
        "what something in use is made of is in use"
    );
    drop(b);
    let infos = store.disk_usage(&[]).unwrap();
    assert!(infos.iter().all(|info| !info.in_use));
    assert_eq!(infos[1].usage_count, 0);

    store.results().load(result).unwrap().unwrap();
    let filter = ["type==source.local,description~=context".to_owned()];
    let infos = store.disk_usage(&filter).unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].usage_count, 1);
    assert!(infos[0].last_used > infos[0].created);
}

#[test]
fn uses_survive_the_process() {
    let root = tempfile::tempdir().unwrap();
    let (used, count) = {
        let store = open(root.path());
        let (pin, result) = make_result(&store, &Made::default());
        store.db().flush().unwrap();
        drop(pin);
        for _ in 0..3 {
            store.results().load(result).unwrap().unwrap();
        }
        let infos = store.disk_usage(&[]).unwrap();
        (infos[0].last_used, infos[0].usage_count)
    };
    let infos = open(root.path()).disk_usage(&[]).unwrap();
    assert_eq!((infos[0].last_used, infos[0].usage_count), (used, count));
    assert_eq!(count, 3);
}

#[test]
fn everything_goes_with_its_results_and_files() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let ([a, b, c], results) = chain(&store);
    let removed = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(ids(&removed), [c, b, a], "children before parents");
    assert!(removed.iter().all(|info| info.size.unwrap() > 0));
    assert!(store.disk_usage(&[]).unwrap().is_empty());
    for result in results {
        assert!(store.results().load(result).unwrap().is_none());
    }
    for directory in ["snapshots", "trash"] {
        let left = std::fs::read_dir(root.path().join(directory)).unwrap();
        assert_eq!(left.count(), 0, "{directory}");
    }
}

/// What all snapshots take on the disk.
fn on_disk(store: &Store) -> u64 {
    let snapshots = store.root().join("snapshots");
    let du = std::process::Command::new("du")
        .args(["-s", "--block-size=1"])
        .arg(snapshots)
        .output()
        .unwrap();
    let text = String::from_utf8(du.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_removed_snapshots_share_is_told_when_the_last_of_them_goes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pins: Vec<_> = (0..4)
        .map(|_| make_result(&store, &Made::default()).0)
        .collect();
    let of = |number: usize| directory(&store, &pins[number]);
    std::fs::write(of(0).join("fs/large"), vec![1; 1 << 20]).unwrap();
    for number in 0..3 {
        std::fs::write(of(number).join("shared"), "").unwrap();
        if number > 0 {
            std::fs::hard_link(of(0).join("fs/large"), of(number).join("fs/large")).unwrap();
        }
    }
    let names: Vec<_> = pins.iter().map(id).collect();
    drop(pins);
    store.db().flush().unwrap();
    store.disk_usage(&[]).unwrap();
    for filters in [vec![0], vec![1, 3], vec![2]] {
        let before = on_disk(&store);
        let filters = filters
            .iter()
            .map(|number: &usize| format!("id=={}", names[*number]));
        let options = PruneOptions {
            filters: filters.collect(),
            ..PruneOptions::default()
        };
        let told = store.prune(&options).unwrap();
        let told: u64 = told.iter().map(|info| info.size.unwrap()).sum();
        assert_eq!(told, before - on_disk(&store), "{options:?}");
    }
}

#[test]
fn files_of_what_was_removed_go_afterwards_also_when_the_process_ends_before() {
    let root = tempfile::tempdir().unwrap();
    let left = || std::fs::read_dir(root.path().join("snapshots")).unwrap();
    for ends_before in [false, true] {
        let store = open(root.path());
        let ([a, b, c], results) = chain(&store);
        let mut removed = Vec::new();
        let tell = |info| {
            removed.push(info);
            std::ops::ControlFlow::Continue(())
        };
        store.prune_with(&PruneOptions::default(), tell).unwrap();
        assert_eq!(ids(&removed), [c, b, a]);
        assert!(store.disk_usage(&[]).unwrap().is_empty());
        assert!(store.results().load(results[0]).unwrap().is_none());
        let store = if ends_before {
            drop(store);
            let store = open(root.path());
            store.sweep().unwrap();
            store
        } else {
            store.settle().unwrap();
            store
        };
        assert_eq!(left().count(), 0);
        assert!(store.check(|_| {}).unwrap().problems.is_empty());
    }
}

#[test]
fn what_is_in_use_stays_with_what_it_is_made_of() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let ([a, b, c], [_, b_result, _]) = chain(&store);
    let held = store.results().load(b_result).unwrap().unwrap();
    let removed = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(ids(&removed), [c]);
    assert_eq!(ids(&store.disk_usage(&[]).unwrap()), [a, b]);
    assert!(directory(&store, &held.objects[0]).join("fs/file").exists());
}

#[test]
fn filters_and_types_choose() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let of_type = |record_type, description| {
        let made = Made {
            record_type,
            description,
            ..Made::default()
        };
        id(&make_result(&store, &made).0)
    };
    let regular = of_type(RecordType::Regular, "one");
    let frontend = of_type(RecordType::Frontend, "two");
    let mount = of_type(RecordType::CacheMount, "three");
    store.db().flush().unwrap();

    let prune = |all, filter: &str| {
        let options = PruneOptions {
            all,
            filters: vec![filter.to_owned()],
            ..PruneOptions::default()
        };
        store.prune(&options).unwrap()
    };
    assert!(prune(false, "type==regular,description==three").is_empty());
    assert_eq!(ids(&prune(false, "type==exec.cachemount")), [mount]);
    assert_eq!(ids(&prune(false, "")), [regular], "frontends stay");
    assert_eq!(ids(&prune(true, "")), [frontend]);
    let malformed = PruneOptions {
        filters: vec!["typ==x".into()],
        ..PruneOptions::default()
    };
    assert!(store.prune(&malformed).is_err());
}

#[test]
fn what_images_need_is_shared_and_goes_only_with_all() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (layer, _) = make_result(&store, &Made::default());
    let (other, _) = make_result(&store, &Made::default());
    let blob = store.blobs().put(b"layer", BlobInfo::default()).unwrap();
    let manifest = store.blobs().put(b"manifest", BlobInfo::default()).unwrap();
    let Object::Snapshot(snapshot) = layer.object().clone() else {
        unreachable!()
    };
    let (layer_blob, manifest_blob) = (
        Object::Blob(blob.digest().clone()),
        Object::Blob(manifest.digest().clone()),
    );
    let holder = Reference::Blob(manifest.digest().clone());
    store
        .db()
        .update(move |tx| {
            refs::add(tx, &Reference::Snapshot(snapshot), &layer_blob)?;
            refs::add(tx, &holder, &layer_blob)?;
            refs::add(tx, &Reference::Image("app:latest".into()), &manifest_blob)
        })
        .wait()
        .unwrap();
    let (layer_pin, other_pin) = (layer, other);
    let (layer, other) = (id(&layer_pin), id(&other_pin));
    drop((blob, manifest, layer_pin, other_pin));

    let shared = store.disk_usage(&["shared".to_owned()]).unwrap();
    assert!(ids(&shared).contains(&layer.as_str()), "{shared:?}");
    let removed = store.prune(&PruneOptions::default()).unwrap();
    assert_eq!(ids(&removed), [other]);
    let all = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let removed = store.prune(&all).unwrap();
    assert!(ids(&removed).contains(&layer.as_str()));
    assert!(store.disk_usage(&[]).unwrap().is_empty());
}

#[test]
fn what_is_worth_least_goes_until_the_sizes_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let made = || Made {
        bytes: 100_000,
        ..Made::default()
    };
    let made: Vec<_> = (0..5).map(|_| make_result(&store, &made())).collect();
    store.db().flush().unwrap();
    let names: Vec<_> = made.iter().map(|(pin, _)| id(pin)).collect();
    let results: Vec<_> = made.iter().map(|(_, result)| *result).collect();
    drop(made);
    // The oldest becomes the one that was used last.
    store.results().load(results[0]).unwrap().unwrap();
    let size = store.disk_usage(&[]).unwrap()[0].size.unwrap();

    let limit = |reserved, max_used| PruneOptions {
        reserved,
        max_used,
        ..PruneOptions::default()
    };
    let removed = store.prune(&limit(None, Some(size * 5))).unwrap();
    assert!(removed.is_empty());
    let removed = store.prune(&limit(None, Some(size * 3 + 1))).unwrap();
    assert_eq!(ids(&removed), [names[1].as_str(), names[2].as_str()]);
    let removed = store.prune(&limit(Some(size * 2), Some(1))).unwrap();
    assert_eq!(ids(&removed), [names[3].as_str()]);
    let min_free = PruneOptions {
        min_free: Some(u64::MAX / 2),
        keep_duration: Some(Duration::from_secs(3600)),
        ..PruneOptions::default()
    };
    assert!(
        store.prune(&min_free).unwrap().is_empty(),
        "kept by its age"
    );
    let min_free = PruneOptions {
        min_free: Some(u64::MAX / 2),
        ..PruneOptions::default()
    };
    let removed = store.prune(&min_free).unwrap();
    assert_eq!(ids(&removed), [names[4].as_str(), names[0].as_str()]);
}

#[test]
fn what_nothing_names_is_collected_when_its_last_pin_goes() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let named = make_result(&store, &Made::default()).0;
    let unnamed = make(&store, &Made::default());
    let blob = store.blobs().put(b"unnamed", BlobInfo::default()).unwrap();
    let (kept, gone) = (directory(&store, &named), directory(&store, &unnamed));
    let file = blob.path();
    drop((named, unnamed, blob));
    store.collect_garbage().unwrap();
    assert!(kept.exists());
    assert!(!gone.exists());
    assert!(!file.exists());
    assert_eq!(store.disk_usage(&[]).unwrap().len(), 1);
}

#[test]
fn a_forgotten_result_takes_what_only_it_named() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (pin, result) = make_result(&store, &Made::default());
    let gone = directory(&store, &pin);
    drop(pin);
    store.db().flush().unwrap();
    store.results().forget(result);
    assert!(store.results().load(result).unwrap().is_none());
    store.db().flush().unwrap();
    store.collect_garbage().unwrap();
    assert!(!gone.exists());
}

/// 100,000 records, and how long it takes to prune them; printed with `--nocapture`.
#[test]
fn many_records_are_pruned() {
    let count: u64 = std::env::var("WELD_TEST_RECORDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(5_000);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut parent = None;
    for number in 0..count {
        let id = SnapshotId(store.next_sequence().unwrap());
        let object = Object::Snapshot(id);
        let above = parent.clone();
        // Chains of ten.
        parent = (number % 10 != 9).then(|| object.clone());
        let named = object.clone();
        drop(store.db().update(move |tx| {
            let new = weld_store::NewUsage {
                record_type: RecordType::Regular,
                description: format!("[{number}/{count}] RUN make -j test && make install"),
                mutable: false,
                size: Some(4096),
            };
            weld_store::usage::record(tx, &named, &new)?;
            match &above {
                Some(above) => refs::add(tx, &Reference::Snapshot(id), above),
                None => Ok(()),
            }
        }));
        store.results().save(vec![object], vec![0; 64]).unwrap();
    }
    store.db().flush().unwrap();
    let start = Instant::now();
    assert_eq!(store.disk_usage(&[]).unwrap().len() as u64, count);
    println!("disk usage of {count} records: {:?}", start.elapsed());
    let start = Instant::now();
    let half = PruneOptions {
        max_used: Some(4096 * count / 2),
        ..PruneOptions::default()
    };
    let removed = store.prune(&half).unwrap().len();
    println!(
        "prune of {removed} of {count} records: {:?}",
        start.elapsed()
    );
    assert_eq!(removed as u64, count / 2);
    let start = Instant::now();
    let removed = store.prune(&PruneOptions::default()).unwrap().len();
    println!(
        "prune of the other {removed} records: {:?}",
        start.elapsed()
    );
    assert!(store.disk_usage(&[]).unwrap().is_empty());
}
