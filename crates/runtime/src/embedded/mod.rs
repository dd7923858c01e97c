//! The embedded runtime: the sandbox is built by a thread of this process, and the step's program is
//! the first process of its PID namespace, as with other container runtimes.
//!
//! The thread stays until the step has ended, since the kernel kills the step when the thread that
//! started it ends. So the step cannot outlive this process, whatever ends it.

mod assets;
mod build;
mod child;
mod clone;
mod dev;
mod namespace;
mod overlay;
mod program;
mod rlimit;
mod root;
mod scratch;
mod tree;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::process::{
    PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_open, waitid,
};
use tokio::sync::oneshot;

use crate::capability::{self, Held};
use crate::cgroup::{Cgroups, StepCgroup};
use crate::config::DnsConfig;
use crate::control::Control;
use crate::error::RuntimeError;
use crate::layout::take_mounts;
use crate::resolv;
use crate::seccomp::Filter;
use crate::spec::{Network, Security, StepSpec, User, UserIds};
use crate::status::ExitStatus;
use crate::user;
pub(crate) use build::Listener;
use build::{Builder, Inputs};
use child::{Capabilities, Child, Failed, Stage, Started};
pub(crate) use dev::STANDARD as STANDARD_DEVICES;
use namespace::Entered;
pub(crate) use rlimit::resolve as resolve_ulimit;
use root::Stubs;
use scratch::Scratch;

/// What all steps share.
#[derive(Debug)]
pub(crate) struct Embedded {
    scratch: PathBuf,
    cgroups: Cgroups,
    dns: DnsConfig,
    oom_score_adj: Option<i16>,
    held: Held,
    filter: Filter,
    set_groups: bool,
    /// This process; readable when it has ended.
    process: OwnedFd,
}

/// The ends of a step's output that it writes to.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

fn sandbox(action: &'static str) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Sandbox { action, source }
}

impl Embedded {
    pub(crate) fn new(
        scratch: PathBuf,
        cgroups: Cgroups,
        dns: DnsConfig,
        oom_score_adj: Option<i16>,
    ) -> Result<Self, RuntimeError> {
        let held = Held::read().map_err(sandbox("read this process's capabilities"))?;
        let bounding = capability::default_set() & held.bounding;
        let filter = Filter::new(bounding).map_err(sandbox("compile the system call filter"))?;
        let process = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|errno| sandbox("open this process")(errno.into()))?;
        // Says `deny` in a user namespace without helpers.
        let set_groups = std::fs::read_to_string("/proc/self/setgroups")
            .map_or(true, |text| text.trim() != "deny");
        Ok(Self {
            scratch,
            cgroups,
            dns,
            oom_score_adj,
            held,
            filter,
            set_groups,
            process,
        })
    }

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Runs a step to its end on the calling thread, which must be used for nothing else.
    pub(crate) fn supervise(
        &self,
        step: StepSpec,
        streams: Streams,
        control: &Control,
        listeners: oneshot::Sender<Vec<Listener>>,
    ) -> Result<ExitStatus, RuntimeError> {
        let cgroup = self.cgroups.create(&step)?;
        let entered = Entered::new(step.network).map_err(sandbox("make namespaces"))?;
        let mut stubs = Stubs::new(step.remove_stub_parents);
        let ended = self
            .start(step, streams, control, &cgroup, &mut stubs, listeners)
            .and_then(|started| wait(started, control));
        entered.leave();
        let cleaned = stubs
            .remove_empty()
            .map_err(sandbox("remove unused mount points"));
        let status = ended.map(|status| ExitStatus {
            oom_killed: !status.success() && cgroup.oom_killed(),
            ..status
        });
        // The step has run; what remains of its cgroup is removed at the next start.
        if let Err(error) = cgroup.remove() {
            tracing::warn!("{error}");
        }
        let status = status?;
        cleaned.map(|()| status)
    }

    fn start(
        &self,
        mut step: StepSpec,
        streams: Streams,
        control: &Control,
        cgroup: &StepCgroup,
        stubs: &mut Stubs,
        listeners: oneshot::Sender<Vec<Listener>>,
    ) -> Result<Started, RuntimeError> {
        prepare_namespaces(&step)?;
        // Opened while the host's files can be seen.
        let stdin = dev::open_null().map_err(sandbox("open /dev/null"))?;
        let planned = take_mounts(&mut step);
        let root = std::mem::replace(&mut step.root, crate::spec::Source::Tmpfs { size: None });
        let mut builder = Builder::new(root, self.inputs(&step, cgroup)?, stubs)?;
        let ids = find_user(&builder, &step.user)?;
        for mount in planned {
            builder.mount(mount)?;
        }
        let cwd = builder.open_cwd(&step.cwd, ids.uid, ids.gid)?;
        if step.security == Security::Sandbox {
            builder
                .protect_kernel()
                .map_err(sandbox("hide files of the kernel"))?;
        }
        let env = environment(&builder, &step, &ids)?;
        let name = step.args.first().map_or("", String::as_str);
        let path = program::find(builder.root(), &step.cwd, &step.env, name)?;
        let sockets = builder.enter(step.read_only_root)?;
        // Nobody listens if the step was given up.
        let _ = listeners.send(sockets);
        let joined = cgroup.enter_legacy()?;
        if control.is_killed() {
            return Err(RuntimeError::Cancelled);
        }
        let child = Child {
            program: c_string("args", path.into_os_string().into_vec())?,
            args: c_strings("args", &step.args)?,
            env,
            stdin: stdin.as_fd(),
            stdout: streams.stdout.as_fd(),
            stderr: streams.stderr.as_fd(),
            cwd: cwd.as_fd(),
            uid: ids.uid,
            gid: ids.gid,
            groups: all_groups(&ids),
            set_groups: self.set_groups,
            rlimits: step
                .ulimits
                .iter()
                .map(rlimit::resolve)
                .collect::<Result<_, _>>()?,
            capabilities: self.capabilities(step.security),
            filter: (step.security == Security::Sandbox).then_some(&self.filter),
            oom_score_adj: self.oom_score_adj.map(decimal),
            new_cgroup_namespace: self.cgroups.namespaced() && cgroup.unified_dir().is_some(),
            cgroup: cgroup.unified_dir(),
            parent: self.process.as_fd(),
        };
        let started = child.start().map_err(|failed| start_error(name, failed));
        drop(joined);
        started
    }

    fn inputs<'a>(
        &self,
        step: &StepSpec,
        cgroup: &'a StepCgroup,
    ) -> Result<Inputs<'a>, RuntimeError> {
        let mut devices = step.devices.clone();
        if step.security == Security::Insecure {
            devices.extend(dev::insecure_devices());
        }
        Ok(Inputs {
            scratch: Scratch::new(self.scratch.clone()),
            hosts: resolv::hosts(hostname(step), &step.extra_hosts),
            resolv_conf: resolv::resolv_conf(&self.dns, step.network)
                .map_err(sandbox("read /etc/resolv.conf"))?,
            cgroup: cgroup.view(),
            devices,
            no_devices: cgroup.devices_unrestricted,
        })
    }

    fn capabilities(&self, security: Security) -> Capabilities {
        let available = self.held.permitted & self.held.bounding;
        match security {
            Security::Sandbox => {
                let default = capability::default_set();
                Capabilities {
                    bounding: default,
                    permitted: default & available,
                    ambient: 0,
                }
            }
            Security::Insecure => Capabilities {
                bounding: self.held.bounding,
                permitted: available,
                ambient: available,
            },
        }
    }
}

fn hostname(step: &StepSpec) -> &str {
    match step.hostname.as_str() {
        "" => crate::spec::DEFAULT_HOSTNAME,
        name => name,
    }
}

fn prepare_namespaces(step: &StepSpec) -> Result<(), RuntimeError> {
    rustix::system::sethostname(hostname(step).as_bytes())
        .map_err(|errno| sandbox("set the hostname")(errno.into()))?;
    if step.network == Network::None {
        namespace::loopback_up().map_err(sandbox("bring up the loopback interface"))?;
    }
    Ok(())
}

fn find_user(builder: &Builder<'_>, user: &User) -> Result<UserIds, RuntimeError> {
    match user {
        User::Ids(ids) => Ok(ids.clone()),
        User::Named(name) => Ok(user::lookup(builder.root(), name)?),
    }
}

/// The supplementary groups, with the primary one among them as other runtimes have it.
fn all_groups(ids: &UserIds) -> Vec<u32> {
    let mut groups = vec![ids.gid];
    groups.extend(ids.groups.iter().filter(|group| **group != ids.gid));
    groups
}

fn environment(
    builder: &Builder<'_>,
    step: &StepSpec,
    ids: &UserIds,
) -> Result<Vec<CString>, RuntimeError> {
    let mut env = c_strings("env", &step.env)?;
    let set = |entry: &String| {
        entry
            .strip_prefix("HOME=")
            .is_some_and(|home| !home.is_empty())
    };
    if !step.env.iter().any(set) {
        env.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
        let home = user::home(builder.root().as_fd(), ids.uid)?;
        env.push(c_string("env", [b"HOME=", home.as_slice()].concat())?);
    }
    Ok(env)
}

fn c_string(field: &'static str, bytes: Vec<u8>) -> Result<CString, RuntimeError> {
    CString::new(bytes).map_err(|_| RuntimeError::InvalidSpec {
        field,
        reason: "a value has a NUL character in it".to_owned(),
    })
}

fn c_strings(field: &'static str, values: &[String]) -> Result<Vec<CString>, RuntimeError> {
    let values = values.iter();
    values
        .map(|value| c_string(field, value.clone().into_bytes()))
        .collect()
}

/// A number has no NUL in it.
fn decimal(value: i16) -> CString {
    CString::new(value.to_string()).unwrap_or_default()
}

fn start_error(program: &str, failed: Failed) -> RuntimeError {
    match failed.stage {
        Stage::Execute => program::refused(program, failed.source),
        stage => sandbox(stage.action())(failed.source),
    }
}

/// Waits for the end of a step, whose processes are all dead then.
fn wait(started: Started, control: &Control) -> Result<ExitStatus, RuntimeError> {
    let process = started
        .pidfd
        .try_clone()
        .map_err(sandbox("watch the process"))?;
    control.started(process);
    let status = loop {
        match waitid(WaitId::PidFd(started.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => break status,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(sandbox("wait for the process")(errno.into())),
        }
    };
    Ok(exit_status(&status))
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus {
            code,
            signal: None,
            oom_killed: false,
        },
        (None, signal) => ExitStatus {
            code: 128 + signal.unwrap_or(0),
            signal,
            oom_killed: false,
        },
    }
}
