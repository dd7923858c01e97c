//! Users and groups as the files of an image name them.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

use crate::beneath;
use crate::spec::UserIds;

/// The largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 10 << 20;
/// The longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;
/// The largest id, as BuildKit and containerd have it.
const MAX_ID: i64 = i32::MAX as i64;

/// Why a user or group could not be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name in the image's passwd file.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// No such name in the image's group file.
    #[error("unable to find group {name}: no matching entries in group file")]
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// A number that is no id.
    #[error("invalid user or group id {id}: must be in range 0-{MAX_ID}")]
    OutOfRange {
        /// The number as written.
        id: String,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {file} of the image: {source}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{file} of the image is too large: {what}")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// Which limit it exceeds.
        what: &'static str,
    },
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Looks up `spec` (`user`, `uid`, `user:group`, `uid:gid`, …) in the passwd and group files below
/// `root`, which is opened on the root directory of an image. An empty `spec` is root.
///
/// A number is always an id, also where a user of that name exists. Supplementary groups are those
/// that list the user, and only if `spec` names no group.
///
/// # Errors
/// When a name is not found, an id is out of range, or a file is unreadable.
pub fn lookup(root: impl AsFd, spec: &str) -> Result<UserIds, UserError> {
    let root = root.as_fd();
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let user_id = numeric(user)?;
    let group_id = numeric(group)?;
    if let (Some(uid), Some(gid)) = (root_or(user, user_id), root_or(group, group_id)) {
        return Ok(UserIds {
            uid,
            gid,
            groups: Vec::new(),
        });
    }
    let wanted = if user.is_empty() { Some(0) } else { user_id };
    let entry = find_user(root, |entry| match wanted {
        Some(uid) => entry.uid == uid,
        None => entry.name == user.as_bytes(),
    })?;
    let (uid, gid) = match (&entry, wanted) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => {
            return Err(UserError::NoSuchUser {
                name: user.to_owned(),
            });
        }
    };
    let mut ids = UserIds {
        uid,
        gid,
        groups: Vec::new(),
    };
    if !group.is_empty() {
        ids.gid = lookup_group(root, group)?;
    } else if let Some(entry) = entry {
        ids.groups = member_groups(root, &entry.name)?;
    }
    Ok(ids)
}

/// Looks up a group's name or number in the group file below `root`.
///
/// # Errors
/// When the name is not found, the id is out of range, or the file is unreadable.
pub fn lookup_group(root: impl AsFd, group: &str) -> Result<u32, UserError> {
    if let Some(gid) = numeric(group)? {
        return Ok(gid);
    }
    let mut found = None;
    each_line(root.as_fd(), GROUP, |line| {
        let mut fields = line.split(|b| *b == b':');
        if fields.next() == Some(group.as_bytes()) {
            found = fields.nth(1).and_then(id_field);
        }
        found.is_none()
    })?;
    found.ok_or_else(|| UserError::NoSuchGroup {
        name: group.to_owned(),
    })
}

/// The home directory of a user according to the passwd file below `root`, `/` if it says nothing.
pub(crate) fn home(root: BorrowedFd<'_>, uid: u32) -> Result<Vec<u8>, UserError> {
    let entry = find_user(root, |entry| entry.uid == uid)?;
    Ok(entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| b"/".to_vec()))
}

/// The name of a user according to the passwd file below `root`.
pub(crate) fn name(root: BorrowedFd<'_>, uid: u32) -> Result<Option<String>, UserError> {
    let entry = find_user(root, |entry| entry.uid == uid)?;
    Ok(entry.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()))
}

struct PasswdEntry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

fn find_user(
    root: BorrowedFd<'_>,
    matches: impl Fn(&PasswdEntry) -> bool,
) -> Result<Option<PasswdEntry>, UserError> {
    let mut found = None;
    each_line(root, PASSWD, |line| {
        found = parse_passwd(line).filter(|entry| matches(entry));
        found.is_none()
    })?;
    Ok(found)
}

/// `name:password:uid:gid:gecos:home:shell`; missing fields are empty, unreadable numbers make the
/// line count for nothing.
fn parse_passwd(line: &[u8]) -> Option<PasswdEntry> {
    let mut fields = line.split(|b| *b == b':');
    let name = fields.next()?.to_vec();
    let uid = id_field(fields.nth(1)?)?;
    let gid = id_field(fields.next()?)?;
    let home = fields.nth(1).unwrap_or_default().to_vec();
    Some(PasswdEntry {
        name,
        uid,
        gid,
        home,
    })
}

fn member_groups(root: BorrowedFd<'_>, user: &[u8]) -> Result<Vec<u32>, UserError> {
    let mut groups = Vec::new();
    each_line(root, GROUP, |line| {
        let mut fields = line.split(|b| *b == b':');
        let gid = fields.nth(2).and_then(id_field);
        let mut members = fields.next().unwrap_or_default().split(|b| *b == b',');
        if let Some(gid) = gid
            && members.any(|member| member == user)
        {
            groups.push(gid);
        }
        true
    })?;
    Ok(groups)
}

fn id_field(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// `root` needs no file when both user and group are given.
fn root_or(text: &str, id: Option<u32>) -> Option<u32> {
    if text == "root" { Some(0) } else { id }
}

/// The id that `text` is, `None` if it is a name.
fn numeric(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(id) if (0..=MAX_ID).contains(&id) => Ok(u32::try_from(id).ok()),
        _ => Err(UserError::OutOfRange {
            id: text.to_owned(),
        }),
    }
}

/// Calls `visit` with the lines of `file` below `root`, until it answers `false`. No file, no line.
fn each_line(
    root: BorrowedFd<'_>,
    file: &'static str,
    mut visit: impl FnMut(&[u8]) -> bool,
) -> Result<(), UserError> {
    let unreadable = |source: io::Error| UserError::Unreadable { file, source };
    let Some(opened) = open_regular(root, file).map_err(unreadable)? else {
        return Ok(());
    };
    let mut reader = BufReader::new(opened.take(MAX_FILE + 1));
    let mut line = Vec::new();
    let mut total = 0_u64;
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            return Ok(());
        }
        total += read as u64;
        if total > MAX_FILE {
            let what = "more than 10 MiB";
            return Err(UserError::TooLarge { file, what });
        }
        if read > MAX_LINE {
            let what = "a line of more than 1 MiB";
            return Err(UserError::TooLarge { file, what });
        }
        let text = line.trim_ascii();
        if !text.is_empty() && text.first() != Some(&b'#') && !visit(text) {
            return Ok(());
        }
    }
}

/// Opens a regular file below `root`, without following links out of it. `None` if it is not there
/// or is something else, such as a FIFO, which an open could wait for.
fn open_regular(root: BorrowedFd<'_>, file: &str) -> io::Result<Option<std::fs::File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match beneath::open(root, Path::new(file), flags) {
        Ok(fd) => {
            let mode = fstat(&fd)?.st_mode;
            let regular = FileType::from_raw_mode(mode) == FileType::RegularFile;
            Ok(regular.then(|| std::fs::File::from(fd)))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
