//! `clone3` with memory shared and the calling thread asleep, on a stack of the child's own.

use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Where the child starts.
pub(super) struct Flags {
    /// The directory of the v2 cgroup that it starts in.
    pub(super) cgroup: Option<RawFd>,
}

/// The kernel's `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child needs is little; the rest is for the frames of an unoptimised build.
const STACK_SIZE: usize = 64 << 10;
const GUARD_SIZE: usize = 4 << 10;

/// Memory for the child's stack, with a page below that may not be touched.
struct Stack(*mut libc::c_void);

impl Stack {
    fn new() -> io::Result<Self> {
        let size = STACK_SIZE + GUARD_SIZE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: new memory, of which the lowest page is then made inaccessible.
        unsafe {
            let base = libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0);
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self(base);
            if libc::mprotect(base, GUARD_SIZE, libc::PROT_NONE) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: memory that `new` made and nobody uses any more.
        unsafe { libc::munmap(self.0, STACK_SIZE + GUARD_SIZE) };
    }
}

/// Runs `child` in a new process that shares this one's memory, and returns the process's
/// descriptor once it has executed a program or ended. Signals are blocked in the child until it
/// unblocks them, since a handler of this process must not run there.
///
/// # Safety
/// `child` must only do what is safe in a process with this one's memory and thread-local storage,
/// and `argument` must be what it expects.
pub(super) unsafe fn vfork(
    child: extern "C" fn(*const libc::c_void) -> !,
    argument: *const libc::c_void,
    flags: Flags,
) -> io::Result<RawFd> {
    let stack = Stack::new()?;
    let mut pidfd: RawFd = -1;
    let shared = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let mut args = CloneArgs {
        flags: u64::from(shared.cast_unsigned()),
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: stack.0 as u64 + GUARD_SIZE as u64,
        stack_size: STACK_SIZE as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = flags.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.cast_unsigned());
    }
    // SAFETY: signals are blocked around the call; `args` and the stack outlive the child's use of
    // them, since the kernel resumes this thread only then.
    let result = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = clone3(&args, child, argument);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        result
    };
    match i32::try_from(result) {
        Ok(pid) if pid > 0 => Ok(pidfd),
        Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// The system call, whose child calls `child` on its new stack. Answers as the kernel does.
///
/// # Safety
/// As [`vfork`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &CloneArgs,
    child: extern "C" fn(*const libc::c_void) -> !,
    argument: *const libc::c_void,
) -> i64 {
    let mut result: i64 = libc::SYS_clone3;
    // SAFETY: in the parent the block is a plain system call; the child leaves it for a function
    // that never returns, on a stack whose top is aligned as the ABI wants it before a call.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inout("rax") result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") child,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The system call, whose child calls `child` on its new stack. Answers as the kernel does.
///
/// # Safety
/// As [`vfork`].
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &CloneArgs,
    child: extern "C" fn(*const libc::c_void) -> !,
    argument: *const libc::c_void,
) -> i64 {
    let mut result = ptr::from_ref(args) as i64;
    // SAFETY: in the parent the block is a plain system call; the child leaves it for a function
    // that never returns, on a stack whose top is aligned as the ABI wants it.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "br x9",
            "2:",
            inout("x0") result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x9") child,
            in("x10") argument,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the embedded runtime knows x86-64 and AArch64");
