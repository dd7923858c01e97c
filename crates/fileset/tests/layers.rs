//! Stacked directories against what the kernel's overlayfs shows of the same ones.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use weld_fileset::{Layers, OverlayMarks, Selection, WalkOptions, walk};

#[derive(Clone, Debug)]
enum Make {
    File,
    Dir,
    Opaque,
    Whiteout,
    Link,
}

type Layer = Vec<(String, Make)>;

fn layer() -> impl Strategy<Value = Layer> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let make = prop_oneof![
        3 => Just(Make::File),
        2 => Just(Make::Dir),
        1 => Just(Make::Opaque),
        2 => Just(Make::Whiteout),
        1 => Just(Make::Link),
    ];
    prop::collection::vec((path, make), 0..8)
}

/// Makes what can be made of `layer`; what an earlier line stands in the way of is passed over.
fn build(root: &Path, layer: &Layer) {
    fs::create_dir(root).unwrap();
    for (path, make) in layer {
        let path = root.join(path);
        if fs::create_dir_all(path.parent().unwrap()).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match make {
            Make::File => fs::write(&path, path.to_str().unwrap()).unwrap(),
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
            Make::Link => symlink("b/c", &path).unwrap(),
        }
    }
}

struct Overlay(PathBuf);

impl Overlay {
    fn mount(target: PathBuf, lowers: &[PathBuf]) -> Self {
        fs::create_dir(&target).unwrap();
        let lowers: Vec<&str> = lowers.iter().map(|l| l.to_str().unwrap()).collect();
        let options = format!("lowerdir={}\0", lowers.join(":"));
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        rustix::mount::mount("overlay", &target, "overlay", MountFlags::empty(), options).unwrap();
        Self(target)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

/// What can be seen: path, type, and what tells one file from another.
fn seen(layers: &Layers, start: &Path, options: &WalkOptions) -> Vec<(PathBuf, u32, u64)> {
    walk(layers, start, options)
        .unwrap()
        .into_iter()
        .map(|entry| {
            let is_dir = entry.is_dir();
            (
                entry.path,
                entry.metadata.mode,
                if is_dir {
                    0
                } else {
                    entry.metadata.inode.inode
                },
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn layers_show_what_an_overlay_shows(stack in prop::collection::vec(layer(), 2..5)) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting an overlay needs root");
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> =
            (0..stack.len()).map(|at| dir.path().join(at.to_string())).collect();
        for (path, layer) in paths.iter().zip(&stack) {
            build(path, layer);
        }
        let overlay = Overlay::mount(dir.path().join("merged"), &paths);
        let layers = Layers::open(&paths, OverlayMarks::Trusted).unwrap();
        let mounted = Layers::single(open(&overlay.0));

        let options = WalkOptions { selection: Selection::all(), xattrs: true };
        let root = Path::new("");
        prop_assert_eq!(seen(&layers, root, &options), seen(&mounted, root, &options));
        for name in ["a", "b", "a/b", "b/c"] {
            if overlay.0.join(name).symlink_metadata().is_ok_and(|m| m.is_dir())
                && overlay.0.join(name).canonicalize().unwrap() == overlay.0.join(name)
            {
                let start = Path::new(name);
                prop_assert_eq!(seen(&layers, start, &options), seen(&mounted, start, &options));
            }
        }
        let merged = layers.root().unwrap();
        for name in ["a", "b", "c", "d"] {
            let child = merged.child(name.as_ref()).unwrap();
            let real = overlay.0.join(name).symlink_metadata();
            prop_assert_eq!(child.is_some(), real.is_ok());
            prop_assert_eq!(
                merged.open_dir(name.as_ref()).is_ok(),
                real.is_ok_and(|metadata| metadata.is_dir())
            );
        }
    }
}

#[test]
fn a_shared_directory_can_be_listed_again() {
    let dir = tempfile::tempdir().unwrap();
    build(&dir.path().join("a"), &vec![("x/y".to_owned(), Make::File)]);
    build(&dir.path().join("b"), &vec![("z".to_owned(), Make::File)]);
    let paths = [dir.path().join("a"), dir.path().join("b")];
    let layers = Layers::open(&paths, OverlayMarks::Trusted).unwrap();
    for _ in 0..2 {
        let names = layers.root().unwrap().names().unwrap();
        let names: Vec<_> = names
            .iter()
            .map(|name| name.name.to_str().unwrap())
            .collect();
        assert_eq!(names, ["x", "z"]);
    }
}
