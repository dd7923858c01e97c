//! What a step may do.

use std::path::Path;

use weld_runtime::{Device, DeviceAccess, DeviceKind, Network, Resources, Security, User};

use crate::bed::Bed;

/// Docker's default capabilities.
const DEFAULT: u64 = 0xa804_25fb;

fn capabilities(text: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| u64::from_str_radix(line.strip_prefix("Cap")?.get(5..)?, 16).ok())
        .collect()
}

#[tokio::test]
async fn capabilities_of_a_sandboxed_step() {
    let bed = Bed::new();
    let out = bed.sh("grep ^Cap /proc/self/status").await.ok();
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(capabilities(&out), [0, DEFAULT, DEFAULT, DEFAULT, 0]);
    let mut step = bed.script("grep ^Cap /proc/self/status");
    step.user = User::Named("app".into());
    let out = bed.run(step).await.unwrap().ok();
    assert_eq!(capabilities(&out), [0, 0, 0, DEFAULT, 0]);
}

#[tokio::test]
async fn capabilities_of_an_insecure_step() {
    let bed = Bed::new();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = capabilities(&own)[1];
    for user in ["root", "app"] {
        let mut step = bed.script("grep ^Cap /proc/self/status");
        step.security = Security::Insecure;
        step.user = User::Named(user.into());
        let out = bed.run(step).await.unwrap().ok();
        assert_eq!(capabilities(&out)[1..3], [own, own], "{user}: {out}");
    }
}

#[tokio::test]
async fn forbidden_calls_of_a_sandboxed_step() {
    let bed = Bed::new();
    for command in [
        "mount -t tmpfs x /tmp",
        "unshare -m true",
        "unshare -U true",
        "umount /proc",
        "hostname other",
        "swapoff /dev/null",
        "chroot / unshare -n true",
    ] {
        let ran = bed.sh(command).await;
        assert_ne!(ran.status.code, 0, "{command}: {ran:?}");
    }
    bed.sh("chroot / true; mknod /node c 1 3 && chown 5:5 /node")
        .await
        .ok();
}

#[tokio::test]
async fn an_insecure_step_may_mount() {
    let bed = Bed::new();
    let mut step = bed.script("mount -t tmpfs x /tmp && unshare -m true && mkdir /sys/fs/cgroup/x 2>/dev/null; test -c /dev/fuse && test -b /dev/loop0 && grep Seccomp: /proc/self/status");
    step.security = Security::Insecure;
    assert_eq!(bed.run(step).await.unwrap().ok(), "Seccomp:\t0\n");
}

#[tokio::test]
async fn the_host_s_devices_cannot_be_used() {
    let bed = Bed::new();
    let ran = bed.sh("mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; mknod /tmp/null c 1 3 && echo x > /tmp/null && echo fine").await;
    assert_eq!(ran.stdout, "fine\n", "{ran:?}");
    assert!(
        ran.stderr.contains("/tmp/disk: Operation not permitted"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_device_that_was_asked_for() {
    let bed = Bed::new();
    let mut step = bed.script("stat -c '%a %u %g %t:%T' /dev/sub/own; dd if=/dev/sub/own bs=1 count=1 2>/dev/null | wc -c; mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk");
    step.devices = vec![Device {
        path: "/dev/sub/own".into(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 183,
        mode: 0o640,
        uid: 3,
        gid: 4,
        access: DeviceAccess::FULL,
    }];
    let ran = bed.run(step).await.unwrap();
    assert!(ran.stdout.starts_with("640 3 4 a:b7\n"), "{ran:?}");
    assert!(
        ran.stderr.contains("/tmp/disk: Operation not permitted"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_device_that_may_be_read_only_or_written_only() {
    let bed = Bed::new();
    let device = |name: &str, access| Device {
        path: Path::new("/dev").join(name),
        kind: DeviceKind::Char,
        // Devices that no step has otherwise; these numbers have to open without more rights.
        major: 10,
        minor: if name == "read" { 229 } else { 200 },
        mode: 0o666,
        uid: 0,
        gid: 0,
        access,
    };
    let mut step = bed.script(
        "for d in read write; do \
         sh -c \"true < /dev/$d\" && echo $d read; sh -c \"true > /dev/$d\" && echo $d written; done; true",
    );
    let (read, write) = (true, false);
    step.devices = vec![
        device("read", DeviceAccess { read, write }),
        device(
            "write",
            DeviceAccess {
                read: write,
                write: read,
            },
        ),
    ];
    let ran = bed.run(step).await.unwrap();
    assert_eq!(ran.stdout, "read read\nwrite written\n", "{ran:?}");
    let denied = ran.stderr.matches("Operation not permitted").count();
    assert_eq!(denied, 2, "{ran:?}");
}

#[tokio::test]
async fn groups_beyond_those_of_the_user() {
    let bed = Bed::new();
    let groups = |out: String| -> Vec<u32> {
        let mut groups: Vec<_> = out
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        groups.sort_unstable();
        groups
    };
    let mut expected = groups(bed.sh("id -G").await.ok());
    let mut step = bed.script("id -G");
    step.extra_groups = vec![4044, 0, 4044, 4007];
    expected.extend([4007, 4044]);
    assert_eq!(groups(bed.run(step).await.unwrap().ok()), expected);
}

#[tokio::test]
async fn networks() {
    let bed = Bed::new();
    let links = |network| {
        let mut step = bed.script("ls /sys/class/net; ip -o addr | grep -c 'inet 127.0.0.1'; ping -c 1 -W 1 127.0.0.1 >/dev/null && echo up");
        step.network = network;
        async { bed.run(step).await.unwrap().stdout }
    };
    assert_eq!(links(Network::None).await, "lo\n1\nup\n");
    let host = std::fs::read_dir("/sys/class/net").unwrap().count();
    let seen = links(Network::Host).await;
    assert_eq!(seen.lines().count(), host + 2, "{seen}");
}

#[tokio::test]
async fn memory_runs_out() {
    let bed = Bed::new();
    let mut step = bed.script("head -c 200000000 /dev/zero | tail -n 1 | wc -c; exit 7");
    step.resources = Resources {
        memory: 30 << 20,
        ..Resources::default()
    };
    let ran = bed.run(step).await.unwrap();
    assert!(ran.status.oom_killed, "{ran:?}");
    assert_eq!(ran.status.code, 7);
    let ran = bed.sh("exit 7").await;
    assert!(!ran.status.oom_killed);
}

#[tokio::test]
async fn limits_show_in_the_sandbox() {
    let bed = Bed::new();
    let mut step = bed.script(
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/cpu.max; grep Cpus_allowed_list /proc/self/status",
    );
    step.resources = Resources {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        cpuset_cpus: "0".into(),
        ..Resources::default()
    };
    let out = bed.run(step).await.unwrap().ok();
    assert!(
        out.starts_with("50000\n512\n") || out.starts_with("50000 100000\n"),
        "{out}"
    );
    assert!(out.ends_with("Cpus_allowed_list:\t0\n"), "{out}");
}

#[tokio::test]
async fn processors_that_are_not_there_are_told_with_those_that_are() {
    let bed = Bed::new();
    let mut step = bed.script("true");
    step.resources = Resources {
        cpuset_cpus: "0,4000".into(),
        ..Resources::default()
    };
    let error = bed.run(step).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cpuset-cpus \"0,4000\": not available (available: 0"),
        "{error}"
    );
}

#[tokio::test]
async fn a_limit_that_the_kernel_refuses_is_told_with_its_value() {
    let bed = Bed::new();
    let mut step = bed.script("true");
    step.resources = Resources {
        cpu_period: 7,
        ..Resources::default()
    };
    let error = bed.run(step).await.unwrap_err().to_string();
    let told = error.starts_with("the kernel refuses cpu.")
        && error.contains("7\": Invalid argument")
        && error.ends_with("(cgroup limits of the step)");
    assert!(told, "{error}");
}

#[tokio::test]
async fn only_its_own_processes_show() {
    let bed = Bed::new();
    let out = bed
        .sh("echo $$; tr '\\0' ' ' < /proc/1/cmdline | cut -c1-5; ls /proc > /tmp/listed; grep -c '^[0-9]' /tmp/listed; kill -0 2 && ls /proc/2")
        .await;
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines[..2], ["1", "sh -c"], "{out:?}");
    // The shell and `ls`.
    assert_eq!(lines[2..], ["2"], "{out:?}");
}

/// The filter covers the 32-bit calls, which a 64-bit program can make too.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_of_32_bit_programs() {
    let bed = Bed::new();
    let source = r#"
        #include <stdio.h>
        static long call(long number, long argument) {
            long result;
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(argument) : "memory");
            return result;
        }
        int main(void) {
            // getpid, mount, socket of AF_ALG, one that no kernel has
            printf("%ld %ld %ld %ld\n", call(20, 0), call(21, 0), call(359, 38), call(900, 0));
            return 0;
        }"#;
    bed.compile("bin/calls", source);
    assert_eq!(bed.sh("exec calls").await.ok(), "1 -1 -1 -38\n");
}

#[tokio::test]
async fn a_cgroup_parent_of_its_own() {
    let bed = Bed::new();
    let mut step = bed.script("cat /proc/self/cgroup");
    step.cgroup_parent = Some("/weld-test/inner".into());
    let out = bed.run(step).await.unwrap().ok();
    // In a cgroup namespace the step's own cgroup is the root.
    assert!(
        out.contains(":/weld-test/inner/weld/") || out == "0::/\n",
        "{out}"
    );
    let mut step = bed.script("true");
    step.cgroup_parent = Some("system.slice:docker:x".into());
    let error = bed.run(step).await.unwrap_err().to_string();
    assert!(error.contains("slice:prefix:name"), "{error}");
}
