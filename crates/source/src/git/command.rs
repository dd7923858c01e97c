use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::GitError;
use super::url::scrub;
use crate::progress::Progress;

/// How much of what git says is kept for an error: the last of it.
const MAX_STDERR: usize = 64 << 10;
/// How much of what git answers is read.
const MAX_STDOUT: usize = 64 << 20;

/// What the environment may pass on to git.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// How git is run: the program, its whole configuration and environment, and where it works.
#[derive(Clone)]
pub(super) struct Git {
    program: PathBuf,
    config: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    options: Vec<OsString>,
    directory: Option<PathBuf>,
    progress: Progress,
}

/// What git answered.
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
}

impl Output {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// Starts git. Files get the permissions that git records, whatever the umask of this process. Standard input is a pipe that this process
/// holds: when it closes, also because this process was killed, git is killed with all that it started, which would otherwise go on in a
/// repository that the next process uses.
const SCRIPT: &str = "umask 022; exec 3<&0 </dev/null; \
     (read -r _ <&3; kill -9 0) >/dev/null 2>&1 & exec 3<&-; exec \"$@\"";

impl Git {
    /// A git that reads no configuration of this machine and asks nobody anything. The `file`
    /// protocol is for ourselves; submodules may use it only if `allow_file` says so.
    pub(super) fn new(program: &Path, allow_file: bool, progress: &Progress) -> Self {
        let mut git = Self {
            program: program.to_owned(),
            config: Vec::new(),
            environment: Vec::new(),
            options: Vec::new(),
            directory: None,
            progress: progress.clone(),
        };
        for (key, value) in [
            ("protocol.allow", "never"),
            ("protocol.http.allow", "always"),
            ("protocol.https.allow", "always"),
            ("protocol.ssh.allow", "always"),
            ("protocol.git.allow", "always"),
            (
                "protocol.file.allow",
                if allow_file { "always" } else { "user" },
            ),
            ("init.defaultBranch", "master"),
            ("advice.detachedHead", "false"),
            ("credential.helper", ""),
            ("core.askPass", ""),
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            // They would go on in the background, after their lock is gone.
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            // A connection that gives less than a kilobyte per second for a minute is dead.
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
        ] {
            git = git.with_config(key, value);
        }
        git
    }

    /// The same with a setting. It is passed in the environment, so that nobody reads it in the
    /// list of processes.
    pub(super) fn with_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((key.into(), value.into()));
        self
    }

    pub(super) fn with_env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// The same for a question whose answer may well be no: git would call that fatal, and readers be frightened.
    pub(super) fn asking(&self) -> Self {
        Self {
            progress: Progress::none(),
            ..self.clone()
        }
    }

    /// The same on a repository.
    pub(super) fn in_repository(mut self, git_dir: &Path) -> Self {
        self.options.push("--git-dir".into());
        self.options.push(git_dir.into());
        self.directory.get_or_insert_with(|| git_dir.to_owned());
        self
    }

    /// The same with a work tree.
    pub(super) fn with_work_tree(mut self, work_tree: &Path) -> Self {
        self.options.push("--work-tree".into());
        self.options.push(work_tree.into());
        self.directory = Some(work_tree.to_owned());
        self
    }

    /// Runs a command; `action` says in an error what it was for. Dropped, the command is killed
    /// with all that it started.
    pub(super) async fn run<A: AsRef<OsStr>>(
        &self,
        action: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output, GitError> {
        let failed = |source| GitError::Program {
            program: self.program.clone(),
            source,
        };
        let mut child = self.command(arguments).spawn().map_err(failed)?;
        let group = Group::of(&child);
        // Closed when this ends, in whatever way.
        let lifeline = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr, status) = tokio::join!(
            read_all(stdout, MAX_STDOUT),
            self.follow(stderr),
            child.wait()
        );
        group.ended();
        drop(lifeline);
        let (stdout, status) = (stdout.map_err(failed)?, status.map_err(failed)?);
        if status.success() {
            return Ok(Output { stdout });
        }
        let mut stderr = scrub(&stderr);
        if stderr.trim().is_empty() {
            stderr = format!("git ended with {status}");
        }
        Err(GitError::Failed {
            action: action.to_owned(),
            stderr,
        })
    }

    fn command<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "git"])
            .arg(&self.program)
            .args(&self.options)
            .args(arguments)
            .env_clear()
            .envs(
                PROXIES
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_COUNT", self.config.len().to_string())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (number, (key, value)) in self.config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Passes what git says on and keeps the last of it.
    async fn follow(&self, stderr: Option<impl AsyncRead + Unpin>) -> String {
        let Some(mut stderr) = stderr else {
            return String::new();
        };
        let mut kept: Vec<u8> = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count) = stderr.read(&mut buffer).await {
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
                break;
            };
            kept.extend_from_slice(read);
            if kept.len() > 2 * MAX_STDERR {
                kept.drain(..kept.len() - MAX_STDERR);
            }
            for byte in read {
                if matches!(byte, b'\n' | b'\r') || line.len() > MAX_STDERR {
                    self.log(&mut line);
                } else {
                    line.push(*byte);
                }
            }
        }
        self.log(&mut line);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Whole lines only: half a URL could not be scrubbed.
    fn log(&self, line: &mut Vec<u8>) {
        if !line.is_empty() {
            self.progress
                .log("git", &scrub(&String::from_utf8_lossy(line)));
            line.clear();
        }
    }
}

async fn read_all(
    stdout: Option<impl AsyncRead + Unpin>,
    limit: usize,
) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if let Some(stdout) = stdout {
        let mut limited = stdout.take(limit as u64 + 1);
        limited.read_to_end(&mut out).await?;
        if out.len() > limit {
            return Err(std::io::Error::other(format!(
                "it answered more than {limit} bytes"
            )));
        }
    }
    Ok(out)
}

/// The process group of a command, killed unless it ended: git's helpers outlive it.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have just ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
