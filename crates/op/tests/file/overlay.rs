//! The same actions on stacked directories and on an overlay mount of the same ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use weld_fileset::{Layers, Timestamp};
use weld_op::file::{
    Copy, Destination, FileError, MakeDir, MakeFile, MakeSymlink, ModeChange, Owner, Remove, Source,
};

use crate::scratch::*;

#[derive(Clone, Debug)]
enum Make {
    File(u8),
    Dir,
    Opaque,
    Whiteout,
    Link(&'static str),
    HardLink,
}

type Tree = Vec<(String, Make)>;

#[derive(Clone, Debug)]
enum Action {
    Copy(Copy, Option<Owner>),
    MakeDir(MakeDir),
    MakeFile(MakeFile, Option<Owner>),
    MakeSymlink(MakeSymlink),
    Remove(Remove),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn tree(overlay: bool) -> impl Strategy<Value = Tree> {
    let marks = u32::from(overlay);
    let make = prop_oneof![
        4 => (0..3_u8).prop_map(Make::File),
        2 => Just(Make::Dir),
        marks => Just(Make::Opaque),
        2 * marks => Just(Make::Whiteout),
        1 => prop::sample::select(vec!["b", "/a/b", "../c"]).prop_map(Make::Link),
        1 => Just(Make::HardLink),
    ];
    prop::collection::vec((path(), make), 0..9)
}

fn copy_action() -> impl Strategy<Value = Copy> {
    let flags = prop::array::uniform6(any::<bool>());
    let src = prop_oneof![3 => path(), 1 => Just("/".to_owned()), 1 => Just("*".to_owned()),
        1 => Just("a/*".to_owned())];
    let dest = (path(), any::<bool>())
        .prop_map(|(path, slash)| format!("/{path}{}", if slash { "/" } else { "" }));
    let dest = prop_oneof![4 => dest, 1 => Just("/".to_owned())];
    let patterns = prop_oneof![
        4 => Just((vec![], vec![])),
        1 => Just((vec!["**/a".to_owned()], vec![])),
        1 => Just((vec![], vec!["b".to_owned()])),
    ];
    let mode = prop_oneof![3 => Just(ModeChange::Keep), 1 => Just(ModeChange::Set(0o751))];
    let timestamp = prop::option::of(Just(Timestamp {
        seconds: 77,
        nanoseconds: 7,
    }));
    (flags, src, dest, patterns, mode, timestamp).prop_map(
        |(flags, src, dest, (include, exclude), mode, timestamp)| Copy {
            follow_symlink: flags[0],
            dir_copy_contents: flags[1],
            create_dest_path: flags[2],
            allow_wildcard: flags[3] || flags[5],
            always_replace_existing: flags[4],
            include_patterns: include,
            exclude_patterns: exclude,
            mode,
            timestamp,
            ..action(&src, &dest)
        },
    )
}

fn any_action() -> impl Strategy<Value = Action> {
    let owner = || prop::option::weighted(0.3, Just(Owner { uid: 9, gid: 10 }));
    prop_oneof![
        6 => (copy_action(), owner()).prop_map(|(copy, owner)| Action::Copy(copy, owner)),
        1 => (path(), any::<bool>()).prop_map(|(path, make_parents)| Action::MakeDir(MakeDir {
            path, mode: 0o711, make_parents, timestamp: None,
        })),
        1 => (path(), owner()).prop_map(|(path, owner)| Action::MakeFile(MakeFile {
            path, mode: 0o604, data: "made".into(), timestamp: None,
        }, owner)),
        1 => path().prop_map(|path| Action::MakeSymlink(MakeSymlink {
            path, target: "/b".to_owned(), timestamp: None,
        })),
        3 => (path(), any::<bool>()).prop_map(|(path, allow_not_found)| Action::Remove(Remove {
            path, allow_not_found, allow_wildcard: false,
        })),
    ]
}

impl Action {
    fn run(&self, source: &Layers, destination: &mut Destination) -> Result<(), FileError> {
        match self {
            Self::Copy(copy, owner) => {
                let source = Source {
                    layers: source,
                    immutable: true,
                    sharing: None,
                };
                copy.run(source, destination, *owner, &context())
            }
            Self::MakeDir(make) => make.run(destination, None),
            Self::MakeFile(make, owner) => make.run(destination, *owner),
            Self::MakeSymlink(make) => make.run(destination, None),
            Self::Remove(remove) => remove.run(destination),
        }
    }
}

/// Makes what can be made of `tree`; what an earlier line stands in the way of is passed over.
fn build(root: &Path, tree: &Tree) {
    fs::create_dir(root).unwrap();
    let mut last_file: Option<PathBuf> = None;
    for (index, (path, make)) in tree.iter().enumerate() {
        let path = root.join(path);
        if fs::create_dir_all(path.parent().unwrap()).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match make {
            Make::File(kind) => {
                fs::write(&path, format!("{index} {}", root.display())).unwrap();
                set_mode(&path, [0o644, 0o4755, 0o600][usize::from(*kind)]);
                last_file = Some(path.clone());
            }
            Make::Dir => fs::create_dir(&path).unwrap(),
            Make::Opaque => {
                fs::create_dir(&path).unwrap();
                rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                    .unwrap();
            }
            Make::Whiteout => {
                let mode = Mode::empty();
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, 0).unwrap();
            }
            Make::Link(target) => symlink(target, &path).unwrap(),
            Make::HardLink => {
                if let Some(file) = &last_file {
                    fs::hard_link(file, &path).unwrap();
                }
            }
        }
    }
    age(root);
}

/// Gives everything times in the past, each another.
fn age(root: &Path) {
    let entries = weld_fileset::walk(
        &single(root),
        Path::new(""),
        &weld_fileset::WalkOptions::default(),
    );
    for (index, entry) in entries.unwrap().iter().enumerate().rev() {
        set_mtime(&root.join(&entry.path), 1000 + index as i64, 5);
    }
    set_mtime(root, 999, 9);
}

struct Overlay(PathBuf);

impl Overlay {
    fn mount(target: PathBuf, lowers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Self {
        fs::create_dir(&target).unwrap();
        let lowers: Vec<&str> = lowers.iter().map(|l| l.to_str().unwrap()).collect();
        let mut options = format!("lowerdir={}", lowers.join(":"));
        if let Some((upper, work)) = upper {
            let (upper, work) = (upper.display(), work.display());
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
        }
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::empty();
        rustix::mount::mount("overlay", &target, "overlay", flags, options.as_c_str()).unwrap();
        Self(target)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, max_shrink_iters: 300, ..Default::default() })]

    #[test]
    fn layers_become_what_an_overlay_becomes(
        lowers in prop::collection::vec(tree(true), 1..4),
        source in prop::collection::vec(tree(true), 1..3),
        actions in prop::collection::vec(any_action(), 1..6),
    ) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting an overlay needs root");
            return Ok(());
        }
        let scratch = Scratch::new();
        let build_all = |prefix: &str, trees: &[Tree]| -> Vec<PathBuf> {
            let paths: Vec<PathBuf> =
                (0..trees.len()).map(|at| scratch.path(&format!("{prefix}{at}"))).collect();
            paths.iter().zip(trees).for_each(|(path, tree)| build(path, tree));
            paths
        };
        let lowers = build_all("lower", &lowers);
        let from = build_all("from", &source);
        let from_before: Vec<_> = from.iter().map(|path| details(path, i64::MAX)).collect();
        let source = stack(&from);
        for name in ["upper", "upper2", "work2"] {
            scratch.tree(name, &[]);
            set_mtime(&scratch.path(name), 999, 9);
        }

        let start = now();
        let mut ours: Vec<PathBuf> = vec![scratch.path("upper")];
        ours.extend(lowers.iter().cloned());
        let mut layered = Destination::new(stack(&ours));
        let mount = Overlay::mount(
            scratch.path("mount2"),
            &lowers,
            Some((&scratch.path("upper2"), &scratch.path("work2"))),
        );
        let mut mounted = Destination::new(single(&mount.0));
        for action in &actions {
            let ours = action.run(&source, &mut layered).map_err(|error| error.to_string());
            let kernel = action.run(&source, &mut mounted).map_err(|error| error.to_string());
            prop_assert_eq!(&ours, &kernel, "{:?}", action);
        }
        let result = Overlay::mount(scratch.path("mount1"), &ours, None);
        let (ours, kernel) = (details(&result.0, start), details(&mount.0, start));
        prop_assert_eq!(ours, kernel);
        // Nothing of the source was touched.
        let after: Vec<_> = from.iter().map(|path| details(path, i64::MAX)).collect();
        prop_assert_eq!(from_before, after);
    }
}
