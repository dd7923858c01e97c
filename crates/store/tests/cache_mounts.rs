//! Cache mounts: who gets which directory.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::path::Path;

use weld_store::{CacheMount, CacheMountRequest, PruneOptions, RecordType, Sharing, Store};
use world::{open, open_on_boot};

fn request(key: &str, sharing: Sharing) -> CacheMountRequest {
    CacheMountRequest {
        id: key.into(),
        key: key.into(),
        sharing,
        refills: false,
        record_type: RecordType::CacheMount,
        description: format!("cached mount {key}"),
    }
}

fn acquire(store: &Store, key: &str, sharing: Sharing) -> Option<CacheMount> {
    store
        .cache_mounts()
        .try_acquire(&request(key, sharing), |_| Ok(()))
        .unwrap()
}

#[test]
fn sharing_decides_who_gets_what() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let one = acquire(&store, "k", Sharing::Shared).unwrap();
    let two = acquire(&store, "k", Sharing::Shared).unwrap();
    assert_eq!(one.path(), two.path());
    assert!(acquire(&store, "k", Sharing::Locked).is_none());
    let private = acquire(&store, "k", Sharing::Private).unwrap();
    assert_ne!(private.path(), one.path());
    assert_ne!(
        acquire(&store, "other", Sharing::Shared).unwrap().path(),
        one.path()
    );

    let path = one.path();
    drop((one, two));
    let locked = acquire(&store, "k", Sharing::Locked).unwrap();
    assert_eq!(locked.path(), path, "the first one is used again");
    assert!(acquire(&store, "k", Sharing::Locked).is_none());
    assert!(acquire(&store, "k", Sharing::Shared).is_none());
    drop(private);
    let other = acquire(&store, "k", Sharing::Shared).unwrap();
    assert_ne!(other.path(), path, "the private one is free now");
}

#[test]
fn what_is_retired_is_used_by_no_one_new() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let based = CacheMountRequest {
        key: "k:base".into(),
        ..request("k", Sharing::Locked)
    };
    let acquire_based = || {
        let mounts = store.cache_mounts();
        mounts.try_acquire(&based, |_| Ok(())).unwrap().unwrap()
    };
    let (used, of_base) = (
        acquire(&store, "k", Sharing::Locked).unwrap(),
        acquire_based(),
    );
    let (path, base_path) = (used.path(), of_base.path());
    drop(of_base);
    store.cache_mounts().retire(["k".to_owned()]).unwrap();

    let new = acquire(&store, "k", Sharing::Locked).unwrap();
    assert_ne!(new.path(), path, "not waited for, and not shared");
    assert!(path.is_dir(), "who uses it keeps it");
    assert_ne!(acquire_based().path(), base_path);
    let new_path = new.path();
    drop((used, new));
    assert_eq!(
        acquire(&store, "k", Sharing::Shared).unwrap().path(),
        new_path
    );
}

#[test]
fn content_stays_for_the_next_process_and_can_be_pruned() {
    let root = tempfile::tempdir().unwrap();
    {
        let store = open(root.path());
        let filled = |directory: &Path| fs::write(directory.join("base"), "base");
        let mount = store
            .cache_mounts()
            .try_acquire(&request("k", Sharing::Locked), filled)
            .unwrap()
            .unwrap();
        fs::write(mount.path().join("added"), "added").unwrap();
    }
    let store = open(root.path());
    let mount = acquire(&store, "k", Sharing::Shared).unwrap();
    assert!(mount.path().join("base").exists());
    assert!(mount.path().join("added").exists());
    let infos = store.disk_usage(&["type==exec.cachemount".into()]).unwrap();
    assert_eq!(infos.len(), 1);
    assert!(infos[0].in_use && infos[0].mutable);
    assert_eq!(infos[0].id, mount.id().to_string());

    assert!(store.prune(&PruneOptions::default()).unwrap().is_empty());
    let pruned = mount.path();
    drop(mount);
    assert_eq!(store.prune(&PruneOptions::default()).unwrap().len(), 1);
    assert!(!pruned.exists());
    let mount = acquire(&store, "k", Sharing::Shared).unwrap();
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
}

#[test]
fn a_failed_fill_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let failing = |_: &Path| Err(std::io::Error::other("no base"));
    let error = store
        .cache_mounts()
        .try_acquire(&request("k", Sharing::Locked), failing)
        .unwrap_err();
    assert!(error.to_string().contains("no base"), "{error}");
    assert!(acquire(&store, "k", Sharing::Locked).is_some());
    store.db().flush().unwrap();
    store.collect_garbage().unwrap();
    assert_eq!(
        fs::read_dir(root.path().join("snapshots")).unwrap().count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_one_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let held = acquire(&store, "k", Sharing::Locked).unwrap();
    let path = held.path();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            let request = request("k", Sharing::Locked);
            store.cache_mounts().acquire(&request, |_| Ok(())).await
        }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().path(), path);
}

#[test]
fn what_was_written_before_a_power_loss_is_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    {
        let store = open_on_boot(root.path(), "one");
        let mount = acquire(&store, "k", Sharing::Locked).unwrap();
        fs::write(mount.path().join("torn"), "").unwrap();
    }
    {
        let store = open_on_boot(root.path(), "one");
        let mount = acquire(&store, "k", Sharing::Locked).unwrap();
        assert!(mount.path().join("torn").exists());
    }
    let store = open_on_boot(root.path(), "two");
    let mount = acquire(&store, "k", Sharing::Locked).unwrap();
    assert!(!mount.path().join("torn").exists());
}
