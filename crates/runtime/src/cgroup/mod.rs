//! A cgroup for each step: limits, devices, and the certainty of which processes belong to it.
//!
//! Steps live in `PARENT/weld/TAG/ID`, where TAG stands for the state directory, so that what a
//! killed process left is found by the next one on that directory. Whoever has steps there holds a
//! lock on TAG, so that of a state directory that is gone the empty cgroups are found by others.

mod cpuset;
mod devices;
mod earlier;
mod group;
mod limits;
mod owned;
mod system;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, symlinkat};
use rustix::io::Errno;

use crate::config::{CgroupConfig, CgroupMode};
use crate::error::RuntimeError;
use crate::layout::clean;
use crate::spec::{Device, DeviceAccess, Resources, Security, StepSpec};
use devices::Program;
use group::Group;
use owned::Owned;
pub(crate) use owned::tag;
use system::{Hierarchy, System};

/// Makes the cgroups of steps.
#[derive(Debug)]
pub(crate) struct Cgroups {
    system: System,
    parent: PathBuf,
    tag: String,
    /// The device program of steps without devices of their own, loaded for the first step;
    /// `None` where BPF cannot be used.
    program: OnceLock<Option<Program>>,
    /// Whether steps can make device nodes that work: not in a user namespace.
    restrict_devices: bool,
    /// A file with the parents, besides the configured one, that steps have used.
    parents: PathBuf,
    /// Whether there may be cgroups of this state directory.
    used: AtomicBool,
    /// The directories of this state directory that are in use.
    owned: Owned,
}

/// What a step sees of the cgroups.
#[derive(Debug)]
pub(crate) enum View {
    /// Nothing.
    None,
    /// This directory of the v2 hierarchy.
    Unified(PathBuf),
    /// Directories of the v1 hierarchies, by name.
    Legacy(Vec<LegacyView>),
}

/// A directory of a v1 hierarchy.
#[derive(Debug)]
pub(crate) struct LegacyView {
    /// What it is called below `/sys/fs/cgroup`.
    pub(crate) name: String,
    /// Where it is on the host.
    pub(crate) dir: PathBuf,
    /// More names of it.
    links: Vec<String>,
}

impl LegacyView {
    /// Makes the mount point and the links in `dir`.
    pub(crate) fn place(&self, dir: impl AsFd) -> io::Result<()> {
        mkdirat(&dir, &self.name, Mode::from_raw_mode(0o755))?;
        for link in &self.links {
            symlinkat(&self.name, &dir, link)?;
        }
        Ok(())
    }
}

/// The cgroups of one step, removed on drop.
#[derive(Debug)]
pub(crate) struct StepCgroup {
    unified: Option<Group>,
    legacy: Vec<Legacy>,
    view: View,
    /// Whether nothing restricts the devices of the step, so that its mounts must.
    pub(crate) devices_unrestricted: bool,
}

/// A step's cgroup of a v1 hierarchy. Opened when made, since the supervising thread joins it when
/// it does not see the host's files any more.
#[derive(Debug)]
struct Legacy {
    group: Group,
    hierarchy: Hierarchy,
    /// The threads of the cgroup.
    tasks: OwnedFd,
    /// Those of the cgroup that this process is in.
    back: OwnedFd,
}

impl Legacy {
    fn create(hierarchy: &Hierarchy, below: &Path) -> Result<Self, RuntimeError> {
        let group = Group::create_legacy(hierarchy, below)?;
        let opened = open_tasks(&group.path)
            .and_then(|tasks| Ok((tasks, open_tasks(&hierarchy.own)?)))
            .map_err(group.error("open tasks"));
        match opened {
            Ok((tasks, back)) => Ok(Self {
                group,
                hierarchy: hierarchy.clone(),
                tasks,
                back,
            }),
            Err(error) => {
                group.remove()?;
                Err(error)
            }
        }
    }

    fn has_controller(&self, name: &str) -> bool {
        self.hierarchy.controllers.iter().any(|known| known == name)
    }
}

impl Cgroups {
    /// Learns what the system has.
    pub(crate) fn new(config: &CgroupConfig, tag: String, state: &Path) -> io::Result<Self> {
        let system = match config.mode {
            CgroupMode::Auto => System::detect()?,
            CgroupMode::Off => System::default(),
        };
        let restrict_devices = !crate::privilege::in_user_namespace()?;
        Ok(Self {
            system,
            parent: clean(&config.parent),
            tag,
            program: OnceLock::new(),
            restrict_devices,
            parents: state.join("cgroup-parents"),
            used: AtomicBool::new(false),
            owned: Owned::default(),
        })
    }

    fn program(&self) -> Option<&Program> {
        let load = || match self.system.unified {
            Some(_) if self.restrict_devices => Program::load(&devices::rules(&[])).ok(),
            _ => None,
        };
        self.program.get_or_init(load).as_ref()
    }

    /// Refuses limits that this machine cannot keep for any step.
    pub(crate) fn check(&self, resources: &Resources) -> Result<(), RuntimeError> {
        cpuset::check(&self.system, resources)
    }

    /// Makes the cgroups of a step and sets its limits.
    pub(crate) fn create(&self, step: &StepSpec) -> Result<StepCgroup, RuntimeError> {
        self.check(&step.resources)?;
        self.used.store(true, Ordering::Relaxed);
        let below = self.below(&self.parent_of(step)?).join(&step.id);
        let optional = step.resources.is_empty() && step.cgroup_parent.is_none();
        let mut cgroup = StepCgroup {
            unified: self.create_unified(&below, &step.resources, optional)?,
            legacy: Vec::new(),
            view: View::None,
            devices_unrestricted: false,
        };
        self.create_legacy(&mut cgroup, &below, step, optional)?;
        limits::apply(&cgroup, &step.resources)?;
        self.restrict(&mut cgroup, step)?;
        cgroup.view = self.view(&cgroup);
        Ok(cgroup)
    }

    /// The cgroup of a step as an absolute path in each hierarchy, for another runtime to make it.
    pub(crate) fn path_for(&self, step: &StepSpec) -> Result<Option<PathBuf>, RuntimeError> {
        self.check(&step.resources)?;
        if self.system == System::default() {
            return Ok(None);
        }
        self.used.store(true, Ordering::Relaxed);
        let below = self.below(&self.parent_of(step)?).join(&step.id);
        let unified = self.system.unified.iter();
        let claims = unified
            .map(|hierarchy| self.claim_unified(hierarchy, &below, &[]))
            .chain(
                (self.system.legacy.iter()).map(|hierarchy| self.claim_legacy(hierarchy, &below)),
            );
        for error in claims.filter_map(Result::err) {
            // Which of them it needs is for the runtime to say.
            tracing::debug!(%error, "a cgroup cannot be prepared");
        }
        Ok(Some(Path::new("/").join(below)))
    }

    fn parent_of(&self, step: &StepSpec) -> Result<PathBuf, RuntimeError> {
        match &step.cgroup_parent {
            Some(parent) if parent.to_string_lossy().contains(".slice:") => {
                Err(RuntimeError::InvalidSpec {
                    field: "cgroup parent",
                    reason: "systemd's slice:prefix:name form is not supported".to_owned(),
                })
            }
            Some(parent) => {
                let parent = clean(parent);
                self.remember(&parent)
                    .map_err(|source| RuntimeError::State {
                        path: self.parents.clone(),
                        action: "write",
                        source,
                    })?;
                Ok(parent)
            }
            None => Ok(self.parent.clone()),
        }
    }

    /// Notes a parent before it is used, so that what is left in it can be found.
    fn remember(&self, parent: &Path) -> io::Result<()> {
        if self.remembered().iter().any(|known| known == parent) {
            return Ok(());
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(&self.parents)?;
        let mut line = parent.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        file.write_all(&line)
    }

    fn remembered(&self) -> Vec<PathBuf> {
        let text = std::fs::read(&self.parents).unwrap_or_default();
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| OsStr::from_bytes(line).into()).collect()
    }

    /// `parent/weld/TAG`, relative to a hierarchy's root.
    fn below(&self, parent: &Path) -> PathBuf {
        let parent = parent.strip_prefix("/").unwrap_or(parent);
        parent.join("weld").join(&self.tag)
    }

    fn create_unified(
        &self,
        below: &Path,
        resources: &Resources,
        optional: bool,
    ) -> Result<Option<Group>, RuntimeError> {
        let Some(hierarchy) = &self.system.unified else {
            return Ok(None);
        };
        let controllers = limits::unified_controllers(resources);
        let made = self
            .claim_unified(hierarchy, below, &controllers)
            .and_then(|()| Group::create_unified(&hierarchy.mount, below, &controllers));
        match made {
            Ok(group) => Ok(Some(group)),
            Err(_) if optional => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_legacy(
        &self,
        cgroup: &mut StepCgroup,
        below: &Path,
        step: &StepSpec,
        optional: bool,
    ) -> Result<(), RuntimeError> {
        // Memory is there for telling an out-of-memory kill, the others are made if needed.
        let mut wanted = vec!["memory"];
        wanted.extend(limits::legacy_controllers(&step.resources));
        if self.needs_devices(cgroup, step) {
            wanted.push("devices");
        }
        for controller in wanted {
            let Some(hierarchy) = self.system.legacy_with(controller) else {
                continue;
            };
            if cgroup
                .legacy
                .iter()
                .any(|known| known.hierarchy == *hierarchy)
            {
                continue;
            }
            let made = self
                .claim_legacy(hierarchy, below)
                .and_then(|()| Legacy::create(hierarchy, below));
            match made {
                Ok(legacy) => cgroup.legacy.push(legacy),
                Err(_) if optional => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has what a cgroup is to be in be there, and others know that it is in use.
    fn claim_unified(
        &self,
        hierarchy: &Hierarchy,
        below: &Path,
        controllers: &[&str],
    ) -> Result<(), RuntimeError> {
        let directory = hierarchy.mount.join(below.parent().unwrap_or(below));
        let make = || Group::parents_unified(&hierarchy.mount, below, controllers);
        self.owned.claim(&directory, make)
    }

    fn claim_legacy(&self, hierarchy: &Hierarchy, below: &Path) -> Result<(), RuntimeError> {
        let directory = hierarchy.mount.join(below.parent().unwrap_or(below));
        let make = || Group::parents_legacy(hierarchy, below);
        self.owned.claim(&directory, make)
    }

    fn needs_devices(&self, cgroup: &StepCgroup, step: &StepSpec) -> bool {
        self.restrict_devices
            && step.security == Security::Sandbox
            && (cgroup.unified.is_none() || self.program().is_none())
    }

    /// Allows the step its devices and no others.
    fn restrict(&self, cgroup: &mut StepCgroup, step: &StepSpec) -> Result<(), RuntimeError> {
        if step.security == Security::Insecure {
            return Ok(());
        }
        if !self.restrict_devices {
            let is_full = |device: &Device| device.access == DeviceAccess::FULL;
            return match step.devices.iter().all(is_full) {
                true => Ok(()),
                false => Err(RuntimeError::LimitUnsupported {
                    what: "access to devices",
                    reason: "a user namespace has no say in it",
                }),
            };
        }
        let rules = devices::rules(&step.devices);
        if let (Some(group), Some(common)) = (&cgroup.unified, self.program()) {
            let own = match step.devices.is_empty() {
                true => Ok(None),
                false => Program::load(&rules).map(Some),
            };
            let attached = own.and_then(|own| own.as_ref().unwrap_or(common).attach(&group.dir));
            return attached.map_err(group.error("restrict devices"));
        }
        match cgroup
            .legacy
            .iter()
            .find(|legacy| legacy.has_controller("devices"))
        {
            Some(legacy) => {
                legacy.group.write("devices.deny", "a")?;
                for line in devices::legacy_lines(&rules) {
                    legacy.group.write("devices.allow", &line)?;
                }
            }
            None => cgroup.devices_unrestricted = true,
        }
        Ok(())
    }

    fn view(&self, cgroup: &StepCgroup) -> View {
        if !self.system.legacy.is_empty() {
            let hierarchies = self.system.legacy.iter();
            return View::Legacy(hierarchies.filter_map(|h| legacy_view(h, cgroup)).collect());
        }
        match (&cgroup.unified, &self.system.unified) {
            (Some(group), _) => View::Unified(group.path.clone()),
            (None, Some(hierarchy)) => View::Unified(hierarchy.own.clone()),
            (None, None) => View::None,
        }
    }

    /// Kills and removes the cgroups of steps that a killed process left, except of the running
    /// ones.
    pub(crate) fn clean(&self, running: &HashSet<String>) -> Result<(), RuntimeError> {
        for directory in self.directories() {
            if group::clean(&directory, running)? {
                self.used.store(true, Ordering::Relaxed);
            }
            owned::remove_left(&directory);
        }
        Ok(())
    }

    /// Where the cgroups of this state directory's steps are or may be, in each hierarchy.
    fn directories(&self) -> Vec<PathBuf> {
        let parents = [self.parent.clone()].into_iter().chain(self.remembered());
        let hierarchies = || self.system.unified.iter().chain(&self.system.legacy);
        parents
            .map(|parent| self.below(&parent))
            .flat_map(|below| hierarchies().map(move |each| each.mount.join(&below)))
            .collect()
    }

    /// Whether this process can tell a step's cgroup of the v2 hierarchy.
    pub(crate) fn namespaced(&self) -> bool {
        self.system.unified.is_some() && self.system.legacy.is_empty()
    }
}

impl Drop for Cgroups {
    /// Leaves nothing behind, but for the directory that those of other state directories are in.
    fn drop(&mut self) {
        if !*self.used.get_mut() {
            return;
        }
        for directory in self.directories() {
            // One that is not there, or still has steps, is right as it is.
            let _ = rustix::fs::rmdir(&directory);
        }
    }
}

fn legacy_view(hierarchy: &Hierarchy, cgroup: &StepCgroup) -> Option<LegacyView> {
    let name = hierarchy.mount.file_name()?.to_str()?.to_owned();
    let dir = match cgroup
        .legacy
        .iter()
        .find(|made| made.hierarchy == *hierarchy)
    {
        Some(made) => made.group.path.clone(),
        None => hierarchy.own.clone(),
    };
    let links = match hierarchy.controllers.len() {
        0 | 1 => Vec::new(),
        _ => hierarchy.controllers.clone(),
    };
    let links = links.into_iter().filter(|link| *link != name).collect();
    Some(LegacyView { name, dir, links })
}

impl StepCgroup {
    /// The directory of the v2 cgroup, for starting a process in it.
    pub(crate) fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|group| group.dir.as_fd())
    }

    /// What the step sees.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Moves the calling thread, and no other, into the v1 cgroups, so that a process that it
    /// starts is in them. The thread leaves them when the answer is dropped.
    ///
    /// Moving a thread that is one's own takes no system-wide lock, other than moving a process,
    /// which waits for all CPUs.
    pub(crate) fn enter_legacy(&self) -> Result<Vec<Entered<'_>>, RuntimeError> {
        let mut entered = Vec::new();
        for legacy in &self.legacy {
            write_zero(&legacy.tasks).map_err(legacy.group.error("join"))?;
            entered.push(Entered(&legacy.back));
        }
        Ok(entered)
    }

    /// A way into the cgroups for further processes of the step. Useless once they are removed.
    pub(crate) fn seat(&self) -> io::Result<Seat> {
        let legacy = self.legacy.iter();
        let legacy = legacy.map(|one| Ok((one.tasks.try_clone()?, one.back.try_clone()?)));
        let unified = self.unified.as_ref().map(|group| group.dir.try_clone());
        Ok(Seat {
            unified: unified.transpose()?,
            legacy: legacy.collect::<io::Result<_>>()?,
        })
    }

    /// Whether the kernel killed a process of the step for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let unified = self.unified.as_ref();
        let legacy = self.legacy.iter().map(|legacy| &legacy.group);
        unified.into_iter().chain(legacy).any(Group::oom_killed)
    }

    /// Removes the cgroups.
    pub(crate) fn remove(mut self) -> Result<(), RuntimeError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), RuntimeError> {
        let unified = self.unified.take();
        let legacy = std::mem::take(&mut self.legacy);
        let legacy = legacy.into_iter().map(|legacy| legacy.group);
        let mut result = Ok(());
        for group in unified.into_iter().chain(legacy) {
            result = result.and(group.remove());
        }
        result
    }
}

impl Drop for StepCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!("{error}");
        }
    }
}

/// A way into the cgroups of a running step.
#[derive(Debug)]
pub(crate) struct Seat {
    unified: Option<OwnedFd>,
    legacy: Vec<(OwnedFd, OwnedFd)>,
}

impl Seat {
    /// The directory of the v2 cgroup.
    pub(crate) fn unified_dir(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling thread into the v1 cgroups, as [`StepCgroup::enter_legacy`] does.
    pub(crate) fn enter_legacy(&self) -> io::Result<Vec<Entered<'_>>> {
        let mut entered = Vec::new();
        for (tasks, back) in &self.legacy {
            write_zero(tasks)?;
            entered.push(Entered(back));
        }
        Ok(entered)
    }
}

/// A thread's stay in a v1 cgroup.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a OwnedFd);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Err(errno) = write_zero(self.0) {
            tracing::warn!("a thread cannot return to its cgroup: {errno}");
        }
    }
}

fn open_tasks(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        CWD,
        dir.join("tasks"),
        flags,
        Mode::empty(),
    )?)
}

/// Zero stands for the calling thread.
fn write_zero(tasks: impl AsFd) -> io::Result<()> {
    match rustix::io::write(tasks, b"0") {
        Ok(_) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a cgroup that should be removed is gone already.
fn is_gone(errno: Errno) -> bool {
    errno == Errno::NOENT
}
