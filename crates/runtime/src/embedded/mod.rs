//! The embedded runtime: the sandbox is built by a thread of this process, and the step's program is
//! the first process of its PID namespace, as with other container runtimes.
//!
//! The thread stays until the step has ended, since the kernel kills the step when the thread that
//! started it ends. So the step cannot outlive this process, whatever ends it.

mod build;
mod child;
mod clone;
mod dev;
mod join;
mod namespace;
mod proc;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::OFlags;
use rustix::process::{
    PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_open, waitid,
};
use tokio::sync::oneshot;

use crate::capability::{self, Held};
use crate::cgroup::{Cgroups, StepCgroup};
use crate::config::DnsConfig;
use crate::control::Control;
use crate::error::RuntimeError;
use crate::identity;
use crate::layout::take_mounts;
use crate::mount::{Listener, Materials, Scratch, Stubs};
use crate::output::Streams;
use crate::process::StepProcess;
use crate::program;
use crate::resolv;
use crate::rlimit;
use crate::seccomp::Filter;
use crate::spec::{Network, Security, StepSpec};
use crate::status::ExitStatus;
use build::Builder;
use child::{Capabilities, Child, Failed, Stage, Started};
pub(crate) use dev::{STANDARD as STANDARD_DEVICES, insecure_devices};
pub(crate) use namespace::Entered;

/// What all steps share.
#[derive(Debug)]
pub(crate) struct Embedded {
    scratch: PathBuf,
    cgroups: Cgroups,
    dns: DnsConfig,
    oom_score_adj: Option<i16>,
    held: Held,
    /// Compiled for the first step.
    filter: OnceLock<Filter>,
    set_groups: bool,
    /// This process; readable when it has ended.
    process: OwnedFd,
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
            filter: OnceLock::new(),
            set_groups,
            process,
        })
    }

    fn filter(&self) -> Result<&Filter, RuntimeError> {
        if let Some(filter) = self.filter.get() {
            return Ok(filter);
        }
        let bounding = capability::default_set() & self.held.bounding;
        let filter = Filter::new(bounding).map_err(sandbox("compile the system call filter"))?;
        Ok(self.filter.get_or_init(|| filter))
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
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        let cgroup = self.cgroups.create(&step)?;
        let entered = Entered::new(step.network).map_err(sandbox("make namespaces"))?;
        let mut stubs = Stubs::new(step.remove_stub_parents);
        let ended = self
            .start(step, streams, control, &cgroup, &mut stubs, listeners)
            .and_then(|started| {
                let seat = cgroup.seat().map_err(sandbox("open the cgroups"))?;
                let handle = StepProcess::new(&started.pidfd, seat);
                // Nobody may want to know.
                let _ = process.send(handle.map_err(sandbox("watch the process"))?);
                wait(started, control)
            });
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
        let planned = take_mounts(&mut step);
        let root = std::mem::replace(&mut step.root, crate::spec::Source::Tmpfs { size: None });
        let mut devices = std::mem::take(&mut step.devices);
        if step.security == Security::Insecure {
            devices.extend(insecure_devices());
        }
        let materials = self.materials(&step, cgroup)?;
        let mut builder = Builder::new(root, materials, cgroup.view(), devices, stubs)?;
        let ids = identity::find_user(builder.root(), &step.user)?;
        for mount in planned {
            builder.mount(mount)?;
        }
        let cwd = builder.open_cwd(&step.cwd, ids.uid, ids.gid)?;
        if step.security == Security::Sandbox {
            builder
                .protect_kernel()
                .map_err(sandbox("hide files of the kernel"))?;
        }
        let stdin = match streams.stdin {
            Some(stdin) => stdin,
            None => builder
                .open_null(OFlags::RDONLY)
                .map_err(sandbox("open /dev/null"))?,
        };
        let env = c_strings("env", &identity::environment(builder.root(), &step, &ids)?)?;
        let name = step.args.first().map_or("", String::as_str);
        let path = program::find(builder.root(), &step.cwd, &step.env, name)?;
        let built = builder.finish(step.read_only_root)?;
        // Nobody listens if the step was given up.
        let _ = listeners.send(built.listeners);
        let joined = cgroup.enter_legacy()?;
        if control.is_killed() {
            return Err(RuntimeError::Cancelled);
        }
        let filter = match step.security {
            Security::Sandbox => Some(self.filter()?),
            Security::Insecure => None,
        };
        let child = Child {
            program: c_string("args", path.into_os_string().into_vec())?,
            args: c_strings("args", &step.args)?,
            env,
            stdin: stdin.as_fd(),
            stdout: streams.stdout.as_fd(),
            stderr: streams.stderr.as_fd(),
            cwd: cwd.as_fd(),
            root: Some(built.root.as_fd()),
            terminal: streams.terminal,
            proc: built.proc.as_ref(),
            uid: ids.uid,
            gid: ids.gid,
            groups: identity::all_groups(&ids, &step),
            set_groups: self.set_groups,
            rlimits: step
                .ulimits
                .iter()
                .map(rlimit::resolve)
                .collect::<Result<_, _>>()?,
            capabilities: self.capabilities(step.security, ids.uid),
            filter,
            oom_score_adj: self.oom_score_adj.map(decimal),
            new_cgroup_namespace: self.cgroups.namespaced() && cgroup.unified_dir().is_some(),
            cgroup: cgroup.unified_dir(),
            parent: self.process.as_fd(),
        };
        let started = child.start().map_err(|failed| start_error(name, failed));
        drop(joined);
        started
    }

    fn materials(&self, step: &StepSpec, cgroup: &StepCgroup) -> Result<Materials, RuntimeError> {
        let scratch = Scratch::new(self.scratch.clone());
        let hosts = resolv::hosts(step.hostname(), &step.extra_hosts);
        let resolv_conf = resolv::resolv_conf(&self.dns, step.network)
            .map_err(sandbox("read /etc/resolv.conf"))?;
        let no_devices = cgroup.devices_unrestricted;
        Ok(Materials::new(scratch, hosts, resolv_conf, no_devices))
    }

    fn capabilities(&self, security: Security, uid: u32) -> Capabilities {
        let available = self.held.permitted & self.held.bounding;
        let default = capability::default_set();
        match security {
            Security::Sandbox => Capabilities {
                bounding: default,
                // Other users lose them when the program is executed; it is to be executable
                // without them.
                permitted: if uid == 0 { default & available } else { 0 },
                ambient: 0,
            },
            Security::Insecure => Capabilities {
                bounding: self.held.bounding,
                permitted: available,
                ambient: available,
            },
        }
    }
}

fn prepare_namespaces(step: &StepSpec) -> Result<(), RuntimeError> {
    rustix::system::sethostname(step.hostname().as_bytes())
        .map_err(|errno| sandbox("set the hostname")(errno.into()))?;
    if step.network == Network::None {
        namespace::loopback_up().map_err(sandbox("bring up the loopback interface"))?;
    }
    Ok(())
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
