//! What is in the way in a directory that is an OCI layout: it may be of worth, and is moved aside under a name that says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::index_lock::at;

/// How many things of one name are set aside.
const MOST_ASIDE: u32 = 100;

/// Moves what should not be where it is in the layout at `root`; where it is now.
///
/// # Errors
/// What renaming meets.
pub fn put_aside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().display();
    let first = root.join(format!("{name}.damaged"));
    let mut moved = fs::rename(path, &first).map(|()| first);
    for number in 2..=MOST_ASIDE {
        // Something of another kind, or a directory that is not empty, has that name.
        let Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) =
            moved.as_ref().map_err(errno)
        else {
            break;
        };
        let other = root.join(format!("{name}.damaged-{number}"));
        moved = fs::rename(path, &other).map(|()| other);
    }
    let moved = moved.map_err(at("move aside", path))?;
    tracing::warn!(path = %path.display(), to = %moved.display(), "what is not what it should be is set aside");
    Ok(moved)
}

/// Sees to it that there is a directory of the layout at `root`; where what was in its place is now, if something was.
///
/// # Errors
/// What renaming and making directories meet.
pub fn make_directory(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    let is_odd = || fs::symlink_metadata(path).is_ok() && !path.is_dir();
    if is_odd() {
        // Several layers are written at once: the first one does it, and must not lose its directory to the next.
        static FIRST: Mutex<()> = Mutex::new(());
        let _first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        let aside = match is_odd() {
            true => Some(put_aside(root, path)?),
            false => None,
        };
        fs::create_dir_all(path).map_err(at("create", path))?;
        return Ok(aside);
    }
    fs::create_dir_all(path).map_err(at("create", path))?;
    Ok(None)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
