//! Which mounts a step gets, in which order: the sandbox's own and those of the spec.

use std::path::{Component, Path, PathBuf};

use crate::agent::AgentSocket;
use crate::spec::{Secret, Security, StepMount, StepSpec};

/// The size of `/dev/shm` and of `/dev` in bytes, as docker has it.
pub(crate) const SHM_SIZE: u64 = 64 << 20;

/// Files of the kernel that a sandboxed step must not see.
pub(crate) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Files of the kernel that a sandboxed step must not write.
pub(crate) const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// One mount of the sandbox.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Where, absolute and without `.` and `..`.
    pub(crate) target: PathBuf,
    /// What.
    pub(crate) what: What,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum What {
    Proc,
    Dev,
    Pts,
    Shm { size: u64 },
    Mqueue,
    Sys { writable: bool },
    ResolvConf,
    Hosts,
    Cgroup { writable: bool },
    Mount(StepMount),
    Secret(Secret),
    Agent(AgentSocket),
}

/// Takes the mounts out of `step` and puts them in order: those of the sandbox first, then those of
/// the step, outer before inner. Of two on one target the later replaces the earlier in its place.
pub(crate) fn take_mounts(step: &mut StepSpec) -> Vec<Planned> {
    let writable = step.security == Security::Insecure;
    let size = step.shm_size.unwrap_or(SHM_SIZE);
    let own = [
        ("/proc", What::Proc),
        ("/dev", What::Dev),
        ("/dev/pts", What::Pts),
        ("/dev/shm", What::Shm { size }),
        ("/dev/mqueue", What::Mqueue),
        ("/sys", What::Sys { writable }),
        ("/etc/resolv.conf", What::ResolvConf),
        ("/etc/hosts", What::Hosts),
        ("/sys/fs/cgroup", What::Cgroup { writable }),
    ];
    let mut planned: Vec<Planned> = Vec::new();
    for (target, what) in own {
        let target = PathBuf::from(target);
        planned.push(Planned { target, what });
    }
    let mounts = std::mem::take(&mut step.mounts).into_iter();
    let secrets = std::mem::take(&mut step.secrets).into_iter();
    let agents = std::mem::take(&mut step.agents).into_iter();
    let mut asked: Vec<Planned> = mounts
        .map(|mount| (clean(&mount.target), What::Mount(mount)))
        .chain(secrets.map(|secret| (clean(&secret.target), What::Secret(secret))))
        .chain(agents.map(|agent| (clean(&agent.target), What::Agent(agent))))
        .map(|(target, what)| Planned { target, what })
        .collect();
    asked.sort_by(|a, b| a.target.cmp(&b.target));
    for mount in asked {
        match planned
            .iter_mut()
            .find(|known| known.target == mount.target)
        {
            Some(known) => *known = mount,
            None => planned.push(mount),
        }
    }
    planned
}

/// `path` without `.` and `..`, absolute.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{MountPlan, Source};

    fn tmpfs(target: &str) -> StepMount {
        StepMount {
            source: Source::Tmpfs { size: None },
            sub_path: PathBuf::new(),
            target: target.into(),
            read_only: false,
            no_suid: false,
        }
    }

    fn targets(mounts: Vec<StepMount>) -> Vec<String> {
        let root = Source::Plan(MountPlan::Bind("/".into()));
        let mut step = StepSpec::new("x", root, vec!["true".into()]);
        step.mounts = mounts;
        let planned = take_mounts(&mut step);
        planned
            .iter()
            .map(|planned| planned.target.display().to_string())
            .collect()
    }

    #[test]
    fn outer_targets_come_before_inner_ones() {
        let all = targets(vec![
            tmpfs("/a/b"),
            tmpfs("/a"),
            tmpfs("/a-b"),
            tmpfs("/./x/..//a/c"),
        ]);
        assert_eq!(all[9..], ["/a", "/a/b", "/a/c", "/a-b"]);
    }

    #[test]
    fn a_mount_replaces_the_sandbox_s_own_in_its_place() {
        let all = targets(vec![tmpfs("/dev/shm"), tmpfs("/dev/shm/")]);
        assert_eq!(all.len(), 9);
        assert_eq!(all[3], "/dev/shm");
    }
}
