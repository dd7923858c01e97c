//! Builds the file tree of a step in the mount namespace of the calling thread.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::dev;
use super::proc::{self, ProcMount};
use crate::cgroup::View;
use crate::error::RuntimeError;
use crate::layout::{MASKED, Planned, READ_ONLY, What};
use crate::mount::tree::{self, Scope};
use crate::mount::{Listener, Materials, Missing, Root, Stubs, is_directory, mount_error};
use crate::spec::{Device, Source};

/// The tree being built.
pub(super) struct Builder<'a> {
    materials: Materials,
    /// What the step sees of the cgroups.
    cgroup: &'a View,
    /// Devices beyond the standard ones.
    devices: Vec<Device>,
    root: Root<'a>,
    dev: Option<OwnedFd>,
    /// What the step's process mounts on `/proc`; `None` if the step has a mount of its own there.
    proc: Option<ProcMount>,
}

/// What becomes of a mount point that was created.
#[derive(Clone, Copy)]
enum Stub {
    /// Removed after the step, if it is still empty.
    Removed,
    /// Kept: `/proc`, `/dev` and the like, which other builders leave in images too.
    Kept,
}

impl Stub {
    fn of(what: &What) -> Self {
        match what {
            What::Proc | What::Dev | What::Pts | What::Shm { .. } | What::Mqueue => Self::Kept,
            What::Sys { .. } | What::Cgroup { .. } => Self::Kept,
            What::ResolvConf | What::Hosts | What::Mount(_) => Self::Removed,
            What::Secret(_) | What::Agent(_) => Self::Removed,
        }
    }
}

impl<'a> Builder<'a> {
    /// Mounts the root file system.
    pub(super) fn new(
        root: Source,
        mut materials: Materials,
        cgroup: &'a View,
        devices: Vec<Device>,
        stubs: &'a mut Stubs,
    ) -> Result<Self, RuntimeError> {
        let fail = |action: &str| {
            let action = action.to_owned();
            move |source| RuntimeError::Root { action, source }
        };
        let fd = materials.root(root)?;
        materials.scratch.attach(&fd).map_err(fail("attach"))?;
        Ok(Self {
            materials,
            cgroup,
            devices,
            root: Root::new(fd, stubs).map_err(fail("open"))?,
            dev: None,
            proc: None,
        })
    }

    /// Makes one mount.
    pub(super) fn mount(&mut self, planned: Planned) -> Result<(), RuntimeError> {
        let Planned { target, what } = planned;
        match what {
            What::Mount(mount) => {
                let fd = self.materials.mount(&target, mount)?;
                let missing = match is_directory(&fd).map_err(mount_error(&target, "stat"))? {
                    true => Missing::DIRECTORY,
                    false => Missing::File,
                };
                self.attach(&target, &fd, missing, Stub::Removed)
            }
            What::Proc => {
                let opened = self.root.open_or_create(&target, Missing::DIRECTORY);
                let at = opened.map_err(mount_error(&target, "open the mount point"))?;
                self.proc = Some(ProcMount::new(at));
                Ok(())
            }
            What::Dev => self
                .mount_dev(&target)
                .map_err(mount_error(&target, "mount tmpfs")),
            What::Cgroup { writable } => self
                .mount_cgroup(&target, writable)
                .map_err(mount_error(&target, "mount cgroup")),
            other => {
                let (action, stub) = (action(&other), Stub::of(&other));
                let (fd, missing) = self.make_own(other).map_err(mount_error(&target, action))?;
                self.attach(&target, &fd, missing, stub)
            }
        }
    }

    /// A mount of the sandbox's own, detached.
    fn make_own(&mut self, what: What) -> io::Result<(OwnedFd, Missing)> {
        let confined = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        let directory = |fd| (fd, Missing::DIRECTORY);
        match what {
            What::Pts => dev::new_pts().map(directory),
            What::Shm { size } => {
                let size = size.to_string();
                let options = [("mode", Some("1777")), ("size", Some(size.as_str()))];
                tree::new_fs("tmpfs", &options, confined).map(directory)
            }
            What::Mqueue => tree::new_fs("mqueue", &[], confined).map(directory),
            What::Sys { writable } => new_sys(confined, writable).map(directory),
            file => {
                let made = self.materials.file(&file)?;
                made.ok_or(Errno::INVAL.into())
                    .map(|fd| (fd, Missing::File))
            }
        }
    }

    fn mount_dev(&mut self, target: &Path) -> io::Result<()> {
        let fd = dev::new_dev()?;
        let at = self.root.open_or_create(target, Missing::DIRECTORY)?;
        tree::attach(&fd, at.as_fd())?;
        dev::populate(&fd)?;
        for device in &self.devices {
            dev::add(&fd, device)?;
        }
        self.dev = Some(fd);
        Ok(())
    }

    fn mount_cgroup(&mut self, target: &Path, writable: bool) -> io::Result<()> {
        // A step's own mount may hide the place that the sandbox would show the cgroups in.
        let at = match self.root.open(target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match self.cgroup {
            View::None => Ok(()),
            View::Unified(dir) => tree::attach(clone_cgroup(dir, writable)?, at.as_fd()),
            View::Legacy(hierarchies) => {
                let options = [("mode", Some("755"))];
                let fd = tree::new_fs("tmpfs", &options, cgroup_attributes(true))?;
                tree::attach(&fd, at.as_fd())?;
                for hierarchy in hierarchies {
                    hierarchy.place(&fd)?;
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let at = openat(&fd, &hierarchy.name, flags, Mode::empty())?;
                    tree::attach(clone_cgroup(&hierarchy.dir, writable)?, at.as_fd())?;
                }
                let set = cgroup_attributes(writable);
                tree::change(fd.as_fd(), Scope::Single, set, tree::KEEP)
            }
        }
    }

    /// Attaches a detached mount on `target`, which is created if missing.
    fn attach(
        &mut self,
        target: &Path,
        fd: &OwnedFd,
        missing: Missing,
        stub: Stub,
    ) -> Result<(), RuntimeError> {
        let refuse = |reason| RuntimeError::MountTarget {
            target: target.to_owned(),
            reason,
        };
        let opened = match stub {
            Stub::Removed => self.root.open_target(target, missing),
            Stub::Kept => self.root.open_or_create(target, missing),
        };
        let at = opened.map_err(|error| target_error(target, error))?;
        if self.in_proc(&at).map_err(mount_error(target, "resolve"))? {
            return Err(refuse("nothing may be mounted inside of /proc"));
        }
        let directory = is_directory(&at).map_err(mount_error(target, "stat"))?;
        match (missing, directory) {
            (Missing::File, true) => {
                return Err(refuse("a file cannot be mounted on a directory"));
            }
            (Missing::Directory { .. }, false) => {
                return Err(refuse("a directory cannot be mounted on a file"));
            }
            _ => {}
        }
        tree::attach(fd, at.as_fd()).map_err(mount_error(target, "attach"))
    }

    /// Whether a directory or file is in what is, or will be, `/proc`.
    fn in_proc(&self, at: &OwnedFd) -> io::Result<bool> {
        let Some(proc) = &self.proc else {
            return Ok(fstatfs(at)?.f_type == libc::PROC_SUPER_MAGIC);
        };
        // Where they are in the host's tree, of which the step's is a part until it is entered.
        let place =
            |fd: &OwnedFd| std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
        Ok(place(at)?.starts_with(place(&proc.target)?))
    }

    /// Hides and protects the files of the kernel that a sandboxed step must not reach.
    pub(super) fn protect_kernel(&mut self) -> io::Result<()> {
        let mut empty = None;
        for path in MASKED {
            if let (Some(_), Some(name)) = (&self.proc, proc::name(path)?) {
                self.mask_in_proc(path, name, &mut empty)?;
                continue;
            }
            let Some(at) = self.open_existing(path)? else {
                continue;
            };
            let mask = self.mask(is_directory(&at)?, &mut empty)?;
            tree::attach(mask, at.as_fd())?;
        }
        for path in READ_ONLY {
            if let (Some(proc), Some(name)) = (&mut self.proc, proc::name(path)?) {
                if Path::new(path).exists() {
                    proc.read_only.push(name);
                }
                continue;
            }
            let Some(at) = self.open_existing(path)? else {
                continue;
            };
            let copy = tree::clone_fd(&at)?;
            let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
            tree::change(copy.as_fd(), Scope::Recursive, set, tree::KEEP)?;
            tree::attach(&copy, at.as_fd())?;
        }
        Ok(())
    }

    /// What the step's `/proc` has is what the host's has.
    fn mask_in_proc(
        &mut self,
        path: &str,
        name: CString,
        empty: &mut Option<OwnedFd>,
    ) -> io::Result<()> {
        let Ok(meta) = std::fs::metadata(path) else {
            return Ok(());
        };
        let mask = self.mask(meta.is_dir(), empty)?;
        if let Some(proc) = &mut self.proc {
            proc.masks.push((mask, name));
        }
        Ok(())
    }

    fn mask(&mut self, directory: bool, empty: &mut Option<OwnedFd>) -> io::Result<OwnedFd> {
        if directory {
            self.empty_directory(empty)
        } else {
            self.null_file()
        }
    }

    fn open_existing(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        match self.root.open(Path::new(path)) {
            Ok(at) => Ok(Some(at)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An empty read-only directory, detached. `first` keeps the first one, of which the further
    /// ones are copies.
    fn empty_directory(&mut self, first: &mut Option<OwnedFd>) -> io::Result<OwnedFd> {
        if let Some(first) = first {
            return tree::clone_fd(first);
        }
        let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let fd = tree::new_fs("tmpfs", &[("size", Some("0")), ("mode", Some("755"))], set)?;
        self.materials.scratch.attach(&fd)?;
        let copy = tree::clone_fd(&fd)?;
        *first = Some(fd);
        Ok(copy)
    }

    fn null_file(&self) -> io::Result<OwnedFd> {
        tree::clone_fd(self.open_null(OFlags::PATH)?)
    }

    /// Opens the step's `/dev/null`, or the host's if the step has its own `/dev`.
    pub(super) fn open_null(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        Ok(match &self.dev {
            Some(dev) => openat(dev, "null", flags, Mode::empty())?,
            None => openat(CWD, "/dev/null", flags, Mode::empty())?,
        })
    }

    /// Opens the working directory; if it is missing, it is created as `uid` and `gid`'s.
    pub(super) fn open_cwd(
        &self,
        path: &Path,
        uid: u32,
        gid: u32,
    ) -> Result<OwnedFd, RuntimeError> {
        let fail = |source| RuntimeError::WorkingDirectory {
            path: path.to_owned(),
            source,
        };
        let missing = Missing::Directory { uid, gid };
        let fd = self.root.open_or_create(path, missing).map_err(fail)?;
        if is_directory(&fd).map_err(fail)? {
            Ok(fd)
        } else {
            Err(fail(Errno::NOTDIR.into()))
        }
    }

    /// The root directory.
    pub(super) fn root(&self) -> &Root<'a> {
        &self.root
    }

    /// Ends the building, and makes the root read-only if asked to.
    pub(super) fn finish(self, read_only: bool) -> Result<Built, RuntimeError> {
        if read_only {
            let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
            tree::change(self.root.as_fd(), Scope::Single, set, tree::KEEP).map_err(|source| {
                let action = "make it read-only".to_owned();
                RuntimeError::Root { action, source }
            })?;
        }
        Ok(Built {
            root: self.root.into_fd(),
            proc: self.proc,
            listeners: self.materials.listeners,
        })
    }
}

/// A tree that a step's process can enter.
pub(super) struct Built {
    /// The root directory, of a mount.
    pub(super) root: OwnedFd,
    /// What is left to be mounted.
    pub(super) proc: Option<ProcMount>,
    /// The sockets that were made.
    pub(super) listeners: Vec<Listener>,
}

fn action(what: &What) -> &'static str {
    match what {
        What::Proc => "mount proc",
        What::Pts => "mount devpts",
        What::Shm { .. } | What::Dev => "mount tmpfs",
        What::Mqueue => "mount mqueue",
        What::Sys { .. } => "mount sysfs",
        What::Cgroup { .. } => "mount cgroup",
        What::ResolvConf | What::Hosts => "write the file",
        What::Secret(_) => "write the secret",
        What::Agent(_) => "make the socket",
        What::Mount(_) => "mount",
    }
}

fn target_error(target: &Path, error: io::Error) -> RuntimeError {
    let refuse = |reason| RuntimeError::MountTarget {
        target: target.to_owned(),
        reason,
    };
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            refuse("it does not exist and cannot be created on a read-only file system")
        }
        io::ErrorKind::NotADirectory => refuse("a part of the path is not a directory"),
        _ if error.raw_os_error() == Some(libc::ELOOP) => {
            refuse("the path leads through too many or forbidden symbolic links")
        }
        _ => mount_error(target, "open the mount point")(error),
    }
}

/// `/sys`; in a user namespace that does not own the network namespace, the host's.
fn new_sys(confined: MountAttrFlags, writable: bool) -> io::Result<OwnedFd> {
    let mut set = confined;
    if !writable {
        set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    match tree::new_fs("sysfs", &[], set) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let fd = tree::clone_path(Path::new("/sys"))?;
            tree::change(fd.as_fd(), Scope::Recursive, set, tree::PRIVATE)?;
            Ok(fd)
        }
        other => other,
    }
}

fn cgroup_attributes(writable: bool) -> MountAttrFlags {
    let confined = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    if writable {
        confined
    } else {
        confined | MountAttrFlags::MOUNT_ATTR_RDONLY
    }
}

fn clone_cgroup(dir: &Path, writable: bool) -> io::Result<OwnedFd> {
    let fd = tree::clone_path(dir)?;
    let set = cgroup_attributes(writable);
    tree::change(fd.as_fd(), Scope::Single, set, tree::PRIVATE)?;
    Ok(fd)
}
