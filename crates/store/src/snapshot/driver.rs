//! How snapshots keep their files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::SnapshotError;
use super::node::opaque_attribute;
use crate::durability;
use crate::mount::{MAX_OVERLAY_LOWERS, MountError, MountSpec, Mounted, OverlayUpper};
use crate::store::Store;

const _: () = assert!(MAX_LOWERS < MAX_OVERLAY_LOWERS);

/// More lower directories than this are combined into one before they are mounted.
const MAX_LOWERS: usize = 400;
/// The same for kernels that take fewer.
const MAX_LOWERS_LEGACY: usize = 128;

/// The text about a state directory that says where overlays were found to work.
const FOUND: &str = "overlay";

/// How snapshots keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    /// Each keeps its changes, and an overlay mount shows them over its parents'.
    Overlay { userxattr: bool, max_lowers: usize },
    /// Each keeps all its files.
    Copy,
}

impl Driver {
    /// What works in a state directory: what worked the last time, if nothing that matters is
    /// different.
    pub(super) fn find(store: &Store) -> Result<Self, SnapshotError> {
        // Without knowing what matters, nothing is remembered.
        let Ok(here) = circumstances(store.root()) else {
            return Self::probe(store.root());
        };
        let found = durability::text(store.db(), FOUND)?;
        for userxattr in [false, true] {
            if found.as_deref() == Some(&remembered(&here, userxattr)) {
                return Ok(Self::overlay(userxattr));
            }
        }
        let driver = Self::probe(store.root())?;
        if let Self::Overlay { userxattr, .. } = driver {
            let text = remembered(&here, userxattr);
            drop(durability::set_text(store.db(), FOUND, text));
        }
        Ok(driver)
    }

    /// What was found to work when snapshots were made by a version that kept nothing else of it.
    pub(super) fn found_before(store: &Store) -> Result<Self, SnapshotError> {
        let found = durability::text(store.db(), FOUND)?;
        Ok(
            match found.as_deref().and_then(|text| text.split(' ').next()) {
                Some("trusted") => Self::overlay(false),
                Some("user") => Self::overlay(true),
                _ => Self::Copy,
            },
        )
    }

    fn overlay(userxattr: bool) -> Self {
        Self::Overlay {
            userxattr,
            max_lowers: if crate::mount::takes_many_lowers() {
                MAX_LOWERS
            } else {
                MAX_LOWERS_LEGACY
            },
        }
    }

    /// Finds out by trying.
    fn probe(root: &Path) -> Result<Self, SnapshotError> {
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
                Ok(()) => return Ok(Self::overlay(userxattr)),
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

fn remembered(here: &str, userxattr: bool) -> String {
    let kind = if userxattr { "user" } else { "trusted" };
    format!("{kind} {here}")
}

/// What decides whether overlays work: the kernel, the file system, and what this process may do.
fn circumstances(root: &Path) -> io::Result<String> {
    let boot = durability::boot_id()?;
    let device = fs::metadata(root)?.dev();
    let namespace = fs::read_link("/proc/self/ns/user")?;
    let user = rustix::process::geteuid().as_raw();
    let capabilities = rustix::thread::capabilities(None)?.effective;
    Ok(format!(
        "boot {boot} device {device} {} uid {user} capabilities {:x}",
        namespace.display(),
        capabilities.bits()
    ))
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

fn try_overlay(directory: &Path, userxattr: bool) -> Result<(), Attempt> {
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
    Ok(())
}
