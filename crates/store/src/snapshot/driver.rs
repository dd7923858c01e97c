//! How snapshots keep their files.

use std::fs;
use std::path::Path;

use super::SnapshotError;
use super::node::opaque_attribute;
use crate::mount::{MAX_OVERLAY_LOWERS, MountError, MountSpec, Mounted, OverlayUpper};

const _: () = assert!(MAX_LOWERS < MAX_OVERLAY_LOWERS);

/// More lower directories than this are combined into one before they are mounted.
const MAX_LOWERS: usize = 400;
/// The same for kernels that take fewer.
const MAX_LOWERS_LEGACY: usize = 128;

/// How snapshots keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    /// Each keeps its changes, and an overlay mount shows them over its parents'.
    Overlay { userxattr: bool, max_lowers: usize },
    /// Each keeps all its files.
    Copy,
}

impl Driver {
    /// Finds out by trying what works in a state directory.
    pub(super) fn probe(root: &Path) -> Result<Self, SnapshotError> {
        let probe = root.join(format!("probe-{}", std::process::id()));
        let driver = Self::probe_in(&probe);
        let removed = fs::remove_dir_all(&probe);
        let driver = driver?;
        removed.map_err(|source| SnapshotError::Directory {
            action: "remove",
            path: probe,
            source,
        })?;
        if driver == Self::Copy {
            tracing::info!("overlay mounts are not available here: snapshots are plain copies");
        }
        Ok(driver)
    }

    fn probe_in(probe: &Path) -> Result<Self, SnapshotError> {
        for userxattr in [false, true] {
            match try_overlay(
                &probe.join(if userxattr { "user" } else { "trusted" }),
                userxattr,
            ) {
                Ok(max_lowers) => {
                    return Ok(Self::Overlay {
                        userxattr,
                        max_lowers,
                    });
                }
                Err(Attempt::Mount(error)) => {
                    tracing::debug!(%error, userxattr, "no overlay mount");
                }
                Err(Attempt::Directory(source)) => {
                    return Err(SnapshotError::Directory {
                        action: "create",
                        path: probe.to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(Self::Copy)
    }
}

enum Attempt {
    Mount(MountError),
    Directory(std::io::Error),
}

fn is_opaque(directory: &Path, userxattr: bool) -> bool {
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(directory, opaque_attribute(userxattr), &mut value[..]);
    length.is_ok_and(|length| value.get(..length) == Some(b"y"))
}

fn try_overlay(directory: &Path, userxattr: bool) -> Result<usize, Attempt> {
    let path = |name| directory.join(name);
    for name in ["upper", "work", "lower", "lowest"] {
        fs::create_dir_all(path(name)).map_err(Attempt::Directory)?;
    }
    fs::create_dir_all(path("lower").join("directory")).map_err(Attempt::Directory)?;
    let upper = OverlayUpper {
        upper: path("upper"),
        work: path("work"),
    };
    let lowers = vec![path("lower"), path("lowest")];
    let spec = MountSpec::layered(lowers, Some(upper), userxattr);
    let mount = Mounted::open(&spec).map_err(Attempt::Mount)?;
    // Some systems mount, but cannot make the marks of a removal; in a user namespace some make them
    // as `user` attributes without being asked to.
    let directory = mount.path().join("directory");
    let made_anew = fs::remove_dir(&directory).and_then(|()| fs::create_dir(&directory));
    if made_anew.is_err() || !is_opaque(&path("upper").join("directory"), userxattr) {
        return Err(Attempt::Mount(MountError::NotPermitted {
            action: "replace a directory through the overlay of",
            path: path("upper"),
        }));
    }
    Ok(if crate::mount::takes_many_lowers() {
        MAX_LOWERS
    } else {
        MAX_LOWERS_LEGACY
    })
}
