//! Who a step's process is: its user, groups and environment.

use std::os::fd::AsFd;

use crate::error::RuntimeError;
use crate::mount::Root;
use crate::spec::{StepSpec, User, UserIds};
use crate::user;

pub(crate) fn find_user(root: &Root<'_>, user: &User) -> Result<UserIds, RuntimeError> {
    match user {
        User::Ids(ids) => Ok(ids.clone()),
        User::Named(name) => Ok(user::lookup(root, name)?),
    }
}

/// The supplementary groups, with the primary one among them as other runtimes have it, each once.
pub(crate) fn all_groups(ids: &UserIds, step: &StepSpec) -> Vec<u32> {
    let mut groups = vec![ids.gid];
    for group in ids.groups.iter().chain(&step.extra_groups) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    groups
}

/// The step's environment, with the user's home directory if it names none.
pub(crate) fn environment(
    root: &Root<'_>,
    step: &StepSpec,
    ids: &UserIds,
) -> Result<Vec<String>, RuntimeError> {
    let mut env = step.env.clone();
    let set = |entry: &String| {
        entry
            .strip_prefix("HOME=")
            .is_some_and(|home| !home.is_empty())
    };
    if !env.iter().any(set) {
        env.retain(|entry| !entry.starts_with("HOME="));
        let home = user::home(root.as_fd(), ids.uid)?;
        env.push(format!("HOME={}", String::from_utf8_lossy(&home)));
    }
    Ok(env)
}
