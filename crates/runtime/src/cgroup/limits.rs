//! Limits of a step, written to its cgroups.

use std::io;

use super::StepCgroup;
use super::group::Group;
use crate::error::RuntimeError;
use crate::spec::Resources;

/// The controllers that a step's v2 cgroup should have.
pub(super) fn unified_controllers(resources: &Resources) -> Vec<&'static str> {
    let mut controllers = vec!["memory"];
    if limits_cpu(resources) {
        controllers.push("cpu");
    }
    if limits_cpuset(resources) {
        controllers.push("cpuset");
    }
    controllers
}

/// The v1 controllers, besides memory, that a step needs.
pub(super) fn legacy_controllers(resources: &Resources) -> Vec<&'static str> {
    let mut controllers = unified_controllers(resources);
    controllers.remove(0);
    controllers
}

fn limits_cpu(resources: &Resources) -> bool {
    resources.cpu_shares != 0 || resources.cpu_quota != 0 || resources.cpu_period != 0
}

fn limits_cpuset(resources: &Resources) -> bool {
    !resources.cpuset_cpus.is_empty() || !resources.cpuset_mems.is_empty()
}

/// The period that the kernel has by default, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Sets the limits; one that no controller enforces is an error.
pub(super) fn apply(cgroup: &StepCgroup, resources: &Resources) -> Result<(), RuntimeError> {
    if resources.is_empty() {
        return Ok(());
    }
    if resources.memory != 0 || resources.memory_swap != 0 {
        match find(cgroup, "memory")? {
            Found::Unified(group) => memory_unified(group, resources)?,
            Found::Legacy(group) => memory_legacy(group, resources)?,
        }
    }
    if limits_cpu(resources) {
        match find(cgroup, "cpu")? {
            Found::Unified(group) => cpu_unified(group, resources)?,
            Found::Legacy(group) => cpu_legacy(group, resources)?,
        }
    }
    if limits_cpuset(resources) {
        let (Found::Unified(group) | Found::Legacy(group)) = find(cgroup, "cpuset")?;
        for (file, value) in [
            ("cpuset.cpus", &resources.cpuset_cpus),
            ("cpuset.mems", &resources.cpuset_mems),
        ] {
            if !value.is_empty() {
                set(group, file, value)?;
            }
        }
    }
    Ok(())
}

enum Found<'a> {
    Unified(&'a Group),
    Legacy(&'a Group),
}

fn find<'a>(cgroup: &'a StepCgroup, controller: &'static str) -> Result<Found<'a>, RuntimeError> {
    let mut legacy = cgroup.legacy.iter();
    if let Some(legacy) = legacy.find(|legacy| legacy.has_controller(controller)) {
        return Ok(Found::Legacy(&legacy.group));
    }
    match &cgroup.unified {
        Some(group) if group.has_controller(controller) => Ok(Found::Unified(group)),
        _ => Err(RuntimeError::LimitUnsupported {
            what: controller,
            reason: "the system has no such cgroup controller for us",
        }),
    }
}

/// Writes a limit that the kernel may refuse.
fn set(group: &Group, file: &'static str, value: &str) -> Result<(), RuntimeError> {
    group.write(file, value).map_err(|error| match error {
        RuntimeError::Cgroup { source, .. } if source.kind() != io::ErrorKind::NotFound => {
            RuntimeError::LimitRefused {
                file,
                value: value.to_owned(),
                source,
            }
        }
        other => other,
    })
}

fn memory_unified(group: &Group, resources: &Resources) -> Result<(), RuntimeError> {
    if resources.memory > 0 {
        set(group, "memory.max", &resources.memory.to_string())?;
    }
    match resources.memory_swap {
        0 => {}
        -1 => set(group, "memory.swap.max", "max")?,
        both => {
            let swap = both.saturating_sub(resources.memory.max(0)).max(0);
            set(group, "memory.swap.max", &swap.to_string())?;
        }
    }
    Ok(())
}

fn memory_legacy(group: &Group, resources: &Resources) -> Result<(), RuntimeError> {
    if resources.memory > 0 {
        set(
            group,
            "memory.limit_in_bytes",
            &resources.memory.to_string(),
        )?;
    }
    if resources.memory_swap != 0 {
        let value = resources.memory_swap.to_string();
        set(group, "memory.memsw.limit_in_bytes", &value)?;
    }
    Ok(())
}

fn cpu_unified(group: &Group, resources: &Resources) -> Result<(), RuntimeError> {
    if resources.cpu_shares != 0 {
        // 2 to 262144 shares become a weight of 1 to 10000.
        let shares = resources.cpu_shares.clamp(2, 262_144);
        let weight = 1 + ((shares - 2) * 9999) / 262_142;
        set(group, "cpu.weight", &weight.to_string())?;
    }
    if resources.cpu_quota != 0 || resources.cpu_period != 0 {
        let quota = match resources.cpu_quota {
            quota if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = match resources.cpu_period {
            0 => DEFAULT_PERIOD,
            period => period,
        };
        set(group, "cpu.max", &format!("{quota} {period}"))?;
    }
    Ok(())
}

fn cpu_legacy(group: &Group, resources: &Resources) -> Result<(), RuntimeError> {
    if resources.cpu_shares != 0 {
        set(group, "cpu.shares", &resources.cpu_shares.to_string())?;
    }
    if resources.cpu_period != 0 {
        set(
            group,
            "cpu.cfs_period_us",
            &resources.cpu_period.to_string(),
        )?;
    }
    if resources.cpu_quota != 0 {
        set(group, "cpu.cfs_quota_us", &resources.cpu_quota.to_string())?;
    }
    Ok(())
}
