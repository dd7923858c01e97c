//! Verification of a state directory: every blob, snapshot, record and reference; and repair, which drops
//! exactly what is damaged, with what was made of it.

mod repair;
mod rows;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use weld_digest::Digest;
use weld_solver::RecordId;

use crate::blobs::found::digest_of;
use crate::collector::CollectError;
use crate::db::DbError;
use crate::object::{Object, SnapshotId};
use crate::refs::Reference;
use crate::snapshot::FILES;
use crate::store::Store;

use rows::Rows;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A blob's file is not there.
    BlobMissing(Digest),
    /// A blob's file cannot be read.
    BlobUnreadable(Digest, String),
    /// A blob has another content than its name says.
    BlobContent {
        /// Its name.
        digest: Digest,
        /// The digest of what is there; with another length it is not computed.
        actual: Option<Digest>,
    },
    /// A snapshot's files are not there.
    FilesMissing(SnapshotId, PathBuf),
    /// A snapshot is made of another that is not there.
    ParentMissing(SnapshotId, SnapshotId),
    /// A snapshot that is not unpacked needs a blob that is not there.
    LayerMissing(SnapshotId, Digest),
    /// A usage record is of something that is not there.
    UsageOfNothing(Object),
    /// Something has no usage record: nothing would ever delete it.
    NoUsage(Object),
    /// Something is made of an object that it does not hold: it could be deleted before its time.
    NotHeld {
        /// What is made of it.
        holder: Reference,
        /// What should be held.
        object: Object,
    },
    /// Something is held by what is not there.
    HolderMissing {
        /// Who would hold it.
        holder: Reference,
        /// What is there.
        object: Object,
    },
    /// Something holds what is not there.
    HeldMissing {
        /// Who holds it.
        holder: Reference,
        /// What is not there.
        object: Object,
    },
    /// A name is of something that is not there.
    DanglingName(String),
    /// A cache key leads to a result that is not there.
    KeyOfNothing(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlobMissing(digest) => write!(f, "blob {digest}: its file is not there"),
            Self::BlobUnreadable(digest, reason) => write!(f, "blob {digest}: {reason}"),
            Self::BlobContent {
                digest,
                actual: Some(actual),
            } => write!(f, "blob {digest}: its content has the digest {actual}"),
            Self::BlobContent {
                digest,
                actual: None,
            } => write!(f, "blob {digest}: its file has another length"),
            Self::FilesMissing(id, path) => {
                write!(f, "snapshot {id}: {} is not there", path.display())
            }
            Self::ParentMissing(id, parent) => {
                write!(
                    f,
                    "snapshot {id}: snapshot {parent}, which it is made of, is not there"
                )
            }
            Self::LayerMissing(id, digest) => {
                write!(
                    f,
                    "snapshot {id}: blob {digest}, which it is made of, is not there"
                )
            }
            Self::UsageOfNothing(object) => {
                write!(f, "{object}: listed as cached, and not there")
            }
            Self::NoUsage(object) => write!(f, "{object}: not listed as cached"),
            Self::NotHeld { holder, object } => write!(f, "{object}: not held by {holder}"),
            Self::HolderMissing { holder, object } => {
                write!(f, "{object}: held by {holder}, which is not there")
            }
            Self::HeldMissing { holder, object } => {
                write!(f, "{object}: held by {holder}, and not there")
            }
            Self::DanglingName(name) => {
                write!(f, "name {name:?}: what it names is not there")
            }
            Self::KeyOfNothing(result) => {
                write!(
                    f,
                    "result {result}: a cache key leads to it, and it is not there"
                )
            }
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// How many blobs were looked at.
    pub blobs: u64,
    /// How many bytes of blobs were read.
    pub bytes: u64,
    /// How many snapshots were looked at.
    pub snapshots: u64,
    /// How many results were looked at.
    pub results: u64,
    /// How many references were looked at.
    pub references: u64,
    /// What is wrong; nothing in a sound directory.
    pub problems: Vec<Problem>,
}

/// What a repair dropped.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Objects that were damaged, or made of what was.
    pub objects: Vec<Object>,
    /// How many results went with them.
    pub results: usize,
}

/// Why a check or a repair came to no end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Something could not be removed.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

impl Store {
    /// Verifies what is committed: that each blob has the content of its name, that snapshots have
    /// their files and what they are made of, that every reference is of and by something that is
    /// there. Tells the bytes of blobs read as it goes.
    ///
    /// Nothing may build meanwhile: what is being made or removed looks like damage.
    ///
    /// # Errors
    /// [`CheckError`]; what is damaged is in the report.
    pub fn check(&self, read: impl Fn(u64) + Sync) -> Result<CheckReport, CheckError> {
        // What was made a moment ago counts, and what nobody needs is no damage.
        self.db().flush()?;
        self.sweep()?;
        let rows = self.db().read(Rows::read)?;
        let bytes = AtomicU64::new(0);
        let mut problems: Vec<_> = rows
            .blobs
            .par_iter()
            .filter_map(|(digest, size)| {
                self.check_blob(digest, *size, |length| {
                    bytes.fetch_add(length, Ordering::Relaxed);
                    read(length);
                })
            })
            .collect();
        self.check_snapshots(&rows, &mut problems);
        check_usage(&rows, &mut problems);
        check_references(&rows, &mut problems);
        let results: BTreeSet<_> = rows.results.iter().copied().collect();
        let dead = self.keys().records()?.into_iter();
        let dead = dead.filter(|RecordId(id)| !results.contains(id));
        problems.extend(dead.map(|RecordId(id)| Problem::KeyOfNothing(id)));
        Ok(CheckReport {
            blobs: rows.blobs.len() as u64,
            bytes: bytes.into_inner(),
            snapshots: rows.snapshots.len() as u64,
            results: rows.results.len() as u64,
            references: rows.holders.len() as u64,
            problems,
        })
    }

    fn check_blob(&self, digest: &Digest, size: u64, read: impl Fn(u64)) -> Option<Problem> {
        let unreadable =
            |error: io::Error| Problem::BlobUnreadable(digest.clone(), error.to_string());
        let path = self.collector().path(&Object::Blob(digest.clone()));
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(Problem::BlobMissing(digest.clone()));
            }
            Err(error) => return Some(unreadable(error)),
        };
        match file.metadata() {
            Ok(metadata) if metadata.len() == size => {}
            Ok(_) => {
                return Some(Problem::BlobContent {
                    digest: digest.clone(),
                    actual: None,
                });
            }
            Err(error) => return Some(unreadable(error)),
        }
        let actual = match digest_of(&file, digest.algorithm(), read) {
            Ok(actual) => actual,
            Err(error) => return Some(unreadable(error)),
        };
        (actual != *digest).then(|| Problem::BlobContent {
            digest: digest.clone(),
            actual: Some(actual),
        })
    }

    fn check_snapshots(&self, rows: &Rows, problems: &mut Vec<Problem>) {
        for (id, record) in &rows.snapshots {
            for parent in record.origin.parents() {
                if !rows.snapshots.contains_key(&parent) {
                    problems.push(Problem::ParentMissing(*id, parent));
                }
            }
            if let Some(lazy) = &record.lazy {
                // One that it does not hold was never here: it is to be had elsewhere, or else its step runs again.
                let own = (Reference::Snapshot(*id), Object::Blob(lazy.digest.clone()));
                let held = rows.holders.contains(&own) || rows.held.contains(&own);
                if held && !rows.blobs.contains_key(&lazy.digest) {
                    problems.push(Problem::LayerMissing(*id, lazy.digest.clone()));
                }
                continue;
            }
            let files = self.snapshot_dir(*id).join(FILES);
            if record.origin.has_files() && !files.is_dir() {
                problems.push(Problem::FilesMissing(*id, files));
            }
        }
        for object in &rows.usage {
            if let Object::Snapshot(id) = object
                && !rows.snapshots.contains_key(id)
                && !self.snapshot_dir(*id).is_dir()
            {
                // A cache mount, a client's directory or a mirror: it has no row but this.
                problems.push(Problem::UsageOfNothing(object.clone()));
            }
        }
    }
}

fn check_usage(rows: &Rows, problems: &mut Vec<Problem>) {
    let blobs = rows.blobs.keys().cloned().map(Object::Blob);
    let snapshots = rows.snapshots.keys().copied().map(Object::Snapshot);
    let unlisted = blobs
        .chain(snapshots)
        .filter(|object| !rows.usage.contains(object));
    problems.extend(unlisted.map(Problem::NoUsage));
    let absent = rows.usage.iter().filter(|object| match object {
        Object::Blob(digest) => !rows.blobs.contains_key(digest),
        // Those without a row have their files looked for.
        Object::Snapshot(_) => false,
    });
    problems.extend(absent.cloned().map(Problem::UsageOfNothing));
}

fn check_references(rows: &Rows, problems: &mut Vec<Problem>) {
    let results: BTreeSet<_> = rows.results.iter().copied().collect();
    let by_name: HashMap<_, _> = rows.names.iter().map(|(name, at)| (name, at)).collect();
    let exists = |object: &Object| rows.usage.contains(object);
    let mut unheld = BTreeSet::new();
    for (holder, object) in rows.holders.union(&rows.held) {
        let holder_exists = match holder {
            Reference::Result(id) => results.contains(id),
            Reference::Snapshot(id) => exists(&Object::Snapshot(*id)),
            Reference::Blob(digest) => exists(&Object::Blob(digest.clone())),
            Reference::Name(name) => by_name.get(name).is_some_and(|at| *at == object),
            Reference::Image(_) | Reference::Lease(_) => true,
        };
        let (holder, object) = (holder.clone(), object.clone());
        if !holder_exists {
            unheld.insert((holder.clone(), object.clone()));
            problems.push(Problem::HolderMissing { holder, object });
        } else if !exists(&object) {
            problems.push(Problem::HeldMissing { holder, object });
        }
    }
    let held = |row: &(Reference, Object)| rows.holders.contains(row) && rows.held.contains(row);
    let mut wanted = Vec::new();
    for (id, record) in &rows.snapshots {
        let holder = Reference::Snapshot(*id);
        let parents = record.origin.parents().into_iter().map(Object::Snapshot);
        // A layer that is not unpacked may have come for somebody else, and is held by whoever unpacks it.
        let layers = rows.layers.get(id).filter(|_| record.lazy.is_none());
        let blobs = layers.into_iter().flatten();
        let made_of = parents.chain(blobs.cloned().map(Object::Blob));
        wanted.extend(made_of.map(|object| (holder.clone(), object)));
    }
    for (name, object) in &rows.names {
        if exists(object) {
            wanted.push((Reference::Name(name.clone()), object.clone()));
        } else {
            problems.push(Problem::DanglingName(name.clone()));
        }
    }
    for (holder, object) in rows.holders.symmetric_difference(&rows.held) {
        wanted.push((holder.clone(), object.clone()));
    }
    wanted.sort();
    wanted.dedup();
    for row in wanted {
        if !unheld.contains(&row) && exists(&row.1) && !held(&row) {
            let (holder, object) = row;
            problems.push(Problem::NotHeld { holder, object });
        }
    }
}
