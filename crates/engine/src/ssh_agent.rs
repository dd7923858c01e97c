//! SSH agents that a user offers: an existing one, or one that is started for keys.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing was named, and the user has none.
    #[error("SSH_AUTH_SOCK is not set: start an agent, or name a socket or keys")]
    NoAgent,
    /// A path that cannot be read.
    #[error("{}: {source}", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A socket beside other paths.
    #[error("{}: a socket cannot be given together with other paths", .0.display())]
    SocketAmongKeys(PathBuf),
    /// A file that is no private key.
    #[error("{}: neither a socket nor a private key", .0.display())]
    NoKey(PathBuf),
    /// OpenSSH's programs are needed for keys, and fail.
    #[error("{program}: {reason}")]
    Program {
        /// The program.
        program: &'static str,
        /// What went wrong.
        reason: String,
    },
}

/// What the paths mean.
pub(crate) enum Choice {
    Socket(PathBuf),
    Keys(Vec<PathBuf>),
}

/// Tells a socket from keys.
pub(crate) fn choose(paths: Vec<PathBuf>) -> Result<Choice, AgentError> {
    use std::os::unix::fs::FileTypeExt;
    if paths.is_empty() {
        return match std::env::var_os("SSH_AUTH_SOCK") {
            Some(path) => Ok(Choice::Socket(path.into())),
            None => Err(AgentError::NoAgent),
        };
    }
    for path in &paths {
        let error = |source| AgentError::Path {
            path: path.clone(),
            source,
        };
        let metadata = std::fs::metadata(path).map_err(error)?;
        if metadata.file_type().is_socket() {
            return match paths.len() {
                1 => Ok(Choice::Socket(path.clone())),
                _ => Err(AgentError::SocketAmongKeys(path.clone())),
            };
        }
        let mut head = Vec::new();
        std::fs::File::open(path)
            .map_err(error)?
            .take(64)
            .read_to_end(&mut head)
            .map_err(error)?;
        if !head.starts_with(b"-----BEGIN ") {
            return Err(AgentError::NoKey(path.clone()));
        }
    }
    Ok(Choice::Keys(paths))
}

/// An `ssh-agent` of our own that holds some keys; it ends when this is dropped.
pub(crate) struct KeyAgent {
    process: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl KeyAgent {
    /// Starts an agent and adds the keys, which must have no passphrase.
    pub(crate) fn start(keys: &[PathBuf]) -> Result<Self, AgentError> {
        let agent_error = |reason: String| AgentError::Program {
            program: "ssh-agent",
            reason,
        };
        let directory = tempfile::Builder::new()
            .prefix("weld-ssh-")
            .tempdir()
            .map_err(|error| agent_error(error.to_string()))?;
        let socket = directory.path().join("agent");
        let process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                agent_error(format!("cannot start (is OpenSSH installed?): {error}"))
            })?;
        let mut agent = Self {
            process,
            socket,
            _directory: directory,
        };
        agent.wait_for_socket()?;
        agent.add(keys)?;
        Ok(agent)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    fn wait_for_socket(&mut self) -> Result<(), AgentError> {
        let error = |reason: &str| AgentError::Program {
            program: "ssh-agent",
            reason: reason.to_owned(),
        };
        for _ in 0..500 {
            if self.socket.exists() {
                return Ok(());
            }
            if !matches!(self.process.try_wait(), Ok(None)) {
                return Err(error("ended at once"));
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Err(error("made no socket within 5 seconds"))
    }

    fn add(&self, keys: &[PathBuf]) -> Result<(), AgentError> {
        let error = |reason: String| AgentError::Program {
            program: "ssh-add",
            reason,
        };
        let output = Command::new("ssh-add")
            .arg("--")
            .args(keys)
            .env("SSH_AUTH_SOCK", &self.socket)
            // It must not ask anybody for a passphrase.
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| error(format!("cannot start: {source}")))?;
        if output.status.success() {
            return Ok(());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.trim();
        // It was not let ask.
        Err(error(match told.contains("Enter passphrase for") {
            true => format!(
                "a key is protected by a passphrase: add it to an agent and offer that one's socket ({told})"
            ),
            false => told.to_owned(),
        }))
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
