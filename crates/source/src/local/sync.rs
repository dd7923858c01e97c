use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use weld_digest::Digest;
use weld_fileset::{Timestamp, compare_paths};

use super::diff::{Diff, Step};
use super::ends::{ProviderError, TreeProvider, TreeTarget};
use super::index::{IndexEntry, TreeIndex};
use super::stat::{Stat, StatError, check};
use super::watched::Watched;
use crate::progress::{Progress, Transfer};

/// How long before a sync a file must have been changed last for its times to be trusted the next
/// time: more than a tick of a file system's clock.
const SETTLING: Duration = Duration::from_millis(20);

/// How many directories, or changes of metadata, a job takes.
const PIECE: usize = 32;

/// What a sync came to.
#[derive(Clone, Debug)]
pub struct Synced {
    /// The tree as it is now.
    pub index: TreeIndex,
    /// Whether the target was touched.
    pub tree_changed: bool,
    /// Whether the index is another than before. It may be so with an untouched tree: times may
    /// have changed.
    pub index_changed: bool,
    /// The entries of the index that are of paths that were made or got other metadata.
    pub changed: Vec<usize>,
    /// What is gone.
    pub removed: Vec<PathBuf>,
    /// How many bytes were fetched.
    pub fetched: u64,
}

/// Why a tree could not be synced. The target may then be anywhere between the old and the new
/// tree if [`TreeTarget::begin`] was called.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The provider cannot tell what there is.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// What the provider tells is no tree.
    #[error("the client's file list is malformed: {0}")]
    Stats(#[from] StatError),
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file, in the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The copy could not be changed.
    #[error("cannot {action} the copy of {path}: {source}", path = path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// The path, in the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was given up because nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
}

/// Brings `target`, which is like `previous`, in step with what `provider` has. Dropped, it ends
/// at the next file.
///
/// # Errors
/// [`SyncError`].
pub async fn sync<P: TreeProvider + ?Sized, T: TreeTarget + ?Sized>(
    provider: Arc<P>,
    target: Arc<T>,
    previous: Arc<TreeIndex>,
    progress: &Progress,
) -> Result<Synced, SyncError> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop {
        cancelled: Arc::clone(&cancelled),
        provider: Arc::clone(&provider),
    };
    let transfer = progress.start("transferring", "transferring files", None);
    let work = tokio::task::spawn_blocking(move || {
        let sync = Comparison {
            provider: &*provider,
            target: &*target,
            previous: &previous,
            cancelled: &cancelled,
            transfer: Mutex::new(transfer),
        };
        let synced = sync.run()?;
        let transfer = sync.transfer.into_inner();
        transfer.unwrap_or_else(PoisonError::into_inner).complete();
        Ok(synced)
    });
    let outcome = match work.await {
        Ok(outcome) => outcome,
        // It is never aborted: the provider or the target panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    drop(guard);
    outcome
}

struct CancelOnDrop<P: TreeProvider + ?Sized> {
    cancelled: Arc<AtomicBool>,
    provider: Arc<P>,
}

impl<P: TreeProvider + ?Sized> Drop for CancelOnDrop<P> {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.provider.cancel();
    }
}

struct Comparison<'a, P: ?Sized, T: ?Sized> {
    provider: &'a P,
    target: &'a T,
    previous: &'a TreeIndex,
    cancelled: &'a AtomicBool,
    transfer: Mutex<Transfer>,
}

/// What reading a file's content told.
#[derive(Clone)]
struct Content {
    digest: Digest,
    size: u64,
}

impl<P: TreeProvider + ?Sized, T: TreeTarget + ?Sized> Comparison<'_, P, T> {
    fn run(&self) -> Result<Synced, SyncError> {
        let started = now();
        let mut stats = self.provider.stats(self.previous)?;
        for stat in &mut stats {
            stat.xattrs.retain(|(name, _)| self.target.takes(name));
        }
        check(&stats)?;
        let mut diff = Diff::of(&self.previous.entries, &stats);
        self.verify(&mut diff, &stats)?;
        diff.follow_hard_links(&stats);
        let tree_changed = !diff.is_empty();
        let contents = match tree_changed {
            true => self.apply(&diff, &stats)?,
            false => vec![None; stats.len()],
        };
        self.provider.finish()?;
        let fetched = contents.iter().flatten().map(|content| content.size).sum();
        let changed = positions(&diff, |step| step != Step::Keep);
        let removed = self.removed(&diff, &stats);
        let index = self.index(&diff, stats, contents, started);
        Ok(Synced {
            index_changed: index != *self.previous,
            index,
            tree_changed,
            changed,
            removed,
            fetched,
        })
    }

    /// The paths that were there and are not any more.
    fn removed(&self, diff: &Diff, stats: &[Stat]) -> Vec<PathBuf> {
        let removed = diff.removed.iter();
        let paths = removed.filter_map(|old| Some(&self.previous.entries.get(*old)?.stat.path));
        let is_gone = |path: &&PathBuf| {
            stats
                .binary_search_by(|stat| compare_paths(&stat.path, path))
                .is_err()
        };
        paths.filter(is_gone).cloned().collect()
    }

    /// Reads the files whose content may have changed without a trace and replaces their steps.
    fn verify(&self, diff: &mut Diff, stats: &[Stat]) -> Result<(), SyncError> {
        let doubtful: Vec<usize> = positions(diff, |step| step == Step::Verify);
        if doubtful.is_empty() {
            return Ok(());
        }
        let read = self.in_parallel(&doubtful, stats, |stat, content| {
            io::copy(content, &mut io::sink()).map_err(|source| ("read", stat, source))?;
            Ok(())
        })?;
        for (position, content) in doubtful.into_iter().zip(read) {
            let Some((step, old)) = diff.steps.get_mut(position) else {
                continue;
            };
            let before = old.and_then(|old| self.previous.entries.get(old));
            if before.is_some_and(|before| before.digest.as_ref() == Some(&content.digest)) {
                *step = Step::Keep;
            } else {
                *step = Step::Make;
                diff.removed.extend(*old);
            }
        }
        Ok(())
    }

    /// Makes the differences; what was read of each file that was made.
    fn apply(&self, diff: &Diff, stats: &[Stat]) -> Result<Vec<Option<Content>>, SyncError> {
        self.target.begin().map_err(|source| SyncError::Write {
            action: "begin to change",
            path: PathBuf::from("."),
            source,
        })?;
        // Directories that something was done in: their times are to be set again.
        let mut touched: BTreeSet<&Path> = BTreeSet::new();
        for removed in diff.removed.iter().rev() {
            if let Some(entry) = self.previous.entries.get(*removed) {
                self.alive()?;
                self.target
                    .remove(&entry.stat)
                    .map_err(|source| write("remove", &entry.stat, source))?;
                touched.extend(entry.stat.path.parent());
            }
        }
        let due: Vec<usize> = positions(diff, |step| step != Step::Keep);
        let made = || {
            let is_made = |position: &&usize| {
                diff.steps
                    .get(**position)
                    .is_some_and(|(step, _)| *step == Step::Make)
            };
            due.iter()
                .filter(is_made)
                .filter_map(|position| Some((*position, stats.get(*position)?)))
        };
        for (_, stat) in made() {
            touched.extend(stat.path.parent());
        }
        let dirs = made().map(|(_, stat)| stat).filter(|stat| stat.is_dir());
        for level in &by_depth(dirs) {
            self.for_each(level, |stat| {
                let made = self.target.make_dir(stat);
                made.map_err(|source| write("make", stat, source))
            })?;
        }
        let contents = self.make_files(made().filter(|(_, stat)| stat.has_content()), stats)?;
        self.make_others(made())?;
        self.set_metadata(diff, stats, &touched)?;
        Ok(contents)
    }

    fn make_files<'s>(
        &self,
        files: impl Iterator<Item = (usize, &'s Stat)>,
        stats: &[Stat],
    ) -> Result<Vec<Option<Content>>, SyncError> {
        let wanted: Vec<usize> = files.map(|(position, _)| position).collect();
        let read = self.in_parallel(&wanted, stats, |stat, content| {
            self.target
                .make_file(stat, content)
                .map_err(|source| ("write", stat, source))
        })?;
        let mut contents = vec![None; stats.len()];
        for (position, content) in wanted.into_iter().zip(read) {
            if let Some(slot) = contents.get_mut(position) {
                *slot = Some(content);
            }
        }
        Ok(contents)
    }

    fn make_others<'s>(
        &self,
        made: impl Iterator<Item = (usize, &'s Stat)>,
    ) -> Result<(), SyncError> {
        for (_, stat) in made {
            if stat.is_dir() || stat.has_content() {
                continue;
            }
            self.alive()?;
            match &stat.hard_link {
                Some(first) => self.target.hard_link(stat, first),
                None => self.target.make_node(stat),
            }
            .map_err(|source| write("make", stat, source))?;
        }
        Ok(())
    }

    /// Sets what making did not: changed metadata, and last, from the deepest up, that of
    /// directories.
    fn set_metadata(
        &self,
        diff: &Diff,
        stats: &[Stat],
        touched: &BTreeSet<&Path>,
    ) -> Result<(), SyncError> {
        let steps = diff.steps.iter().map(|(step, _)| step);
        let due = steps.zip(stats).filter(|(step, stat)| {
            let due = match step {
                Step::Metadata => true,
                Step::Make => stat.is_dir(),
                Step::Keep | Step::Verify => false,
            };
            due || (stat.is_dir() && touched.contains(stat.path.as_path()))
        });
        for level in by_depth(due.map(|(_, stat)| stat)).iter().rev() {
            self.for_each(level, |stat| {
                let set = self.target.set_metadata(stat);
                set.map_err(|source| write("set the metadata of", stat, source))
            })?;
        }
        Ok(())
    }

    /// Does what is to be done for each of many paths that do not depend on each other.
    fn for_each(
        &self,
        stats: &[&Stat],
        act: impl Fn(&Stat) -> Result<(), SyncError> + Sync,
    ) -> Result<(), SyncError> {
        let act = |stat: &&Stat| {
            self.alive()?;
            act(stat)
        };
        // Few are not worth starting threads.
        if stats.len() < 2 * PIECE {
            return stats.iter().try_for_each(act);
        }
        stats.par_iter().with_min_len(PIECE).try_for_each(act)
    }

    /// Reads files on several threads, starting them in order; what was read of each, in the same
    /// order.
    fn in_parallel<'s>(
        &self,
        wanted: &[usize],
        stats: &'s [Stat],
        take: impl Fn(&'s Stat, &mut dyn Read) -> Result<(), (&'static str, &'s Stat, io::Error)> + Sync,
    ) -> Result<Vec<Content>, SyncError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.provider.announce(wanted);
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut done = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(number) = wanted.get(place) else {
                    break;
                };
                let Some(stat) = stats.get(*number) else {
                    break;
                };
                match self.read_one(*number, stat, &take) {
                    Ok(content) => done.push((place, content)),
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(done)
        };
        let threads = self.provider.parallel().clamp(1, 64).min(wanted.len());
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(own).chain(others).collect()
        });
        let mut done = Vec::with_capacity(wanted.len());
        for outcome in outcomes {
            done.extend(outcome?);
        }
        done.sort_unstable_by_key(|(place, _)| *place);
        Ok(done.into_iter().map(|(_, content)| content).collect())
    }

    fn read_one<'s>(
        &self,
        number: usize,
        stat: &'s Stat,
        take: &impl Fn(&'s Stat, &mut dyn Read) -> Result<(), (&'static str, &'s Stat, io::Error)>,
    ) -> Result<Content, SyncError> {
        self.alive()?;
        let unreadable = |source| SyncError::Read {
            path: stat.path.clone(),
            source,
        };
        let content = self.provider.open(number, stat).map_err(unreadable)?;
        let mut reader = Watched::new(content, self.target.hasher(stat));
        let taken = take(stat, &mut reader);
        let Watched {
            hasher,
            size,
            failed,
            ..
        } = reader;
        let digest = hasher.finish();
        match (taken, failed) {
            (Err(_), Some(source)) => Err(unreadable(source)),
            (Err((action, stat, source)), None) => Err(write(action, stat, source)),
            (Ok(()), _) => {
                let transfer = self.transfer.lock();
                transfer
                    .unwrap_or_else(PoisonError::into_inner)
                    .advance(size);
                Ok(Content { digest, size })
            }
        }
    }

    fn index(
        &self,
        diff: &Diff,
        stats: Vec<Stat>,
        contents: Vec<Option<Content>>,
        started: Timestamp,
    ) -> TreeIndex {
        let mut entries: Vec<IndexEntry> = Vec::with_capacity(stats.len());
        for ((mut stat, content), (_, old)) in stats.into_iter().zip(contents).zip(&diff.steps) {
            let before = old.and_then(|old| self.previous.entries.get(old));
            let mut settled = is_settled(&stat, started);
            let digest = match (&stat.hard_link, content) {
                (Some(first), _) => entries
                    .binary_search_by(|entry| compare_paths(&entry.stat.path, first))
                    .ok()
                    .and_then(|first| entries.get(first)?.digest.clone()),
                (None, Some(content)) => {
                    // It may have been changed while it was read.
                    settled &= content.size == stat.size;
                    stat.size = content.size;
                    Some(content.digest)
                }
                (None, None) if stat.has_content() => {
                    before.and_then(|before| before.digest.clone())
                }
                (None, None) => None,
            };
            entries.push(IndexEntry {
                stat,
                digest,
                settled,
            });
        }
        TreeIndex { entries }
    }

    fn alive(&self) -> Result<(), SyncError> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(SyncError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Paths by the number of their components, the fewest first.
fn by_depth<'s>(stats: impl Iterator<Item = &'s Stat>) -> Vec<Vec<&'s Stat>> {
    let mut levels: Vec<Vec<&Stat>> = Vec::new();
    for stat in stats {
        let depth = stat.path.components().count();
        if levels.len() <= depth {
            levels.resize_with(depth + 1, Vec::new);
        }
        if let Some(level) = levels.get_mut(depth) {
            level.push(stat);
        }
    }
    levels
}

fn positions(diff: &Diff, wanted: impl Fn(Step) -> bool) -> Vec<usize> {
    let steps = diff.steps.iter().enumerate();
    steps
        .filter(|(_, (step, _))| wanted(*step))
        .map(|(position, _)| position)
        .collect()
}

fn write(action: &'static str, stat: &Stat, source: io::Error) -> SyncError {
    SyncError::Write {
        action,
        path: stat.path.clone(),
        source,
    }
}

fn now() -> Timestamp {
    let now = SystemTime::now() - SETTLING;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since.subsec_nanos(),
    }
}

fn is_settled(stat: &Stat, started: Timestamp) -> bool {
    stat.change.is_none_or(|change| change.ctime < started)
}
