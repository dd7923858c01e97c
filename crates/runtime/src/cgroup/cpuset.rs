//! Which processors and memory nodes a step can be bound to.

use std::path::Path;

use super::system::System;
use crate::error::RuntimeError;
use crate::spec::Resources;

/// The kinds of what a step is bound to: what it is called, the file of a v1 cpuset, and that of a v2 cgroup.
const KINDS: [(&str, &str, &str); 2] = [
    ("cpuset-cpus", "cpuset.cpus", "cpuset.cpus.effective"),
    ("cpuset-mems", "cpuset.mems", "cpuset.mems.effective"),
];

/// Refuses what this machine does not have. Where it does not tell what it has, the kernel refuses it when the step is to run.
pub(super) fn check(system: &System, resources: &Resources) -> Result<(), RuntimeError> {
    let wanted = [&resources.cpuset_cpus, &resources.cpuset_mems];
    for ((what, legacy, unified), wanted) in KINDS.into_iter().zip(wanted) {
        if wanted.is_empty() {
            continue;
        }
        let available = match (system.legacy_with("cpuset"), &system.unified) {
            (Some(hierarchy), _) => read(&hierarchy.mount, legacy),
            (None, Some(hierarchy)) => read(&hierarchy.mount, unified),
            (None, None) => None,
        };
        let Some(available) = available else {
            continue;
        };
        let (Some(ranges), Some(all)) = (ranges(wanted), ranges(&available)) else {
            continue;
        };
        if !ranges.iter().all(|range| is_within(*range, &all)) {
            return Err(RuntimeError::NotAvailable {
                what,
                wanted: wanted.clone(),
                available,
            });
        }
    }
    Ok(())
}

/// The root of a hierarchy has all that there is.
fn read(mount: &Path, file: &str) -> Option<String> {
    let list = std::fs::read_to_string(mount.join(file)).ok()?;
    let list = list.trim();
    (!list.is_empty()).then(|| list.to_owned())
}

/// The ranges of a list such as `0-3,7`, in order; `None` if it is none.
fn ranges(list: &str) -> Option<Vec<(u32, u32)>> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    let mut ranges = list.split(',').map(range).collect::<Option<Vec<_>>>()?;
    ranges.sort_unstable();
    Some(ranges)
}

/// Whether every number of a range is in one of those that are there, which are in order.
fn is_within((first, last): (u32, u32), there: &[(u32, u32)]) -> bool {
    let mut next = u64::from(first);
    for (from, to) in there {
        if (u64::from(*from)..=u64::from(*to)).contains(&next) {
            next = u64::from(*to) + 1;
        }
    }
    next > u64::from(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_lie_across_several() {
        let there = ranges("0-1,2-3,8").unwrap();
        for (list, is_there) in [
            ("0", true),
            ("0-3", true),
            ("1-2,8", true),
            ("4", false),
            ("2-4", false),
            ("3-8", false),
            ("7-8", false),
            ("0-4294967295", false),
        ] {
            let wanted = ranges(list).unwrap();
            let found = wanted.iter().all(|range| is_within(*range, &there));
            assert_eq!(found, is_there, "{list}");
        }
        assert_eq!(ranges("x"), None);
    }
}
