//! The time of what a source gave.

use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use weld_fileset::open_beneath;
use weld_store::layer::{EntryKind, TarReader};

/// The time of a file, or of the newest file in it if it is an archive of which no time is known;
/// without a name that of the newest entry of the directory. Seconds since 1970.
///
/// # Errors
/// What reading meets.
pub(crate) fn of(root: &OwnedFd, file: Option<&str>) -> io::Result<Option<i64>> {
    let Some(name) = file else {
        return newest_entry(root);
    };
    let file = open_beneath(root.as_fd(), Path::new(name), OFlags::RDONLY)?;
    // Downloads of which the server says no time are of 1970.
    match rustix::fs::fstat(&file)?.st_mtime {
        0 => Ok(newest_in_archive(std::fs::File::from(file))),
        time => Ok(Some(time)),
    }
}

fn newest_entry(root: &OwnedFd) -> io::Result<Option<i64>> {
    let mut newest = None;
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        let name = entry.file_name();
        // A repository's own files are of the time of the checkout.
        if matches!(name.to_bytes(), b"." | b".." | b".git") {
            continue;
        }
        let stat = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            newest = newest.max(Some(stat.st_mtime));
        }
    }
    Ok(newest)
}

/// Nothing for what is no archive, or a broken one.
fn newest_in_archive(file: std::fs::File) -> Option<i64> {
    let stream = weld_op::file::decompressed(BufReader::new(file)).ok()?;
    let mut archive = TarReader::new(BufReader::new(stream));
    let mut newest = None;
    loop {
        match archive.next_entry() {
            Ok(Some(entry)) if matches!(entry.kind, EntryKind::File { .. }) => {
                newest = newest.max(Some(entry.mtime.seconds));
            }
            Ok(Some(_)) => {}
            Ok(None) => return newest,
            Err(_) => return None,
        }
    }
}
