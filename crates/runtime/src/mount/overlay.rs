//! Overlay mounts of any number of layers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_set_string, fsopen, mount};

use super::scratch::Scratch;
use super::tree;
use crate::spec::Overlay;

/// The longest value that `fsconfig` takes, in bytes without the terminating NUL.
const LONGEST_VALUE: usize = 255;
/// The longest option string that `mount` takes.
const LONGEST_OPTIONS: usize = 4095;

/// An overlay mount: detached where the kernel takes the layers one by one (6.5), else attached on a
/// scratch directory.
pub(crate) enum Mounted {
    /// Not attached anywhere.
    Detached(OwnedFd),
    /// The root of the mount, attached on a scratch directory.
    Attached(OwnedFd),
}

pub(crate) fn mount_overlay(overlay: &Overlay, scratch: &mut Scratch) -> io::Result<Mounted> {
    if overlay.lowers.is_empty() {
        let message = "an overlay needs at least one lower directory";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    match by_layer(overlay) {
        Err(Failure::NoSingleLayers) => by_string(overlay, scratch).map(Mounted::Attached),
        Err(Failure::Io(error)) => Err(error),
        Ok(mounted) => Ok(Mounted::Detached(mounted)),
    }
}

enum Failure {
    /// The kernel has no `lowerdir+`.
    NoSingleLayers,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn by_layer(overlay: &Overlay) -> Result<OwnedFd, Failure> {
    let open = |kind| fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(io::Error::from);
    let context = open("overlay")?;
    tree::name_source(&context, "overlay")?;
    // Descriptors that stand for paths too long to be given; open until the mount is made.
    let mut held = Vec::new();
    for (index, lower) in overlay.lowers.iter().enumerate() {
        match set_path(&context, "lowerdir+", lower, &mut held)? {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => return Err(Failure::NoSingleLayers),
            Err(errno) => return Err(at(lower, tree::explain(&context, errno)).into()),
        }
    }
    if let Some(dirs) = &overlay.upper {
        for (name, path) in [("upperdir", &dirs.upper), ("workdir", &dirs.work)] {
            set_path(&context, name, path, &mut held)?
                .map_err(|errno| at(path, tree::explain(&context, errno)))?;
        }
    }
    for (name, value) in options(overlay)? {
        tree::set_options(&context, &[(name, value)])?;
    }
    Ok(tree::create(&context, attributes(overlay))?)
}

/// The options of the plan; in a user namespace also that attributes are kept where it may.
fn options(overlay: &Overlay) -> io::Result<Vec<tree::FsOption<'_>>> {
    let given = overlay.options.iter();
    let mut options: Vec<_> = given
        .map(|(name, value)| (name.as_str(), value.as_deref()))
        .collect();
    const USER_ATTRIBUTES: tree::FsOption<'_> = ("userxattr", None);
    if !options.contains(&USER_ATTRIBUTES) && crate::privilege::in_user_namespace()? {
        options.push(USER_ATTRIBUTES);
    }
    Ok(options)
}

fn attributes(overlay: &Overlay) -> MountAttrFlags {
    match overlay.upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn set_path(
    context: &OwnedFd,
    name: &str,
    path: &Path,
    held: &mut Vec<OwnedFd>,
) -> io::Result<Result<(), Errno>> {
    if path.as_os_str().len() <= LONGEST_VALUE {
        return Ok(fsconfig_set_string(context, name, path));
    }
    let short = stand_in(path, held)?;
    Ok(fsconfig_set_string(context, name, short))
}

/// A short path that leads to the same directory as long as `held` is open.
fn stand_in(path: &Path, held: &mut Vec<OwnedFd>) -> io::Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).map_err(|errno| at(path, errno.into()))?;
    let short = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    Ok(short)
}

/// All layers in one option string, each through a descriptor since a page must hold them all.
fn by_string(overlay: &Overlay, scratch: &mut Scratch) -> io::Result<OwnedFd> {
    let mut held = Vec::new();
    let mut options = String::from("lowerdir=");
    for (index, lower) in overlay.lowers.iter().enumerate() {
        if index > 0 {
            options.push(':');
        }
        options.push_str(&stand_in(lower, &mut held)?);
    }
    if let Some(dirs) = &overlay.upper {
        let upper = stand_in(&dirs.upper, &mut held)?;
        let work = stand_in(&dirs.work, &mut held)?;
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    for (name, value) in self::options(overlay)? {
        options.push(',');
        options.push_str(name);
        if let Some(value) = value {
            options.push('=');
            options.push_str(value);
        }
    }
    if options.len() > LONGEST_OPTIONS {
        let count = overlay.lowers.len();
        let message = format!("{count} layers need Linux 6.5 or newer");
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let flags = match overlay.upper {
        Some(_) => MountFlags::empty(),
        None => MountFlags::RDONLY,
    };
    let options = std::ffi::CString::new(options)?;
    let place = scratch.place()?;
    mount("overlay", &place, "overlay", flags, options.as_c_str())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, &place, flags, Mode::empty())?)
}
