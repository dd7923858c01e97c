//! What writes past us now, and where: who wrote most is the one that is stopped where no room can be made.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;

use super::{Space, SpaceError};
use crate::usage::changed_on_disk;

/// How long somebody who met a full disk waits for others to make room by being stopped.
const OTHERS: Duration = Duration::from_secs(2);
/// How often it is looked whether they did.
const LOOK: Duration = Duration::from_millis(10);

/// Something that writes past us, for as long as it does.
#[derive(Debug)]
pub struct Writer {
    space: Space,
    writing: Arc<Writing>,
}

/// What is known of a writer.
#[derive(Debug)]
pub(super) struct Writing {
    began: SystemTime,
    /// Directories that it writes into.
    places: Mutex<Vec<PathBuf>>,
    /// Whether it is the one to be stopped.
    is_stopped: AtomicBool,
    /// The least room that was seen before more was made.
    least_room: AtomicU64,
    /// Whether there was no room at some time.
    met_no_room: AtomicBool,
    /// Whether that was for want of inodes.
    met_no_inodes: AtomicBool,
    /// What it had written, in bytes, when it was stopped before anything could be removed.
    cut_short: AtomicU64,
}

impl Space {
    /// Counts somebody in who is about to write past us.
    pub fn writer(&self) -> Writer {
        let writing = Arc::new(Writing {
            began: SystemTime::now(),
            places: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            least_room: AtomicU64::new(u64::MAX),
            met_no_room: AtomicBool::new(false),
            met_no_inodes: AtomicBool::new(false),
            cut_short: AtomicU64::new(0),
        });
        self.writers().push(Arc::clone(&writing));
        Writer {
            space: self.clone(),
            writing,
        }
    }

    fn writers(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Writing>>> {
        let writers = self.0.writers.lock();
        writers.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever wrote most of what is written now; `None` if nobody wrote anything that is known. Blocks.
    fn heaviest(&self) -> Option<Arc<Writing>> {
        let writers: Vec<_> = self.writers().clone();
        // Who was chosen before is about to go.
        let left = |writing: &Arc<Writing>| !writing.is_stopped.load(Ordering::Relaxed);
        let writers: Vec<_> = writers.into_iter().filter(left).collect();
        let weighed = writers
            .into_par_iter()
            .map(|writing| (writing.weight(), writing));
        let heaviest = weighed.max_by_key(|(bytes, _)| *bytes);
        heaviest
            .filter(|(bytes, _)| *bytes > 0)
            .map(|(_, writing)| writing)
    }
}

impl Writing {
    /// Bytes on disk of what it changed. What cannot be looked at counts as nothing.
    fn weight(&self) -> u64 {
        let places = self
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let changed = places
            .iter()
            .map(|place| changed_on_disk(place, self.began));
        changed.map(|bytes| bytes.unwrap_or(0)).sum()
    }
}

impl Writer {
    /// It writes into this directory, too.
    pub fn writes_into(&self, directory: &Path) {
        let places = self.writing.places.lock();
        places
            .unwrap_or_else(PoisonError::into_inner)
            .push(directory.to_owned());
    }

    /// It failed, and what it wrote is still there: looks whether there is room. Later there may be, as that goes. There may be some now
    /// that was made too late for it: that it wrote more than there was before tells.
    pub async fn fails(&self) {
        if self.space.is_out() {
            return self.finds_no_room();
        }
        let least = self.writing.least_room.load(Ordering::Relaxed);
        if least == u64::MAX {
            return;
        }
        let writing = Arc::clone(&self.writing);
        let written = tokio::task::spawn_blocking(move || writing.weight()).await;
        if written.is_ok_and(|written| written >= least) {
            self.finds_no_room();
        }
    }

    /// So much room was seen, and more is to be made.
    pub(super) fn runs_short(&self, room: u64) {
        self.writing.least_room.fetch_min(room, Ordering::Relaxed);
    }

    pub(super) fn finds_no_room(&self) {
        self.writing.met_no_room.store(true, Ordering::Relaxed);
        if self.space.disk().is_ok_and(|disk| disk.lacks_inodes()) {
            self.writing.met_no_inodes.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn met_no_inodes(&self) -> bool {
        self.writing.met_no_inodes.load(Ordering::Relaxed)
    }

    /// Whether there was no room at some time while it wrote, or is none now.
    pub fn met_no_room(&self) -> bool {
        self.writing.met_no_room.load(Ordering::Relaxed) || self.space.is_out()
    }

    /// It is stopped. Where it filled the disk faster than anybody looked, there was not even room for the records of what would have
    /// been removed for it.
    pub(super) async fn stops(&self) {
        if !self.space.0.unrecorded.load(Ordering::Relaxed) {
            return;
        }
        let writing = Arc::clone(&self.writing);
        let written = tokio::task::spawn_blocking(move || writing.weight()).await;
        let written = written.unwrap_or(0).max(1);
        self.writing.cut_short.store(written, Ordering::Relaxed);
    }

    /// Whether it was stopped although there may be something to remove, which can be when what it wrote is gone.
    pub fn is_cut_short(&self) -> bool {
        self.cut_short() > 0
    }

    pub(super) fn cut_short(&self) -> u64 {
        self.writing.cut_short.load(Ordering::Relaxed)
    }

    pub(super) const fn space(&self) -> &Space {
        &self.space
    }

    /// Whether another one chose it to be stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.writing.is_stopped.load(Ordering::Relaxed)
    }

    /// Chooses who is to be stopped, since no room can be made; whether it is this one.
    pub(super) async fn choose(&self) -> bool {
        if self.space.writers().len() < 2 {
            return true;
        }
        let space = self.space.clone();
        let heaviest = tokio::task::spawn_blocking(move || space.heaviest()).await;
        match heaviest.ok().flatten() {
            Some(heaviest) if !Arc::ptr_eq(&heaviest, &self.writing) => {
                heaviest.is_stopped.store(true, Ordering::Relaxed);
                false
            }
            _ => true,
        }
    }

    /// After what it ran met a full disk and nothing could be removed: whether there is room all the same soon, since another one
    /// that writes, and wrote more, was stopped.
    ///
    /// # Errors
    /// [`SpaceError`] if the disk does not say what it has.
    pub async fn others_made_room(&self) -> Result<bool, SpaceError> {
        let headroom = self.space.headroom();
        let mut waited = Duration::ZERO;
        while waited < OTHERS && self.space.writers().len() > 1 {
            tokio::time::sleep(LOOK).await;
            waited += LOOK;
            if self.space.watched_room().await? >= headroom {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut writers = self.space.writers();
        writers.retain(|writing| !Arc::ptr_eq(writing, &self.writing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_wrote_most_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(directory.path(), None);
        let writer = |name: &str| {
            let place = directory.path().join(name);
            std::fs::create_dir(&place).unwrap();
            let writer = space.writer();
            writer.writes_into(&place);
            (writer, place)
        };
        let (small, of_small) = writer("small");
        assert!(small.choose().await, "nobody else is there");
        let (large, of_large) = writer("large");
        std::fs::write(of_small.join("file"), vec![1; 100_000]).unwrap();
        std::fs::write(of_large.join("file"), vec![1; 300_000]).unwrap();
        let silent = space.writer();
        assert!(!silent.choose().await);
        assert!(large.is_stopped() && !small.is_stopped() && !silent.is_stopped());
        drop(large);
        assert!(small.choose().await);
        drop(small);
        assert!(silent.choose().await, "it is alone");
    }

    #[tokio::test]
    async fn who_wrote_more_than_there_was_room_for_met_none() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(directory.path(), None);
        for (room, met) in [(200_000, true), (u64::MAX >> 1, false)] {
            let writer = space.writer();
            writer.writes_into(directory.path());
            // Room is made while it goes on, and is there when it has failed.
            writer.runs_short(room);
            std::fs::write(directory.path().join("file"), vec![1; 300_000]).unwrap();
            writer.fails().await;
            assert_eq!(writer.met_no_room(), met, "{room}");
        }
    }

    #[tokio::test]
    async fn what_was_there_before_is_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let space = Space::new(directory.path(), None);
        let place = directory.path().join("shared");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("old"), vec![1; 300_000]).unwrap();
        let old = changed_on_disk(&place, SystemTime::UNIX_EPOCH).unwrap();
        assert!(old >= 300_000);
        let later = SystemTime::now() + Duration::from_secs(3600);
        assert_eq!(changed_on_disk(&place, later).unwrap(), 0);
        drop(space);
    }
}
