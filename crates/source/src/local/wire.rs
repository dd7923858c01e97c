//! Stats as they travel in fsutil's protocol.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use weld_fileset::Timestamp;
use weld_proto::fsutil;

use super::mode;
use super::stat::Stat;

const NANOSECONDS: i64 = 1_000_000_000;
/// The longest path or link, in bytes: Linux's limit.
const MAX_PATH: usize = 4096;
/// The most that a file's attributes may have together, in bytes: Linux's limit for one file.
const MAX_XATTRS: usize = 64 << 10;

/// Why a stat on the wire is that of no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatFormError {
    /// Its mode is none.
    #[error("path {path:?} has mode {mode:#x}, which no file has")]
    Mode {
        /// The path.
        path: String,
        /// The mode.
        mode: u32,
    },
    /// Its size is negative.
    #[error("path {path:?} has size {size}")]
    Size {
        /// The path.
        path: String,
        /// The size.
        size: i64,
    },
    /// Its device number is none.
    #[error("path {path:?} is of device {major}:{minor}, which there cannot be")]
    Device {
        /// The path.
        path: String,
        /// The major number.
        major: i64,
        /// The minor number.
        minor: i64,
    },
    /// Something of it is longer than any file system has it.
    #[error("the {what} of path {path:?} is too long")]
    TooLong {
        /// The beginning of the path.
        path: String,
        /// What.
        what: &'static str,
    },
    /// Its name cannot be sent.
    #[error("the name of {0:?} is not valid UTF-8, and the protocol has no other")]
    Name(PathBuf),
}

/// What a stat from the wire says; not whether it fits in a tree.
///
/// # Errors
/// [`StatFormError`].
pub fn from_wire(stat: fsutil::Stat) -> Result<Stat, StatFormError> {
    let too_long = |what| StatFormError::TooLong {
        path: stat.path.chars().take(64).collect(),
        what,
    };
    if stat.path.len() > MAX_PATH {
        return Err(too_long("name"));
    }
    if stat.linkname.len() > MAX_PATH {
        return Err(too_long("link"));
    }
    let attributes = stat.xattrs.iter();
    if attributes
        .map(|(name, value)| name.len() + value.len())
        .sum::<usize>()
        > MAX_XATTRS
    {
        return Err(too_long("extended attributes"));
    }
    let Some(mode) = mode::from_wire(stat.mode) else {
        return Err(StatFormError::Mode {
            path: stat.path,
            mode: stat.mode,
        });
    };
    let kind = FileType::from_raw_mode(mode);
    let Ok(size) = u64::try_from(stat.size) else {
        return Err(StatFormError::Size {
            path: stat.path,
            size: stat.size,
        });
    };
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let device =
        u32::try_from(stat.devmajor).and_then(|major| Ok((major, u32::try_from(stat.devminor)?)));
    let rdev = match (is_device, device) {
        (false, _) => (0, 0),
        (true, Ok(device)) => device,
        (true, Err(_)) => {
            return Err(StatFormError::Device {
                path: stat.path,
                major: stat.devmajor,
                minor: stat.devminor,
            });
        }
    };
    let link = (!stat.linkname.is_empty()).then(|| PathBuf::from(&stat.linkname));
    let (link_target, hard_link) = match kind {
        FileType::Symlink => (link, None),
        FileType::RegularFile => (None, link),
        // Other kinds are made anew under each name.
        _ => (None, None),
    };
    Ok(Stat {
        path: stat.path.into(),
        mode,
        uid: stat.uid,
        gid: stat.gid,
        size: match (kind, &hard_link) {
            (FileType::RegularFile, None) => size,
            _ => 0,
        },
        mtime: Timestamp {
            seconds: stat.mod_time.div_euclid(NANOSECONDS),
            // Less than a thousand million.
            nanoseconds: stat.mod_time.rem_euclid(NANOSECONDS) as u32,
        },
        link_target,
        hard_link,
        rdev,
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| (OsString::from(name), value))
            .collect(),
        change: None,
    })
}

/// A stat for the wire.
///
/// # Errors
/// [`StatFormError::Name`].
pub fn to_wire(stat: &Stat) -> Result<fsutil::Stat, StatFormError> {
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(StatFormError::Name(stat.path.clone())),
    };
    let link = stat.link_target.as_deref().or(stat.hard_link.as_deref());
    let time = i128::from(stat.mtime.seconds) * i128::from(NANOSECONDS)
        + i128::from(stat.mtime.nanoseconds);
    let size = match (stat.file_type(), &stat.hard_link, &stat.link_target) {
        (FileType::RegularFile, None, _) => i64::try_from(stat.size).unwrap_or(i64::MAX),
        (FileType::Symlink, _, Some(target)) => target.as_os_str().len() as i64,
        _ => 0,
    };
    Ok(fsutil::Stat {
        path: text(&stat.path)?,
        mode: mode::to_wire(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size,
        mod_time: i64::try_from(time).unwrap_or(match time < 0 {
            true => i64::MIN,
            false => i64::MAX,
        }),
        linkname: link.map_or_else(|| Ok(String::new()), text)?,
        devmajor: stat.rdev.0.into(),
        devminor: stat.rdev.1.into(),
        xattrs: stat
            .xattrs
            .iter()
            .filter_map(|(name, value)| Some((utf8(name)?, value.clone())))
            .collect(),
    })
}

fn utf8(name: &OsStr) -> Option<String> {
    String::from_utf8(name.as_bytes().to_vec()).ok()
}
