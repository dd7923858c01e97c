//! Copies between plain directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::Mode;
use weld_op::file::{Context, Copy, Destination, FileError, ModeChange, Owner, Source};

use crate::scratch::*;

#[test]
fn where_things_go() {
    let table: [(Copy, &[&str], &[&str]); 15] = [
        (action("/file", "/new"), &[], &["new = file"]),
        (
            action("file", "/a/b/new"),
            &[],
            &["a/", "a/b/", "a/b/new = file"],
        ),
        (action("/file", "/dir/"), &[], &["dir/", "dir/file = file"]),
        (
            action("/file", "/dir"),
            &["dir/"],
            &["dir/", "dir/file = file"],
        ),
        (
            action("/dir", "/new"),
            &[],
            &["new/", "new/sub/", "new/sub/x = dir/sub/x", "new/y = dir/y"],
        ),
        (
            action("/dir", "/new"),
            &["new/"],
            &[
                "new/",
                "new/dir/",
                "new/dir/sub/",
                "new/dir/sub/x = dir/sub/x",
                "new/dir/y = dir/y",
            ],
        ),
        (
            action("/dir/.", "/new"),
            &["new/"],
            &["new/", "new/sub/", "new/sub/x = dir/sub/x", "new/y = dir/y"],
        ),
        (
            dockerfile("/dir", "/new"),
            &["new/old"],
            &[
                "new/",
                "new/old",
                "new/sub/",
                "new/sub/x = dir/sub/x",
                "new/y = dir/y",
            ],
        ),
        (
            dockerfile("/dir", "/"),
            &["sub/x = old"],
            &["sub/", "sub/x = dir/sub/x", "y = dir/y"],
        ),
        (
            dockerfile("/dir/s*", "/new/"),
            &[],
            &["new/", "new/x = dir/sub/x"],
        ),
        (dockerfile("/*/y", "/new/"), &[], &["new/", "new/y = dir/y"]),
        (dockerfile("/none*", "/new/"), &[], &[]),
        (
            dockerfile("/link", "/new"),
            &[],
            &["new/", "new/sub/", "new/sub/x = dir/sub/x", "new/y = dir/y"],
        ),
        (action("/link", "/new"), &[], &["new -> dir"]),
        (
            dockerfile("/[l]ink", "/new"),
            &[],
            &["new/", "new/sub/", "new/sub/x = dir/sub/x", "new/y = dir/y"],
        ),
    ];
    for (action, before, after) in table {
        let scratch = Scratch::new();
        let from = scratch.tree("from", &["file", "dir/sub/x", "dir/y", "link -> dir"]);
        let to = scratch.tree("to", before);
        copy(&from, &to, &action).unwrap();
        assert_eq!(listing(&to), after, "{action:?}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    let table: [(Copy, &str); 11] = [
        (action("/none", "/x"), "/none: no such file or directory"),
        (
            dockerfile("/none", "/x"),
            "/none: no such file or directory",
        ),
        (
            action("/file/none", "/x"),
            "\"/file/none\": not a directory",
        ),
        (
            Copy {
                allow_wildcard: true,
                ..action("/none*", "/x")
            },
            "\"/none*\": no match found",
        ),
        (
            dockerfile("/[", "/x"),
            "invalid pattern \"/[\": character class has no closing ]",
        ),
        (
            dockerfile("/dir", "/there/file"),
            "cannot copy to non-directory: /there/file",
        ),
        (
            dockerfile("/file", "/there"),
            "cannot replace to directory /there/file with file",
        ),
        (
            action("/file", "/there/file/x/y"),
            "\"/there/file/x\": not a directory",
        ),
        (
            Copy {
                create_dest_path: false,
                ..action("/file", "/no/such/place")
            },
            "/no/such: no such file or directory",
        ),
        (
            action("/loop/x", "/y"),
            "\"/loop/x\": too many levels of symbolic links",
        ),
        (
            Copy {
                exclude_patterns: vec!["!".to_owned()],
                ..action("/dir", "/y")
            },
            "exclude patterns: illegal exclusion pattern: \"!\"",
        ),
    ];
    for (action, message) in table {
        let scratch = Scratch::new();
        let from = scratch.tree("from", &["file", "dir/file", "loop -> loop"]);
        let to = scratch.tree("to", &["there/"]);
        if action.dest == "/there" {
            fs::create_dir(to.join("there/file")).unwrap();
        } else {
            fs::write(to.join("there/file"), "").unwrap();
        }
        assert_eq!(
            copy(&from, &to, &action).unwrap_err().to_string(),
            message,
            "{action:?}"
        );
    }
}

#[test]
fn replacing() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/file = new", "d/dir/x = new", "d/link -> new"]);
    let before = ["file/old", "dir -> file", "link/old"];
    let to = scratch.tree("to", &before);
    let action = Copy {
        always_replace_existing: true,
        ..dockerfile("/d", "/")
    };
    copy(&from, &to, &action).unwrap();
    assert_eq!(
        listing(&to),
        ["dir/", "dir/x = new", "file = new", "link -> new"]
    );

    // Without it, only a file of any kind is replaced by a file of any kind.
    let to = scratch.tree("to2", &["file -> /elsewhere", "link = old"]);
    copy(&from, &to, &dockerfile("/d", "/")).unwrap();
    assert_eq!(
        listing(&to),
        ["dir/", "dir/x = new", "file = new", "link -> new"]
    );
    let to = scratch.tree("to3", &["dir -> /"]);
    let error = copy(&from, &to, &dockerfile("/d", "/")).unwrap_err();
    assert!(
        matches!(error, FileError::CopyToNonDirectory { .. }),
        "{error}"
    );
}

/// The times and modes of directories that were there before.
#[test]
fn existing_directories() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/sub/x"]);
    set_mode(&from.join("d"), 0o750);
    set_mode(&from.join("d/sub"), 0o705);
    set_mtime(&from.join("d/sub"), 100, 0);
    set_mtime(&from.join("d"), 200, 0);
    let to = scratch.tree("to", &["sub/old"]);
    set_mode(&to, 0o755);
    copy(&from, &to, &dockerfile("/d", "/")).unwrap();
    // The place itself keeps its mode but takes over the times; what is in it is overwritten.
    assert_eq!((mode(&to), mtime(&to)), (0o755, 200_000_000_000));
    assert_eq!(
        (mode(&to.join("sub")), mtime(&to.join("sub"))),
        (0o705, 100_000_000_000)
    );
}

#[test]
fn include_and_exclude_patterns() {
    let run = |include: &[&str], exclude: &[&str], required: &[&str]| {
        let scratch = Scratch::new();
        let from = scratch.tree("from", &["d/a/b/c", "d/a/b/d", "d/a/e", "d/f", "d/empty/"]);
        set_mode(&from.join("d/a/b"), 0o711);
        set_mtime(&from.join("d/a/b"), 77, 0);
        let to = scratch.tree("to", &[]);
        let owned = |p: &[&str]| p.iter().map(|p| (*p).to_owned()).collect();
        let action = Copy {
            include_patterns: owned(include),
            exclude_patterns: owned(exclude),
            required_paths: owned(required),
            ..dockerfile("/d", "/")
        };
        copy(&from, &to, &action)?;
        if let Ok(metadata) = to.join("a/b").metadata() {
            assert_eq!((mode(&to.join("a/b")), metadata.mtime()), (0o711, 77));
        }
        let paths = listing(&to).into_iter();
        let paths = paths.map(|p| p.split(" = ").next().unwrap_or_default().to_owned());
        Ok::<_, FileError>(paths.collect::<Vec<_>>())
    };
    let table: [(&[&str], &[&str], &[&str]); 6] = [
        (&["a/b/c"], &[], &["a/", "a/b/", "a/b/c"]),
        (&["**/c", "f"], &[], &["a/", "a/b/", "a/b/c", "f"]),
        (&[], &["a"], &["empty/", "f"]),
        (
            &[],
            &["a", "!a/b/d"],
            &["a/", "a/b/", "a/b/d", "empty/", "f"],
        ),
        (&["a"], &["**/e"], &["a/", "a/b/", "a/b/c", "a/b/d"]),
        (&["none"], &[], &[]),
    ];
    for (include, exclude, expected) in table {
        assert_eq!(
            run(include, exclude, &[]).unwrap(),
            expected,
            "{include:?} {exclude:?}"
        );
    }
    run(&["a/b/c"], &[], &["/d/a/b/c", "/d/a/b"]).unwrap();
    let error = run(&["a/b/c", "x/y"], &[], &["/d/a/b/c", "/d/x/y"]).unwrap_err();
    assert_eq!(error.to_string(), "/d/x/y: no such file or directory");
}

#[test]
fn links_do_not_lead_out() {
    let outside = Scratch::new();
    let secret = outside.tree("outside", &["secret", "passwd"]);
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["dir/inner = mine", "up -> ../../../../../../dir"]);
    symlink(&secret, from.join("out")).unwrap();
    symlink(secret.join("secret"), from.join("file")).unwrap();
    let to = scratch.tree("to", &[]);
    for (src, follow) in [("/out/secret", true), ("/file", true), ("/out", true)] {
        let action = Copy {
            follow_symlink: follow,
            ..action(src, "/x")
        };
        let error = copy(&from, &to, &action).unwrap_err();
        assert!(
            matches!(error, FileError::NotFound { .. }),
            "{src}: {error}"
        );
    }
    copy(&from, &to, &dockerfile("/up", "/y")).unwrap();
    assert_eq!(listing(&to), ["y/", "y/inner = mine"]);

    // In the destination a link is resolved within it, too.
    let to = scratch.tree("to2", &["real/", "rel -> ../../../real"]);
    symlink(&secret, to.join("abs")).unwrap();
    copy(&from, &to, &action("/dir/inner", "/abs/secret")).unwrap();
    copy(&from, &to, &action("/dir/inner", "/rel/x")).unwrap();
    assert_eq!(fs::read_to_string(to.join("real/x")).unwrap(), "mine");
    let inside = to.join(secret.strip_prefix("/").unwrap()).join("secret");
    assert_eq!(fs::read_to_string(inside).unwrap(), "mine");
    assert_eq!(fs::read_to_string(secret.join("secret")).unwrap(), "secret");

    // A link in the tree that is copied over is replaced or refused, never gone through.
    let from = scratch.tree("from2", &["d/abs/secret = evil", "d/passwd = evil"]);
    let to = scratch.tree("to3", &[]);
    symlink(&secret, to.join("abs")).unwrap();
    symlink(secret.join("passwd"), to.join("passwd")).unwrap();
    copy(&from, &to, &action("/d/passwd", "/")).unwrap();
    let error = copy(&from, &to, &dockerfile("/d", "/")).unwrap_err();
    assert_eq!(error.to_string(), "cannot copy to non-directory: /abs");
    let details = fs::read_to_string(secret.join("passwd")).unwrap();
    assert_eq!((details.as_str(), listing(&secret).len()), ("passwd", 2));
}

#[test]
fn unchanged_files_of_an_immutable_source_are_linked() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/a", "d/b", "d/s/c", "e"]);
    fs::hard_link(from.join("d/a"), from.join("d/s/a2")).unwrap();
    let ino = |path: &Path| path.metadata().unwrap().ino();

    let to = scratch.tree("to", &[]);
    copy_as(&from, &to, &dockerfile("/d", "/x"), None, true).unwrap();
    for path in ["a", "b", "s/c", "s/a2"] {
        assert_eq!(
            ino(&to.join("x").join(path)),
            ino(&from.join("d").join(path)),
            "{path}"
        );
    }
    // A mode or owner that stays is no change; another one is.
    let to = scratch.tree("to2", &[]);
    let same = Copy {
        mode: ModeChange::parse("u+r").unwrap(),
        ..dockerfile("/d", "/")
    };
    let root = Some(Owner { uid: 0, gid: 0 });
    copy_as(&from, &to, &same, root, true).unwrap();
    assert_eq!(ino(&to.join("a")), ino(&from.join("d/a")));
    let other = Some(Owner { uid: 1, gid: 0 });
    copy_as(&from, &to, &same, other, true).unwrap();
    assert_ne!(ino(&to.join("a")), ino(&from.join("d/a")));
    assert_eq!(owner(&from.join("d/a")), (0, 0));
    assert_eq!(ino(&to.join("a")), ino(&to.join("s/a2")));

    // Two copies of one file in a tree are two files.
    let to = scratch.tree("to3", &[]);
    let layers = single(&from);
    let mut destination = Destination::new(single(&to));
    let source = Source {
        layers: &layers,
        immutable: true,
        sharing: None,
    };
    for dest in ["/one", "/two"] {
        action("/e", dest)
            .run(source, &mut destination, None, &context())
            .unwrap();
        let action = dockerfile("/d", &format!("{dest}-dir"));
        action
            .run(source, &mut destination, None, &context())
            .unwrap();
    }
    assert_ne!(ino(&to.join("one")), ino(&to.join("two")));
    assert_ne!(ino(&to.join("one-dir/a")), ino(&to.join("two-dir/a")));
    assert_eq!(ino(&to.join("two-dir/a")), ino(&to.join("two-dir/s/a2")));

    // Writing over a linked file leaves the source alone.
    let file = weld_op::file::MakeFile {
        path: "/one".to_owned(),
        mode: 0o600,
        data: "changed".into(),
        timestamp: None,
    };
    file.run(&mut destination, Some(Owner { uid: 3, gid: 3 }))
        .unwrap();
    assert_eq!(fs::read_to_string(to.join("one")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(from.join("e")).unwrap(), "e");
    assert_eq!(
        (owner(&from.join("e")), owner(&to.join("one"))),
        ((0, 0), (3, 3))
    );
    assert_eq!(mode(&to.join("one")), mode(&from.join("e")));
}

#[test]
fn holes_stay_holes() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &[]);
    let file = fs::File::create(from.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"late", 40 << 20).unwrap();
    let to = scratch.tree("to", &[]);
    copy(&from, &to, &action("/sparse", "/")).unwrap();
    let metadata = to.join("sparse").metadata().unwrap();
    assert_eq!(metadata.len(), 64 << 20);
    assert!(
        metadata.blocks() * 512 < 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
    assert_eq!(
        fs::read(from.join("sparse")).unwrap(),
        fs::read(to.join("sparse")).unwrap()
    );
}

/// From a file system that neither links nor copies in the kernel to this one.
#[test]
fn across_file_systems() {
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: there is no /dev/shm");
        return;
    };
    let content = vec![b'x'; 3 << 20];
    fs::create_dir(shm.path().join("d")).unwrap();
    fs::write(shm.path().join("d/big"), &content).unwrap();
    fs::write(shm.path().join("d/small"), "s").unwrap();
    let scratch = Scratch::new();
    let to = scratch.tree("to", &[]);
    copy_as(shm.path(), &to, &dockerfile("/d", "/"), None, true).unwrap();
    assert_eq!(fs::read(to.join("big")).unwrap(), content);
    assert_eq!(fs::read(to.join("small")).unwrap(), b"s");
}

#[test]
fn long_paths_and_names() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/"]);
    let name = "n".repeat(255);
    let mut dir = open(&from.join("d"));
    for _ in 0..40 {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&dir, "file", flags, Mode::from_raw_mode(0o600)).unwrap();
    let to = scratch.tree("to", &[]);
    copy(&from, &to, &dockerfile("/d", "/")).unwrap();
    let path = |root: &Path| {
        let options = weld_fileset::WalkOptions::default();
        let entries = weld_fileset::walk(&single(root), Path::new(""), &options).unwrap();
        entries.last().unwrap().path.clone()
    };
    assert_eq!(path(&to), path(&from.join("d")));
    assert!(path(&to).as_os_str().len() > 10_000);
}

#[test]
fn names_that_are_no_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/"]);
    let odd = OsStr::from_bytes(b"odd\xff");
    fs::create_dir(from.join("d").join(odd)).unwrap();
    fs::write(from.join("d").join(odd).join(odd), "x").unwrap();
    let to = scratch.tree("to", &[]);
    copy(&from, &to, &dockerfile("/d/odd*", "/t/")).unwrap();
    assert_eq!(fs::read(to.join("t").join(odd)).unwrap(), b"x");
    copy(&from, &to, &action("/d/", "/u")).unwrap();
    assert_eq!(fs::read(to.join("u").join(odd).join(odd)).unwrap(), b"x");
}

#[test]
fn an_unreadable_source_is_named() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/locked/x", "d/secret"]);
    set_mode(&from.join("d/locked"), 0o700);
    set_mode(&from.join("d/secret"), 0o600);
    let to = scratch.tree("to", &[]);
    let layers = single(&from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .start_handler(|_| {
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
        })
        .build()
        .unwrap();
    let run = |action: Copy| {
        pool.install(|| {
            let source = Source {
                layers: &layers,
                immutable: false,
                sharing: None,
            };
            action.run(source, &mut Destination::new(single(&to)), None, &context())
        })
    };
    set_mode(&to, 0o777);
    let error = run(dockerfile("/d", "/")).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot open directory \"/d/locked\": Permission denied (os error 13)"
    );
    let error = run(action("/d/secret", "/")).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot read \"/d/secret\": Permission denied (os error 13)"
    );
}

#[test]
fn a_cancelled_copy_ends() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &["d/a"]);
    let to = scratch.tree("to", &[]);
    let cancelled = AtomicBool::new(true);
    let layers = single(&from);
    let error = dockerfile("/d", "/")
        .run(
            Source {
                layers: &layers,
                immutable: false,
                sharing: None,
            },
            &mut Destination::new(single(&to)),
            None,
            &Context {
                cancelled: &cancelled,
            },
        )
        .unwrap_err();
    assert!(matches!(error, FileError::Cancelled));
}

#[test]
fn many_files() {
    let scratch = Scratch::new();
    let from = scratch.tree("from", &[]);
    for i in 0..20_000 {
        let dir = from.join(format!("d/{}/{}", i % 10, i % 200));
        if i < 200 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("{i}")), "").unwrap();
    }
    for immutable in [true, false] {
        let to = scratch.tree(&format!("to-{immutable}"), &[]);
        copy_as(&from, &to, &dockerfile("/d", "/"), None, immutable).unwrap();
        assert_eq!(details(&to, i64::MAX), details(&from.join("d"), i64::MAX));
    }
}
