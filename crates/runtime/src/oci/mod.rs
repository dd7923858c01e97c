//! Steps run by an external OCI runtime with runc's command line.
//!
//! The root file system and everything else that a step mounts are made in a mount namespace that
//! only the runtime's process shares, so that they vanish with it.

mod config;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::capability::Held;
use crate::cgroup::Cgroups;
use crate::config::DnsConfig;
use crate::control::Control;
use crate::embedded::{Entered, insecure_devices};
use crate::error::RuntimeError;
use crate::layout::{Planned, What, take_mounts};
use crate::mount::{Listener, Materials, Missing, Root, Scratch, Stubs, is_directory, mount_error};
use crate::output::Streams;
use crate::spec::{Security, Source, StepSpec};
use crate::status::ExitStatus;
use crate::{identity, program, resolv};

/// How long a killed container may take to end before it is deleted by force.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries to kill a container that may not have started yet.
const KILL_RETRY: Duration = Duration::from_millis(50);
/// The most that is read of the runtime's log, in bytes.
const MAX_LOG: u64 = 1 << 20;

/// What all steps share.
#[derive(Debug)]
pub(crate) struct Oci {
    runtime: PathBuf,
    /// An absolute directory with `scratch`, `oci/state` and `oci/bundles`.
    dir: PathBuf,
    cgroups: Cgroups,
    dns: DnsConfig,
    oom_score_adj: Option<i16>,
    held: Held,
}

fn sandbox(action: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Sandbox { action, source }
}

impl Oci {
    /// Checks that the runtime can be run.
    pub(crate) fn new(
        runtime: PathBuf,
        dir: PathBuf,
        cgroups: Cgroups,
        dns: DnsConfig,
        oom_score_adj: Option<i16>,
    ) -> Result<Self, RuntimeError> {
        for name in ["oci/state", "oci/bundles"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).map_err(|source| RuntimeError::State {
                path,
                action: "create",
                source,
            })?;
        }
        let oci = Self {
            runtime,
            dir,
            cgroups,
            dns,
            oom_score_adj,
            held: Held::read().map_err(sandbox("read this process's capabilities"))?,
        };
        oci.call(&["--version"])?;
        Ok(oci)
    }

    fn failed(&self, message: impl ToString) -> RuntimeError {
        RuntimeError::External {
            runtime: self.runtime.clone(),
            message: message.to_string(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(self.dir.join("oci/state"));
        command
    }

    /// Runs the runtime with `args` to its end.
    fn call(&self, args: &[&str]) -> Result<Output, RuntimeError> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::null());
        let output = command.output().map_err(|error| self.failed(error))?;
        if output.status.success() {
            return Ok(output);
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Err(self.failed(format!("{}: {}", args.join(" "), message.trim())))
    }

    /// Runs a step to its end on the calling thread, which must be used for nothing else.
    pub(crate) fn supervise(
        &self,
        step: StepSpec,
        streams: Streams,
        control: &Control,
        listeners: oneshot::Sender<Vec<Listener>>,
    ) -> Result<ExitStatus, RuntimeError> {
        let bundle = self.dir.join("oci/bundles").join(&step.id);
        let entered = Entered::mounts_only().map_err(sandbox("make a mount namespace"))?;
        let mut stubs = Stubs::new(step.remove_stub_parents);
        let ended = self.run(step, streams, control, &bundle, &mut stubs, listeners);
        entered.leave();
        let cleaned = stubs
            .remove_empty()
            .map_err(sandbox("remove unused mount points"));
        if let Err(error) = remove_dir(&bundle) {
            tracing::warn!("{}: {error}", bundle.display());
        }
        let status = ended?;
        cleaned.map(|()| status)
    }

    fn run(
        &self,
        mut step: StepSpec,
        streams: Streams,
        control: &Control,
        bundle: &Path,
        stubs: &mut Stubs,
        listeners: oneshot::Sender<Vec<Listener>>,
    ) -> Result<ExitStatus, RuntimeError> {
        let planned = take_mounts(&mut step);
        let mut materials = self.materials(&step)?;
        let source = std::mem::replace(&mut step.root, Source::Tmpfs { size: None });
        let fd = materials.root(source)?;
        let place = place(&mut materials.scratch, &fd).map_err(sandbox("attach the root"))?;
        let mut root = Root::new(fd, stubs).map_err(sandbox("open the root"))?;
        let ids = identity::find_user(&root, &step.user)?;
        let mut mounts = Vec::new();
        for mount in planned {
            mounts.push(self.mount(&mut materials, &mut root, mount)?);
        }
        let missing = Missing::Directory {
            uid: ids.uid,
            gid: ids.gid,
        };
        let cwd = |source| RuntimeError::WorkingDirectory {
            path: step.cwd.clone(),
            source,
        };
        root.open_or_create(&step.cwd, missing).map_err(cwd)?;
        let devices = match step.security {
            Security::Sandbox => step.devices.clone(),
            Security::Insecure => [step.devices.clone(), insecure_devices()].concat(),
        };
        let config = config::config(config::Inputs {
            step: &step,
            root: &place,
            mounts,
            ids: &ids,
            groups: identity::all_groups(&ids, &step),
            env: identity::environment(&root, &step, &ids)?,
            cgroup: self.cgroups.path_for(&step)?,
            cgroup_namespace: self.cgroups.namespaced(),
            oom_score_adj: self.oom_score_adj,
            held: self.held,
            devices,
        });
        write_bundle(bundle, &config)?;
        // Nobody listens if the step was given up.
        let _ = listeners.send(std::mem::take(&mut materials.listeners));
        // That of this thread only, which the runtime inherits.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let child = self.start(&step.id, bundle, streams)?;
        let status = self.wait(child, &step.id, control)?;
        let name = step.args.first().map_or("", String::as_str);
        match self.log_error(bundle) {
            Some(message) if !control.is_killed() => {
                // Looked up by ourselves to tell it in the same words.
                program::find(&root, &step.cwd, &step.env, name)?;
                Err(start_error(name, &message).unwrap_or_else(|| self.failed(message)))
            }
            _ => Ok(status),
        }
    }

    fn materials(&self, step: &StepSpec) -> Result<Materials, RuntimeError> {
        let scratch = Scratch::new(self.dir.join("scratch"));
        let hosts = resolv::hosts(step.hostname(), &step.extra_hosts);
        let resolv_conf = resolv::resolv_conf(&self.dns, step.network)
            .map_err(sandbox("read /etc/resolv.conf"))?;
        Ok(Materials::new(scratch, hosts, resolv_conf, false))
    }

    /// One mount as the configuration names it.
    fn mount(
        &self,
        materials: &mut Materials,
        root: &mut Root<'_>,
        planned: Planned,
    ) -> Result<Value, RuntimeError> {
        let Planned { target, what } = planned;
        let fd = match what {
            What::Mount(mount) => materials.mount(&target, mount)?,
            other => match materials
                .file(&other)
                .map_err(mount_error(&target, "make the file"))?
            {
                Some(file) => file,
                None => return Ok(kernel_mount(&target, &other)),
            },
        };
        let expected = root.expect_stub(&target);
        expected.map_err(mount_error(&target, "open the mount point"))?;
        let flags = mount_flags(&fd).map_err(mount_error(&target, "stat"))?;
        let place = place(&mut materials.scratch, &fd).map_err(mount_error(&target, "attach"))?;
        Ok(config::bind_mount(&target, &place, &flags))
    }

    fn start(&self, id: &str, bundle: &Path, streams: Streams) -> Result<Child, RuntimeError> {
        let mut command = self.command();
        command.arg("--log").arg(bundle.join("log.json"));
        command.args(["--log-format", "json", "run", "--bundle"]);
        command.arg(bundle).arg(id);
        command.stdin(streams.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(streams.stdout).stderr(streams.stderr);
        // The first process of a group of its own, so that a terminal's signals do not reach it.
        command.process_group(0);
        // SAFETY: one system call that changes the child only.
        unsafe {
            command.pre_exec(|| {
                let kill = Some(rustix::process::Signal::KILL);
                Ok(rustix::process::set_parent_process_death_signal(kill)?)
            });
        }
        command.spawn().map_err(|error| self.failed(error))
    }

    /// Waits for the runtime's end, and kills the container when asked to.
    fn wait(
        &self,
        mut child: Child,
        id: &str,
        control: &Control,
    ) -> Result<ExitStatus, RuntimeError> {
        let process = Pid::from_child(&child);
        let process = pidfd_open(process, PidfdFlags::empty())
            .map_err(|errno| sandbox("watch the runtime")(errno.into()))?;
        let mut deadline = None;
        while !ended(&process, control, deadline.is_some())? {
            let limit = *deadline.get_or_insert_with(|| Instant::now() + KILL_LIMIT);
            if Instant::now() >= limit {
                self.call(&["delete", "--force", id])?;
                child.kill().map_err(|error| self.failed(error))?;
            } else if let Err(error) = self.call(&["kill", id, "KILL"]) {
                // It may not have started yet, or have ended already.
                tracing::debug!("{error}");
            }
        }
        let status = child.wait().map_err(|error| self.failed(error))?;
        if deadline.is_some() || status.signal().is_some() {
            // The runtime removes what ends by itself.
            let deleted = self.call(&["delete", "--force", id]);
            tracing::debug!("{id}: deleted: {}", deleted.is_ok());
        }
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        let code = code.unwrap_or(255);
        Ok(ExitStatus {
            code,
            // The runtime tells of signals as shells do.
            signal: (code > 128 && code <= 128 + 64).then_some(code - 128),
            oom_killed: false,
        })
    }

    /// The error that the runtime logged, if it did.
    fn log_error(&self, bundle: &Path) -> Option<String> {
        let file = std::fs::File::open(bundle.join("log.json")).ok()?;
        let mut text = String::new();
        file.take(MAX_LOG).read_to_string(&mut text).ok()?;
        let lines = text.lines().rev();
        lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line.get("level").is_some_and(|level| level == "error"))
            .and_then(|line| Some(line.get("msg")?.as_str()?.to_owned()))
    }

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Ends and removes containers, bundles and cgroups that a killed process left.
    pub(crate) fn clean(
        &self,
        running: &std::collections::HashSet<String>,
    ) -> Result<(), RuntimeError> {
        for id in self.entries("oci/state")? {
            if !running.contains(&id) {
                self.call(&["delete", "--force", &id])?;
            }
        }
        for id in self.entries("oci/bundles")? {
            let path = self.dir.join("oci/bundles").join(&id);
            if !running.contains(&id) {
                remove_dir(&path).map_err(|source| RuntimeError::State {
                    path,
                    action: "remove",
                    source,
                })?;
            }
        }
        self.cgroups.clean(running)
    }

    fn entries(&self, name: &str) -> Result<Vec<String>, RuntimeError> {
        let path = self.dir.join(name);
        let state = |source| RuntimeError::State {
            path: path.clone(),
            action: "read",
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(state)? {
            let name = entry.map_err(state)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        Ok(names)
    }
}

/// Whether the runtime has ended; `false` when it is to be killed.
fn ended(process: &OwnedFd, control: &Control, killing: bool) -> Result<bool, RuntimeError> {
    let retry = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(KILL_RETRY.subsec_nanos()),
    };
    let wake = control.wake();
    let mut fds = vec![PollFd::new(process, PollFlags::IN)];
    if !killing {
        fds.push(PollFd::new(&wake, PollFlags::IN));
    }
    loop {
        match poll(&mut fds, killing.then_some(&retry)) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(sandbox("wait for the runtime")(errno.into())),
        }
    }
    Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty()))
}

fn place(scratch: &mut Scratch, fd: &OwnedFd) -> io::Result<PathBuf> {
    let place = match is_directory(fd)? {
        true => scratch.place()?,
        false => scratch.file_place()?,
    };
    crate::mount::tree::attach_path(fd, &place)?;
    Ok(place)
}

/// A mount that the runtime makes.
fn kernel_mount(target: &Path, what: &What) -> Value {
    let mount = |kind: &str, options: &[&str]| config::own_mount(target, kind, options);
    let access = |writable: &bool| if *writable { "rw" } else { "ro" };
    match what {
        What::Proc => mount("proc", &["nosuid", "noexec", "nodev"]),
        What::Dev => mount(
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        What::Pts => {
            let options = [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ];
            mount("devpts", &options)
        }
        What::Mqueue => mount("mqueue", &["nosuid", "noexec", "nodev"]),
        What::Sys { writable } => mount("sysfs", &["nosuid", "noexec", "nodev", access(writable)]),
        What::Cgroup { writable } => {
            mount("cgroup", &["nosuid", "noexec", "nodev", access(writable)])
        }
        What::Shm { size } => {
            let size = format!("size={size}");
            mount("tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &size])
        }
        // Made by ourselves.
        What::ResolvConf | What::Hosts | What::Mount(_) | What::Secret(_) | What::Agent(_) => {
            Value::Null
        }
    }
}

/// Options of a bind mount that keep the flags of the mount that it copies.
fn mount_flags(fd: &OwnedFd) -> io::Result<Vec<&'static str>> {
    use rustix::fs::{StatVfsMountFlags, fstatvfs};
    let flags = fstatvfs(fd.as_fd())?.f_flag;
    let known = [
        (StatVfsMountFlags::RDONLY, "ro"),
        (StatVfsMountFlags::NOSUID, "nosuid"),
        (StatVfsMountFlags::NODEV, "nodev"),
        (StatVfsMountFlags::NOEXEC, "noexec"),
    ];
    let set = known.iter().filter(|(flag, _)| flags.contains(*flag));
    Ok(["rbind"]
        .into_iter()
        .chain(set.map(|(_, name)| *name))
        .collect())
}

fn write_bundle(bundle: &Path, config: &Value) -> Result<(), RuntimeError> {
    let write = || {
        remove_dir(bundle)?;
        // The environment is for nobody else to read.
        std::fs::DirBuilder::new().mode(0o700).create(bundle)?;
        std::fs::write(bundle.join("config.json"), config.to_string())
    };
    write().map_err(|source| RuntimeError::State {
        path: bundle.to_owned(),
        action: "write the bundle",
        source,
    })
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the runtime says of a program that it could not execute, in our words.
fn start_error(program: &str, message: &str) -> Option<RuntimeError> {
    let errno = [
        ("no such file or directory", libc::ENOENT),
        ("permission denied", libc::EACCES),
        ("exec format error", libc::ENOEXEC),
        ("argument list too long", libc::E2BIG),
    ];
    let about_exec = message.contains("exec:") || message.contains("exec ");
    let (_, errno) = errno.iter().find(|(text, _)| message.contains(text))?;
    about_exec.then(|| program::refused(program, io::Error::from_raw_os_error(*errno)))
}
