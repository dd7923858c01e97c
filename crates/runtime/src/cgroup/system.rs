//! Which cgroup hierarchies the system has: v1, v2, or both.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// The cgroup hierarchies that this process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct System {
    /// The v2 hierarchy.
    pub(crate) unified: Option<Hierarchy>,
    /// The v1 hierarchies.
    pub(crate) legacy: Vec<Hierarchy>,
}

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The directory of this process's cgroup in it.
    pub(crate) own: PathBuf,
    /// The controllers of a v1 hierarchy, `name=…` for a named one.
    pub(crate) controllers: Vec<String>,
}

impl System {
    /// Reads what `/proc` says of this process.
    pub(crate) fn detect() -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &own))
    }

    fn parse(mounts: &str, own: &str) -> Self {
        let own = parse_own(own);
        let mut system = Self::default();
        for mount in mounts.lines().filter_map(parse_mount) {
            let key = match mount.kind {
                "cgroup2" => String::new(),
                _ => mount.controllers.join(","),
            };
            let path = own.get(&key).map_or("/", String::as_str);
            // A part of the hierarchy may be mounted, as in a container.
            let below = Path::new(path)
                .strip_prefix(mount.root)
                .unwrap_or(Path::new(""));
            let hierarchy = Hierarchy {
                own: mount.target.join(below),
                mount: mount.target,
                controllers: mount.controllers,
            };
            if mount.kind == "cgroup2" {
                system.unified.get_or_insert(hierarchy);
            } else if !system
                .legacy
                .iter()
                .any(|known| known.controllers == hierarchy.controllers)
            {
                system.legacy.push(hierarchy);
            }
        }
        system
    }

    /// The v1 hierarchy of `controller`.
    pub(crate) fn legacy_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.legacy
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }
}

struct Mount<'a> {
    root: &'a str,
    target: PathBuf,
    kind: &'a str,
    controllers: Vec<String>,
}

/// `id parent dev root target options [tags…] - kind source super-options`.
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, target) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    if kind != "cgroup" && kind != "cgroup2" {
        return None;
    }
    const NOT_CONTROLLERS: [&str; 5] = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    let options = right.nth(1).unwrap_or_default();
    let controllers = match kind {
        "cgroup2" => Vec::new(),
        _ => options
            .split(',')
            .filter(|option| {
                !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent")
            })
            .map(str::to_owned)
            .collect(),
    };
    Some(Mount {
        root,
        target: PathBuf::from(unescape(target)),
        kind,
        controllers,
    })
}

/// `id:controllers:path`, by controllers.
fn parse_own(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
        })
        .collect()
}

/// Spaces and the like are written as octal numbers.
fn unescape(text: &str) -> String {
    let replaced = text.replace("\\040", " ").replace("\\011", "\t");
    replaced.replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_only() {
        let mounts =
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let system = System::parse(mounts, "0::/user.slice/a.scope\n");
        let unified = system.unified.expect("found");
        assert_eq!(unified.mount, Path::new("/sys/fs/cgroup"));
        assert_eq!(unified.own, Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        assert_eq!(system.legacy, []);
    }

    #[test]
    fn hybrid() {
        let mounts = "\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/s\n4:memory:/m\n3:cpu,cpuacct:/\n0::/u\n";
        let system = System::parse(mounts, own);
        let own = |controller| system.legacy_with(controller).map(|h| h.own.as_path());
        assert_eq!(
            own("cpuacct"),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"))
        );
        assert_eq!(own("memory"), Some(Path::new("/sys/fs/cgroup/memory/m")));
        assert_eq!(
            own("name=systemd"),
            Some(Path::new("/sys/fs/cgroup/systemd/s"))
        );
        assert_eq!(own("pids"), None);
        assert!(system.unified.is_some());
    }

    #[test]
    fn a_part_of_a_hierarchy_in_a_container() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let system = System::parse(mounts, "4:memory:/docker/abc/inner\n");
        let memory = system.legacy_with("memory").expect("found");
        assert_eq!(memory.own, Path::new("/sys/fs/cgroup/memory/inner"));
    }
}
