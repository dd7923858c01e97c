//! What a step must say to be run.

use std::path::Path;

use crate::error::RuntimeError;
use crate::rlimit;
use crate::spec::StepSpec;

const LONGEST_ID: usize = 128;
/// As the kernel has it.
const LONGEST_HOSTNAME: usize = 64;

fn invalid(field: &'static str, reason: impl Into<String>) -> RuntimeError {
    RuntimeError::InvalidSpec {
        field,
        reason: reason.into(),
    }
}

/// Refuses a step that cannot be run whatever the system.
pub(crate) fn step(step: &StepSpec) -> Result<(), RuntimeError> {
    id(&step.id)?;
    if step.args.is_empty() {
        return Err(invalid("args", "there is no program to run"));
    }
    if step.hostname.len() > LONGEST_HOSTNAME {
        let reason = format!("longer than {LONGEST_HOSTNAME} bytes");
        return Err(invalid("hostname", reason));
    }
    absolute("cwd", &step.cwd)?;
    for mount in &step.mounts {
        absolute("mount target", &mount.target)?;
    }
    for secret in &step.secrets {
        absolute("secret target", &secret.target)?;
    }
    for agent in &step.agents {
        absolute("agent target", &agent.target)?;
    }
    if let Some(parent) = &step.cgroup_parent
        && parent.as_os_str().as_encoded_bytes().contains(&b'\n')
    {
        return Err(invalid("cgroup parent", "it has a line feed in it"));
    }
    for ulimit in &step.ulimits {
        rlimit::resolve(ulimit)?;
    }
    Ok(())
}

fn id(id: &str) -> Result<(), RuntimeError> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if first && id.bytes().all(known) && id.len() <= LONGEST_ID {
        Ok(())
    } else {
        Err(invalid("id", format!("{id:?} is not a valid id")))
    }
}

fn absolute(field: &'static str, path: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::ffi::OsStrExt;
    if !path.is_absolute() {
        return Err(invalid(field, format!("{path:?} is not absolute")));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid(
            field,
            format!("{path:?} has a NUL character in it"),
        ));
    }
    Ok(())
}
