//! Commits of git repositories, by the `git` program.
//!
//! A remote is mirrored once, in a bare repository that the store keeps, as far as it was asked
//! for; checkouts are made from there. The program runs without any of this machine's
//! configuration, asks nobody anything, and speaks no protocol but those allowed. Credentials are
//! passed in its environment, never among its arguments, and are removed from all that it says.

mod checkout;
mod command;
mod error;
mod mirror;
mod source;
mod subdir;
mod url;

pub use error::GitError;
pub use source::{GitAuth, GitConfig, GitObjects, GitSource, GitSpec, MtimePolicy, ResolvedCommit};
pub use url::{GitUrl, GitUrlError};

/// Whether a text is the full name of a commit: 40 or 64 hexadecimal digits.
pub fn is_commit_name(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
