//! What a step mounts, made as detached mounts in the mount namespace of the calling thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::assets::{Access, Assets};
use super::overlay::{Mounted, mount_overlay};
use super::scratch::Scratch;
use super::tree::{self, Scope};
use crate::agent::AgentConnector;
use crate::beneath;
use crate::error::RuntimeError;
use crate::layout::{What, clean};
use crate::spec::{MountPlan, Source, StepMount};

/// A socket of the step and whom it leads to.
pub(crate) type Listener = (UnixListener, AgentConnector);

/// Makes mounts.
pub(crate) struct Materials {
    /// Places to attach mounts on for a while.
    pub(crate) scratch: Scratch,
    /// The content of `/etc/hosts`.
    hosts: String,
    /// The content of `/etc/resolv.conf`.
    resolv_conf: String,
    /// Whether device nodes in the step's trees are ineffective.
    no_devices: bool,
    assets: Option<Assets>,
    /// Overlays that were mounted already, with the roots of their mounts on the scratch directory.
    shared: Vec<(MountPlan, OwnedFd)>,
    /// The sockets that were made.
    pub(crate) listeners: Vec<Listener>,
}

/// A tree to be mounted.
enum Tree {
    /// A detached mount.
    Detached(OwnedFd),
    /// A directory or file of a mount that is attached: to be cloned.
    Attached(OwnedFd),
}

impl Materials {
    pub(crate) fn new(
        scratch: Scratch,
        hosts: String,
        resolv_conf: String,
        no_devices: bool,
    ) -> Self {
        Self {
            scratch,
            hosts,
            resolv_conf,
            no_devices,
            assets: None,
            shared: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// The root file system.
    pub(crate) fn root(&mut self, source: Source) -> Result<OwnedFd, RuntimeError> {
        let fail = |action: &str| {
            let action = action.to_owned();
            move |source| RuntimeError::Root { action, source }
        };
        let action = describe(&source);
        let mounted = mount_source(source, &mut self.scratch).map_err(fail(&action))?;
        let fd = match mounted {
            Tree::Detached(fd) => fd,
            Tree::Attached(fd) => tree::clone_fd(&fd).map_err(fail("clone"))?,
        };
        let set = attributes(false, self.no_devices);
        tree::change(fd.as_fd(), Scope::Recursive, set, tree::PRIVATE)
            .map_err(fail("set attributes"))?;
        Ok(fd)
    }

    /// A mount that the step asks for.
    pub(crate) fn mount(
        &mut self,
        target: &Path,
        mount: StepMount,
    ) -> Result<OwnedFd, RuntimeError> {
        if target == Path::new("/") {
            return Err(RuntimeError::MountTarget {
                target: target.to_owned(),
                reason: "the root file system is mounted there",
            });
        }
        let mut set = attributes(mount.read_only, self.no_devices);
        if mount.no_suid || matches!(mount.source, Source::Tmpfs { .. }) {
            set |= MountAttrFlags::MOUNT_ATTR_NOSUID;
        }
        let action = describe(&mount.source);
        let tree = self
            .open_source(mount.source)
            .map_err(mount_error(target, &action))?;
        let fd = self.select(tree, target, &mount.sub_path)?;
        tree::change(fd.as_fd(), Scope::Recursive, set, tree::PRIVATE)
            .map_err(mount_error(target, "set attributes"))?;
        Ok(fd)
    }

    /// A file that exists in memory only; `None` if `what` is none.
    pub(crate) fn file(&mut self, what: &What) -> io::Result<Option<OwnedFd>> {
        match what {
            What::ResolvConf => {
                let content = std::mem::take(&mut self.resolv_conf);
                self.assets()?.file(content.as_bytes(), Access::PUBLIC)
            }
            What::Hosts => {
                let content = std::mem::take(&mut self.hosts);
                self.assets()?.file(content.as_bytes(), Access::PUBLIC)
            }
            What::Secret(secret) => {
                let (mode, uid, gid) = (secret.mode, secret.uid, secret.gid);
                self.assets()?.file(&secret.data, Access { mode, uid, gid })
            }
            What::Agent(agent) => {
                let (mode, uid, gid) = (agent.mode, agent.uid, agent.gid);
                let (listener, fd) = self.assets()?.socket(Access { mode, uid, gid })?;
                self.listeners.push((listener, agent.connector.clone()));
                Ok(fd)
            }
            _ => return Ok(None),
        }
        .map(Some)
    }

    fn assets(&mut self) -> io::Result<&mut Assets> {
        match &mut self.assets {
            Some(assets) => Ok(assets),
            empty => Ok(empty.insert(Assets::new(&mut self.scratch)?)),
        }
    }

    /// The tree of `source`; that of an equal plan if there was one.
    fn open_source(&mut self, source: Source) -> io::Result<Tree> {
        let plan = match source {
            Source::Plan(plan @ MountPlan::Overlay(_)) => plan,
            other => return mount_source(other, &mut self.scratch),
        };
        if let Some((_, fd)) = self.shared.iter().find(|(known, _)| *known == plan) {
            return Ok(Tree::Attached(fd.try_clone()?));
        }
        let fd = match mount_plan(&plan, &mut self.scratch)? {
            Tree::Attached(fd) => fd,
            Tree::Detached(fd) => {
                self.scratch.attach(&fd)?;
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
                self.scratch
                    .attach(&fd)
                    .map_err(mount_error(target, "attach"))?;
                fd
            }
            Tree::Attached(fd) => fd,
        };
        if whole {
            return tree::clone_fd(&fd).map_err(mount_error(target, "clone"));
        }
        let at = match beneath::open(&fd, &path, OFlags::PATH) {
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

pub(crate) fn mount_error(target: &Path, action: &str) -> impl FnOnce(io::Error) -> RuntimeError {
    let (target, action) = (target.to_owned(), action.to_owned());
    move |source| RuntimeError::Mount {
        target,
        action,
        source,
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
        MountPlan::Bind(path) => {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            Ok(Tree::Attached(openat(CWD, path, flags, Mode::empty())?))
        }
    }
}

pub(crate) fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}
