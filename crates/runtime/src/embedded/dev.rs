//! `/dev` of a step.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::mount::tree;
use crate::spec::{Device, DeviceAccess, DeviceKind};

/// Character devices that every step has: name, major, minor.
pub(crate) const STANDARD: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What an insecure step has beyond the standard ones.
const INSECURE: &[(&str, u32, u32)] = &[
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];
/// How many loop devices an insecure step has.
const LOOP_DEVICES: u32 = 8;
const LOOP_MAJOR: u32 = 7;

const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// The devices of an insecure step beyond the standard ones.
pub(crate) fn insecure_devices() -> Vec<Device> {
    let device = |name: &str, kind, major, minor| Device {
        path: Path::new("/dev").join(name),
        kind,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: DeviceAccess::FULL,
    };
    let named = INSECURE
        .iter()
        .map(|(name, major, minor)| device(name, DeviceKind::Char, *major, *minor));
    let loops = (0..LOOP_DEVICES).map(|minor| {
        device(
            &format!("loop{minor}"),
            DeviceKind::Block,
            LOOP_MAJOR,
            minor,
        )
    });
    named.chain(loops).collect()
}

/// A new file system for `/dev`, detached and empty.
pub(super) fn new_dev() -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let options = [("mode", Some("755")), ("size", Some("65536k"))];
    tree::new_fs("tmpfs", &options, attributes)
}

/// Makes the standard nodes and links in `dev`. The umask must be zero.
pub(super) fn populate(dev: &OwnedFd) -> io::Result<()> {
    for (name, major, minor) in STANDARD {
        make_node(
            dev,
            Path::new(name),
            FileType::CharacterDevice,
            *major,
            *minor,
            0o666,
        )?;
    }
    for (target, name) in LINKS {
        symlinkat(*target, dev, *name)?;
    }
    if Path::new("/proc/kcore").exists() {
        symlinkat("/proc/kcore", dev, "core")?;
    }
    Ok(())
}

/// Makes one more node, in directories that are made if missing.
pub(super) fn add(dev: &OwnedFd, device: &Device) -> io::Result<()> {
    let Ok(name) = device.path.strip_prefix("/dev") else {
        let message = format!("{}: a device must be below /dev", device.path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut parent = std::path::PathBuf::new();
    for part in name.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        match mkdirat(dev, &parent, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
    };
    make_node(dev, name, kind, device.major, device.minor, device.mode)?;
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(dev, name, Some(uid), Some(gid), flags)?)
}

fn make_node(
    dev: &OwnedFd,
    name: &Path,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode & 0o777);
    match mknodat(dev, name, kind, mode, makedev(major, minor)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // In a user namespace nodes cannot be made, but the host's be mounted.
        Err(Errno::PERM) => mount_host_node(dev, name),
        Err(errno) => Err(errno.into()),
    }
}

fn mount_host_node(dev: &OwnedFd, name: &Path) -> io::Result<()> {
    let host = tree::clone_path(&Path::new("/dev").join(name))?;
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::from_raw_mode(0o666))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let target = openat(dev, name, flags, Mode::empty())?;
    tree::attach(&host, target.as_fd())
}

/// A new instance for `/dev/pts`, detached.
pub(super) fn new_pts() -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mut options = vec![
        ("newinstance", None),
        ("ptmxmode", Some("0666")),
        ("mode", Some("0620")),
    ];
    let plain = options.clone();
    options.push(("gid", Some("5")));
    // The group `tty` may lack in a user namespace.
    tree::new_fs("devpts", &options, attributes)
        .or_else(|_| tree::new_fs("devpts", &plain, attributes))
}
