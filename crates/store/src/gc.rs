//! Removal of objects: their rows, then their files.
//!
//! What a module that makes snapshots has to do, all in the one transaction that commits a
//! snapshot: [`usage::record`](crate::usage::record) it, and [`refs::add`](crate::refs::add) what
//! it is made of (its parents and its layer blobs, held by
//! [`Reference::Snapshot`](crate::Reference::Snapshot)). A snapshot stays while somebody refers to
//! it or it is pinned. Its files are removed by the collector; rows in other tables by the
//! module's function in [`FORGET_SNAPSHOT`], in the transaction that removes the snapshot.

use std::path::{Path, PathBuf};

use redb::WriteTransaction;

use crate::db::DbError;
use crate::object::SnapshotId;

/// Removes a module's rows about a snapshot.
type ForgetSnapshot = fn(&WriteTransaction, SnapshotId) -> Result<(), DbError>;

/// What every module has to remove from its tables with a snapshot.
#[allow(dead_code)] // Called by the collector, which comes next.
const FORGET_SNAPSHOT: &[ForgetSnapshot] = &[];

/// Where a snapshot's files are: all of them are beneath this directory, named by its number, so
/// that the collector finds what no record names.
pub(crate) fn snapshot_dir(root: &Path, id: SnapshotId) -> PathBuf {
    root.join("snapshots").join(id.to_string())
}
