//! Owners by number or by name.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::FileType;
use rustix::io::Errno;
use weld_fileset::Layers;

use super::FileError;
use super::destination::Owner;
use super::resolve::{LastLink, resolve, split_last};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// As much of a passwd or group file is read, as BuildKit does.
const MAX_FILE: u64 = 10 << 20;

/// A user or group as an action names it.
#[derive(Clone, Copy, Debug)]
pub enum Identity<'t> {
    /// By number.
    Id(u32),
    /// By name, to be looked up in the passwd or group file of a tree.
    Name {
        /// The name.
        name: &'t str,
        /// The tree, if the action gives one.
        tree: Option<&'t Layers>,
    },
}

/// The owner that an action asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnerOption<'t> {
    /// The user; its group is taken along.
    pub user: Option<Identity<'t>>,
    /// The group.
    pub group: Option<Identity<'t>>,
}

impl OwnerOption<'_> {
    /// Looks the numbers up. A name that is not found stands for root, as in BuildKit: images
    /// without a passwd file are built with `--chown=name` too. It is passed to `unknown`.
    pub fn look_up(&self, mut unknown: impl FnMut(&str)) -> Result<Owner, FileError> {
        let mut owner = Owner { uid: 0, gid: 0 };
        match self.user {
            Some(Identity::Id(id)) => owner = Owner { uid: id, gid: id },
            Some(Identity::Name { name, tree }) => match find(PASSWD, name, tree)? {
                Some(fields) => {
                    owner = Owner {
                        uid: number(&fields, 2),
                        gid: number(&fields, 3),
                    };
                }
                None => unknown(name),
            },
            None => {}
        }
        match self.group {
            Some(Identity::Id(id)) => owner.gid = id,
            Some(Identity::Name { name, tree }) => match find(GROUP, name, tree)? {
                Some(fields) => owner.gid = number(&fields, 2),
                None => unknown(name),
            },
            None => {}
        }
        match has(&USERS, "/proc/self/uid_map", owner.uid)
            && has(&GROUPS, "/proc/self/gid_map", owner.gid)
        {
            true => Ok(owner),
            false => Err(FileError::UnmappedOwner {
                uid: owner.uid,
                gid: owner.gid,
            }),
        }
    }
}

/// The ids of this process's user namespace, which it enters before it builds anything.
static USERS: OnceLock<String> = OnceLock::new();
static GROUPS: OnceLock<String> = OnceLock::new();

/// Whether the user namespace has an id: the kernel says no more of others than that they are invalid.
fn has(map: &OnceLock<String>, path: &str, id: u32) -> bool {
    let map = map.get_or_init(|| std::fs::read_to_string(path).unwrap_or_default());
    map.is_empty() || is_in(map, id)
}

/// Whether one of the lines of a map (first id inside, first id outside, how many) has an id.
fn is_in(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        let (first, count) = (fields.next(), fields.nth(1));
        matches!((first, count), (Some(Ok(first)), Some(Ok(count)))
            if id.checked_sub(first).is_some_and(|offset| offset < count))
    })
}

/// The fields of the line of `name` in the file at `path`.
fn find(
    path: &'static str,
    name: &str,
    tree: Option<&Layers>,
) -> Result<Option<Vec<String>>, FileError> {
    let tree = tree.ok_or_else(|| FileError::OwnerWithoutInput {
        name: name.to_owned(),
    })?;
    let Some(file) = open(path, tree)? else {
        return Ok(None);
    };
    let fail = |reason| FileError::OwnerFile {
        path: path.into(),
        reason,
    };
    let mut lines = BufReader::new(file.take(MAX_FILE + 1));
    let mut line = Vec::new();
    let mut total = 0;
    loop {
        line.clear();
        let len = lines
            .read_until(b'\n', &mut line)
            .map_err(|_| fail("cannot be read"))?;
        if len == 0 {
            return Ok(None);
        }
        total += len as u64;
        if total > MAX_FILE {
            return Err(fail("is longer than 10 MiB"));
        }
        let text = String::from_utf8_lossy(&line);
        let fields: Vec<&str> = text.trim().split(':').collect();
        if fields.first() == Some(&name) {
            return Ok(Some(fields.into_iter().map(str::to_owned).collect()));
        }
    }
}

fn open(path: &'static str, tree: &Layers) -> Result<Option<File>, FileError> {
    let fail = |error| FileError::io("open", Path::new(path), error);
    let real = match resolve(tree, path, LastLink::Follow) {
        Ok(real) => real,
        Err(FileError::NotADirectory { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some((dir, name)) = split_last(&real) else {
        return Ok(None);
    };
    let dir = match tree.open_dir(dir) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let Some(child) = dir.child(name).map_err(fail)? else {
        return Ok(None);
    };
    if child.metadata.file_type() != FileType::RegularFile {
        return Err(FileError::OwnerFile {
            path: path.into(),
            reason: "is not a regular file",
        });
    }
    dir.open_file(name, child.layer)
        .map(|file| Some(File::from(file)))
        .map_err(fail)
}

/// A field that is no number counts as 0, as in most readers of these files.
fn number(fields: &[String], at: usize) -> u32 {
    fields
        .get(at)
        .and_then(|field| field.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_the_ids_of_its_ranges() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(is_in(map, 0) && is_in(map, 1) && is_in(map, 65536));
        assert!(!is_in(map, 65537) && !is_in("0 65534 1\n", 5));
        assert!(is_in("         0          0 4294967295\n", 4_294_967_294));
    }
}
