//! Whole file operations, from snapshots to snapshots.

use std::cell::RefCell;
use std::fs;

use tempfile::TempDir;
use weld_llb::{
    CopyAction, FileAction, FileChange, FileInput, FileOp, MkdirAction, MkfileAction,
    Owner as OwnerRef, RmAction, UserRef,
};
use weld_op::file::{SequenceError, Workshop, run};
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

use crate::scratch::*;

struct World {
    snapshots: Snapshots,
    _store: Store,
    unknown: RefCell<Vec<String>>,
    _dir: TempDir,
}

impl World {
    fn new(copying: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("state"), StoreOptions::default()).unwrap();
        let snapshots = if copying {
            Snapshots::open_copying(&store).unwrap()
        } else {
            Snapshots::open(&store).unwrap()
        };
        Self {
            snapshots,
            _store: store,
            unknown: RefCell::default(),
            _dir: dir,
        }
    }

    fn usage() -> NewUsage {
        NewUsage {
            record_type: RecordType::Regular,
            description: "test".to_owned(),
            mutable: false,
            size: None,
        }
    }

    fn run(
        &self,
        actions: Vec<FileAction>,
        inputs: &[Option<SnapshotRef>],
    ) -> Result<Vec<SnapshotRef>, SequenceError> {
        let workshop = Workshop {
            snapshots: &self.snapshots,
            usage: &Self::usage(),
            context: context(),
            unknown_owner: &|name| self.unknown.borrow_mut().push(name.to_owned()),
            writes_into: &|_| {},
        };
        run(&FileOp { actions }, inputs, workshop).map_err(|failed| failed.error)
    }

    /// A snapshot on `parent` with more files.
    fn snapshot(&self, parent: Option<&SnapshotRef>, files: &[(&str, &str)]) -> SnapshotRef {
        let mutable = self.snapshots.create(parent).unwrap();
        for (path, content) in files {
            let path = mutable.files().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        mutable.commit(Self::usage()).unwrap()
    }
}

fn files(snapshot: &SnapshotRef) -> Vec<String> {
    let mounted = snapshot.mount().unwrap();
    listing(&mounted.path().join("."))
}

fn do_to(input: FileInput, output: Option<usize>, change: FileChange) -> FileAction {
    FileAction {
        input,
        output,
        change,
    }
}

fn copy_from(from: FileInput, src: &str, dest: &str) -> FileChange {
    let copy = CopyAction {
        create_dest_path: true,
        dir_contents: true,
        ..CopyAction::new(from, src, dest)
    };
    FileChange::Copy(copy)
}

fn mkfile(path: &str, data: &'static str, owner: Option<OwnerRef>) -> FileChange {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode: 0o644,
        data: data.into(),
        owner,
        timestamp: None,
    })
}

fn mkdir(path: &str) -> FileChange {
    FileChange::Mkdir(MkdirAction {
        path: path.to_owned(),
        mode: 0o755,
        make_parents: true,
        owner: None,
        timestamp: None,
    })
}

fn rm(path: &str) -> FileChange {
    let path = path.to_owned();
    FileChange::Rm(RmAction {
        path,
        allow_not_found: false,
        allow_wildcard: false,
    })
}

fn named(user: &str, input: FileInput) -> Option<OwnerRef> {
    let name = |name: &str| {
        Some(UserRef::Name {
            name: name.to_owned(),
            input: input.clone(),
        })
    };
    Some(OwnerRef {
        user: name(user),
        group: None,
    })
}

#[test]
fn a_chain_changes_one_snapshot() {
    for copying in [false, true] {
        let world = World::new(copying);
        let base = world.snapshot(
            None,
            &[("etc/passwd", "app:x:1000:1000::/:\n"), ("old", "1")],
        );
        let base = world.snapshot(Some(&base), &[("upper", "2")]);
        let from = world.snapshot(None, &[("src/a", "A"), ("src/b", "B")]);
        let actions = vec![
            do_to(FileInput::Input(0), None, mkdir("/work")),
            do_to(
                FileInput::Action(0),
                None,
                copy_from(FileInput::Input(1), "/src", "/work"),
            ),
            do_to(FileInput::Action(1), None, rm("/old")),
            do_to(
                FileInput::Action(2),
                Some(0),
                mkfile("/work/c", "C", named("app", FileInput::Action(2))),
            ),
        ];
        let outputs = world
            .run(actions, &[Some(base.clone()), Some(from.clone())])
            .unwrap();
        let [output] = &outputs[..] else {
            panic!("one output")
        };
        let expected = [
            "etc/",
            "etc/passwd = app:x:1000:1000::/:\n",
            "upper = 2",
            "work/",
            "work/a = A",
            "work/b = B",
            "work/c = C",
        ];
        assert_eq!(files(output), expected);
        // One layer was made of it all.
        assert_eq!(output.parents(), std::slice::from_ref(&base));
        let mounted = output.mount().unwrap();
        assert_eq!(owner(&mounted.path().join("work/c")), (1000, 1000));
        assert_eq!(files(&base).len(), 4);
        assert_eq!(files(&from), ["src/", "src/a = A", "src/b = B"]);
        assert!(world.unknown.borrow().is_empty());
    }
}

#[test]
fn results_that_are_used_twice() {
    let world = World::new(false);
    let actions = vec![
        do_to(FileInput::Empty, None, mkfile("/one", "1", None)),
        do_to(FileInput::Action(0), Some(1), mkfile("/two", "2", None)),
        do_to(FileInput::Action(0), Some(0), mkfile("/three", "3", None)),
        // Copies a tree into itself, on top of an output.
        do_to(
            FileInput::Action(1),
            Some(2),
            copy_from(FileInput::Action(1), "/", "/copy"),
        ),
        // Nobody needs this one, so that it cannot fail either.
        do_to(FileInput::Action(0), None, rm("/none")),
        do_to(
            FileInput::Empty,
            Some(3),
            copy_from(FileInput::Action(2), "/three", "/x"),
        ),
    ];
    let outputs = world.run(actions, &[]).unwrap();
    let found: Vec<_> = outputs.iter().map(files).collect();
    assert_eq!(found[0], ["one = 1", "three = 3"]);
    assert_eq!(found[1], ["one = 1", "two = 2"]);
    assert_eq!(
        found[2],
        [
            "copy/",
            "copy/one = 1",
            "copy/two = 2",
            "one = 1",
            "two = 2"
        ]
    );
    assert_eq!(found[3], ["x = 3"]);
}

#[test]
fn names_are_looked_up_where_they_say() {
    let world = World::new(false);
    let names = world.snapshot(None, &[("etc/passwd", "app:x:7:8::/:\n")]);
    let actions = vec![
        do_to(
            FileInput::Empty,
            None,
            mkfile("/a", "", named("app", FileInput::Input(0))),
        ),
        do_to(
            FileInput::Action(0),
            Some(0),
            mkfile("/b", "", named("none", FileInput::Action(0))),
        ),
    ];
    let outputs = world.run(actions, &[Some(names)]).unwrap();
    let mounted = outputs[0].mount().unwrap();
    assert_eq!(owner(&mounted.path().join("a")), (7, 8));
    assert_eq!(owner(&mounted.path().join("b")), (0, 0));
    assert_eq!(*world.unknown.borrow(), ["none"]);
}

#[test]
fn failures_say_which_action() {
    let world = World::new(false);
    let actions = vec![
        do_to(FileInput::Empty, None, mkdir("/x")),
        do_to(
            FileInput::Action(0),
            Some(0),
            copy_from(FileInput::Empty, "/foo", "/"),
        ),
    ];
    let error = world.run(actions, &[]).unwrap_err();
    assert!(matches!(error, SequenceError::Action { action: 1, .. }));
    assert_eq!(error.to_string(), "/foo: no such file or directory");
    let actions = vec![do_to(FileInput::Input(3), Some(0), mkdir("/x"))];
    let error = world.run(actions, &[]).unwrap_err();
    assert!(matches!(error, SequenceError::BadInput { action: 0 }));
}
