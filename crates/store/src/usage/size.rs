use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The bytes on disk of a file or of a directory with all beneath it, a hard-linked file once;
/// 0 if it is not there.
pub(crate) fn on_disk(path: &Path) -> io::Result<u64> {
    let found = walk(path, None)?;
    let linked = found.linked.into_values().map(|file| file.bytes);
    Ok(found.bytes + linked.sum::<u64>())
}

/// The longest tick of a kernel's clock.
const TICK: Duration = Duration::from_millis(10);

/// The same of what was made or changed since a moment.
pub(crate) fn changed_on_disk(path: &Path, since: SystemTime) -> io::Result<u64> {
    // Times of files are of the kernel's last tick, which may be of the second before.
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.saturating_sub(TICK);
    let since = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let found = walk(path, Some(since))?;
    let linked = found.linked.into_values().map(|file| file.bytes);
    Ok(found.bytes + linked.sum::<u64>())
}

/// What a directory takes on disk, apart from what it shares.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Bytes of what is nowhere else.
    pub(super) own: u64,
    /// Files that have names elsewhere, too.
    pub(super) linked: Vec<Link>,
}

/// A file that has names elsewhere, too.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// File system and inode.
    pub(super) inode: (u64, u64),
    pub(super) bytes: u64,
    /// How many of its names are here, and how many it has.
    pub(super) met: u64,
    pub(super) names: u64,
}

/// What a directory takes on disk, with all beneath it; nothing if it is not there.
pub(super) fn apart(path: &Path) -> io::Result<Apart> {
    let found = walk(path, None)?;
    let mut apart = Apart {
        own: found.bytes,
        linked: Vec::new(),
    };
    for (inode, file) in found.linked {
        let Linked { bytes, met, names } = file;
        if met >= names {
            apart.own += bytes;
        } else {
            apart.linked.push(Link {
                inode,
                bytes,
                met,
                names,
            });
        }
    }
    Ok(apart)
}

fn walk(path: &Path, since: Option<i64>) -> io::Result<Walk> {
    let mut walk = Walk {
        since,
        ..Walk::default()
    };
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(walk),
        Err(error) => return Err(error.into()),
    };
    walk.count(&stat);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(walk);
    }
    // What is deleted meanwhile counts as little as what is not there.
    let mut directory = match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(walk),
        Err(error) => return Err(error.into()),
    };
    // For each directory on the way down, those in it that are still to be walked. Only one is
    // open at a time, so that the depth of a tree costs no descriptors.
    let mut below = vec![walk.list(&directory)?];
    while let Some(names) = below.last_mut() {
        match names.pop() {
            Some(name) => {
                match rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty()) {
                    Ok(found) => directory = found,
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                }
                below.push(walk.list(&directory)?);
            }
            None => {
                below.pop();
                if !below.is_empty() {
                    match rustix::fs::openat(&directory, "..", DIRECTORY, Mode::empty()) {
                        Ok(found) => directory = found,
                        Err(Errno::NOENT) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
    Ok(walk)
}

#[derive(Default)]
struct Walk {
    /// Of what has one name.
    bytes: u64,
    /// What was changed before this second is passed over.
    since: Option<i64>,
    /// Files with several names, by file system and inode.
    linked: HashMap<(u64, u64), Linked>,
}

/// A file with several names.
struct Linked {
    bytes: u64,
    /// How many of its names were met.
    met: u64,
    names: u64,
}

impl Walk {
    /// Counts what is in a directory; returns the directories.
    fn list(&mut self, directory: &OwnedFd) -> io::Result<Vec<CString>> {
        let mut directories = Vec::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            self.count(&stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name.to_owned());
            }
        }
        Ok(directories)
    }

    fn count(&mut self, stat: &Stat) {
        if self.since.is_some_and(|since| stat.st_ctime < since) {
            return;
        }
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let file = FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if file && stat.st_nlink > 1 {
            #[allow(clippy::useless_conversion, reason = "fewer bits on AArch64")]
            let names = u64::from(stat.st_nlink);
            let unmet = Linked {
                bytes,
                met: 0,
                names,
            };
            let inode = (stat.st_dev, stat.st_ino);
            self.linked.entry(inode).or_insert(unmet).met += 1;
        } else {
            self.bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn agrees_with_du() {
        let root = tempfile::tempdir().unwrap();
        let mut path = root.path().to_owned();
        for depth in 0..40_usize {
            path.push("d");
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), vec![1; depth * 1000]).unwrap();
            fs::hard_link(path.join("file"), path.join("link")).unwrap();
            std::os::unix::fs::symlink("/", path.join("symlink")).unwrap();
            fs::create_dir(path.join("empty")).unwrap();
        }
        let output = Command::new("du")
            .args(["-s", "--block-size=1"])
            .arg(root.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let expected: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(on_disk(root.path()).unwrap(), expected);
        assert_eq!(on_disk(&root.path().join("absent")).unwrap(), 0);
        let whole = apart(root.path()).unwrap();
        assert_eq!((whole.own, whole.linked.len()), (expected, 0));
    }

    #[test]
    fn what_has_a_name_elsewhere_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        fs::write(a.join("shared"), [1; 10_000]).unwrap();
        fs::hard_link(a.join("shared"), b.join("shared")).unwrap();
        fs::write(b.join("own"), [1; 5_000]).unwrap();
        fs::hard_link(b.join("own"), b.join("again")).unwrap();
        let (a, b) = (apart(&a).unwrap(), apart(&b).unwrap());
        assert_eq!(a.linked, b.linked);
        assert_eq!(a.linked[0].bytes, 12_288);
        assert_eq!(b.own, a.own + 8_192);
    }
}
