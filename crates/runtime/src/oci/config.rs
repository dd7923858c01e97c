//! A step as the `config.json` of an OCI bundle.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::capability::{self, Held};
use crate::embedded::STANDARD_DEVICES;
use crate::layout::{MASKED, READ_ONLY};
use crate::seccomp::{Condition, Verdict, default_profile};
use crate::spec::{
    Device, DeviceAccess, DeviceKind, Network, Resources, Security, StepSpec, Ulimit, UserIds,
};

/// What the configuration says besides the step's own settings.
pub(super) struct Inputs<'a> {
    pub(super) step: &'a StepSpec,
    pub(super) root: &'a Path,
    pub(super) mounts: Vec<Value>,
    pub(super) ids: &'a UserIds,
    pub(super) groups: Vec<u32>,
    pub(super) env: Vec<String>,
    pub(super) cgroup: Option<PathBuf>,
    /// Whether the step gets a cgroup namespace.
    pub(super) cgroup_namespace: bool,
    pub(super) oom_score_adj: Option<i16>,
    pub(super) held: Held,
    pub(super) devices: Vec<Device>,
}

pub(super) fn config(inputs: Inputs<'_>) -> Value {
    let step = inputs.step;
    let sandbox = step.security == Security::Sandbox;
    let mut linux = json!({
        "namespaces": namespaces(step.network, inputs.cgroup_namespace),
        "maskedPaths": if sandbox { MASKED } else { &[] },
        "readonlyPaths": if sandbox { READ_ONLY } else { &[] },
        "resources": resources(&step.resources, &inputs.devices, step.security),
        "devices": inputs.devices.iter().map(device).collect::<Vec<_>>(),
        "seccomp": sandbox.then(seccomp),
    });
    if let (Some(path), Some(linux)) = (&inputs.cgroup, linux.as_object_mut()) {
        linux.insert("cgroupsPath".to_owned(), json!(path));
    }
    json!({
        "ociVersion": "1.0.2",
        "hostname": step.hostname(),
        "root": { "path": inputs.root, "readonly": step.read_only_root },
        "process": {
            "terminal": false,
            "user": {
                "uid": inputs.ids.uid,
                "gid": inputs.ids.gid,
                "umask": 0o022,
                "additionalGids": inputs.groups,
            },
            "args": step.args,
            "env": inputs.env,
            "cwd": step.cwd,
            "capabilities": capabilities(step.security, inputs.held),
            "rlimits": step.ulimits.iter().map(rlimit).collect::<Vec<_>>(),
            "noNewPrivileges": false,
            "oomScoreAdj": inputs.oom_score_adj,
        },
        "mounts": inputs.mounts,
        "linux": linux,
    })
}

fn namespaces(network: Network, cgroup: bool) -> Vec<Value> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if network == Network::None {
        kinds.push("network");
    }
    if cgroup {
        kinds.push("cgroup");
    }
    kinds
        .into_iter()
        .map(|kind| json!({ "type": kind }))
        .collect()
}

fn capabilities(security: Security, held: Held) -> Value {
    let available = held.permitted & held.bounding;
    match security {
        Security::Sandbox => {
            let names = capability::names(capability::default_set() & available);
            json!({ "bounding": names, "effective": names, "permitted": names })
        }
        Security::Insecure => {
            let names = capability::names(available);
            json!({
                "bounding": names,
                "effective": names,
                "permitted": names,
                "inheritable": names,
                "ambient": names,
            })
        }
    }
}

fn rlimit(ulimit: &Ulimit) -> Value {
    json!({
        "type": format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
        // -1 is the largest value.
        "soft": ulimit.soft.cast_unsigned(),
        "hard": ulimit.hard.cast_unsigned(),
    })
}

fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Char => "c",
        DeviceKind::Block => "b",
    }
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path,
        "type": kind(device.kind),
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

fn resources(resources: &Resources, devices: &[Device], security: Security) -> Value {
    let allow = |kind: &str, major: u32, minor: u32, access: DeviceAccess| json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access.letters() });
    let rules: Vec<Value> = match security {
        Security::Insecure => vec![
            json!({ "allow": true, "type": "c", "access": "rwm" }),
            json!({ "allow": true, "type": "b", "access": "rwm" }),
        ],
        Security::Sandbox => {
            let standard = STANDARD_DEVICES.iter();
            let standard =
                standard.map(|(_, major, minor)| allow("c", *major, *minor, DeviceAccess::FULL));
            let own = devices.iter().map(|device| {
                let Device { major, minor, .. } = *device;
                allow(kind(device.kind), major, minor, device.access)
            });
            [json!({ "allow": false, "access": "rwm" })]
                .into_iter()
                .chain(standard)
                .chain(own)
                .collect()
        }
    };
    let mut memory = json!({});
    if let Some(memory) = memory.as_object_mut() {
        insert(
            memory,
            "limit",
            resources.memory != 0,
            json!(resources.memory),
        );
        insert(
            memory,
            "swap",
            resources.memory_swap != 0,
            json!(resources.memory_swap),
        );
    }
    let mut cpu = json!({});
    if let Some(cpu) = cpu.as_object_mut() {
        insert(
            cpu,
            "shares",
            resources.cpu_shares != 0,
            json!(resources.cpu_shares),
        );
        insert(
            cpu,
            "quota",
            resources.cpu_quota != 0,
            json!(resources.cpu_quota),
        );
        insert(
            cpu,
            "period",
            resources.cpu_period != 0,
            json!(resources.cpu_period),
        );
        insert(
            cpu,
            "cpus",
            !resources.cpuset_cpus.is_empty(),
            json!(resources.cpuset_cpus),
        );
        insert(
            cpu,
            "mems",
            !resources.cpuset_mems.is_empty(),
            json!(resources.cpuset_mems),
        );
    }
    json!({ "devices": rules, "memory": memory, "cpu": cpu })
}

fn insert(object: &mut serde_json::Map<String, Value>, key: &str, set: bool, value: Value) {
    if set {
        object.insert(key.to_owned(), value);
    }
}

fn seccomp() -> Value {
    let architectures: &[&str] = if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    };
    let mut allowed = Vec::new();
    let mut rules = Vec::new();
    for (name, verdict) in default_profile(capability::default_set()) {
        match verdict {
            Verdict::Allow => allowed.push(name),
            Verdict::Fail(errno) => rules.push(json!({
                "names": [name],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno,
            })),
            Verdict::If(conditions) => rules.extend(conditions.iter().map(|condition| {
                json!({
                    "names": [name],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [argument(*condition)],
                })
            })),
        }
    }
    rules.insert(0, json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures,
        "syscalls": rules,
    })
}

fn argument(condition: Condition) -> Value {
    let (value, op) = match condition {
        Condition::Less(value) => (value, "SCMP_CMP_LT"),
        Condition::Equal(value) => (value, "SCMP_CMP_EQ"),
        Condition::Greater(value) => (value, "SCMP_CMP_GT"),
        Condition::NoneOf(bits) => (bits, "SCMP_CMP_MASKED_EQ"),
    };
    json!({ "index": 0, "value": value, "valueTwo": 0, "op": op })
}

/// A mount of the sandbox's own.
pub(super) fn own_mount(target: &Path, kind: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": kind, "options": options })
}

/// A mount of what is at `source`, whose read-only state and other flags are those of that mount.
pub(super) fn bind_mount(target: &Path, source: &Path, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}
