//! How file operations are cached.

use weld_llb::{
    CopyAction, FileAction, FileChange, FileInput, FileOp, MkfileAction, Owner, UserRef,
};
use weld_op::file::{ContentPath, cache_map};

fn copy(from: FileInput, src: &str) -> CopyAction {
    CopyAction::new(from, src, "/dest")
}

fn op(copies: Vec<CopyAction>) -> FileOp {
    let actions = copies.into_iter().enumerate().map(|(at, copy)| FileAction {
        input: if at == 0 {
            FileInput::Input(0)
        } else {
            FileInput::Action(at - 1)
        },
        output: None,
        change: FileChange::Copy(copy),
    });
    let mut actions: Vec<_> = actions.collect();
    actions.last_mut().unwrap().output = Some(0);
    FileOp { actions }
}

fn plain(path: &str) -> ContentPath {
    ContentPath {
        path: path.to_owned(),
        ..ContentPath::default()
    }
}

#[test]
fn what_is_changed_counts_as_a_whole_and_what_is_read_by_its_content() {
    let map = cache_map(&op(vec![copy(FileInput::Input(1), "/a/b")]), 3);
    assert_eq!(map.inputs.len(), 3);
    assert_eq!(map.inputs[0], None);
    assert_eq!(map.inputs[2], None);
    assert_eq!(map.inputs[1].as_ref().unwrap().paths, [plain("/a/b")]);
    // Copied from, but changed too.
    assert_eq!(
        cache_map(&op(vec![copy(FileInput::Input(0), "/a")]), 1).inputs,
        [None]
    );
}

#[test]
fn the_digest_knows_only_the_name_of_what_is_copied() {
    let digest = |copy| cache_map(&op(vec![copy]), 2).digest;
    let from = || FileInput::Input(1);
    assert_eq!(
        digest(copy(from(), "/a/file")),
        digest(copy(from(), "/b/c/file"))
    );
    assert_ne!(
        digest(copy(from(), "/a/file")),
        digest(copy(from(), "/a/other"))
    );
    assert_ne!(
        digest(copy(from(), "/a/file")),
        digest(copy(FileInput::Empty, "/a/file"))
    );
    let other = CopyAction {
        dest: "/elsewhere".to_owned(),
        ..copy(from(), "/a/file")
    };
    assert_ne!(digest(copy(from(), "/a/file")), digest(other));
    let selector = |src| {
        let map = cache_map(&op(vec![copy(from(), src)]), 2);
        map.inputs[1].clone().unwrap().selector
    };
    assert_ne!(selector("/a/file"), selector("/b/file"));
}

#[test]
fn the_digest_knows_where_actions_read_and_write() {
    let from = |input| op(vec![copy(FileInput::Input(1), "/a"), copy(input, "/b")]);
    let digest = |op: &FileOp| cache_map(op, 3).digest;
    assert_ne!(
        digest(&from(FileInput::Input(1))),
        digest(&from(FileInput::Input(2)))
    );
    let mut outputs = from(FileInput::Input(1));
    outputs.actions[0].output = Some(1);
    assert_ne!(digest(&outputs), digest(&from(FileInput::Input(1))));
}

/// The keys of inputs say what is at some paths, and not which action copies which of them.
#[test]
fn the_digest_knows_which_of_several_paths_is_copied() {
    let digest = |input, sources: &[&str]| {
        let copies = sources.iter();
        let copies = copies.map(|src| copy(FileInput::Input(input), src));
        cache_map(&op(copies.collect()), 2).digest
    };
    assert_ne!(digest(1, &["/a/f", "/b/f"]), digest(1, &["/b/f", "/a/f"]));
    assert_eq!(digest(1, &["/a/f", "/b/f"]), digest(1, &["/c/f", "/d/f"]));
    // What is covered by another path is found by way of that one.
    assert_ne!(digest(1, &["/a", "/a/b/f"]), digest(1, &["/a", "/a/c/f"]));
    // Of an input that is changed as well, no content is in the key.
    assert_ne!(digest(0, &["/a/f"]), digest(0, &["/b/f"]));
}

#[test]
fn covered_paths_are_left_out() {
    let from = || FileInput::Input(1);
    let follow = |src| CopyAction {
        follow_symlink: true,
        ..copy(from(), src)
    };
    let wild = |src| CopyAction {
        allow_wildcard: true,
        ..copy(from(), src)
    };
    let include = CopyAction {
        include_patterns: vec!["x".to_owned()],
        ..copy(from(), "/a/i")
    };
    let copies = vec![
        copy(from(), "/a/b"),
        copy(from(), "/a"),
        copy(from(), "/a"),
        copy(from(), "/ab"),
        follow("/a/c"),
        wild("/a/*"),
        wild("/a/no"),
        include,
    ];
    let map = cache_map(&op(copies), 2);
    let paths = &map.inputs[1].as_ref().unwrap().paths;
    let brief: Vec<_> = paths
        .iter()
        .map(|p| (p.path.as_str(), p.follow_links, p.wildcard))
        .collect();
    let expected = [
        ("/a", false, false),
        ("/a/*", false, true),
        ("/a/c", true, false),
        ("/a/i", false, false),
        ("/ab", false, false),
    ];
    assert_eq!(brief, expected);
    assert_eq!(paths[3].include_patterns, ["x"]);
}

#[test]
fn names_of_owners_are_read_from_their_files() {
    let name = |name: &str, input| {
        Some(UserRef::Name {
            name: name.to_owned(),
            input: FileInput::Input(input),
        })
    };
    let mkfile = MkfileAction {
        path: "/x".to_owned(),
        mode: 0o600,
        data: Default::default(),
        owner: Some(Owner {
            user: name("u", 0),
            group: name("g", 1),
        }),
        timestamp: None,
    };
    let action = FileAction {
        input: FileInput::Empty,
        output: Some(0),
        change: FileChange::Mkfile(mkfile),
    };
    let map = cache_map(
        &FileOp {
            actions: vec![action],
        },
        2,
    );
    for (input, path) in ["/etc/passwd", "/etc/group"].iter().enumerate() {
        let expected = ContentPath {
            follow_links: true,
            ..plain(path)
        };
        assert_eq!(map.inputs[input].as_ref().unwrap().paths, [expected]);
    }
}
