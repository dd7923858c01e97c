use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The state directory may not hold more.
    #[error(
        "{wanted} bytes more do not fit below the disk limit of the state directory {}: it may hold {ceiling} bytes and holds {used}, \
         {in_use} of them are in use, {reserved} more are put by for transfers, and nothing else can be deleted; \
         let other builds end, raise the limit (--disk-limit, worker.oci.diskLimit), or have named images deleted with prune --all",
        .root.display()
    )]
    Ceiling {
        /// The state directory.
        root: PathBuf,
        /// What it may hold, in bytes.
        ceiling: u64,
        /// What it holds.
        used: u64,
        /// What of that is in use by builds.
        in_use: u64,
        /// What is put by for what is being written.
        reserved: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The disk has no more.
    #[error(
        "the disk of the state directory {} is full: {wanted} bytes are wanted and {free} are left for builds, {reserved} of them put by for transfers; \
         {in_use} bytes are in use by builds, and nothing else of weld's can be deleted; free space on the disk, let other builds end, or choose another directory with --root",
        .root.display()
    )]
    Disk {
        /// The state directory.
        root: PathBuf,
        /// What is free for builds, in bytes: all but what the database is left.
        free: u64,
        /// What is in use by builds.
        in_use: u64,
        /// What is put by for what is being written.
        reserved: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// The file system can have no more files.
    #[error(
        "the file system of the state directory {} has no inodes left, and nothing else of weld's can be deleted; delete files on it, or choose another directory with --root",
        .root.display()
    )]
    Inodes {
        /// The state directory.
        root: PathBuf,
    },
    /// The file system does not say how much it has.
    #[error("ask for the free space of the state directory {}: {source}", .root.display())]
    Ask {
        /// The state directory.
        root: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl From<SpaceError> for io::Error {
    fn from(error: SpaceError) -> Self {
        Self::new(io::ErrorKind::StorageFull, error)
    }
}

/// By whose word there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// Ours: what could be removed was.
    Known,
    /// The system's: something may be removed yet.
    Met,
}

impl NoRoom {
    /// Whether an error says so, it or what caused it.
    pub fn in_error(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<SpaceError>() || error.is::<Box<SpaceError>>() {
                return Some(Self::Known);
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                // An error within is not a source of itself.
                if let Some(inner) = error.get_ref()
                    && let Some(found) = Self::in_error(inner)
                {
                    return Some(found);
                }
                if is_full(error) {
                    return Some(Self::Met);
                }
            }
            // What the database's errors share, which are errors of their own.
            let shared = error.downcast_ref::<Arc<io::Error>>();
            let engine = error.downcast_ref::<Arc<redb::Error>>();
            let by_engine = engine.and_then(|engine| match &**engine {
                redb::Error::Io(error) => Some(error),
                _ => None,
            });
            if shared
                .map(|shared| &**shared)
                .or(by_engine)
                .is_some_and(is_full)
            {
                return Some(Self::Met);
            }
            next = error.source();
        }
        None
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_word_it_is_is_found_beneath_other_errors() {
        let full = || SpaceError::Inodes { root: "/".into() };
        let ours = io::Error::other(io::Error::from(full()));
        assert_eq!(NoRoom::in_error(&ours), Some(NoRoom::Known));
        let boxed = crate::snapshot::SnapshotError::from(Box::new(full()));
        assert_eq!(NoRoom::in_error(&boxed), Some(NoRoom::Known));
        let met = io::Error::other(io::Error::from_raw_os_error(28));
        assert_eq!(NoRoom::in_error(&met), Some(NoRoom::Met));
        // The database meets it, too, and says so through errors that only pass it on.
        let met = || io::Error::from_raw_os_error(28);
        let by_file = crate::db::DbError::Io(Arc::new(met()));
        let by_engine = crate::db::DbError::Engine(Arc::new(redb::Error::Io(met())));
        for error in [by_file, by_engine] {
            let removing = crate::collector::CollectError::from(error);
            let removing = crate::usage::prune::UsageError::from(removing);
            assert_eq!(NoRoom::in_error(&removing), Some(NoRoom::Met));
        }
        let other = io::Error::other(io::Error::from_raw_os_error(2));
        assert_eq!(NoRoom::in_error(&other), None);
    }
}
