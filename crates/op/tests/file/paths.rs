//! The actions on single paths, and owners.

use std::fs;

use weld_fileset::Timestamp;
use weld_op::file::{
    Destination, FileError, Identity, MakeDir, MakeFile, MakeSymlink, Owner, OwnerOption, Remove,
};

use crate::scratch::*;

fn mkdir(path: &str) -> MakeDir {
    MakeDir {
        path: path.to_owned(),
        mode: 0o750,
        make_parents: false,
        timestamp: None,
    }
}

fn mkfile(path: &str, data: &'static str) -> MakeFile {
    MakeFile {
        path: path.to_owned(),
        mode: 0o640,
        data: data.into(),
        timestamp: None,
    }
}

fn symlink_to(target: &str, path: &str) -> MakeSymlink {
    MakeSymlink {
        target: target.to_owned(),
        path: path.to_owned(),
        timestamp: None,
    }
}

fn remove(path: &str) -> Remove {
    Remove {
        path: path.to_owned(),
        allow_not_found: false,
        allow_wildcard: false,
    }
}

#[test]
fn directories() {
    let scratch = Scratch::new();
    let root = scratch.tree("root", &["there/", "file", "link -> there"]);
    let mut tree = Destination::new(single(&root));
    let owner_option = Some(Owner { uid: 5, gid: 6 });
    mkdir("/new").run(&mut tree, owner_option).unwrap();
    assert_eq!(
        (mode(&root.join("new")), owner(&root.join("new"))),
        (0o750, (5, 6))
    );
    let nested = MakeDir {
        make_parents: true,
        timestamp: Some(Timestamp::from_unix_nanos(7)),
        ..mkdir("/link/a/b")
    };
    nested.run(&mut tree, owner_option).unwrap();
    for path in ["there/a", "there/a/b"] {
        let path = root.join(path);
        assert_eq!(
            (mode(&path), owner(&path), mtime(&path)),
            (0o750, (5, 6), 7)
        );
    }
    // What is there stays as it is.
    set_mode(&root.join("there"), 0o711);
    mkdir("/there").run(&mut tree, owner_option).unwrap();
    MakeDir {
        make_parents: true,
        ..mkdir("/there")
    }
    .run(&mut tree, owner_option)
    .unwrap();
    mkdir("/").run(&mut tree, owner_option).unwrap();
    assert_eq!(
        (mode(&root.join("there")), owner(&root.join("there"))),
        (0o711, (0, 0))
    );

    let error = mkdir("/none/x").run(&mut tree, None).unwrap_err();
    assert_eq!(error.to_string(), "/none/x: no such file or directory");
    let error = MakeDir {
        make_parents: true,
        ..mkdir("/file")
    }
    .run(&mut tree, None)
    .unwrap_err();
    assert_eq!(error.to_string(), "\"/file\": not a directory");
    let error = MakeDir {
        make_parents: true,
        ..mkdir("/file/x")
    }
    .run(&mut tree, None)
    .unwrap_err();
    assert_eq!(error.to_string(), "\"/file/x\": not a directory");
}

#[test]
fn files() {
    let scratch = Scratch::new();
    let root = scratch.tree(
        "root",
        &["dir/old", "link -> /dir/old", "loose -> /dir/new"],
    );
    set_mode(&root.join("dir/old"), 0o604);
    let mut tree = Destination::new(single(&root));
    mkfile("/x", "data")
        .run(&mut tree, Some(Owner { uid: 1, gid: 2 }))
        .unwrap();
    assert_eq!(
        (mode(&root.join("x")), owner(&root.join("x"))),
        (0o640, (1, 2))
    );
    mkfile("/link", "through").run(&mut tree, None).unwrap();
    mkfile("/loose", "new").run(&mut tree, None).unwrap();
    let timed = MakeFile {
        timestamp: Some(Timestamp::from_unix_nanos(9)),
        ..mkfile("t", "")
    };
    timed.run(&mut tree, None).unwrap();
    assert_eq!(mtime(&root.join("t")), 9);
    let expected = [
        "dir/",
        "dir/new = new",
        "dir/old = through",
        "link -> /dir/old",
        "loose -> /dir/new",
        "t = ",
        "x = data",
    ];
    assert_eq!(listing(&root), expected);
    assert_eq!(mode(&root.join("dir/old")), 0o604);

    let error = mkfile("/none/x", "").run(&mut tree, None).unwrap_err();
    assert_eq!(error.to_string(), "/none/x: no such file or directory");
    for path in ["/dir", "/"] {
        let error = mkfile(path, "").run(&mut tree, None).unwrap_err();
        assert_eq!(error.to_string(), format!("{path:?}: is a directory"));
    }
}

#[test]
fn symbolic_links() {
    let scratch = Scratch::new();
    let root = scratch.tree("root", &["file"]);
    let mut tree = Destination::new(single(&root));
    let link = MakeSymlink {
        timestamp: Some(Timestamp::from_unix_nanos(11)),
        ..symlink_to("../any where", "/link")
    };
    link.run(&mut tree, Some(Owner { uid: 1, gid: 2 })).unwrap();
    assert_eq!(listing(&root), ["file", "link -> ../any where"]);
    assert_eq!(
        (owner(&root.join("link")), mtime(&root.join("link"))),
        ((1, 2), 11)
    );
    let error = symlink_to("x", "/file").run(&mut tree, None).unwrap_err();
    assert_eq!(error.to_string(), "\"/file\": file exists");
    let error = symlink_to("x", "/none/file")
        .run(&mut tree, None)
        .unwrap_err();
    assert_eq!(error.to_string(), "/none/file: no such file or directory");
}

#[test]
fn removal() {
    let scratch = Scratch::new();
    let outside = scratch.tree("outside", &["victim"]);
    let paths = [
        "a/b/c",
        "a/d",
        "x.o",
        "y.o",
        "z.c",
        "dangling -> none",
        "sub/p.o",
        "in -> a",
    ];
    let root = scratch.tree("root", &paths);
    std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
    let mut tree = Destination::new(single(&root));
    remove("/a/b").run(&mut tree).unwrap();
    remove("dangling").run(&mut tree).unwrap();
    remove("/out").run(&mut tree).unwrap();
    remove("/in/d").run(&mut tree).unwrap();
    Remove {
        allow_wildcard: true,
        ..remove("/*.o")
    }
    .run(&mut tree)
    .unwrap();
    Remove {
        allow_wildcard: true,
        ..remove("/*.none")
    }
    .run(&mut tree)
    .unwrap();
    Remove {
        allow_not_found: true,
        ..remove("/none/x")
    }
    .run(&mut tree)
    .unwrap();
    Remove {
        allow_not_found: true,
        ..remove("/z.c/x")
    }
    .run(&mut tree)
    .unwrap();
    assert_eq!(listing(&root), ["a/", "in -> a", "sub/", "sub/p.o", "z.c"]);
    assert_eq!(listing(&outside), ["victim"]);

    let error = remove("/none").run(&mut tree).unwrap_err();
    assert_eq!(error.to_string(), "/none: no such file or directory");
    for path in ["/", "", "..", "a/..", "../..", "/."] {
        let error = remove(path).run(&mut tree).unwrap_err();
        assert!(
            matches!(error, FileError::RemoveRoot { .. }),
            "{path:?}: {error}"
        );
    }
    let error = remove("../outside").run(&mut tree).unwrap_err();
    assert_eq!(error.to_string(), "/outside: no such file or directory");
}

#[test]
fn wide_and_deep_directories_are_removed() {
    let scratch = Scratch::new();
    let root = scratch.tree("root", &["top/"]);
    for i in 0..1500 {
        fs::create_dir_all(root.join(format!("top/{i}/sub"))).unwrap();
        fs::write(root.join(format!("top/{i}/sub/file")), "").unwrap();
    }
    fs::create_dir_all(root.join("top").join("d/".repeat(1000))).unwrap();
    remove("/top")
        .run(&mut Destination::new(single(&root)))
        .unwrap();
    assert_eq!(listing(&root), [] as [&str; 0]);
}

#[test]
fn owners_by_name() {
    let scratch = Scratch::new();
    let root = scratch.tree(
        "root",
        &[
            "etc/passwd = root:x:0:0:root:/root:/bin/sh\n\n  app:x:1000:1001::/:\nbad:x:y:z\nshort:x\n",
            "etc/group = root:x:0:\n# note\nstaff:x:50:app\n",
        ],
    );
    let bare = scratch.tree("bare", &[]);
    let odd = scratch.tree(
        "odd",
        &["etc/passwd/", "etc/group -> ../../../../etc/shadow"],
    );
    let (root, bare, odd) = (single(&root), single(&bare), single(&odd));
    let name = |name, tree| {
        Some(Identity::Name {
            name,
            tree: Some(tree),
        })
    };
    let look = |user, group| {
        let mut unknown = Vec::new();
        let owner = OwnerOption { user, group }.look_up(|name| unknown.push(name.to_owned()));
        owner.map(|owner| (owner.uid, owner.gid, unknown.join(",")))
    };
    let found = |uid, gid, unknown: &str| (uid, gid, unknown.to_owned());
    assert_eq!(
        look(name("app", &root), None).unwrap(),
        found(1000, 1001, "")
    );
    assert_eq!(
        look(name("app", &root), name("staff", &root)).unwrap(),
        found(1000, 50, "")
    );
    assert_eq!(look(Some(Identity::Id(7)), None).unwrap(), found(7, 7, ""));
    assert_eq!(
        look(Some(Identity::Id(7)), Some(Identity::Id(8))).unwrap(),
        found(7, 8, "")
    );
    assert_eq!(look(None, Some(Identity::Id(8))).unwrap(), found(0, 8, ""));
    assert_eq!(look(name("bad", &root), None).unwrap(), found(0, 0, ""));
    assert_eq!(look(name("short", &root), None).unwrap(), found(0, 0, ""));
    assert_eq!(
        look(name("none", &root), None).unwrap(),
        found(0, 0, "none")
    );
    assert_eq!(
        look(name("app", &bare), name("g", &bare)).unwrap(),
        found(0, 0, "app,g")
    );
    assert_eq!(
        look(None, name("staff", &odd)).unwrap(),
        found(0, 0, "staff")
    );
    let error = look(name("app", &odd), None).unwrap_err();
    assert_eq!(error.to_string(), "\"/etc/passwd\": is not a regular file");
    let error = look(
        Some(Identity::Name {
            name: "app",
            tree: None,
        }),
        None,
    )
    .unwrap_err();
    assert!(error.to_string().contains("\"app\""));
}
