//! The directory of an export, where it is not there yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
use weld_source::partial::partial_name;

/// Sees to it that there is a directory at `path`. A new one gets a place of its own on the disk
/// where the file system knows how to give it one (ext4): it is going to hold a whole tree. Beside
/// one that was just removed, as the last export often was, a new tree is slow to make: ext4
/// without a journal looks at each inode that was freed within the last minutes before it takes
/// another one.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err()
        && let (Some(parent), Some(_)) = (path.parent(), path.file_name())
    {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        fs::create_dir_all(parent)?;
        // Where this cannot be, any place does.
        if let Ok(apart) = Apart::make(parent) {
            // The name decides about the place: the same again would be where the last one was.
            let made = apart.0.join(partial_name());
            let _ = fs::create_dir(&made).and_then(|()| apart.give(&made, path));
        }
    }
    fs::create_dir_all(path)
}

/// A directory whose subdirectories are spread over the file system; removed when it goes.
struct Apart(PathBuf);

impl Apart {
    fn make(parent: &Path) -> io::Result<Self> {
        let apart = Self(parent.join(partial_name()));
        fs::create_dir(&apart.0)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&apart.0, flags, Mode::empty())?;
        let flags = ioctl_getflags(&directory)?;
        ioctl_setflags(&directory, flags | IFlags::TOPDIR)?;
        Ok(apart)
    }

    /// Gives a directory of it another place, unless there is something meanwhile.
    fn give(&self, made: &Path, path: &Path) -> io::Result<()> {
        let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
        let given = rustix::fs::renameat_with(cwd, made, cwd, path, flags);
        if given.is_err() {
            fs::remove_dir(made)?;
        }
        Ok(given?)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // If it cannot be removed the user finds an empty directory, which tells its maker.
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(directory: &Path) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/out");
        create_directory(&path).unwrap();
        assert!(path.is_dir());
        assert_eq!(names(&root.path().join("a/b")), ["out"]);
        // A second time is no change.
        fs::write(path.join("kept"), "").unwrap();
        create_directory(&path).unwrap();
        assert_eq!(names(&path), ["kept"]);
    }

    #[test]
    fn the_mode_is_that_of_any_new_directory() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let (plain, out) = (root.path().join("plain"), root.path().join("out"));
        fs::create_dir(&plain).unwrap();
        create_directory(&out).unwrap();
        assert_eq!(mode(&out), mode(&plain));
    }

    #[test]
    fn a_file_in_its_place_is_an_error_and_a_link_to_a_directory_none() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        fs::write(&file, "").unwrap();
        assert!(create_directory(&file).is_err());
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        create_directory(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
