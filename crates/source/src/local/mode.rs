//! File modes on the wire: the bits of Go's `os.FileMode`, which are not those of `st_mode`.

use rustix::fs::FileType;

const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_UID: u32 = 1 << 23;
const SET_GID: u32 = 1 << 22;
const CHARACTER: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;
/// All bits that tell a file's type.
const TYPE: u32 = DIRECTORY | SYMLINK | DEVICE | PIPE | SOCKET | CHARACTER | IRREGULAR;
/// Bits that say something else, which nothing on Linux has: append-only, exclusive, temporary.
const OTHER: u32 = 1 << 30 | 1 << 29 | 1 << 28;

const SPECIAL: [(u32, u32); 3] = [(SET_UID, 0o4000), (SET_GID, 0o2000), (STICKY, 0o1000)];

/// The `st_mode` of a mode on the wire; `None` if there is no file of this type.
pub(super) fn from_wire(mode: u32) -> Option<u32> {
    let kind = match mode & TYPE {
        0 => FileType::RegularFile,
        DIRECTORY => FileType::Directory,
        SYMLINK => FileType::Symlink,
        DEVICE => FileType::BlockDevice,
        kind if kind == DEVICE | CHARACTER => FileType::CharacterDevice,
        PIPE => FileType::Fifo,
        SOCKET => FileType::Socket,
        _ => return None,
    };
    if mode & !(TYPE | OTHER | SET_UID | SET_GID | STICKY | 0o777) != 0 {
        return None;
    }
    let special = SPECIAL.iter().filter(|(wire, _)| mode & wire != 0);
    let bits = special.fold(mode & 0o777, |bits, (_, bit)| bits | bit);
    Some(kind.as_raw_mode() | bits)
}

/// The mode on the wire of an `st_mode`.
pub(super) fn to_wire(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => SYMLINK,
        FileType::BlockDevice => DEVICE,
        FileType::CharacterDevice => DEVICE | CHARACTER,
        FileType::Fifo => PIPE,
        FileType::Socket => SOCKET,
        FileType::RegularFile | FileType::Unknown => 0,
    };
    let special = SPECIAL.iter().filter(|(_, bit)| mode & bit != 0);
    special.fold(kind | mode & 0o777, |bits, (wire, _)| bits | wire)
}
