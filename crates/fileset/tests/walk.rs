//! Selections and walks over real trees.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use tempfile::TempDir;
use weld_fileset::{
    Entry, Layers, ParentMatches, PatternMatcher, Selection, SelectionOptions, WalkOptions,
    compare_paths, follow_links, walk,
};

fn tree(paths: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in paths {
        if let Some((link, target)) = path.split_once(" -> ") {
            let link = dir.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        } else if path.ends_with('/') {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        } else {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, path).unwrap();
        }
    }
    dir
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap()
}

fn selected(dir: &TempDir, options: &SelectionOptions) -> Vec<Entry> {
    let root = open(dir.path());
    let selection = Selection::new(root.as_fd(), options).unwrap();
    walk(
        &Layers::single(root),
        Path::new(""),
        &WalkOptions {
            selection,
            xattrs: false,
        },
    )
    .unwrap()
}

fn paths(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|e| e.path.to_str().unwrap().to_owned())
        .collect()
}

fn select(dir: &TempDir, include: &[&str], exclude: &[&str]) -> Vec<String> {
    let owned = |p: &[&str]| p.iter().map(|p| (*p).to_owned()).collect();
    paths(&selected(
        dir,
        &SelectionOptions {
            include_patterns: owned(include),
            exclude_patterns: owned(exclude),
            follow_paths: Vec::new(),
        },
    ))
}

#[test]
fn order_is_by_component() {
    let dir = tree(&["a/b/c", "a.txt", "a-x/y", "a/b.c", "b", "A", "a/z/", "ä"]);
    let expected = [
        "A", "a", "a/b", "a/b/c", "a/b.c", "a/z", "a-x", "a-x/y", "a.txt", "b", "ä",
    ];
    assert_eq!(select(&dir, &[], &[]), expected);
}

#[test]
fn includes_and_excludes() {
    let dir = tree(&["bar/foo", "bar/baz/q", "foo2", "x/y/z", "x/y/w", "x/v"]);
    assert_eq!(
        select(&dir, &["bar"], &[]),
        ["bar", "bar/baz", "bar/baz/q", "bar/foo"]
    );
    assert_eq!(select(&dir, &["bar/f*"], &[]), ["bar", "bar/foo"]);
    assert_eq!(select(&dir, &["bar/g*"], &[]), [] as [&str; 0]);
    assert_eq!(select(&dir, &["**/z"], &[]), ["x", "x/y", "x/y/z"]);
    assert_eq!(select(&dir, &["x"], &["x/y"]), ["x", "x/v"]);
    assert_eq!(
        select(&dir, &["x"], &["x/y", "!x/y/w"]),
        ["x", "x/v", "x/y", "x/y/w"]
    );
    assert_eq!(select(&dir, &[], &["*", "!x/*/z"]), ["x", "x/y", "x/y/z"]);
    assert_eq!(select(&dir, &["x", "!x/y"], &[]), ["x", "x/v"]);
    assert_eq!(
        select(&dir, &["x", "!x/y", "x/y/z"], &[]),
        ["x", "x/v", "x/y", "x/y/z"]
    );
}

#[test]
fn follow_paths_bring_what_links_lead_to() {
    let dir = tree(&[
        "bin -> usr/bin",
        "usr/bin/tool -> ../lib/tool-1",
        "usr/lib/tool-1",
        "usr/lib/other",
        "abs -> /etc/conf",
        "etc/conf",
        "etc/conf2",
        "loop -> loop",
        "grow -> grow/x",
        "out -> ../../../../etc/conf2",
        "d1/link -> ../data/one",
        "d2 -> data",
        "data/one",
        "data/two",
        "data/link -> two",
        "odd -> a*b",
        "a*b",
        "axb",
    ]);
    let follow = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        follow_links(open(dir.path()).as_fd(), &paths).unwrap()
    };
    let some = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        follow(&["bin/tool"]),
        some(&["bin", "usr/bin/tool", "usr/lib/tool-1"])
    );
    assert_eq!(follow(&["/abs"]), some(&["abs", "etc/conf"]));
    assert_eq!(follow(&["loop"]), some(&["loop"]));
    assert_eq!(follow(&["grow/y"]), some(&["grow"]));
    assert_eq!(follow(&["out"]), some(&["etc/conf2", "out"]));
    assert_eq!(follow(&["missing/x"]), some(&["missing/x"]));
    assert_eq!(
        follow(&["d2/one", "d2/two"]),
        some(&["d2", "data/one", "data/two"])
    );
    assert_eq!(
        follow(&["d*/l*"]),
        some(&[
            "d*/l*",
            "d1/link",
            "d2",
            "data/l*",
            "data/link",
            "data/one",
            "data/two"
        ])
    );
    assert_eq!(follow(&["odd"]), some(&["a\\*b", "odd"]));
    assert_eq!(follow(&["etc", "."]), None);
    assert_eq!(follow(&["etc/.."]), None);

    let options = |follow: &[&str], include: &[&str]| SelectionOptions {
        include_patterns: include.iter().map(|p| (*p).to_owned()).collect(),
        follow_paths: follow.iter().map(|p| (*p).to_owned()).collect(),
        exclude_patterns: Vec::new(),
    };
    assert_eq!(
        paths(&selected(&dir, &options(&["odd"], &["axb"]))),
        ["a*b", "axb", "odd"]
    );
    assert_eq!(
        paths(&selected(&dir, &options(&["missing"], &[]))),
        [] as [&str; 0]
    );
    assert!(paths(&selected(&dir, &options(&["/"], &["etc"]))).contains(&"d2".to_owned()));
}

#[test]
fn metadata_is_complete() {
    let dir = tree(&["dir/", "dir/file", "link -> dir/file"]);
    let file = dir.path().join("dir/file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(&file, dir.path().join("again")).unwrap();
    fs::hard_link(&file, dir.path().join("zagain")).unwrap();
    std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    rustix::fs::setxattr(&file, "user.x", b"v", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&file, "user.a", &[b'w'; 3000], XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 5,
            tv_nsec: 6,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: -7,
            tv_nsec: 999_999_999,
        },
    };
    rustix::fs::utimensat(rustix::fs::CWD, &file, &times, rustix::fs::AtFlags::empty()).unwrap();

    let root = open(dir.path());
    let options = WalkOptions {
        selection: Selection::all(),
        xattrs: true,
    };
    let entries = walk(&Layers::single(root), Path::new(""), &options).unwrap();
    assert_eq!(
        paths(&entries),
        ["again", "dir", "dir/file", "link", "null", "zagain"]
    );
    let by_path: BTreeMap<_, _> = entries
        .iter()
        .map(|e| (e.path.to_str().unwrap(), e))
        .collect();

    let again = by_path["again"];
    assert_eq!(
        (again.hard_link, by_path["dir/file"].hard_link),
        (None, Some(0))
    );
    assert_eq!(by_path["zagain"].hard_link, Some(0));
    assert_eq!((again.metadata.uid, again.metadata.gid), (12, 34));
    assert_eq!(again.metadata.permissions(), 0o4751);
    assert_eq!(again.metadata.size, 8);
    assert_eq!(again.metadata.mtime.as_unix_nanos(), -6_000_000_001);
    assert_eq!(again.metadata.atime.as_unix_nanos(), 5_000_000_006);
    let xattrs: Vec<_> = again
        .xattrs
        .iter()
        .map(|(n, v)| (n.to_str().unwrap(), v.len()))
        .collect();
    assert_eq!(xattrs, [("user.a", 3000), ("user.x", 1)]);
    assert_eq!(
        by_path["link"].link_target.as_deref(),
        Some(Path::new("dir/file"))
    );
    assert_eq!(by_path["null"].metadata.rdev, (1, 3));
    assert!(by_path["dir"].is_dir() && !again.is_dir());
}

/// A pool whose threads are an ordinary user, for whom permissions count.
fn as_nobody<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .start_handler(|_| {
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
        })
        .build()
        .unwrap();
    pool.install(run)
}

#[test]
fn an_unreadable_directory_is_named() {
    let dir = tree(&["ok/file", "sub/locked/file", "sub/other"]);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let locked = dir.path().join("sub/locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    let layers = Layers::single(open(dir.path()));
    let run = |include: &[&str]| {
        let include: Vec<String> = include.iter().map(|p| (*p).to_owned()).collect();
        let selection = Selection::from_patterns(&include, &[]).unwrap();
        as_nobody(|| {
            walk(
                &layers,
                Path::new(""),
                &WalkOptions {
                    selection,
                    xattrs: false,
                },
            )
        })
    };
    let error = run(&[]).unwrap_err();
    assert_eq!(error.path, Path::new("sub/locked"));
    assert_eq!(
        error.to_string(),
        "cannot open directory \"sub/locked\": Permission denied (os error 13)"
    );
    // Not wanted, and pruned; not wanted, but looked at for "**".
    assert_eq!(paths(&run(&["ok"]).unwrap()), ["ok", "ok/file"]);
    assert_eq!(paths(&run(&["**/other"]).unwrap()), ["sub", "sub/other"]);
}

#[test]
fn links_are_not_walked_through() {
    let outside = tree(&["secret"]);
    let dir = tree(&["a/b"]);
    symlink(outside.path(), dir.path().join("out")).unwrap();
    assert_eq!(select(&dir, &[], &[]), ["a", "a/b", "out"]);
    assert_eq!(select(&dir, &["out/secret"], &[]), [] as [&str; 0]);
}

/// Deeper than any path that the kernel takes in one call.
#[test]
fn a_very_deep_tree() {
    let dir = tempfile::tempdir().unwrap();
    let name = "d".repeat(200);
    let mut fd = open(dir.path());
    for _ in 0..60 {
        rustix::fs::mkdirat(&fd, &name, Mode::from_raw_mode(0o755)).unwrap();
        fd = rustix::fs::openat(&fd, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .unwrap();
    }
    let root = open(dir.path());
    let entries = walk(
        &Layers::single(root),
        Path::new(""),
        &WalkOptions::default(),
    )
    .unwrap();
    assert_eq!(entries.len(), 60);
    assert_eq!(entries.last().unwrap().path.as_os_str().len(), 60 * 201 - 1);
}

/// The outcome by the definition: every path is asked for on its own, nothing is pruned.
fn unpruned(all: &[Entry], options: &SelectionOptions) -> Vec<PathBuf> {
    let matcher = |p: &[String]| (!p.is_empty()).then(|| PatternMatcher::new(p).unwrap());
    let (include, exclude) = (
        matcher(&options.include_patterns),
        matcher(&options.exclude_patterns),
    );
    let outcome = |matcher: &PatternMatcher, path: &Path| {
        let mut flags = ParentMatches::default();
        let mut matched = false;
        let mut parents: Vec<&Path> = path.ancestors().filter(|p| *p != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            (matched, flags) = matcher.matches_using_parent(parent, &flags);
        }
        matched
    };
    let mut kept = BTreeSet::new();
    for entry in all {
        if include.as_ref().is_none_or(|m| outcome(m, &entry.path))
            && !exclude.as_ref().is_some_and(|m| outcome(m, &entry.path))
        {
            kept.extend(entry.path.ancestors().map(Path::to_owned));
        }
    }
    kept.remove(Path::new(""));
    let mut kept: Vec<PathBuf> = kept.into_iter().collect();
    kept.sort_by(|a, b| compare_paths(a, b));
    kept
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    let piece = prop::sample::select(vec![
        "a", "b", "a/", "b/", "/", "*", "**", "**/", "?", "[a]",
    ]);
    let one = (
        prop::bool::weighted(0.35),
        prop::collection::vec(piece, 1..6),
    )
        .prop_map(|(not, pieces)| format!("{}{}", if not { "!" } else { "" }, pieces.concat()));
    prop::collection::vec(one, 0..5)
}

#[test]
fn pruning_never_changes_the_outcome() {
    let mut files = Vec::new();
    for depth1 in ["a", "b", "ab"] {
        for depth2 in ["a", "b", "ba"] {
            for depth3 in ["a", "b"] {
                files.push(format!("{depth1}/{depth2}/{depth3}"));
            }
        }
        files.push(format!("{depth1}/empty/"));
    }
    let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let all = selected(&dir, &SelectionOptions::default());
    proptest!(ProptestConfig::with_cases(1500), |(include in patterns(), exclude in patterns())| {
        let options = SelectionOptions {
            include_patterns: include, exclude_patterns: exclude, follow_paths: Vec::new(),
        };
        prop_assume!(Selection::from_patterns(
            &options.include_patterns, &options.exclude_patterns).is_ok());
        let found: Vec<PathBuf> = selected(&dir, &options).into_iter().map(|e| e.path).collect();
        prop_assert_eq!(found, unpruned(&all, &options));
    });
}

#[test]
fn large_directories_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2000 {
        fs::write(dir.path().join(format!("{i}")), "").unwrap();
    }
    let found = select(&dir, &[], &[]);
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!((found.len(), &found), (2000, &sorted));
}

/// A walk of few directories is done by the caller: a tree of many threads' worth of pieces and
/// one of a handful come out alike.
#[test]
fn a_walk_is_the_same_however_many_jobs_it_takes() {
    for directories in [0, 1, 3, 4, 5, 40] {
        let root = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for number in 0..directories {
            let directory = format!("d{number:02}");
            std::fs::create_dir(root.path().join(&directory)).unwrap();
            expected.push(directory.clone());
            for file in 0..number * 20 {
                let path = format!("{directory}/f{file:03}");
                std::fs::write(root.path().join(&path), "").unwrap();
                expected.push(path);
            }
        }
        let layers = Layers::single(open(root.path()));
        let entries = walk(&layers, Path::new(""), &WalkOptions::default()).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|entry| entry.path.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, expected, "{directories} directories");
    }
}
