//! Where daemons are at home if nobody says otherwise: where buildkitd is, for a normal user in that user's directories.

use std::path::PathBuf;

/// Where a daemon's socket is in a directory for such.
const SOCKET: &str = "buildkit/buildkitd.sock";

/// The directories of a normal user; of those that are not known, the system's are taken.
#[derive(Default)]
pub(crate) struct Home {
    /// `$XDG_RUNTIME_DIR`.
    runtime: Option<PathBuf>,
    /// `$XDG_DATA_HOME`.
    data: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    config: Option<PathBuf>,
}

impl Home {
    /// Of who runs this process. Root has no such directories; in a user namespace it is who made that, if `in_namespace` says so.
    pub(crate) fn here(in_namespace: bool) -> Self {
        let is_user = !rustix::process::geteuid().is_root() || in_namespace && has_user_namespace();
        match is_user {
            true => Self::of_user(|name| std::env::var_os(name).map(PathBuf::from)),
            false => Self::default(),
        }
    }

    fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let set = |name| variable(name).filter(|path| path.is_absolute());
        let beneath = |directory: &str| Some(set("HOME")?.join(directory));
        Self {
            runtime: set("XDG_RUNTIME_DIR"),
            data: set("XDG_DATA_HOME").or_else(|| beneath(".local/share")),
            config: set("XDG_CONFIG_HOME").or_else(|| beneath(".config")),
        }
    }

    /// Where a daemon listens, and is looked for.
    pub(crate) fn socket(&self) -> PathBuf {
        beneath(self.runtime.as_ref(), "/run", SOCKET)
    }

    /// Where a daemon of this name keeps its state.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        beneath(self.data.as_ref(), "/var/lib", name)
    }

    /// The daemon's configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        beneath(self.config.as_ref(), "/etc", "buildkit/buildkitd.toml")
    }
}

fn beneath(of_user: Option<&PathBuf>, of_system: &str, path: &str) -> PathBuf {
    let directory = of_user.cloned().unwrap_or_else(|| of_system.into());
    directory.join(path)
}

/// Whether user ids here are others than the machine's. Where that cannot be told, they are not.
fn has_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<_> = map.split_whitespace().collect();
    !words.is_empty() && words != ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(variables: &[(&str, &str)]) -> Home {
        Home::of_user(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| PathBuf::from(value))
        })
    }

    #[test]
    fn a_user_has_directories_and_the_system_has_others() {
        let root = Home::default();
        assert_eq!(root.socket(), PathBuf::from("/run/buildkit/buildkitd.sock"));
        assert_eq!(root.state("weld"), PathBuf::from("/var/lib/weld"));
        assert_eq!(root.file(), PathBuf::from("/etc/buildkit/buildkitd.toml"));
        let user = home(&[
            ("HOME", "/home/me"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("XDG_CONFIG_HOME", "not/absolute"),
        ]);
        assert_eq!(
            user.socket(),
            PathBuf::from("/run/user/1/buildkit/buildkitd.sock")
        );
        assert_eq!(
            user.state("buildkit"),
            PathBuf::from("/home/me/.local/share/buildkit")
        );
        assert_eq!(
            user.file(),
            PathBuf::from("/home/me/.config/buildkit/buildkitd.toml")
        );
        assert_eq!(home(&[]).socket(), root.socket());
    }
}
