//! Overlay mounts through the file descriptors of the new mount API.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::{MAX_OVERLAY_LOWERS, MountError, OverlaySource, legacy};

const ACTION: &str = "mount the overlay of";

/// The kernel copies at most this many bytes of one option's value, with its NUL.
const MAX_VALUE: usize = 255;

pub(super) fn open(source: &OverlaySource, read_only: bool) -> Result<OwnedFd, MountError> {
    if source.lowers.len() > MAX_OVERLAY_LOWERS {
        return Err(MountError::TooManyLayers {
            count: source.lowers.len(),
        });
    }
    let named = subject(source);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::new("open the file system type for", named, errno))?;
    let context = Context {
        fd: context,
        held: Vec::new(),
        named: named.to_owned(),
    };
    context.mount(source, read_only)
}

/// The directory that an error names.
pub(super) fn subject(source: &OverlaySource) -> &Path {
    match &source.upper {
        Some(upper) => &upper.upper,
        None => source
            .lowers
            .first()
            .map_or(Path::new(""), PathBuf::as_path),
    }
}

/// A file system being configured.
struct Context {
    fd: OwnedFd,
    /// Directories whose paths do not fit in an option and go by descriptor.
    held: Vec<OwnedFd>,
    named: PathBuf,
}

impl Context {
    fn mount(mut self, source: &OverlaySource, read_only: bool) -> Result<OwnedFd, MountError> {
        for lower in &source.lowers {
            let value = self.value(lower)?;
            match fsconfig_set_string(&self.fd, "lowerdir+", &value) {
                Ok(()) => {}
                // Kernels before 6.5 know no such key and configure overlays by mount(2) only.
                Err(Errno::INVAL) if !self.complained_about(lower) => {
                    return legacy::open(source, read_only);
                }
                Err(errno) => return Err(self.error("add the lower directory", lower, errno)),
            }
        }
        if let Some(upper) = &source.upper {
            self.set("upperdir", &upper.upper)?;
            self.set("workdir", &upper.work)?;
            self.flag("volatile")?;
        }
        self.option("index", "off")?;
        self.option("metacopy", "off")?;
        if source.userxattr {
            self.flag("userxattr")?;
        } else {
            self.option("redirect_dir", "nofollow")?;
        }
        fsconfig_create(&self.fd).map_err(|errno| self.error(ACTION, &self.named, errno))?;
        let attributes = if read_only {
            MountAttrFlags::MOUNT_ATTR_RDONLY
        } else {
            MountAttrFlags::empty()
        };
        fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.error(ACTION, &self.named, errno))
    }

    fn set(&mut self, key: &str, path: &Path) -> Result<(), MountError> {
        let value = self.value(path)?;
        fsconfig_set_string(&self.fd, key, &value)
            .map_err(|errno| self.error("set the overlay's upper or work directory", path, errno))
    }

    fn option(&self, key: &str, value: &str) -> Result<(), MountError> {
        fsconfig_set_string(&self.fd, key, value)
            .map_err(|errno| self.error("set the options of the overlay of", &self.named, errno))
    }

    fn flag(&self, key: &str) -> Result<(), MountError> {
        fsconfig_set_flag(&self.fd, key)
            .map_err(|errno| self.error("set the options of the overlay of", &self.named, errno))
    }

    /// The path as an option's value: itself, or a descriptor's path where it is too long or
    /// holds characters that overlayfs takes for separators.
    fn value(&mut self, path: &Path) -> Result<PathBuf, MountError> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() < MAX_VALUE && !bytes.iter().any(|byte| b"\\:,".contains(byte)) {
            return Ok(path.to_owned());
        }
        let directory = open_directory(path)?;
        let value = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        self.held.push(directory);
        Ok(value)
    }

    fn complained_about(&self, lower: &Path) -> bool {
        // A missing or unusable directory is answered with its own error number; what is left
        // for EINVAL on a kernel that knows the key is an unsuitable file system, which it logs.
        !lower.is_dir() || !self.log().is_empty()
    }

    /// What the kernel logged in this context, each message after a colon.
    fn log(&self) -> String {
        let mut log = String::new();
        let mut buffer = [0; 512];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]);
            // "e overlay: text": the severity and the type are of no use to a reader.
            let text = message.split_once(' ').map_or(&*message, |(_, text)| text);
            log.push_str(": ");
            log.push_str(text.trim_end());
        }
        log
    }

    fn error(&self, action: &'static str, path: &Path, errno: Errno) -> MountError {
        MountError::with_detail(action, path, errno, self.log())
    }
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| MountError::new("open the directory", path, errno))
}

/// Whether the kernel takes lower directories one by one.
pub(super) fn takes_many_lowers() -> bool {
    let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else {
        return false;
    };
    fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
}
