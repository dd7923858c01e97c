use std::io;
use std::path::PathBuf;

use weld_store::CacheMountError;

use super::url::GitUrlError;

/// Why a commit could not be had. Remotes are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The remote is no git URL.
    #[error("invalid git remote {remote:?}: {source}")]
    Url {
        /// What was given, without credentials.
        remote: String,
        /// What is wrong.
        source: GitUrlError,
    },
    /// The reference is none.
    #[error("invalid git reference {0:?}")]
    Reference(String),
    /// The checksum is no part of a commit's name.
    #[error("invalid git checksum {0:?}: expected hexadecimal digits of a commit")]
    Checksum(String),
    /// Fetching by commit needs one.
    #[error("fetch-by-commit needs a full commit as reference or checksum")]
    FetchByCommit,
    /// A bundle cannot be had or made like this.
    #[error("git bundle: {0}")]
    Bundle(&'static str),
    /// There is no place for a mirror.
    #[error("cannot keep a mirror of {remote}: {source}")]
    Mirror {
        /// The remote.
        remote: String,
        /// Why.
        source: Box<CacheMountError>,
    },
    /// The program cannot be run.
    #[error("cannot run {program:?}: {source}")]
    Program {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program failed.
    #[error("cannot {action}: {}", said(.stderr))]
    Failed {
        /// What was tried, with the remote.
        action: String,
        /// What the program said, credentials removed.
        stderr: String,
    },
    /// The remote has no such reference.
    #[error("repository does not contain ref {reference} ({remote})")]
    NoReference {
        /// The remote.
        remote: String,
        /// The reference.
        reference: String,
    },
    /// The remote has no commit at all, or does not say which its default branch is.
    #[error("repository {remote} has no default branch: it is empty, or its HEAD points nowhere")]
    NoDefaultBranch {
        /// The remote.
        remote: String,
    },
    /// The reference stands for another commit than it should.
    #[error("expected checksum to match {expected}, got {actual} for {reference:?} of {remote}")]
    Mismatch {
        /// The remote.
        remote: String,
        /// The reference.
        reference: String,
        /// The stated checksum.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The wanted directory is not in the commit.
    #[error("{remote} has no directory {subdir:?} at {commit}: {reason}")]
    Subdir {
        /// The remote.
        remote: String,
        /// The directory.
        subdir: String,
        /// The commit.
        commit: String,
        /// What is there.
        reason: String,
    },
    /// Files of a mirror or a checkout cannot be handled.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lines of git's that say what failed, else all.
fn said(stderr: &str) -> String {
    let telling: Vec<_> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["fatal:", "error:", "remote:", "ERROR:", "ssh:"]
                .iter()
                .any(|start| line.starts_with(start))
        })
        .collect();
    match telling.as_slice() {
        [] if stderr.trim().is_empty() => "git failed without a message".to_owned(),
        [] => stderr.trim().to_owned(),
        lines => lines.join("; "),
    }
}
