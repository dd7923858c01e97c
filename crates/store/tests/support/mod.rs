//! Trees for tests: made at random, and told in full.

#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // No test uses all of it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

/// All that there is to know of a tree, by path.
pub(crate) type Listing = BTreeMap<PathBuf, String>;

/// What layers keep of a tree: a directory of which nothing but the time changed is in none.
pub(crate) fn kept(mut listing: Listing) -> Listing {
    for file in listing.values_mut().filter(|file| file.starts_with('4')) {
        // Type and mode, owner, time, and what else there is.
        let mut parts: Vec<_> = file.split(' ').collect();
        parts.remove(2);
        *file = parts.join(" ");
    }
    listing
}

/// Tells a tree in full. What two names of one file are is told by the first of them.
pub(crate) fn list(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut firsts = HashMap::new();
    let mut paths = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                paths.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    for path in all {
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("-> {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap();
            format!(
                "{} {}",
                content.len(),
                weld_digest::Digest::sha256_of(content)
            )
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("{:x}", meta.rdev())
        } else {
            String::new()
        };
        let mut told = format!(
            "{:o} {}:{} {}.{:09} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        for (name, value) in xattrs(&path) {
            told.push_str(&format!(" {name}={value:?}"));
        }
        if !kind.is_dir() {
            let first = firsts
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(|| relative.clone());
            if *first != relative {
                told.push_str(&format!(" = {}", first.display()));
            }
        }
        listing.insert(relative, told);
    }
    listing
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut xattrs = Vec::new();
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = std::str::from_utf8(name).unwrap();
        if name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        xattrs.push((name.to_owned(), value));
    }
    xattrs.sort();
    xattrs
}

/// One change of a tree. Paths are few, so that changes meet each other.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    File(PathBuf, Vec<u8>),
    Sparse(PathBuf, u64, u64),
    Directory(PathBuf),
    Symlink(PathBuf, PathBuf),
    HardLink(PathBuf, PathBuf),
    Device(PathBuf, bool, u32),
    Fifo(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Mode(PathBuf, u32),
    Owner(PathBuf, u32, u32),
    Xattr(PathBuf, String, Vec<u8>),
    Capability(PathBuf),
    Time(PathBuf, i64, i64),
}

pub(crate) fn ops(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), count)
}

fn path() -> impl Strategy<Value = PathBuf> {
    let long = "n".repeat(120);
    let name = prop::sample::select(vec![
        "a".to_owned(),
        "b".to_owned(),
        "c.d".to_owned(),
        "ü ñ".to_owned(),
        long,
    ]);
    proptest::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), proptest::collection::vec(any::<u8>(), 0..2000)).prop_map(|(p, c)| Op::File(p, c)),
        1 => (path(), 0u64..3_000_000, 0u64..3_000_000).prop_map(|(p, s, l)| Op::Sparse(p, s, l)),
        4 => path().prop_map(Op::Directory),
        1 => (path(), prop_oneof![path(), Just(PathBuf::from("/x".repeat(80))), Just("../..".into())])
            .prop_map(|(p, t)| Op::Symlink(p, t)),
        2 => (path(), path()).prop_map(|(p, t)| Op::HardLink(p, t)),
        1 => (path(), any::<bool>(), 1u32..300).prop_map(|(p, b, n)| Op::Device(p, b, n)),
        1 => path().prop_map(Op::Fifo),
        4 => path().prop_map(Op::Remove),
        2 => (path(), path()).prop_map(|(p, t)| Op::Rename(p, t)),
        2 => (path(), 0u32..0o10000).prop_map(|(p, m)| Op::Mode(p, m)),
        1 => (path(), any::<u16>(), prop_oneof![0u32..70000, Just(3_000_000_000)])
            .prop_map(|(p, u, g)| Op::Owner(p, u.into(), g)),
        1 => (path(), "user\\.[a-z%]{1,8}", proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(p, n, v)| Op::Xattr(p, n, v)),
        1 => path().prop_map(Op::Capability),
        2 => (path(), -1_000_000_000i64..4_000_000_000, prop_oneof![Just(0), 0i64..1_000_000_000])
            .prop_map(|(p, s, n)| Op::Time(p, s, n)),
    ]
}

/// Makes changes; those that make no sense where they come are left out.
pub(crate) fn perform(root: &Path, ops: &[Op]) {
    for op in ops {
        let _ = attempt(root, op);
    }
}

fn attempt(root: &Path, op: &Op) -> std::io::Result<()> {
    let mode = Mode::from_raw_mode(0o640);
    let make_parents = |path: &Path| match path.parent() {
        Some(parent) if !fs::symlink_metadata(root.join(parent)).is_ok_and(|m| m.is_symlink()) => {
            fs::create_dir_all(root.join(parent))
        }
        _ => Ok(()),
    };
    match op {
        Op::File(path, content) => {
            make_parents(path)?;
            if fs::symlink_metadata(root.join(path)).is_ok_and(|meta| !meta.is_file()) {
                return Ok(());
            }
            fs::write(root.join(path), content)
        }
        Op::Sparse(path, start, length) => {
            make_parents(path)?;
            let file = fs::File::create_new(root.join(path))?;
            use std::os::unix::fs::FileExt;
            file.write_all_at(b"data in the middle", *start)?;
            file.set_len(start + 18 + length)
        }
        Op::Directory(path) => {
            make_parents(path)?;
            fs::create_dir(root.join(path))
        }
        Op::Symlink(path, target) => {
            make_parents(path)?;
            std::os::unix::fs::symlink(target, root.join(path))
        }
        Op::HardLink(path, target) => fs::hard_link(root.join(target), root.join(path)),
        Op::Device(path, block, number) => {
            let kind = if *block {
                FileType::BlockDevice
            } else {
                FileType::CharacterDevice
            };
            let device = rustix::fs::makedev(*number, *number * 7);
            Ok(rustix::fs::mknodat(
                CWD,
                root.join(path),
                kind,
                mode,
                device,
            )?)
        }
        Op::Fifo(path) => Ok(rustix::fs::mknodat(
            CWD,
            root.join(path),
            FileType::Fifo,
            mode,
            0,
        )?),
        Op::Remove(path) => {
            let path = root.join(path);
            if fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
        }
        Op::Rename(from, to) => fs::rename(root.join(from), root.join(to)),
        Op::Mode(path, mode) => {
            let path = root.join(path);
            if fs::symlink_metadata(&path)?.is_symlink() {
                return Ok(());
            }
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Op::Owner(path, uid, gid) => {
            std::os::unix::fs::lchown(root.join(path), Some(*uid), Some(*gid))
        }
        Op::Xattr(path, name, value) => {
            let flags = rustix::fs::XattrFlags::empty();
            Ok(rustix::fs::lsetxattr(
                root.join(path),
                name.as_str(),
                value,
                flags,
            )?)
        }
        Op::Capability(path) => {
            // CAP_NET_RAW, as setcap writes it.
            let value = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let flags = rustix::fs::XattrFlags::empty();
            let path = root.join(path);
            if !fs::symlink_metadata(&path)?.is_file() {
                return Ok(());
            }
            Ok(rustix::fs::lsetxattr(
                &path,
                "security.capability",
                &value,
                flags,
            )?)
        }
        Op::Time(path, seconds, nanoseconds) => {
            let time = Timespec {
                tv_sec: *seconds,
                tv_nsec: *nanoseconds,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            let path = root.join(path);
            assert!(!path.as_os_str().as_bytes().is_empty());
            Ok(rustix::fs::utimensat(
                CWD,
                &path,
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
    }
}
