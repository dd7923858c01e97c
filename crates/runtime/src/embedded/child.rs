//! The last steps before the program of a step runs: a child that shares this process's memory,
//! gives up its rights and executes the program.
//!
//! The child is started as `vfork` does it, so that its start does not depend on how much memory
//! this process has, and it needs no channel to tell its parent of a failure. The price is that it
//! must not allocate, take locks or panic, and that it does nothing but system calls on what the
//! parent prepared. The parent's thread sleeps until the child has executed the program or ended.

mod rights;

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::clone::{self, Flags};
use super::proc::{ProcMount, ProcPlan};
use crate::capability::Set;
use crate::seccomp::Filter;

/// What the child does and to whom it belongs.
pub(super) struct Child<'a> {
    pub(super) program: CString,
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) stdin: BorrowedFd<'a>,
    pub(super) stdout: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) cwd: BorrowedFd<'a>,
    /// What becomes the root directory: the root of a mount. `None` where the calling thread has
    /// the right one.
    pub(super) root: Option<BorrowedFd<'a>>,
    /// Whether standard input becomes the controlling terminal.
    pub(super) terminal: bool,
    pub(super) proc: Option<&'a ProcMount>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) set_groups: bool,
    pub(super) rlimits: Vec<(u32, libc::rlimit64)>,
    pub(super) capabilities: Capabilities,
    pub(super) filter: Option<&'a Filter>,
    pub(super) oom_score_adj: Option<CString>,
    /// Whether the cgroup that it starts in becomes the root of what it sees.
    pub(super) new_cgroup_namespace: bool,
    /// The v2 cgroup that it starts in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// A descriptor that becomes readable when this process ends.
    pub(super) parent: BorrowedFd<'a>,
}

/// The capability sets of the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// What the program and its children could ever have.
    pub(super) bounding: Set,
    /// What it has.
    pub(super) permitted: Set,
    /// What it keeps, as another user too.
    pub(super) ambient: Set,
}

/// A started program.
#[derive(Debug)]
pub(super) struct Started {
    /// The process; readable when it has ended.
    pub(super) pidfd: OwnedFd,
}

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Stage {
    Clone,
    Parent,
    Proc,
    Root,
    CgroupNamespace,
    OomScore,
    Session,
    Keyring,
    Streams,
    Terminal,
    Rlimits,
    WorkingDirectory,
    Bounding,
    Filter,
    Groups,
    User,
    Capabilities,
    Ambient,
    DeathSignal,
    Execute,
}

impl Stage {
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Clone => "start a process",
            Self::Parent => "start a process: its parent is gone",
            Self::Proc => "mount /proc",
            Self::Root => "change the root directory",
            Self::CgroupNamespace => "make a cgroup namespace",
            Self::OomScore => "set the out-of-memory score",
            Self::Session => "start a session",
            Self::Keyring => "join a new keyring",
            Self::Streams => "set up the standard streams",
            Self::Terminal => "take the terminal",
            Self::Rlimits => "set the ulimits",
            Self::WorkingDirectory => "enter the working directory",
            Self::Bounding => "drop capabilities",
            Self::Filter => "install the system call filter",
            Self::Groups => "set the groups",
            Self::User => "set the user",
            Self::Capabilities => "set the capabilities",
            Self::Ambient => "set the ambient capabilities",
            Self::DeathSignal => "tie the process to this one",
            Self::Execute => "execute the program",
        }
    }
}

/// Why the program was not started.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) stage: Stage,
    pub(super) source: io::Error,
}

/// What the child reads, as pointers that are valid while the parent sleeps.
struct Plan {
    program: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
    streams: [RawFd; 3],
    cwd: RawFd,
    /// -1 for none.
    root: RawFd,
    terminal: bool,
    proc: *const ProcPlan,
    uid: u32,
    gid: u32,
    groups: *const u32,
    group_count: usize,
    set_groups: bool,
    rlimits: *const (u32, libc::rlimit64),
    rlimit_count: usize,
    capabilities: Capabilities,
    filter: *const libc::sock_fprog,
    oom_score_adj: *const c_char,
    oom_score_adj_len: usize,
    new_cgroup_namespace: bool,
    parent: RawFd,
    /// Written by the child, read by the parent once it runs again.
    outcome: UnsafeCell<Option<(Stage, i32)>>,
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let all = strings.iter().map(|string| string.as_ptr());
    all.chain([ptr::null()]).collect()
}

impl Child<'_> {
    /// Starts the program. The calling thread must live as long as it shall run: it is killed when
    /// the thread ends.
    pub(super) fn start(&self) -> Result<Started, Failed> {
        let (args, env) = (pointers(&self.args), pointers(&self.env));
        let adj = self.oom_score_adj.as_deref();
        let program = self.filter.map(Filter::program);
        let proc = self.proc.map(ProcMount::plan);
        let plan = Plan {
            program: self.program.as_ptr(),
            args: args.as_ptr(),
            env: env.as_ptr(),
            streams: [&self.stdin, &self.stdout, &self.stderr].map(AsRawFd::as_raw_fd),
            cwd: self.cwd.as_raw_fd(),
            root: self.root.map_or(-1, |fd| fd.as_raw_fd()),
            terminal: self.terminal,
            proc: proc.as_ref().map_or(ptr::null(), ptr::from_ref),
            uid: self.uid,
            gid: self.gid,
            groups: self.groups.as_ptr(),
            group_count: self.groups.len(),
            set_groups: self.set_groups,
            rlimits: self.rlimits.as_ptr(),
            rlimit_count: self.rlimits.len(),
            capabilities: self.capabilities,
            filter: program.as_ref().map_or(ptr::null(), ptr::from_ref),
            oom_score_adj: adj.map_or(ptr::null(), CStr::as_ptr),
            oom_score_adj_len: adj.map_or(0, CStr::count_bytes),
            new_cgroup_namespace: self.new_cgroup_namespace,
            parent: self.parent.as_raw_fd(),
            outcome: UnsafeCell::new(None),
        };
        let flags = Flags {
            cgroup: self.cgroup.map(|fd| fd.as_raw_fd()),
        };
        // SAFETY: `run_child` only makes system calls on what `plan` points to, which outlives the
        // call since it returns after the child has executed the program or ended.
        let pidfd = unsafe { clone::vfork(run_child, ptr::from_ref(&plan).cast(), flags) }
            .map_err(|source| Failed {
                stage: Stage::Clone,
                source,
            })?;
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: the child does not use the memory any more.
        match unsafe { *plan.outcome.get() } {
            None => Ok(Started { pidfd }),
            Some((stage, errno)) => {
                reap(&pidfd);
                Err(Failed {
                    stage,
                    source: io::Error::from_raw_os_error(errno),
                })
            }
        }
    }
}

fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    // It has ended, or is about to; nothing can be done about an error.
    let _ = waitid(
        WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)),
        WaitIdOptions::EXITED,
    );
}

/// The child's start. Never returns.
extern "C" fn run_child(plan: *const libc::c_void) -> ! {
    // SAFETY: `Child::start` gave a pointer to a `Plan` that it keeps while this runs.
    let plan = unsafe { &*plan.cast::<Plan>() };
    // SAFETY: this is the child of a `vfork`, with what `Child::start` promised.
    let failure = unsafe { become_program(plan) };
    // SAFETY: the parent sleeps, so that nobody else uses the cell.
    unsafe { *plan.outcome.get() = Some(failure) };
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

type Step = Result<(), (Stage, i32)>;

/// Does everything that the program's process must do itself, and executes the program.
///
/// # Safety
/// Must run in a child that shares nothing but memory with its parent, whose thread sleeps.
unsafe fn become_program(plan: &Plan) -> (Stage, i32) {
    // SAFETY: as promised to this function.
    let prepared = unsafe {
        reset_signals();
        check_parent(plan)
            .and_then(|()| mount_proc(plan))
            .and_then(|()| change_root(plan))
            .and_then(|()| enter_cgroup_namespace(plan))
            .and_then(|()| set_oom_score(plan))
            .and_then(|()| start_session())
            .and_then(|()| set_streams(plan))
            .and_then(|()| control_terminal(plan))
            .and_then(|()| set_rlimits(plan))
            .and_then(|()| change_directory(plan))
            .and_then(|()| rights::drop_bounding(plan))
            .and_then(|()| rights::install_filter(plan))
            .and_then(|()| rights::change_user(plan))
            .and_then(|()| rights::set_capabilities(plan))
            .and_then(|()| die_with_parent(plan))
    };
    match prepared {
        Err(failure) => failure,
        // SAFETY: as promised to this function.
        Ok(()) => (Stage::Execute, unsafe { execute(plan) }),
    }
}

fn errno() -> i32 {
    // SAFETY: the thread-local variable of the parent's thread, which sleeps.
    unsafe { *libc::__errno_location() }
}

fn check(stage: Stage, result: i64) -> Step {
    if result < 0 {
        Err((stage, errno()))
    } else {
        Ok(())
    }
}

/// `prctl` with one argument, all of them as wide as the kernel reads them.
unsafe fn prctl(option: c_int, argument: c_ulong) -> i64 {
    let zero: c_ulong = 0;
    // SAFETY: as the caller promises.
    unsafe { libc::prctl(option, argument, zero, zero, zero).into() }
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct SignalAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const LAST_SIGNAL: c_int = 64;

/// The program starts with all signals at their defaults and none blocked.
unsafe fn reset_signals() {
    // SAFETY: plain system calls; the child has its own table of handlers.
    unsafe {
        let action = SignalAction {
            handler: libc::SIG_DFL,
            flags: 0,
            restorer: 0,
            mask: 0,
        };
        for signal in 1..=LAST_SIGNAL {
            let none = ptr::null_mut::<SignalAction>();
            let action = &raw const action;
            // KILL and STOP cannot be changed. The C library's function would leave out those
            // that it keeps for itself.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                action,
                none,
                size_of::<u64>(),
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

unsafe fn check_parent(plan: &Plan) -> Step {
    let mut fd = libc::pollfd {
        fd: plan.parent,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor in a structure of ours.
    match unsafe { libc::poll(&raw mut fd, 1, 0) } {
        0 => Ok(()),
        _ => Err((Stage::Parent, libc::ESRCH)),
    }
}

unsafe fn mount_proc(plan: &Plan) -> Step {
    // SAFETY: null or a plan that the parent keeps.
    let mounted = unsafe {
        match plan.proc.as_ref() {
            None => Some(()),
            Some(plan) => super::proc::mount(plan),
        }
    };
    mounted.ok_or_else(|| (Stage::Proc, errno()))
}

/// Not before `/proc` is mounted: in a user namespace that is allowed only where one is visible.
unsafe fn change_root(plan: &Plan) -> Step {
    if plan.root < 0 {
        return Ok(());
    }
    let here = c".".as_ptr();
    // SAFETY: literal strings, and a descriptor of this process.
    unsafe {
        check(Stage::Root, libc::fchdir(plan.root).into())?;
        // The old root ends up on top of the new one, from where it is detached.
        check(Stage::Root, libc::syscall(libc::SYS_pivot_root, here, here))?;
        check(Stage::Root, libc::umount2(here, libc::MNT_DETACH).into())?;
        check(Stage::Root, libc::chdir(c"/".as_ptr()).into())
    }
}

unsafe fn enter_cgroup_namespace(plan: &Plan) -> Step {
    if !plan.new_cgroup_namespace {
        return Ok(());
    }
    // SAFETY: changes this process only.
    let result = unsafe { libc::unshare(libc::CLONE_NEWCGROUP) };
    check(Stage::CgroupNamespace, result.into())
}

unsafe fn set_oom_score(plan: &Plan) -> Step {
    if plan.oom_score_adj.is_null() {
        return Ok(());
    }
    // SAFETY: a literal path and a buffer of the given length.
    unsafe {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        check(Stage::OomScore, fd.into())?;
        let written = libc::write(fd, plan.oom_score_adj.cast(), plan.oom_score_adj_len);
        check(Stage::OomScore, written as i64)
    }
}

/// A session and a keyring of its own, so that nothing of ours can be reached through them.
unsafe fn start_session() -> Step {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: change this process only.
    unsafe {
        check(Stage::Session, libc::setsid().into())?;
        let name = ptr::null::<c_char>();
        let joined = libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);
        // A kernel without keyrings has none to be protected.
        if joined < 0 && errno() == libc::ENOSYS {
            return Ok(());
        }
        check(Stage::Keyring, joined)
    }
}

/// Puts the streams on 0, 1 and 2; everything else is closed when the program is executed.
unsafe fn set_streams(plan: &Plan) -> Step {
    // SAFETY: descriptors of the child's own table.
    unsafe {
        let mut safe = [0; 3];
        for (safe, fd) in safe.iter_mut().zip(plan.streams) {
            // Above 2, so that none is overwritten before it is used.
            *safe = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
            check(Stage::Streams, (*safe).into())?;
        }
        for (target, fd) in (0..).zip(safe) {
            check(Stage::Streams, libc::dup2(fd, target).into())?;
        }
        const CLOSE_RANGE_CLOEXEC: c_int = 4;
        let closed = libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC);
        check(Stage::Streams, closed)
    }
}

/// Makes standard input the terminal of the session that the process leads.
unsafe fn control_terminal(plan: &Plan) -> Step {
    if !plan.terminal {
        return Ok(());
    }
    // SAFETY: a descriptor of this process.
    let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY as _, 0) };
    check(Stage::Terminal, result.into())
}

unsafe fn set_rlimits(plan: &Plan) -> Step {
    for index in 0..plan.rlimit_count {
        // SAFETY: within the slice that the parent keeps.
        let result = unsafe {
            let (resource, limit) = &*plan.rlimits.add(index);
            let none = ptr::null::<libc::rlimit64>();
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                ptr::from_ref(limit),
                none,
            )
        };
        check(Stage::Rlimits, result)?;
    }
    Ok(())
}

unsafe fn change_directory(plan: &Plan) -> Step {
    // SAFETY: changes this process only.
    unsafe {
        check(Stage::WorkingDirectory, libc::fchdir(plan.cwd).into())?;
        libc::umask(0o022);
    }
    Ok(())
}

/// Set last, since a change of user resets it.
unsafe fn die_with_parent(plan: &Plan) -> Step {
    // SAFETY: changes this process only.
    unsafe {
        const KILL: c_ulong = libc::SIGKILL as c_ulong;
        check(Stage::DeathSignal, prctl(libc::PR_SET_PDEATHSIG, KILL))?;
        check_parent(plan)
    }
}

/// How often a program that is still open for writing is tried again, a millisecond apart: another
/// child of this process may hold a file that was just written until it executes its own program.
const BUSY_RETRIES: u32 = 100;

unsafe fn execute(plan: &Plan) -> i32 {
    let mut tries = 0;
    loop {
        // SAFETY: strings and arrays that the parent keeps.
        unsafe { libc::execve(plan.program, plan.args, plan.env) };
        let failure = errno();
        if failure != libc::ETXTBSY || tries == BUSY_RETRIES {
            return failure;
        }
        tries += 1;
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        // SAFETY: a structure of ours.
        unsafe { libc::nanosleep(&raw const pause, ptr::null_mut()) };
    }
}
