use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The user may not mount here.
    #[error("not permitted to {action} {path}")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The kernel or the file system below cannot do it.
    #[error("{action} {path}: not supported by this kernel or file system{detail}")]
    Unsupported {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's own words, after a colon, or nothing.
        detail: String,
    },
    /// More directories than the kernel takes.
    #[error(
        "an overlay of {count} directories; the kernel takes {}",
        super::MAX_OVERLAY_LOWERS
    )]
    TooManyLayers {
        /// How many there were.
        count: usize,
    },
    /// Anything else the kernel said.
    #[error("{action} {path}: {source}{detail}")]
    System {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's own words, after a colon, or nothing.
        detail: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl MountError {
    pub(super) fn new(action: &'static str, path: &Path, errno: Errno) -> Self {
        Self::with_detail(action, path, errno, String::new())
    }

    pub(super) fn with_detail(
        action: &'static str,
        path: &Path,
        errno: Errno,
        detail: String,
    ) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted { action, path },
            Errno::NOSYS | Errno::NODEV | Errno::OPNOTSUPP => Self::Unsupported {
                action,
                path,
                detail,
            },
            errno => Self::System {
                action,
                path,
                detail,
                source: errno.into(),
            },
        }
    }

    /// Whether mounting of this kind is out of reach on this machine or for this user.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotPermitted { .. } | Self::Unsupported { .. })
    }
}
