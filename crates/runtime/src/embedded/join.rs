//! Further processes of a running step.
//!
//! A thread of its own enters the namespaces of the step's first process, and starts the program
//! as that one was started; only that there is nothing to be built.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{
    ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe,
};
use tokio::sync::oneshot;

use super::child::Child;
use super::{Embedded, c_string, c_strings, decimal, sandbox, start_error, wait};
use crate::control::Control;
use crate::error::RuntimeError;
use crate::mount::{Missing, Root, Stubs, is_directory};
use crate::output::Streams;
use crate::process::StepProcess;
use crate::spec::{Security, StepSpec};
use crate::status::ExitStatus;
use crate::{identity, program};

impl Embedded {
    /// Runs a program in the sandbox of a running step, to its end and on the calling thread, which
    /// must be used for nothing else. Of the step's spec only what concerns the process counts.
    pub(crate) fn join(
        &self,
        inside: &StepProcess,
        step: &StepSpec,
        streams: Streams,
        control: &Control,
        process: oneshot::Sender<StepProcess>,
    ) -> Result<ExitStatus, RuntimeError> {
        // One that ends meanwhile fails in other words.
        let or_ended = |error| match inside.has_ended() {
            true => RuntimeError::StepEnded,
            false => error,
        };
        // What the cgroups of this process are is not seen from inside.
        let joined = inside.seat().enter_legacy();
        let joined = joined.map_err(|error| or_ended(sandbox("join the cgroups")(error)))?;
        enter(inside).map_err(or_ended)?;
        let root = open_root()?;
        let mut stubs = Stubs::new(false);
        let mut root = Root::new(root, &mut stubs).map_err(sandbox("open the root"))?;
        let ids = identity::find_user(&root, &step.user)?;
        let cwd = open_cwd(&mut root, step, ids.uid, ids.gid)?;
        let env = c_strings("env", &identity::environment(&root, step, &ids)?)?;
        let name = step.args.first().map_or("", String::as_str);
        let path = program::find(&root, &step.cwd, &step.env, name)?;
        let stdin = match streams.stdin {
            Some(stdin) => stdin,
            None => null()?,
        };
        if control.is_killed() {
            return Err(RuntimeError::Cancelled);
        }
        let child = Child {
            program: c_string(
                "args",
                std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string()),
            )?,
            args: c_strings("args", &step.args)?,
            env,
            stdin: stdin.as_fd(),
            stdout: streams.stdout.as_fd(),
            stderr: streams.stderr.as_fd(),
            cwd: cwd.as_fd(),
            root: None,
            terminal: streams.terminal,
            proc: None,
            uid: ids.uid,
            gid: ids.gid,
            groups: identity::all_groups(&ids, step),
            set_groups: self.set_groups,
            rlimits: Vec::new(),
            capabilities: self.capabilities(step.security, ids.uid),
            filter: match step.security {
                Security::Sandbox => Some(self.filter()?),
                Security::Insecure => None,
            },
            oom_score_adj: self.oom_score_adj.map(decimal),
            new_cgroup_namespace: false,
            cgroup: inside.seat().unified_dir(),
            parent: self.process.as_fd(),
        };
        let started = child.start().map_err(|failed| start_error(name, failed));
        drop(joined);
        let started = started?;
        let handle = inside.sibling(&started.pidfd);
        // Nobody may want to know.
        let _ = process.send(handle.map_err(sandbox("watch the process"))?);
        wait(started, control)
    }
}

/// Moves the calling thread into the step's namespaces.
fn enter(inside: &StepProcess) -> Result<(), RuntimeError> {
    let failed = |errno: rustix::io::Errno| sandbox("enter the sandbox")(errno.into());
    // SAFETY: descriptors stay shared with the other threads.
    unsafe { unshare_unsafe(UnshareFlags::FS).map_err(failed)? };
    let spaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into_thread_name_spaces(inside.pidfd(), spaces).map_err(failed)
}

fn open_root() -> Result<OwnedFd, RuntimeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, "/", flags, Mode::empty());
    opened.map_err(|errno| sandbox("open the root")(errno.into()))
}

fn null() -> Result<OwnedFd, RuntimeError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(CWD, "/dev/null", flags, Mode::empty());
    opened.map_err(|errno| sandbox("open /dev/null")(errno.into()))
}

fn open_cwd(
    root: &mut Root<'_>,
    step: &StepSpec,
    uid: u32,
    gid: u32,
) -> Result<OwnedFd, RuntimeError> {
    let failed = |source| RuntimeError::WorkingDirectory {
        path: step.cwd.clone(),
        source,
    };
    let missing = Missing::Directory { uid, gid };
    let fd = root.open_or_create(&step.cwd, missing).map_err(failed)?;
    match is_directory(&fd).map_err(failed)? {
        true => Ok(fd),
        false => Err(failed(rustix::io::Errno::NOTDIR.into())),
    }
}
