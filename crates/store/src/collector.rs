use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use redb::{ReadableTable, WriteTransaction};
use weld_digest::Digest;
use weld_solver::RecordId;

use crate::blobs::{ANONYMOUS, Blobs, found, lost};
use crate::db::{Db, DbError, Ticket};
use crate::gc::{self, Removable, Removal};
use crate::leftovers::{Hold, Leftovers};
use crate::object::{Object, SnapshotId};
use crate::pins::{Claim, Pins};
use crate::records::keys::Keys;
use crate::records::results::RESULTS;
use crate::refs::{HOLDERS, holders};
use crate::store::aside;
use crate::trash::{self, Trash};
use crate::usage::USAGE;

/// How many objects one transaction removes at least, at first, and at most. Many at once touch
/// each page of the tables once instead of many times.
const BATCH_LENS: (usize, usize, usize) = (64, 256, 4096);
/// How long a transaction that removes should take: other updates wait for as long.
const BATCH_TIME: Duration = Duration::from_millis(40);

/// How many results the cache keys forget at once: who looks for a key waits for as long.
const FORGOTTEN_AT_ONCE: usize = 256;
/// How many snapshots' files are deleted before it is looked again whether to stop.
const DELETED_AT_ONCE: usize = 1024;

/// An ingest with a reference that nobody went on with for so long is dropped.
const INGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes objects with their files. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Collector(Arc<Inner>);

struct Inner {
    root: PathBuf,
    db: Db,
    pins: Pins,
    blobs: Blobs,
    keys: Keys,
    trash: Trash,
    leftovers: Leftovers,
    /// Sequence numbers from this on are of this process.
    first: u64,
    /// How many objects the next transaction removes.
    batch_len: Arc<AtomicUsize>,
}

/// A removal that the database is told of.
struct QueuedRemoval {
    /// Held until the files are taken away.
    claims: Vec<Claim>,
    /// `None` if there is nothing to be removed.
    ticket: Option<Ticket<(Instant, Removal)>>,
}

/// Why something was not removed.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A file or directory cannot be removed.
    #[error("remove {}: {source}", .path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Has the next transactions be about as long as they should, after one that removed so many.
fn adapt(batch_len: &AtomicUsize, removed: usize, took: Duration) {
    let (least, _, most) = BATCH_LENS;
    let fits = removed as u128 * BATCH_TIME.as_nanos() / took.as_nanos().max(1);
    let fits = usize::try_from(fits).unwrap_or(most);
    // What a small one took says little of large ones.
    let length = fits.min(removed.saturating_mul(2)).clamp(least, most);
    if removed >= batch_len.load(Ordering::Relaxed) || length < removed {
        batch_len.store(length, Ordering::Relaxed);
    }
}

pub(crate) fn remove_error(path: &Path) -> impl FnOnce(io::Error) -> CollectError {
    let path = path.to_owned();
    move |source| CollectError::Remove { path, source }
}

impl Collector {
    pub(crate) fn new(
        root: &Path,
        db: &Db,
        pins: &Pins,
        blobs: &Blobs,
        keys: &Keys,
        first: u64,
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            db: db.clone(),
            pins: pins.clone(),
            blobs: blobs.clone(),
            keys: keys.clone(),
            trash: Trash::open(root, first)?,
            leftovers: Leftovers::default(),
            first,
            batch_len: Arc::new(AtomicUsize::new(BATCH_LENS.1)),
        })))
    }

    /// Removes those of the objects that may be and are not pinned, and what becomes garbage by
    /// that; returns what was removed.
    pub(crate) fn remove(
        &self,
        objects: impl IntoIterator<Item = Object>,
        removable: Removable,
    ) -> Result<Vec<Object>, CollectError> {
        let mut removed = Vec::new();
        let mut released = Vec::new();
        let mut objects = objects.into_iter().peekable();
        // While one batch is committed, the files of the one before are taken away.
        let mut queued = None;
        while objects.peek().is_some() {
            let claims = self.claim(objects.by_ref().take(self.batch_len()));
            if let Some(before) = queued.replace(self.queue_removal(claims, removable)) {
                self.finish_removal(before, &mut removed, &mut released)?;
            }
        }
        if let Some(last) = queued {
            self.finish_removal(last, &mut removed, &mut released)?;
        }
        // What a result led to is released by its removal, and went before.
        let mut gone: HashSet<Object> = removed.iter().cloned().collect();
        while !released.is_empty() {
            let mut garbage: HashSet<_> = std::mem::take(&mut released).into_iter().collect();
            garbage.retain(|object| !gone.contains(object));
            let garbage: Vec<_> = garbage.into_iter().collect();
            let known = removed.len();
            for batch in garbage.chunks(self.batch_len()) {
                let claims = self.claim(batch.iter().cloned());
                let queued = self.queue_removal(claims, Removable::Unnamed);
                self.finish_removal(queued, &mut removed, &mut released)?;
            }
            gone.extend(removed.iter().skip(known).cloned());
        }
        Ok(removed)
    }

    fn batch_len(&self) -> usize {
        self.0.batch_len.load(Ordering::Relaxed)
    }

    fn claim(&self, objects: impl Iterator<Item = Object>) -> Vec<Claim> {
        objects
            .filter_map(|object| self.0.pins.claim(&object))
            .collect()
    }

    fn queue_removal(&self, claims: Vec<Claim>, removable: Removable) -> QueuedRemoval {
        let objects: Vec<_> = claims.iter().map(|claim| claim.object().clone()).collect();
        let ticket = (!objects.is_empty()).then(|| {
            let asked = objects.len();
            let remove = move |tx: &WriteTransaction| {
                Ok((Instant::now(), gc::remove(tx, &objects, removable)?))
            };
            let batch_len = Arc::clone(&self.0.batch_len);
            self.0.db.update_then(remove, move |outcome| {
                if let Ok((began, _)) = outcome {
                    adapt(&batch_len, asked, began.elapsed());
                }
            })
        });
        QueuedRemoval { claims, ticket }
    }

    fn finish_removal(
        &self,
        queued: QueuedRemoval,
        removed: &mut Vec<Object>,
        released: &mut Vec<Object>,
    ) -> Result<(), CollectError> {
        let Some(ticket) = queued.ticket else {
            return Ok(());
        };
        let (_, removal) = ticket.wait()?;
        self.finish(&removal)?;
        drop(queued.claims);
        removed.extend(removal.removed);
        released.extend(removal.released);
        Ok(())
    }

    /// Sees to what lies outside of the tables that the removal has changed: the files of blobs, whose names may be
    /// wanted again, are taken away now, all else is left for [`Self::settle`]. If the process ends before, the sweep
    /// takes both the files and the keys.
    pub(crate) fn finish(&self, removal: &Removal) -> Result<(), CollectError> {
        for object in removal.removed.iter().chain(&removal.unknown) {
            if let Object::Blob(_) = object {
                self.take_away(&self.path(object))?;
            }
        }
        self.0
            .keys
            .hide(removal.results.iter().copied().map(RecordId));
        self.0.leftovers.add(removal);
        Ok(())
    }

    /// Keeps the background from what removals leave, until this is dropped.
    pub(crate) fn hold_leftovers(&self) -> Hold<'_> {
        self.0.leftovers.hold()
    }

    /// Does what removals left to be done: cache keys forget results, files are deleted.
    pub(crate) fn settle(&self) -> Result<(), CollectError> {
        self.settle_until(None).map(drop)
    }

    /// As [`Self::settle`], in the background: not while somebody removes more, and for about so long; whether nothing
    /// is left.
    pub(crate) fn settle_some(&self, time: Duration) -> Result<bool, CollectError> {
        if self.0.leftovers.is_held() {
            return Ok(true);
        }
        self.settle_until(Some(Instant::now() + time))
    }

    fn settle_until(&self, until: Option<Instant>) -> Result<bool, CollectError> {
        let leftovers = &self.0.leftovers;
        let _turn = leftovers.turn();
        let is_over = || until.is_some_and(|until| Instant::now() >= until);
        while !is_over() {
            let results = leftovers.take_results(FORGOTTEN_AT_ONCE);
            if results.is_empty() {
                break;
            }
            let results: Vec<_> = results.into_iter().map(RecordId).collect();
            self.0.keys.drop_records(&results);
        }
        let directory = self.0.root.join("snapshots");
        while !is_over() {
            let ids = leftovers.take_snapshots(DELETED_AT_ONCE);
            if ids.is_empty() {
                break;
            }
            let names: Vec<_> = ids
                .iter()
                .map(|id| OsString::from(id.to_string()))
                .collect();
            let deleted = match trash::delete(&directory, &names, until) {
                Ok(deleted) => deleted,
                Err(error) => {
                    leftovers.return_snapshots(&ids);
                    return Err(remove_error(&directory)(error));
                }
            };
            leftovers.return_snapshots(ids.get(deleted..).unwrap_or_default());
        }
        let emptied = !is_over() && {
            let trash = &self.0.trash;
            trash
                .empty(until)
                .map_err(remove_error(trash.directory()))?
        };
        Ok(emptied && leftovers.is_empty())
    }

    /// Whether removals left nothing to be done.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.leftovers.is_empty()
    }

    pub(crate) fn path(&self, object: &Object) -> PathBuf {
        match object {
            Object::Blob(digest) => self.0.blobs.path(digest),
            Object::Snapshot(id) => gc::snapshot_dir(&self.0.root, *id),
        }
    }

    /// Takes a file or directory away that no record names any more.
    pub(crate) fn take_away(&self, path: &Path) -> Result<(), CollectError> {
        self.0.trash.take(path).map_err(remove_error(path))?;
        Ok(())
    }

    /// Deletes of what was removed at most so many files.
    pub(crate) fn empty_some_trash(&self, files: usize) -> Result<(), CollectError> {
        let trash = &self.0.trash;
        trash
            .empty_some(files)
            .map_err(remove_error(trash.directory()))
    }

    /// Removes what lost its last pin and has no reference.
    pub(crate) fn collect_released(&self) -> Result<Vec<Object>, CollectError> {
        let released = self.0.pins.take_released();
        if released.is_empty() {
            return Ok(Vec::new());
        }
        let unnamed = self.0.db.read(|tx| {
            let table = tx.open_table(HOLDERS)?;
            let mut unnamed = Vec::new();
            for object in released {
                if holders(&table, &object)?.is_empty() {
                    unnamed.push(object);
                }
            }
            Ok(unnamed)
        })?;
        self.remove(unnamed, Removable::Unnamed)
    }

    /// Removes what earlier processes left: objects that nothing names, files that no row knows,
    /// ingests that nobody goes on with.
    ///
    /// Returns whether it came to its end before `stop` was set.
    pub(crate) fn sweep(&self, stop: &AtomicBool) -> Result<bool, CollectError> {
        for batch in self.unnamed_objects()?.chunks(self.batch_len()) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            self.remove(batch.iter().cloned(), Removable::Unnamed)?;
        }
        self.sweep_keys()?;
        self.sweep_asides()?;
        Ok(self.sweep_snapshots(stop)? && self.sweep_blobs(stop)? && self.sweep_ingests()?)
    }

    /// Has the cache keys forget results that are gone: a result goes in one transaction, and what leads to it in the next. Results of
    /// this process may not have arrived in their table yet.
    fn sweep_keys(&self) -> Result<(), DbError> {
        let records = self.0.keys.records()?;
        let gone = self.0.db.read(|tx| {
            let results = tx.open_table(RESULTS)?;
            let mut gone = Vec::new();
            for record in records.range(..RecordId(self.0.first)) {
                if results.get(record.0)?.is_none() {
                    gone.push(*record);
                }
            }
            Ok(gone)
        })?;
        self.0.keys.drop_records(&gone);
        Ok(())
    }

    fn unnamed_objects(&self) -> Result<Vec<Object>, DbError> {
        self.0.db.read(|tx| {
            let holders_table = tx.open_table(HOLDERS)?;
            let mut unnamed = Vec::new();
            for row in tx.open_table(USAGE)?.iter()? {
                let (key, _) = row?;
                let object = Object::from_key(key.value()).ok_or(DbError::MalformedKey {
                    what: "a usage record",
                })?;
                if self.is_of_earlier_process(&object)
                    && holders(&holders_table, &object)?.is_empty()
                {
                    unnamed.push(object);
                }
            }
            Ok(unnamed)
        })
    }

    /// A blob may also be one of this process; if nothing names it and nothing pins it, it goes
    /// all the same.
    fn is_of_earlier_process(&self, object: &Object) -> bool {
        match object {
            Object::Blob(_) => true,
            Object::Snapshot(id) => id.0 < self.0.first,
        }
    }

    fn sweep_snapshots(&self, stop: &AtomicBool) -> Result<bool, CollectError> {
        let directory = self.0.root.join("snapshots");
        for (name, path) in list(&directory)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let Ok(id) = name.parse() else {
                continue;
            };
            let object = Object::Snapshot(SnapshotId(id));
            if self.is_of_earlier_process(&object) {
                self.discard_unless_known(object, &path)?;
            }
        }
        Ok(true)
    }

    fn sweep_asides(&self) -> Result<(), CollectError> {
        let asides = aside::all(&self.0.root).map_err(remove_error(&self.0.root))?;
        let mut old = asides.iter().filter(|aside| aside.is_old());
        old.try_for_each(|aside| self.take_away(&aside.path))
    }

    fn sweep_blobs(&self, stop: &AtomicBool) -> Result<bool, CollectError> {
        let wanted = found::are_wanted(&self.0.db)?;
        for (algorithm, directory) in list(&self.0.blobs.layout().join("blobs"))? {
            for (hex, path) in list(&directory)? {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let Ok(digest) = format!("{algorithm}:{hex}").parse() else {
                    continue;
                };
                if wanted {
                    self.adopt(&digest, &path)?;
                }
                self.discard_unless_known(Object::Blob(digest), &path)?;
            }
        }
        if wanted {
            found::all_found(&self.0.db).wait()?;
        }
        Ok(true)
    }

    /// Nobody uses it meanwhile.
    fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), CollectError> {
        let claim = self.0.pins.claim(&Object::Blob(digest.clone()));
        if claim.is_some() && !self.0.blobs.has_record(digest)? {
            self.0.blobs.adopt(digest, path)?;
        }
        Ok(())
    }

    fn discard_unless_known(&self, object: Object, path: &Path) -> Result<(), CollectError> {
        let Some(_claim) = self.0.pins.claim(&object) else {
            return Ok(());
        };
        let known = match &object {
            Object::Blob(digest) => self.0.blobs.has_record(digest)?,
            Object::Snapshot(_) => self.0.db.read(|tx| {
                let row = tx.open_table(USAGE)?.get(object.to_key().as_slice())?;
                Ok(row.is_some())
            })?,
        };
        if !known {
            self.0.trash.take(path).map_err(remove_error(path))?;
        }
        Ok(())
    }

    fn sweep_ingests(&self) -> Result<bool, CollectError> {
        let now = SystemTime::now();
        let is_old = |path: &Path| {
            fs::metadata(path)
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|modified| {
                    now.duration_since(modified)
                        .is_ok_and(|age| age > INGEST_LIFETIME)
                })
        };
        for (name, path) in list(self.0.blobs.ingests())? {
            let number = name.strip_prefix(ANONYMOUS).map(str::parse::<u64>);
            let left = match number {
                Some(number) => number.is_ok_and(|number| number < self.0.first),
                None => is_old(&path),
            };
            if left {
                self.0
                    .blobs
                    .unless_ingesting(&name, || self.0.trash.take(&path))
                    .map_err(remove_error(&path))?;
            }
        }
        Ok(true)
    }

    /// Drops what a power loss may have damaged, before anything is served.
    pub(crate) fn drop_lost(&self) -> Result<(), CollectError> {
        let removal = self.0.db.update(gc::remove_lost).wait()?;
        if !removal.removed.is_empty() {
            tracing::warn!(
                objects = removal.removed.len(),
                "dropped what was not yet synced when the machine went down"
            );
        }
        self.finish(&removal)?;
        self.settle()?;
        for (_, path) in list(self.0.blobs.ingests())? {
            self.0.trash.take(&path).map_err(remove_error(&path))?;
        }
        Ok(())
    }

    /// Drops blobs whose files somebody deleted, if there was a sign of that, before anything is served; whether there was one.
    pub(crate) fn drop_lost_blobs(&self) -> Result<bool, CollectError> {
        if !lost::are_noted(&self.0.db)? {
            return Ok(false);
        }
        let found = self.0.blobs.lost()?;
        let count = found.len();
        let removal = self
            .0
            .db
            .update(move |tx| lost::forget(tx, &found))
            .wait()?;
        if count > 0 {
            tracing::warn!(count, "forgot blobs whose files are gone");
        }
        self.finish(&removal)?;
        self.settle()?;
        Ok(true)
    }

    /// Whether something of what lost its last pin has no reference, and so waits for collection.
    pub(crate) fn has_garbage(
        &self,
        tx: &WriteTransaction,
        released: &HashSet<Object>,
    ) -> Result<bool, DbError> {
        let holders_table = tx.open_table(HOLDERS)?;
        let usage = tx.open_table(USAGE)?;
        for object in released {
            let known = usage.get(object.to_key().as_slice())?.is_some();
            let has_files = || self.path(object).exists();
            if holders(&holders_table, object)?.is_empty() && (known || has_files()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The names and paths in a directory; none if it is not there.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, CollectError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(remove_error(directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(remove_error(directory))?;
        if let Some(name) = entry.file_name().to_str() {
            found.push((name.to_owned(), entry.path()));
        }
    }
    Ok(found)
}
