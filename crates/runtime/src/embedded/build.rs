//! Builds the file tree of a step in the mount namespace of the calling thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::assets::{Access, Assets};
use super::dev;
use super::overlay::{Mounted, mount_overlay};
use super::root::{Missing, Root, Stubs};
use super::scratch::Scratch;
use super::tree::{self, Scope};
use crate::agent::AgentConnector;
use crate::cgroup::View;
use crate::error::RuntimeError;
use crate::layout::{MASKED, Planned, READ_ONLY, What, clean};
use crate::spec::{Device, MountPlan, Source, StepMount};

/// What the tree is made from, besides the mounts.
pub(super) struct Inputs<'a> {
    /// Places to attach mounts on for a while.
    pub(super) scratch: Scratch,
    /// The content of `/etc/hosts`.
    pub(super) hosts: String,
    /// The content of `/etc/resolv.conf`.
    pub(super) resolv_conf: String,
    /// What the step sees of the cgroups.
    pub(super) cgroup: &'a View,
    /// Devices beyond the standard ones.
    pub(super) devices: Vec<Device>,
    /// Whether device nodes in the step's trees are ineffective.
    pub(super) no_devices: bool,
}

/// The tree being built.
pub(super) struct Builder<'a> {
    inputs: Inputs<'a>,
    root: Root<'a>,
    assets: Option<Assets>,
    dev: Option<OwnedFd>,
    /// Plans that were mounted already, with the roots of their mounts on the scratch directory.
    shared: Vec<(MountPlan, OwnedFd)>,
    listeners: Vec<Listener>,
}

/// A mounted tree.
enum Tree {
    Detached(OwnedFd),
    /// Attached on the scratch directory; can be cloned, not moved.
    Attached(OwnedFd),
}

impl<'a> Builder<'a> {
    /// Mounts the root file system.
    pub(super) fn new(
        source: Source,
        mut inputs: Inputs<'a>,
        stubs: &'a mut Stubs,
    ) -> Result<Self, RuntimeError> {
        let fail = |action: &str| {
            let action = action.to_owned();
            move |source| RuntimeError::Root { action, source }
        };
        let action = describe(&source);
        let mounted = mount_source(source, &mut inputs.scratch).map_err(fail(&action))?;
        let fd = match mounted {
            Tree::Detached(fd) => {
                let set = attributes(false, inputs.no_devices);
                tree::change(fd.as_fd(), Scope::Recursive, set, tree::PRIVATE)
                    .map_err(fail("set attributes"))?;
                inputs.scratch.attach(&fd).map_err(fail("attach"))?;
                fd
            }
            Tree::Attached(fd) => fd,
        };
        let root = Root::new(fd, stubs).map_err(fail("open"))?;
        Ok(Self {
            inputs,
            root,
            assets: None,
            dev: None,
            shared: Vec::new(),
            listeners: Vec::new(),
        })
    }

    /// Makes one mount.
    pub(super) fn mount(&mut self, planned: Planned) -> Result<(), RuntimeError> {
        let Planned { target, what } = planned;
        match what {
            What::Mount(mount) => self.mount_step(&target, mount),
            What::Dev => self
                .mount_dev(&target)
                .map_err(mount_error(&target, "mount tmpfs")),
            What::Cgroup { writable } => self
                .mount_cgroup(&target, writable)
                .map_err(mount_error(&target, "mount cgroup")),
            other => {
                let action = action(&other);
                let (fd, missing) = self.make_own(other).map_err(mount_error(&target, action))?;
                self.attach(&target, &fd, missing)
            }
        }
    }

    /// A mount of the sandbox's own, detached.
    fn make_own(&mut self, what: What) -> io::Result<(OwnedFd, Missing)> {
        let confined = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        let directory = |fd| (fd, Missing::DIRECTORY);
        let file = |fd| (fd, Missing::File);
        match what {
            What::Proc => tree::new_fs("proc", &[], confined).map(directory),
            What::Pts => dev::new_pts().map(directory),
            What::Shm { size } => {
                let size = size.to_string();
                let options = [("mode", Some("1777")), ("size", Some(size.as_str()))];
                tree::new_fs("tmpfs", &options, confined).map(directory)
            }
            What::Mqueue => tree::new_fs("mqueue", &[], confined).map(directory),
            What::Sys { writable } => new_sys(confined, writable).map(directory),
            What::ResolvConf => {
                let content = std::mem::take(&mut self.inputs.resolv_conf);
                self.public_file(content.as_bytes()).map(file)
            }
            What::Hosts => {
                let content = std::mem::take(&mut self.inputs.hosts);
                self.public_file(content.as_bytes()).map(file)
            }
            What::Secret(secret) => {
                let (mode, uid, gid) = (secret.mode, secret.uid, secret.gid);
                let access = Access { mode, uid, gid };
                self.assets()?.file(&secret.data, access).map(file)
            }
            What::Agent(agent) => {
                let (mode, uid, gid) = (agent.mode, agent.uid, agent.gid);
                let (listener, fd) = self.assets()?.socket(Access { mode, uid, gid })?;
                self.listeners.push((listener, agent.connector));
                Ok(file(fd))
            }
            What::Dev | What::Cgroup { .. } | What::Mount(_) => Err(Errno::INVAL.into()),
        }
    }

    fn public_file(&mut self, content: &[u8]) -> io::Result<OwnedFd> {
        self.assets()?.file(content, Access::PUBLIC)
    }

    fn assets(&mut self) -> io::Result<&mut Assets> {
        match &mut self.assets {
            Some(assets) => Ok(assets),
            empty => Ok(empty.insert(Assets::new(&mut self.inputs.scratch)?)),
        }
    }

    fn mount_dev(&mut self, target: &Path) -> io::Result<()> {
        let fd = dev::new_dev()?;
        let at = self.root.open_target(target, Missing::DIRECTORY)?;
        tree::attach(&fd, at.as_fd())?;
        dev::populate(&fd)?;
        for device in &self.inputs.devices {
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
        match self.inputs.cgroup {
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

    fn mount_step(&mut self, target: &Path, mount: StepMount) -> Result<(), RuntimeError> {
        if target == Path::new("/") {
            return Err(RuntimeError::MountTarget {
                target: target.to_owned(),
                reason: "the root file system is mounted there",
            });
        }
        let mut set = attributes(mount.read_only, self.inputs.no_devices);
        if let Source::Tmpfs { .. } = mount.source {
            set |= MountAttrFlags::MOUNT_ATTR_NOSUID;
        }
        let action = describe(&mount.source);
        let tree = self
            .open_source(mount.source)
            .map_err(mount_error(target, &action))?;
        let fd = self.select(tree, target, &mount.sub_path)?;
        tree::change(fd.as_fd(), Scope::Recursive, set, tree::PRIVATE)
            .map_err(mount_error(target, "set attributes"))?;
        let missing = match is_directory(&fd).map_err(mount_error(target, "stat"))? {
            true => Missing::DIRECTORY,
            false => Missing::File,
        };
        self.attach(target, &fd, missing)
    }

    /// The tree of `source`; that of an equal plan if there was one.
    fn open_source(&mut self, source: Source) -> io::Result<Tree> {
        let Source::Plan(plan) = source else {
            return mount_source(source, &mut self.inputs.scratch);
        };
        if let Some((_, fd)) = self.shared.iter().find(|(known, _)| *known == plan) {
            return Ok(Tree::Attached(fd.try_clone()?));
        }
        let fd = match mount_plan(&plan, &mut self.inputs.scratch)? {
            Tree::Attached(fd) => fd,
            Tree::Detached(fd) => {
                self.inputs.scratch.attach(&fd)?;
                fd
            }
        };
        self.shared.push((plan, fd.try_clone()?));
        Ok(Tree::Attached(fd))
    }

    /// What is at `path` in `tree`, as a detached mount.
    fn select(&mut self, tree: Tree, target: &Path, path: &Path) -> Result<OwnedFd, RuntimeError> {
        let path = clean(path);
        let whole = path == Path::new("/");
        let fd = match tree {
            Tree::Detached(fd) if whole => return Ok(fd),
            Tree::Detached(fd) => {
                self.inputs
                    .scratch
                    .attach(&fd)
                    .map_err(mount_error(target, "attach"))?;
                fd
            }
            Tree::Attached(fd) => fd,
        };
        if whole {
            return tree::clone_fd(&fd).map_err(mount_error(target, "clone"));
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let at = match openat2(&fd, &path, flags, Mode::empty(), resolve) {
            Ok(at) => at,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(RuntimeError::SubPathNotFound {
                    target: target.to_owned(),
                    sub_path: path,
                });
            }
            Err(errno) => {
                let action = format!("open {}", path.display());
                return Err(mount_error(target, &action)(errno.into()));
            }
        };
        tree::clone_fd(&at).map_err(mount_error(target, "clone"))
    }

    /// Attaches a detached mount on `target`, which is created if missing.
    fn attach(
        &mut self,
        target: &Path,
        fd: &OwnedFd,
        missing: Missing,
    ) -> Result<(), RuntimeError> {
        let refuse = |reason| RuntimeError::MountTarget {
            target: target.to_owned(),
            reason,
        };
        let at = match self.root.open_target(target, missing) {
            Ok(at) => at,
            Err(error) => return Err(target_error(target, error)),
        };
        let in_proc =
            fstatfs(&at).is_ok_and(|stat| i64::from(stat.f_type) == libc::PROC_SUPER_MAGIC);
        if in_proc {
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

    /// Hides and protects the files of the kernel that a sandboxed step must not reach.
    pub(super) fn protect_kernel(&mut self) -> io::Result<()> {
        let mut empty = None;
        for path in MASKED {
            let at = match self.root.open(Path::new(path)) {
                Ok(at) => at,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if is_directory(&at)? {
                tree::attach(self.empty_directory(&mut empty)?, at.as_fd())?;
            } else {
                tree::attach(self.null_file()?, at.as_fd())?;
            }
        }
        for path in READ_ONLY {
            let at = match self.root.open(Path::new(path)) {
                Ok(at) => at,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let copy = tree::clone_fd(&at)?;
            let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
            tree::change(copy.as_fd(), Scope::Recursive, set, tree::KEEP)?;
            tree::attach(&copy, at.as_fd())?;
        }
        Ok(())
    }

    /// An empty read-only directory, detached. `first` keeps the first one, of which the further
    /// ones are copies.
    fn empty_directory(&mut self, first: &mut Option<OwnedFd>) -> io::Result<OwnedFd> {
        if let Some(first) = first {
            return tree::clone_fd(&first);
        }
        let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let fd = tree::new_fs("tmpfs", &[("size", Some("0")), ("mode", Some("755"))], set)?;
        self.inputs.scratch.attach(&fd)?;
        let copy = tree::clone_fd(&fd)?;
        *first = Some(fd);
        Ok(copy)
    }

    fn null_file(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let null = match &self.dev {
            Some(dev) => openat(dev, "null", flags, Mode::empty())?,
            None => openat(CWD, "/dev/null", flags, Mode::empty())?,
        };
        tree::clone_fd(&null)
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

    /// Ends the building: makes the root read-only if asked to, and this thread's root directory.
    /// Answers with the sockets that were made.
    pub(super) fn enter(self, read_only: bool) -> Result<Vec<Listener>, RuntimeError> {
        let fail = |action: &'static str| move |source| RuntimeError::Sandbox { action, source };
        if read_only {
            let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
            tree::change(self.root.as_fd(), Scope::Single, set, tree::KEEP)
                .map_err(fail("make the root file system read-only"))?;
        }
        pivot(&self.root).map_err(fail("change the root directory"))?;
        Ok(self.listeners)
    }
}

/// A socket of the step and whom it leads to.
pub(crate) type Listener = (UnixListener, AgentConnector);

/// Makes `root` the root of this thread's mount namespace and lets go of the host's tree.
fn pivot(root: &Root<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // The old root ends up on top of the new one, from where it is detached.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

fn attributes(read_only: bool, no_devices: bool) -> MountAttrFlags {
    let mut set = MountAttrFlags::empty();
    if read_only {
        set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if no_devices {
        set |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    set
}

fn describe(source: &Source) -> String {
    match source {
        Source::Plan(MountPlan::Overlay(overlay)) => {
            format!("mount an overlay of {} layers", overlay.lowers.len())
        }
        Source::Plan(MountPlan::Bind(path)) => format!("open {}", path.display()),
        Source::Detached(_) => "open the mount".to_owned(),
        Source::Tmpfs { .. } => "mount tmpfs".to_owned(),
    }
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

fn mount_error(target: &Path, action: &str) -> impl FnOnce(io::Error) -> RuntimeError {
    let (target, action) = (target.to_owned(), action.to_owned());
    move |source| RuntimeError::Mount {
        target,
        action,
        source,
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

fn mount_source(source: Source, scratch: &mut Scratch) -> io::Result<Tree> {
    match source {
        Source::Plan(plan) => mount_plan(&plan, scratch),
        Source::Detached(fd) => Ok(Tree::Detached(own(fd))),
        Source::Tmpfs { size } => {
            let size = size.map(|size| size.to_string());
            let options: Vec<_> = size
                .iter()
                .map(|size| ("size", Some(size.as_str())))
                .collect();
            tree::new_fs("tmpfs", &options, MountAttrFlags::empty()).map(Tree::Detached)
        }
    }
}

/// A copy of the caller's mount where the kernel makes one (6.15), so that the caller may give the
/// same mount to several steps; else the mount itself.
fn own(fd: OwnedFd) -> OwnedFd {
    tree::clone_fd(&fd).unwrap_or(fd)
}

fn mount_plan(plan: &MountPlan, scratch: &mut Scratch) -> io::Result<Tree> {
    match plan {
        MountPlan::Overlay(overlay) => Ok(match mount_overlay(overlay, scratch)? {
            Mounted::Detached(fd) => Tree::Detached(fd),
            Mounted::Attached(fd) => Tree::Attached(fd),
        }),
        MountPlan::Bind(path) => tree::clone_path(path).map(Tree::Detached),
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

fn clone_cgroup(dir: &PathBuf, writable: bool) -> io::Result<OwnedFd> {
    let fd = tree::clone_path(dir)?;
    let set = cgroup_attributes(writable);
    tree::change(fd.as_fd(), Scope::Single, set, tree::PRIVATE)?;
    Ok(fd)
}

fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}
