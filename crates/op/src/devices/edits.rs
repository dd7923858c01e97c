//! What a step gets with its devices.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, major, minor, stat};
use weld_runtime::{
    Device as DeviceNode, DeviceAccess, DeviceKind, MountPlan, Source, StepMount, StepSpec,
};

use super::document::{Edits, Mount, Node};
use super::{Device, DeviceError};

/// Options of mounts that change nothing here: all mounts of steps are private, and bind what is
/// below as well.
const PLAIN: [&str; 8] = [
    "bind", "rbind", "rw", "private", "rprivate", "slave", "rslave", "nodev",
];

/// Gives devices to a step. What the files of several devices have in common is given once.
pub(crate) fn give(devices: &[Device], step: &mut StepSpec) -> Result<(), DeviceError> {
    let mut given: Vec<&Arc<Edits>> = Vec::new();
    for device in devices {
        for edits in [&device.common, &device.own] {
            if given.iter().any(|other| Arc::ptr_eq(other, edits)) {
                continue;
            }
            given.push(edits);
            apply(edits, step).map_err(|reason| DeviceError::Edit {
                device: device.name.clone(),
                reason,
            })?;
        }
    }
    Ok(())
}

fn apply(edits: &Edits, step: &mut StepSpec) -> Result<(), String> {
    if let Some(hook) = edits.hooks.first() {
        let (name, path) = (&hook.hook_name, hook.path.display());
        return Err(format!("hooks are not run: {name} {path}"));
    }
    let others = [
        ("intelRdt", edits.intel_rdt.is_some()),
        ("netDevices", !edits.net_devices.is_empty()),
    ];
    if let Some((name, _)) = others.into_iter().find(|(_, is_there)| *is_there) {
        return Err(format!("{name} is not supported"));
    }
    for entry in &edits.env {
        let Some((name, _)) = entry.split_once('=') else {
            return Err(format!("env {entry:?} is not NAME=VALUE"));
        };
        let is_other = |set: &String| set.split_once('=').is_none_or(|(set, _)| set != name);
        step.env.retain(is_other);
        step.env.push(entry.clone());
    }
    // None of them is root's: as the interface has it, 0 says nothing.
    let groups = edits.additional_gids.iter().filter(|group| **group != 0);
    step.extra_groups.extend(groups);
    for node in &edits.device_nodes {
        step.devices.push(device_node(node)?);
    }
    for mount in &edits.mounts {
        step.mounts.push(host_mount(mount)?);
    }
    Ok(())
}

fn device_node(node: &Node) -> Result<DeviceNode, String> {
    let path = &node.path;
    if !path.starts_with("/dev") || path.components().count() < 3 {
        return Err(format!("device node {} is not below /dev", path.display()));
    }
    let access = access(&node.permissions)
        .ok_or_else(|| format!("permissions {:?} of {}", node.permissions, path.display()))?;
    let (kind, major, minor) = match (node.kind.as_str(), node.major, node.minor) {
        (kind @ ("b" | "c" | "u"), major, minor) if (major, minor) != (0, 0) => {
            let kind = match kind {
                "b" => DeviceKind::Block,
                _ => DeviceKind::Char,
            };
            (kind, major, minor)
        }
        (stated @ ("" | "b" | "c" | "u"), ..) => {
            let found = on_host(node.host_path.as_deref().unwrap_or(path))?;
            let is_same = match found.0 {
                DeviceKind::Block => matches!(stated, "" | "b"),
                DeviceKind::Char => matches!(stated, "" | "c" | "u"),
            };
            if !is_same {
                return Err(format!("{} is not of type {stated:?}", path.display()));
            }
            found
        }
        (other, ..) => {
            return Err(format!(
                "{}: type {other:?} is not supported",
                path.display()
            ));
        }
    };
    Ok(DeviceNode {
        path: path.clone(),
        kind,
        major,
        minor,
        mode: node.file_mode.unwrap_or(0o666) & 0o777,
        uid: node.uid.unwrap_or(0),
        gid: node.gid.unwrap_or(0),
        access,
    })
}

/// What letters allow; nothing said allows all. Nodes may be made anyway (`m`).
fn access(permissions: &str) -> Option<DeviceAccess> {
    if permissions.is_empty() {
        return Some(DeviceAccess::FULL);
    }
    let known = permissions
        .chars()
        .all(|letter| matches!(letter, 'r' | 'w' | 'm'));
    known.then(|| DeviceAccess {
        read: permissions.contains('r'),
        write: permissions.contains('w'),
    })
}

fn on_host(path: &Path) -> Result<(DeviceKind, u32, u32), String> {
    let found = stat(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::BlockDevice => DeviceKind::Block,
        FileType::CharacterDevice => DeviceKind::Char,
        _ => return Err(format!("{} is no device", path.display())),
    };
    Ok((kind, major(found.st_rdev), minor(found.st_rdev)))
}

fn host_mount(mount: &Mount) -> Result<StepMount, String> {
    let target = &mount.container_path;
    let wrong = |reason: String| Err(format!("mount {}: {reason}", target.display()));
    if !matches!(mount.kind.as_str(), "" | "none" | "bind") {
        return wrong(format!("type {:?} is not supported", mount.kind));
    }
    if !target.is_absolute() || !mount.host_path.is_absolute() {
        return wrong("its paths are not absolute".to_owned());
    }
    let (mut read_only, mut no_suid) = (false, false);
    for option in &mount.options {
        match option.as_str() {
            "ro" => read_only = true,
            "nosuid" => no_suid = true,
            plain if PLAIN.contains(&plain) => {}
            other => return wrong(format!("option {other:?} is not supported")),
        }
    }
    Ok(StepMount {
        source: Source::Plan(MountPlan::Bind(mount.host_path.clone())),
        sub_path: std::path::PathBuf::new(),
        target: target.clone(),
        read_only,
        no_suid,
    })
}
