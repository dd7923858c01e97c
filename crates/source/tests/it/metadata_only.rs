//! Trees of which a list is transferred, and a few files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weld_fileset::{PatternMatcher, SelectionOptions};
use weld_proto::{Message, fsutil};
use weld_source::local::{DirTarget, HostDir, LISTING, MetadataOnly, Synced, TreeIndex, sync};
use weld_source::progress::Progress;

use crate::local::listing;

async fn transfer(from: &Path, to: &Path, files: &[&str], previous: &TreeIndex) -> Synced {
    let all = HostDir::open(from, SelectionOptions::default()).unwrap();
    let transferred = PatternMatcher::new(files).unwrap();
    let provider = MetadataOnly::new(Arc::new(all), transferred);
    let target = DirTarget::open(to).unwrap();
    let previous = Arc::new(previous.clone());
    sync(
        Arc::new(provider),
        Arc::new(target),
        previous,
        &Progress::none(),
    )
    .await
    .unwrap()
}

fn paths(root: &Path) -> Vec<PathBuf> {
    listing(root).into_keys().collect()
}

/// Paths and sizes of the list.
fn listed(root: &Path) -> Vec<(String, i64)> {
    let bytes = fs::read(root.join(LISTING)).unwrap();
    let mut rest = bytes.as_slice();
    let mut listed = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (stat, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        let stat = fsutil::Stat::decode(stat).unwrap();
        listed.push((stat.path, stat.size));
        rest = behind;
    }
    listed
}

#[tokio::test]
async fn a_list_and_what_is_named_of_it_are_transferred() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (from.path(), to.path());
    for (path, content) in [
        (LISTING, "the client's own"),
        ("data", "data"),
        ("dir/file1", "one"),
        ("dir/file2", "two"),
        ("dir/sub/bar1", "bar"),
        ("other/first", "first"),
        ("zzz/deep/name", "name"),
    ] {
        fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
        fs::write(from.join(path), content).unwrap();
    }
    // The second name of a file that is not named is.
    fs::hard_link(from.join("other/first"), from.join("second1")).unwrap();
    let first = transfer(from, to, &["**/*1", "zzz"], &TreeIndex::empty()).await;
    let there = [
        LISTING,
        "dir",
        "dir/file1",
        "dir/sub",
        "dir/sub/bar1",
        "other",
        "other/first",
        "second1",
        "zzz",
        "zzz/deep",
        "zzz/deep/name",
    ];
    assert_eq!(paths(to), there.map(PathBuf::from));
    assert_eq!(fs::read(to.join("dir/file1")).unwrap(), b"one");
    let sizes = [
        ("data", 4),
        ("dir", 0),
        ("dir/file1", 3),
        ("dir/file2", 3),
        ("dir/sub", 0),
        ("dir/sub/bar1", 3),
        ("other", 0),
        ("other/first", 5),
        ("second1", 0),
        ("zzz", 0),
        ("zzz/deep", 0),
        ("zzz/deep/name", 4),
    ];
    assert_eq!(
        listed(to),
        sizes.map(|(path, size)| (path.to_owned(), size))
    );

    let again = transfer(from, to, &["**/*1", "zzz"], &first.index).await;
    assert!(!again.tree_changed, "{:?}", again.changed);

    // Another list of the same length, of files of the same time.
    fs::rename(from.join("data"), from.join("date")).unwrap();
    let renamed = transfer(from, to, &["**/*1", "zzz"], &again.index).await;
    assert_eq!(listed(to)[0].0, "date");
    assert!(renamed.tree_changed);
    assert_eq!(paths(to), there.map(PathBuf::from));

    fs::remove_dir_all(from.join("dir/sub")).unwrap();
    transfer(from, to, &[], &renamed.index).await;
    assert_eq!(paths(to), [PathBuf::from(LISTING)]);
    assert_eq!(listed(to).len(), 10);
}
