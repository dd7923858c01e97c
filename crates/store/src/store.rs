use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use redb::WriteTransaction;

use crate::blobs::Blobs;
use crate::cache_mounts::CacheMounts;
use crate::collector::{CollectError, Collector};
use crate::db::{Db, DbError};
use crate::durability::{self, Sequence, SyncError};
use crate::keeper::Keeper;
use crate::lock::Holder;
use crate::object::{Object, SnapshotId};
use crate::pins::Pins;
use crate::records::keys::Keys;
use crate::records::results::Results;
use crate::records::steps::Steps;
use crate::space::Space;
use crate::usage::{Uses, uses};

pub(crate) mod aside;
mod directory;
mod known;

use directory::{Claim, Directory};
use known::{Known, open_known};

/// The version of the directory's layout and tables that this program writes.
const FORMAT: u32 = 1;
/// How many files the end of a process may delete: about a millisecond of work.
const FILES_AT_END: usize = 256;
/// How long what is deleted may take to be free.
const LATE: Duration = Duration::from_secs(1);
const DATABASE: &str = "db";

/// Every module's tables, made when a state directory is. A module that adds a table to an
/// existing format raises [`FORMAT`].
const TABLES: &[CreateTables] = &[
    crate::durability::create_tables,
    crate::blobs::create_tables,
    crate::refs::create_tables,
    crate::usage::create_tables,
    crate::names::create_tables,
    crate::records::keys::create_tables,
    crate::records::results::create_tables,
    crate::snapshot::create_tables,
];

type CreateTables = fn(&WriteTransaction) -> Result<(), DbError>;

/// How a state directory is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Memory for the database's pages, in bytes.
    pub db_cache: usize,
    /// After this time what was written is synced to the medium in the background.
    pub sync_after: Duration,
    /// The identity of this boot of the machine, if it is not the one that the kernel tells: by
    /// it a power loss is known.
    pub boot_id: Option<String>,
    /// What to do if the database is damaged.
    pub on_damage: OnDamage,
    /// Whether to look for damage in every page of the database, as is done in any case after the machine went down and after
    /// something that was read made no sense.
    pub verify: bool,
    /// How many bytes all that is in the directory may take on disk; `None` for what the disk has.
    pub ceiling: Option<u64>,
    /// What to do if the disk is full.
    pub on_full_disk: OnFullDisk,
}

/// What to do with a state directory on a disk that has no space left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFullDisk {
    /// Open it with the space that is put by, to look at what is in it or to remove some.
    #[default]
    Open,
    /// Fail with an error, as nothing can be added.
    Refuse,
}

/// What to do with a state directory whose database is damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDamage {
    /// Fail with an error, changing nothing.
    #[default]
    Refuse,
    /// Mend what can be mended. What cannot is kept beside an empty database that takes its place, as
    /// `db.damaged-SECONDS`, and what it alone knew of is collected.
    StartAnew,
}

/// Damage that was found when a state directory was opened, and is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended(String);

impl std::fmt::Display for Mended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            // Reading past it costs little, the kernel has the pages; and a daemon's memory must
            // not grow with the number of its builds.
            db_cache: 4 << 20,
            sync_after: Duration::from_secs(10),
            boot_id: None,
            on_damage: OnDamage::default(),
            verify: false,
            ceiling: None,
            on_full_disk: OnFullDisk::default(),
        }
    }
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory of it cannot be made or read.
    #[error("state directory {}: {action} {}: {source}", .root.display(), .path.display())]
    Io {
        /// The state directory.
        root: PathBuf,
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("state directory {} is in use by {}; wait for it to end, or choose another with --root",
        .root.display(),
        .holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    InUse {
        /// The state directory.
        root: PathBuf,
        /// Who has it, if that could be read.
        holder: Option<Holder>,
    },
    /// It was written by a newer version.
    #[error("state directory {} has format {found}, this version knows up to {FORMAT}; use a newer weld, or choose another directory with --root", .root.display())]
    TooNew {
        /// The state directory.
        root: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It holds something else.
    #[error("{} is not empty and not a weld state directory; choose another with --root", .root.display())]
    Foreign {
        /// The directory.
        root: PathBuf,
    },
    /// What tells its format is damaged, which is refused ([`OnDamage::Refuse`]).
    #[error("state directory {}: {} is damaged: it has {bytes} bytes, which tell no format; `weld store check --repair` mends it",
        .root.display(), .root.join(directory::FORMAT_FILE).display())]
    Mark {
        /// The state directory.
        root: PathBuf,
        /// How many bytes the file has.
        bytes: usize,
    },
    /// Its disk is full, which is refused ([`OnFullDisk::Refuse`]).
    #[error("state directory {}: no space left on its disk ({} KiB free)", .root.display(), .free >> 10)]
    Full {
        /// The state directory.
        root: PathBuf,
        /// How many bytes of the disk are free.
        free: u64,
    },
    /// The database does not open.
    #[error("state directory {}: {source}", .root.display())]
    Db {
        /// The state directory.
        root: PathBuf,
        /// What the database said.
        source: DbError,
    },
    /// What a power loss damaged cannot be dropped.
    #[error("state directory {}: {source}", .root.display())]
    Recover {
        /// The state directory.
        root: PathBuf,
        /// What failed.
        source: CollectError,
    },
}

impl OpenError {
    /// Whether its database is damaged.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Db { source, .. } => source.is_damage(),
            Self::Mark { .. } => true,
            _ => false,
        }
    }
}

/// An open state directory. Cheap to clone; closed when the last clone goes.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(crate) struct Inner {
    root: PathBuf,
    space: Space,
    db: Db,
    pins: Pins,
    uses: Uses,
    sequence: Arc<Sequence>,
    blobs: Blobs,
    keys: Keys,
    results: Results,
    steps: Steps,
    cache_mounts: CacheMounts,
    collector: Collector,
    keeper: Keeper,
    mended: Vec<Mended>,
}

impl Store {
    /// Opens a state directory, making it if it is not there, for this process alone.
    pub fn open(root: impl AsRef<Path>, options: StoreOptions) -> Result<Self, OpenError> {
        let directory = Directory(root.as_ref());
        let claim = Self::claim(&directory, &options)?;
        Self::open_claimed(&directory, claim, &options)
    }

    /// The same, doing something else in the directory as well, on another thread: from when it is known to be this process's until it
    /// is open.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_meanwhile<T: Send>(
        root: impl AsRef<Path>,
        options: StoreOptions,
        meanwhile: impl FnOnce() -> T + Send,
    ) -> Result<(Self, T), OpenError> {
        let directory = Directory(root.as_ref());
        let claim = Self::claim(&directory, &options)?;
        std::thread::scope(|scope| {
            let other = scope.spawn(meanwhile);
            let opened = Self::open_claimed(&directory, claim, &options);
            let other = other.join();
            Ok((
                opened?,
                other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            ))
        })
    }

    /// Where a full disk is refused, what earlier processes left unnamed, such as the files of a step that filled the disk, goes first.
    fn claim<'a>(
        directory: &'a Directory<'_>,
        options: &StoreOptions,
    ) -> Result<Claim<'a>, OpenError> {
        let claimed = directory.claim(options, options.on_full_disk);
        if !matches!(claimed, Err(OpenError::Full { .. })) {
            return claimed;
        }
        let opened = directory
            .claim(options, OnFullDisk::Open)
            .and_then(|claim| Self::open_claimed(directory, claim, options));
        // That the disk is full says more than that it could not be opened for that.
        let Ok(store) = opened else {
            return claimed;
        };
        if let Err(error) = store.sweep() {
            tracing::warn!(%error, "cannot remove what earlier processes left on a full disk");
        }
        drop(store);
        // What a step had open that was killed is free when the kernel has taken its mounts apart.
        let swept = Instant::now();
        loop {
            let claimed = directory.claim(options, options.on_full_disk);
            if !matches!(claimed, Err(OpenError::Full { .. })) || swept.elapsed() > LATE {
                return claimed;
            }
            std::thread::sleep(LATE / 50);
        }
    }

    fn open_claimed(
        directory: &Directory<'_>,
        claim: Claim<'_>,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let Claim {
            lock,
            room,
            mended: mark,
        } = claim;
        let boot = match options.boot_id.clone() {
            Some(boot) => boot,
            None => durability::boot_id().map_err(directory.error("read the boot id for", ""))?,
        };
        let Known {
            db,
            last_run,
            sequence,
            steps,
            mut mended,
        } = open_known(directory.0, options, &boot, lock).map_err(|source| OpenError::Db {
            root: directory.0.to_owned(),
            source,
        })?;
        mended.extend(mark);
        let (pins, uses) = (Pins::default(), Uses::default());
        let space = Space::new(directory.0, options.ceiling);
        let blobs = Blobs::open(directory.0, &db, &pins, &sequence, &space)
            .map_err(directory.error("create", "content"))?;
        let keys = Keys::new(&db, &sequence);
        let collector = Collector::new(directory.0, &db, &pins, &blobs, &keys, sequence.first())
            .map_err(directory.error("create", "trash"))?;
        if last_run.other_boot {
            collector.drop_lost().map_err(|source| OpenError::Recover {
                root: directory.0.to_owned(),
                source,
            })?;
        }
        // Who only looks whether all is sound is told of what is not.
        let lost = options.on_damage == OnDamage::StartAnew
            && collector
                .drop_lost_blobs()
                .map_err(|source| OpenError::Recover {
                    root: directory.0.to_owned(),
                    source,
                })?;
        sequence.mark_running(boot);
        let keeper = Keeper::start(
            directory.0,
            &db,
            &uses,
            &collector,
            options.sync_after,
            lost || last_run.other_boot || !last_run.clean || db.may_lack_commits(),
        )
        .map_err(directory.error("start the keeper thread for", ""))?;
        let inner = Arc::new(Inner {
            root: directory.0.to_owned(),
            space,
            keys,
            steps,
            results: Results::new(&db, &pins, &uses, &sequence),
            cache_mounts: CacheMounts::new(directory.0, &db, &pins, &uses, &sequence),
            db,
            pins,
            uses,
            sequence,
            blobs,
            collector,
            keeper,
            mended,
        });
        inner.space.attach(Arc::downgrade(&inner));
        // Each opening writes to the log, which would take the place of what is put by.
        if room.is_spent()
            && let Err(error) = inner.db.flush().and_then(|()| inner.db.checkpoint())
        {
            tracing::warn!(%error, "cannot shorten the state database's log");
        }
        drop(room);
        Ok(Self(inner))
    }

    pub(crate) const fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// The state directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// What was damaged when it was opened, and is mended.
    pub fn mended(&self) -> &[Mended] {
        &self.0.mended
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// The room that there is for more.
    pub fn space(&self) -> &Space {
        &self.0.space
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The solver's cache keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// What is remembered of steps that ran.
    pub fn steps(&self) -> &Steps {
        &self.0.steps
    }

    /// The solver's results.
    pub fn results(&self) -> &Results {
        &self.0.results
    }

    /// The directories of cache mounts.
    pub fn cache_mounts(&self) -> &CacheMounts {
        &self.0.cache_mounts
    }

    /// Uses of cached objects.
    pub fn uses(&self) -> &Uses {
        &self.0.uses
    }

    /// Removes what lost its last pin and nothing names, and deletes its files; this also happens
    /// by itself in the background. Returns what was removed.
    pub fn collect_garbage(&self) -> Result<Vec<Object>, CollectError> {
        let removed = self.0.collector.collect_released()?;
        self.settle()?;
        Ok(removed)
    }

    /// Deletes the files of what was removed, and has the cache keys forget it; this also happens by itself in the
    /// background.
    pub fn settle(&self) -> Result<(), CollectError> {
        self.0.collector.settle()
    }

    /// Removes what earlier processes left unnamed or unfinished; this also happens by itself in
    /// the background after a start that was not clean.
    pub fn sweep(&self) -> Result<(), CollectError> {
        if self.0.collector.sweep(&AtomicBool::new(false))? {
            self.0.keeper.swept();
        }
        self.0.collector.collect_released()?;
        self.settle()
    }

    /// The same where it was not done yet.
    pub(crate) fn sweep_once(&self) -> Result<(), CollectError> {
        match self.0.keeper.is_unswept() {
            true => self.sweep(),
            false => Ok(()),
        }
    }

    /// Writes everything to the medium, so that it survives a power loss; this also happens by
    /// itself in the background, [`StoreOptions::sync_after`].
    pub fn sync(&self) -> Result<(), SyncError> {
        self.db().flush()?;
        match durability::unsynced(self.db())? {
            Some(unsynced) => durability::sync(self.root(), self.db(), unsynced),
            None => Ok(()),
        }
    }

    /// Whether a power loss now would take something.
    pub fn has_unsynced(&self) -> Result<bool, DbError> {
        Ok(durability::unsynced(self.db())?.is_some())
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// What is in use by this process.
    pub fn pins(&self) -> &Pins {
        &self.0.pins
    }

    /// Where a snapshot's files are: all of them are beneath this directory, so that the collector
    /// finds those that no record names. The directory is not made by this.
    pub fn snapshot_dir(&self, id: SnapshotId) -> PathBuf {
        crate::gc::snapshot_dir(&self.0.root, id)
    }

    /// A number higher than all that any process got from this state directory before. May wait
    /// for one commit.
    pub fn next_sequence(&self) -> Result<u64, DbError> {
        self.0.sequence.next()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let swept = self.keeper.stop() && self.collector.is_settled();
        let counts = self.uses.take();
        let (collector, unused) = (self.collector.clone(), self.sequence.unused());
        let released = self.pins.take_released();
        // In the transaction, after all that was queued to name an object.
        drop(self.db.update(move |tx| {
            uses::write(tx, &counts)?;
            let clean = swept && !collector.has_garbage(tx, &released)?;
            durability::mark_closed(tx, unused, clean)
        }));
        self.tidy_at_end();
        self.db.close();
    }
}

impl Inner {
    /// Does for processes that ended before their keeper had a turn what none of them would do.
    fn tidy_at_end(&self) {
        if let Err(error) = self.collector.empty_some_trash(FILES_AT_END) {
            tracing::warn!(%error, "cannot delete what was removed");
        }
        if self.db.needs_checkpoint()
            && let Err(error) = self.db.checkpoint()
        {
            tracing::warn!(%error, "cannot shorten the state database's log");
        }
    }
}
