//! Content keys have the digests that BuildKit's own tests expect (cache/contenthash), and are
//! the same however a tree came to be.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use support::{ops, perform};
use weld_digest::Digest;
use weld_store::content_key::{KeyError, KeyOptions, KeyTree};
use weld_store::layer::open_root;
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

const FILE_DATA0: &str = "sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b";
const FILE_DATA1: &str = "sha256:c2b5e234f5f38fc5864da7def04782f82501a40d46192e4207d5b3f0c3c4732b";
const DIR_D0: &str = "sha256:d47454417d2c554067fbefe5f5719edc49f3cfe969c36b62e34a187a4da0cc9a";
const DIR_D0_BY_FILE: &str =
    "sha256:6b612ad5c13159112ae26357ef7bd34df29916941ba40ec2ce38dfb70c6c60c3";
const DIR_D0_MODIFIED: &str =
    "sha256:555ffa3028630d97ba37832b749eda85ab676fd64ffb629fbf0f4ec8c1e3bff1";
const DOUBLE_STAR: &str = "sha256:aa7448215bbf5b837b35ce64467857d8b9747965573d14d4b31b370586370971";
const NOTHING: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A tree as BuildKit's tests write it: `PATH dir`, `PATH file CONTENT`, `PATH symlink TARGET`.
fn write(root: &Path, files: &[&str]) {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for file in files {
        let words: Vec<_> = file.split(' ').collect();
        let path = root.join(words[0]);
        match words[1] {
            "dir" => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            "file" => {
                fs::write(&path, words[2]).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            }
            "link" => fs::hard_link(root.join(words[2]), path).unwrap(),
            _ => std::os::unix::fs::symlink(words[2], path).unwrap(),
        }
    }
}

struct Tree {
    tree: KeyTree,
    _root: tempfile::TempDir,
}

fn tree(files: &[&str]) -> Tree {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), files);
    Tree {
        tree: KeyTree::of_directory(open_root(root.path()).unwrap()).unwrap(),
        _root: root,
    }
}

#[derive(Clone, Copy)]
struct Ask<'a> {
    follow: bool,
    wildcard: bool,
    include: &'a [&'a str],
    exclude: &'a [&'a str],
}

const PLAIN: Ask<'_> = Ask {
    follow: false,
    wildcard: false,
    include: &[],
    exclude: &[],
};
const FOLLOW: Ask<'_> = Ask {
    follow: true,
    ..PLAIN
};
const WILDCARD: Ask<'_> = Ask {
    wildcard: true,
    ..PLAIN
};

impl Tree {
    fn ask(&self, path: &str, ask: Ask<'_>) -> Result<String, KeyError> {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let options = KeyOptions {
            follow_links: ask.follow,
            wildcard: ask.wildcard,
            include: owned(ask.include),
            exclude: owned(ask.exclude),
            required: Vec::new(),
        };
        self.tree
            .content_key(path, &options)
            .map(|key| key.to_string())
    }

    fn key(&self, path: &str, ask: Ask<'_>) -> String {
        self.ask(path, ask).unwrap()
    }
}

#[test]
fn files_and_directories() {
    let tree_ = tree(&[
        "foo file data0",
        "bar file data1",
        "d0 dir",
        "d0/abc file data0",
        "d0/def symlink abc",
        "d0/ghi symlink nosuchfile",
    ]);
    assert!(matches!(
        tree_.ask("nosuch", FOLLOW),
        Err(KeyError::NotFound { .. })
    ));
    assert_eq!(tree_.key("foo", FOLLOW), FILE_DATA0);
    assert_eq!(tree_.key("bar", FOLLOW), FILE_DATA1);
    assert_eq!(tree_.key("d0/abc", FOLLOW), FILE_DATA0);
    assert_eq!(tree_.key("d0/def", FOLLOW), FILE_DATA0);
    assert!(matches!(
        tree_.ask("d0/ghi", FOLLOW),
        Err(KeyError::NotFound { .. })
    ));
    assert_eq!(
        tree_.key("/", FOLLOW),
        "sha256:427c9cf9ae98c0f81fb57a3076b965c7c149b6b0a85625ad4e884236649a42c6"
    );
    assert_eq!(tree_.key("d0", FOLLOW), DIR_D0);
    let same = tree(&[
        "abc file data0",
        "def symlink abc",
        "ghi symlink nosuchfile",
    ]);
    assert_eq!(same.key("/", FOLLOW), DIR_D0);
    let less = tree(&["abc file data0", "def symlink abc"]);
    assert_eq!(less.key("/", FOLLOW), DIR_D0_MODIFIED);
}

#[test]
fn hard_links_are_files() {
    let tree = tree(&["abc dir", "abc/foo file data0", "ln link abc/foo"]);
    assert_eq!(tree.key("abc/foo", PLAIN), FILE_DATA0);
    assert_eq!(tree.key("ln", PLAIN), FILE_DATA0);
}

#[test]
fn wildcards() {
    let tree = tree(&[
        "bar file data1",
        "foo file data0",
        "fox file data2",
        "x dir",
        "x/d0 dir",
        "x/d0/abc file data0",
        "x/d0/def symlink abc",
        "x/d0/ghi symlink nosuchfile",
        "y1 symlink foo",
        "y2 symlink fox",
    ]);
    let one = Digest::sha256_of([b"\0foo".as_slice(), FILE_DATA0.as_bytes()].concat());
    assert_eq!(tree.key("f*o", WILDCARD), one.to_string());
    assert_eq!(
        tree.key("f*", WILDCARD),
        "sha256:0b6731924f0a32a812bf8a729202e55e54ded331f9e4ff2397f681e43694e086"
    );
    assert_eq!(tree.key("x/d?", WILDCARD), DIR_D0_BY_FILE);
    let follow = Ask {
        follow: true,
        ..WILDCARD
    };
    assert_eq!(tree.key("x/d?/def", follow), FILE_DATA0);
    assert_eq!(
        tree.key("y*", follow),
        "sha256:982153600b9653a1decb0f961e09e2bc1be335cfcaac9b39dbd1120b65fdf92c"
    );
    assert_eq!(tree.key("nothing*", WILDCARD), NOTHING);
    assert!(matches!(
        tree.ask("[", WILDCARD),
        Err(KeyError::Pattern { .. })
    ));
}

#[test]
fn symlinks_in_what_is_asked_for_are_not_followed() {
    let files = |target: &str| {
        tree(&[
            "a file data0",
            "b file data0",
            "dangling symlink nowhere",
            &format!("link symlink {target}"),
        ])
    };
    let some = Ask {
        exclude: &["a"],
        ..FOLLOW
    };
    let (one, other) = (files("a"), files("b"));
    for path in ["/", "."] {
        // They are copied as they are: what they say counts, and nothing has to be there.
        assert_ne!(one.key(path, some), other.key(path, some), "{path}");
    }
}

#[test]
fn symlinks_that_are_not_followed() {
    let tree = tree(&[
        "target file data0",
        "sym symlink target",
        "sym2 symlink target2",
        "foo dir",
        "foo/ghi symlink target",
        "y1 symlink foo/ghi",
    ]);
    let sym = "sha256:a2ba571981f48ec34eb79c9a3ab091b6491e825c2f7e9914ea86e8e958be7fae";
    assert_eq!(tree.key("sym", WILDCARD), sym);
    assert_ne!(tree.key("sym2", WILDCARD), sym);
    assert_eq!(tree.key("foo/ghi", WILDCARD), sym);
    let follow = Ask {
        follow: true,
        ..WILDCARD
    };
    assert!(matches!(
        tree.ask("foo/ghi", follow),
        Err(KeyError::NotFound { .. })
    ));
    assert!(matches!(
        tree.ask("y1", follow),
        Err(KeyError::NotFound { .. })
    ));
    assert_eq!(tree.key("sym", PLAIN), sym);
    assert_eq!(tree.key("foo/ghi", PLAIN), sym);
    let foo = "sha256:9b761577efcb1239cf4be971914c5d7404914dd32ff436401af1764dc5446b83";
    assert_eq!(tree.key("foo", FOLLOW), foo);
    assert_eq!(
        tree.key("fo?", follow),
        "sha256:2797e710c6d1a89ff2d91c834b828b1dc500f2982430a58241df8e146f4c4bb4"
    );
    assert_eq!(
        tree.key(
            "foo",
            Ask {
                exclude: &["*.git"],
                ..FOLLOW
            }
        ),
        foo
    );
}

#[test]
fn links_on_the_way_are_resolved_in_the_tree() {
    let tree = tree(&[
        "target dir",
        "target/file file data0",
        "link1 dir",
        "link1/target_file symlink ../target/file",
        "link1/target_file_abs symlink /target/file",
        "link1/target_dir symlink ../target",
        "link1/target_dir_abs symlink /target",
        "link2 dir",
        "link2/link1_rel symlink ../link1",
        "link2/link1_abs symlink /link1",
        "link3 dir",
        "link3/target symlink ../link2/link1_rel/target_dir",
        "loop symlink loop",
        "out symlink ../../../target/file",
    ]);
    for path in [
        "target/file",
        "link1/target_file",
        "link1/target_dir/file",
        "link2/link1_rel/target_file",
        "link2/link1_rel/target_file_abs",
        "link2/link1_rel/target_dir_abs/file",
        "link2/link1_abs/target_dir/file",
        "link3/target/file",
        "out",
    ] {
        assert_eq!(tree.key(path, FOLLOW), FILE_DATA0, "{path}");
    }
    assert_eq!(
        tree.key("link2/link1_abs/target_dir/file", PLAIN),
        FILE_DATA0
    );
    assert_ne!(tree.key("link1/target_file", PLAIN), FILE_DATA0);
    assert!(matches!(
        tree.ask("loop", FOLLOW),
        Err(KeyError::TooManyLinks { .. })
    ));
}

#[test]
fn include_and_exclude_patterns() {
    for wildcard in [false, true] {
        let include = |include| Ask {
            wildcard,
            include,
            ..PLAIN
        };
        let before = tree(&[
            "foo file data0",
            "bar file data1",
            "d0 dir",
            "d0/abc file abc",
            "d1 dir",
            "d1/def file def",
        ]);
        let after = tree(&[
            "foo file data0",
            "bar file data1",
            "baz file data2",
            "d0 dir",
            "d0/abc file abc",
            "d0/xyz file xyz",
            "d1 dir",
            "d1/def file def",
            "d2 dir",
        ]);
        for patterns in [
            &["foo"][..],
            &["foo", "bar"],
            &["d1"],
            &["d0/a*"],
            &["d1/*"],
        ] {
            let key = before.key("", include(patterns));
            assert_eq!(after.key("", include(patterns)), key, "{patterns:?}");
            assert_ne!(key, NOTHING);
        }
        for patterns in [&["d0"][..], &["d0/*"]] {
            assert_ne!(
                after.key("", include(patterns)),
                before.key("", include(patterns))
            );
        }
        assert_eq!(
            before.key("", include(&["d0/*"])),
            before.key("", include(&["d0/a*"]))
        );
        assert_eq!(
            after.key("", include(&["**/abc"])),
            after.key("", include(&["d0/a*"]))
        );
        let without = Ask {
            exclude: &["d0/xyz"],
            ..include(&["d0/*"])
        };
        assert_eq!(after.key("", without), before.key("", include(&["d0/*"])));
        assert_eq!(before.key("", include(&["d2/foo"])), NOTHING);
        assert_eq!(after.key("d2", include(&["foo"])), NOTHING);
    }
}

#[test]
fn double_stars() {
    let empty = tree(&[
        "prefix dir",
        "prefix/a dir",
        "prefix/a/b dir",
        "prefix/a/b/c dir",
    ]);
    let full = tree(&[
        "prefix dir",
        "prefix/a dir",
        "prefix/a/b dir",
        "prefix/a/b/c dir",
        "prefix/a/b/c/foo dir",
        "prefix/a/b/c/foo/bar file abc",
    ]);
    for wildcard in [false, true] {
        let include = |include| Ask {
            wildcard,
            include,
            ..PLAIN
        };
        assert_eq!(empty.key("prefix/a", include(&["**/foo/**"])), NOTHING);
        for patterns in [&["**/foo/**", "**/report"], &["**/foo", "**/report"]] {
            assert_eq!(
                full.key("prefix/a", include(patterns)),
                DOUBLE_STAR,
                "{patterns:?}"
            );
        }
    }
}

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: String::new(),
        mutable: false,
        size: None,
    }
}

fn key(snapshot: &SnapshotRef) -> String {
    snapshot
        .content_key("/", &KeyOptions::default())
        .unwrap()
        .to_string()
}

/// The keys of all paths of a mounted tree, read afresh.
fn mounted_keys(snapshot: &SnapshotRef) -> (String, BTreeMap<String, String>) {
    let mount = snapshot.mount().unwrap();
    let root = mount.path().join(".");
    let tree = KeyTree::of_directory(open_root(&root).unwrap()).unwrap();
    let ask = |path: &str| {
        tree.content_key(path, &KeyOptions::default())
            .unwrap()
            .to_string()
    };
    let paths = support::list(&root);
    let paths = paths.keys().map(|path| path.to_str().unwrap().to_owned());
    (
        ask("/"),
        paths.map(|path| (path.clone(), ask(&path))).collect(),
    )
}

#[test]
fn a_layer_is_read_once_and_only_what_it_touches() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path(), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let base = snapshots.create(None).unwrap();
    write(base.files(), &["a file data0", "b file data1"]);
    let base = base.commit(usage()).unwrap();
    let before = key(&base);
    // A file changed behind the store's back shows what was not read again.
    fs::write(store.snapshot_dir(base.id()).join("fs/a"), "other").unwrap();
    let next = snapshots.create(Some(&base)).unwrap();
    write(next.files(), &["c file data0"]);
    let next = next.commit(usage()).unwrap();
    let ask = |snapshot: &SnapshotRef, path: &str| {
        snapshot
            .content_key(path, &KeyOptions::default())
            .unwrap()
            .to_string()
    };
    assert_eq!(ask(&next, "a"), FILE_DATA0);
    assert_eq!(ask(&next, "c"), FILE_DATA0);
    let id = base.id();
    drop((base, next));
    // A new process finds them kept.
    let base = snapshots.get(id).unwrap().unwrap();
    assert_eq!(key(&base), before);
    assert_eq!(ask(&base, "a"), FILE_DATA0);
    // A torn file of keys is as none.
    drop(base);
    let kept = store.snapshot_dir(id).join("keys");
    let mut bytes = fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&kept, bytes).unwrap();
    let base = snapshots.get(id).unwrap().unwrap();
    assert_ne!(key(&base), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn layers_have_the_keys_of_their_mount(steps in proptest::collection::vec(ops(1..15), 1..4)) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path(), StoreOptions::default()).unwrap();
        let snapshots = Snapshots::open(&store).unwrap();
        let mut top: Option<SnapshotRef> = None;
        for step in &steps {
            let snapshot = snapshots.create(top.as_ref()).unwrap();
            perform(&snapshot.mount().unwrap().path(), step);
            top = Some(snapshot.commit(usage()).unwrap());
        }
        let top = top.unwrap();
        let merged = snapshots.merge(&[snapshots.create(None).unwrap().commit(usage()).unwrap(), top.clone()], usage()).unwrap();
        for snapshot in [&top, &merged] {
            let (root, paths) = mounted_keys(snapshot);
            prop_assert_eq!(key(snapshot), root);
            for (path, expected) in paths {
                let key = snapshot.content_key(&path, &KeyOptions::default()).unwrap().to_string();
                prop_assert_eq!(key, expected, "{}", path);
            }
        }
    }
}
