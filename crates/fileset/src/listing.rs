//! Reading a directory's names through one getdents buffer.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// Room for some 700 names at a time.
const BUFFER: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[MaybeUninit<u8>]>> =
        RefCell::new(vec![MaybeUninit::uninit(); BUFFER].into_boxed_slice());
}

/// The names in the directory `dir`, opened and not read from before, with their types, sorted by bytes, without `.` and `..`.
/// A type is `Unknown` where the file system does not tell.
pub fn read_dir(dir: BorrowedFd<'_>) -> Result<Vec<(OsString, FileType)>, Errno> {
    let mut names = SCRATCH.with_borrow_mut(|buffer| {
        let mut names = Vec::new();
        let mut raw = RawDir::new(dir, buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        Ok::<_, Errno>(names)
    })?;
    names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}
