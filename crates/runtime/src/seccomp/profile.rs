//! Docker's default system call profile as data.

use super::numbers::NUMBERS;

/// What a call may be given so that it is allowed. Several rules for one call: any allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The argument is less than the value.
    Less(u32),
    /// The argument is the value.
    Equal(u32),
    /// The argument is greater than the value.
    Greater(u32),
    /// None of these bits is set in the argument.
    NoneOf(u32),
}

/// What the profile says of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Allowed.
    Allow,
    /// Allowed if the first argument fulfils one of the conditions.
    If(Vec<Condition>),
    /// Fails with this error number.
    Fail(u16),
}

/// Allowed without conditions. Kernels before 4.8, where a filter can be evaded by `ptrace`, are too
/// old for this crate.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget",
    "capset", "chdir", "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range", "creat", "dup",
    "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
    "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat",
    "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat",
    "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr",
    "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate",
    "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "getcpu", "getcwd", "getdents", "getdents64", "getegid",
    "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32",
    "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit",
    "get_robust_list", "getrusage", "getsid", "getsockname", "getsockopt", "get_thread_area",
    "gettid", "gettimeofday", "getuid", "getuid32", "getxattr", "getxattrat", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "ioctl", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64", "ioprio_get", "ioprio_set",
    "io_setup", "io_submit", "ipc", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listen",
    "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2",
    "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open",
    "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock",
    "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "_newselect", "open",
    "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv",
    "preadv2", "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv",
    "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr",
    "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "riscv_hwprobe",
    "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget",
    "semop", "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg",
    "sendmsg", "sendto", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32",
    "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority", "setregid", "setregid32",
    "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit",
    "set_robust_list", "setsid", "setsockopt", "set_thread_area", "set_tid_address", "setuid",
    "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
    "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall", "socketpair",
    "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat",
    "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create",
    "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
    "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask",
    "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimensat_time64", "utimes",
    "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write", "writev", "process_vm_readv",
    "process_vm_writev", "ptrace",
];

/// Allowed on x86-64; unknown elsewhere.
const X86_64: &[&str] = &["arch_prctl", "modify_ldt"];

const SYS_ADMIN: u32 = 21;

/// Allowed to those that have a capability, by its number.
#[rustfmt::skip]
const BY_CAPABILITY: &[(u32, &[&str])] = &[
    // CAP_DAC_READ_SEARCH
    (2, &[
        "open_by_handle_at",
    ]),
    // CAP_SYS_ADMIN
    (SYS_ADMIN, &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    // CAP_SYS_BOOT
    (22, &[
        "reboot",
    ]),
    // CAP_SYS_CHROOT
    (18, &[
        "chroot",
    ]),
    // CAP_SYS_MODULE
    (16, &[
        "delete_module", "init_module", "finit_module",
    ]),
    // CAP_SYS_PACCT
    (20, &[
        "acct",
    ]),
    // CAP_SYS_PTRACE
    (19, &[
        "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev",
        "ptrace",
    ]),
    // CAP_SYS_RAWIO
    (17, &[
        "iopl", "ioperm",
    ]),
    // CAP_SYS_TIME
    (25, &[
        "settimeofday", "stime", "clock_settime", "clock_settime64",
    ]),
    // CAP_SYS_TTY_CONFIG
    (26, &[
        "vhangup",
    ]),
    // CAP_SYS_NICE
    (23, &[
        "get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node",
    ]),
    // CAP_SYSLOG
    (34, &[
        "syslog",
    ]),
    // CAP_BPF
    (39, &[
        "bpf",
    ]),
    // CAP_PERFMON
    (38, &[
        "perf_event_open",
    ]),
];
/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
/// Execution domains: Linux, Linux with 32-bit `uname`, without address randomisation, and the
/// question for the current one.
const PERSONALITIES: &[u32] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a process whose bounding set of capabilities is `capabilities`. Calls
/// that are not named fail with `EPERM`.
pub(crate) fn default_profile(capabilities: u64) -> Vec<(&'static str, Verdict)> {
    let has = |number: u32| capabilities & (1 << number) != 0;
    let granted = BY_CAPABILITY.iter().filter(|(number, _)| has(*number));
    let allowed = ALWAYS
        .iter()
        .chain(X86_64)
        .chain(granted.flat_map(|(_, names)| names.iter()));
    let mut profile: Vec<_> = allowed.map(|name| (*name, Verdict::Allow)).collect();
    let families = vec![
        Condition::Less(AF_ALG),
        Condition::Equal(AF_ALG + 1),
        Condition::Greater(AF_VSOCK),
    ];
    profile.push(("socket", Verdict::If(families)));
    let personalities = PERSONALITIES.iter().map(|value| Condition::Equal(*value));
    profile.push(("personality", Verdict::If(personalities.collect())));
    if !has(SYS_ADMIN) {
        let no_namespaces = vec![Condition::NoneOf(CLONE_NAMESPACES)];
        profile.push(("clone", Verdict::If(no_namespaces)));
        // Its arguments cannot be seen; told that there is none, the C library uses `clone`.
        let nosys = u16::try_from(libc::ENOSYS).unwrap_or(u16::MAX);
        profile.push(("clone3", Verdict::Fail(nosys)));
    }
    profile.sort_by_key(|(name, _)| *name);
    profile.dedup();
    profile.retain(|(name, _)| NUMBERS.iter().any(|row| row.0 == *name));
    profile
}
