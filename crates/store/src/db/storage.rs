//! The database's storage: a file with a log of page writes in front of it, so that a commit
//! costs one write and no sync.
//!
//! - A commit appends the pages that it changed to the log. The kernel keeps what was written when
//!   the process ends, so a kill loses nothing that was committed.
//! - After the end of the kernel the log's valid prefix is what counts: some last commits may be
//!   gone, and nothing is torn, because the file behind the log is written only by a *checkpoint*.
//! - A checkpoint, in the background, lets new writes go to a second log, syncs the first, copies
//!   its pages into the file, syncs that, and notes the first log's generation as applied.
//!
//! Generations count up; a generation's log has the name of its parity. Those that count at open
//! are the two after the applied one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::StorageBackend;

use super::DbError;
use super::applied::{self, Applied};
use super::log::{Entry, Log, Logged};
pub(super) use logs::log_path;
use logs::{cut_log, damaged_log, open_logs};

/// The unit in which the log knows the storage; what the database writes is aligned to it but for
/// its first bytes.
pub(super) const PAGE: usize = 4096;
pub(super) type Page = [u8; PAGE];

/// Pages that wait for the next sync are logged when they are this many, to bound memory.
const MAX_WAITING: usize = 2048;
/// A log is checkpointed when it is longer than this, in bytes.
const CHECKPOINT_LEN: u64 = 16 << 20;

/// Where there is no room, it is when it is longer than this.
const FOLDED_LEN: u64 = 1 << 20;

pub(super) const FILE: &str = "state.redb";
/// There if something that was read made no sense.
const SUSPECT: &str = "suspect";

/// The storage in a directory.
pub(super) struct Storage {
    directory: PathBuf,
    boot: u64,
    state: RwLock<State>,
    checkpoint: Mutex<()>,
    /// Why the database could not read or write. It then refuses all that follows, without saying why.
    failure: Mutex<Option<Arc<io::Error>>>,
    /// Something that was read since it was opened made no sense.
    is_suspect: AtomicBool,
    /// What was found damaged when it was opened, and is mended.
    mended: Vec<Damage>,
}

/// A file of the database that was damaged and is not any more.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    /// What was wrong.
    pub(crate) error: DbError,
    /// What became of it.
    pub(crate) outcome: &'static str,
}

struct State {
    file: File,
    /// What a checkpoint is applying.
    draining: Option<Layer>,
    active: Layer,
    /// Writes since the last append, in memory.
    waiting: BTreeMap<u64, Box<Page>>,
    /// The length of the storage, and whether the log knows it.
    len: u64,
    len_logged: bool,
    /// Nothing is written any more.
    sealed: bool,
}

/// A log with where its pages are.
struct Layer {
    log: Log,
    pages: HashMap<u64, u64>,
    /// The shortest that the storage was since this was begun: what is behind comes from no lower
    /// layer.
    floor: u64,
    /// The length of the storage at its end.
    len: u64,
}

impl Layer {
    fn new(log: Log, len: u64) -> Self {
        Self {
            log,
            pages: HashMap::new(),
            floor: len,
            len,
        }
    }

    fn note(&mut self, logged: Logged) {
        match logged {
            Logged::Write(page, at) => {
                self.pages.insert(page, at);
            }
            Logged::SetLen(len) => {
                if len < self.len {
                    self.pages
                        .retain(|page, _| page.saturating_mul(PAGE as u64) < len);
                }
                self.floor = self.floor.min(len);
                self.len = len;
            }
        }
    }

    fn covers(&self, page: u64) -> bool {
        page.saturating_mul(PAGE as u64) >= self.floor
    }
}

/// Where a page's content is.
enum Place<'a> {
    Memory(&'a Page),
    File(&'a File, u64),
    Nowhere,
}

impl Storage {
    /// Opens or makes the storage in a directory. `boot` tells boots of the machine apart. What is damaged is an error, or is
    /// mended, where that can be.
    pub(super) fn open(directory: &Path, boot: u64, mend: bool) -> Result<Self, DbError> {
        fs::create_dir_all(directory)?;
        // It has a log from its beginning on.
        let was_used = directory.join(FILE).exists();
        let mut mended = Vec::new();
        let note = match applied::read(directory) {
            Err(error) if mend && error.is_damage() => {
                let found = applied::from_logs(directory)?;
                applied::write(directory, found)?;
                let outcome = "it was written anew from the logs, and nothing is lost";
                mended.push(Damage { error, outcome });
                found
            }
            note => note?,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let damaged = |reason: String| DbError::Damaged {
            path: directory.join(FILE),
            reason,
        };
        // Without an applied generation there may be no file yet.
        let file = options
            .create(note.generation == 0)
            .open(directory.join(FILE))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damaged("it is not there".to_owned()),
                _ => error.into(),
            })?;
        if let Some(error) = damaged_log(directory, note.generation)? {
            if !mend {
                return Err(error);
            }
            let outcome = "what was committed in the last moments before is lost";
            mended.push(Damage { error, outcome });
        } else if mend && let Some(error) = cut_log(directory, note.generation, boot, was_used)? {
            let outcome = "what was committed behind that is lost";
            mended.push(Damage { error, outcome });
        }
        let (draining, active) = open_logs(directory, note, boot)?;
        // A checkpoint that did not come to its end may have cut it to the floor of its log.
        let floor = draining.as_ref().unwrap_or(&active).floor;
        let (len, least) = (file.metadata()?.len(), note.len.min(floor));
        if len < least {
            return Err(damaged(format!("it is cut off, at {len} of {least} bytes")));
        }
        let mut state = State {
            file,
            len: active.len,
            draining,
            active,
            waiting: BTreeMap::new(),
            len_logged: true,
            sealed: false,
        };
        if note.generation == 0 && state.is_unborn()? {
            let log = Log::create(&log_path(directory, 1), 1, 0, boot)?;
            (state.draining, state.active, state.len) = (None, Layer::new(log, 0), 0);
        }
        Ok(Self {
            directory: directory.to_owned(),
            boot,
            state: RwLock::new(state),
            checkpoint: Mutex::default(),
            failure: Mutex::default(),
            is_suspect: AtomicBool::new(false),
            mended,
        })
    }

    /// The file behind the logs.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What was damaged and is mended.
    pub(super) fn mended(&self) -> &[Damage] {
        &self.mended
    }

    /// Whether the last commits before it was opened may be gone.
    pub(super) fn may_lack_commits(&self) -> bool {
        let state = self.read_state();
        let log = |layer: &Layer| layer.log.is_cut || !layer.log.same_boot;
        !self.mended.is_empty() || log(&state.active) || state.draining.as_ref().is_some_and(log)
    }

    /// Whether something may be wrong that opening it does not notice.
    pub(super) fn is_doubtful(&self) -> bool {
        let state = self.read_state();
        let others = |layer: &Layer| !layer.log.same_boot;
        let old = others(&state.active) || state.draining.as_ref().is_some_and(others);
        old || !self.mended.is_empty() || self.suspicion().exists()
    }

    fn suspicion(&self) -> PathBuf {
        self.directory.join(SUSPECT)
    }

    /// Whether the next opening verifies every page, for what was read since this one.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed)
    }

    /// Has the next opening verify every page.
    pub(super) fn suspect(&self, error: &DbError) {
        self.is_suspect.store(true, Ordering::Relaxed);
        let path = self.suspicion();
        if !path.exists() && fs::write(&path, format!("{error}\n")).is_ok() {
            tracing::error!(%error, file = %self.file().display(), "the state database may be damaged: it is verified when it is opened next");
        }
    }

    /// It was verified.
    pub(super) fn trust(&self) -> io::Result<()> {
        match fs::remove_file(self.suspicion()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the log has grown so long, or is so old, that it should be applied.
    pub(super) fn wants_checkpoint(&self) -> bool {
        let state = self.read_state();
        let log = &state.active.log;
        state.draining.is_some() || log.end > CHECKPOINT_LEN || !log.same_boot
    }

    /// Whether the log has outgrown what is left to the background.
    pub(super) fn needs_checkpoint(&self) -> bool {
        self.read_state().active.log.end > 2 * CHECKPOINT_LEN
    }

    /// Whether a checkpoint makes room that is worth it: the log has each state of a page, the file only the last.
    pub(super) fn is_worth_folding(&self) -> bool {
        let state = self.read_state();
        state.draining.is_some() || state.active.log.end > FOLDED_LEN
    }

    /// Moves what is logged into the file.
    pub(super) fn checkpoint(&self) -> io::Result<()> {
        let _turn = self
            .checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // One that an earlier checkpoint did not get done with.
        let left = self.read_state().draining.is_some();
        if left {
            self.drain()?;
        }
        self.switch()?;
        self.drain()
    }

    /// Has new writes go to a new log.
    fn switch(&self) -> io::Result<()> {
        let mut state = self.write_state();
        state.append()?;
        let generation = state.active.log.generation + 1;
        let path = log_path(&self.directory, generation);
        let log = Log::create(&path, generation, state.active.log.checksum, self.boot)?;
        let next = Layer::new(log, state.len);
        state.draining = Some(std::mem::replace(&mut state.active, next));
        Ok(())
    }

    fn drain(&self) -> io::Result<()> {
        let applied = self.apply()?;
        applied::write(&self.directory, applied)?;
        let drained = self.write_state().draining.take();
        // Its generation does not count any more; this only gives its space back.
        drained.map_or(Ok(()), |layer| layer.log.file.set_len(0))
    }

    /// Copies the draining log into the file; returns what is applied then. Readers find these
    /// pages in the log meanwhile, writers write elsewhere.
    fn apply(&self) -> io::Result<Applied> {
        let (log, file, mut pages, floor, len, generation) = {
            let state = self.read_state();
            let Some(layer) = &state.draining else {
                return Err(io::Error::other("there is no log to apply"));
            };
            let pages: Vec<_> = layer.pages.iter().map(|(page, at)| (*page, *at)).collect();
            let (log, file) = (layer.log.file.try_clone()?, state.file.try_clone()?);
            (
                log,
                file,
                pages,
                layer.floor,
                layer.len,
                layer.log.generation,
            )
        };
        log.sync_data()?;
        if file.metadata()?.len() > floor {
            file.set_len(floor)?;
        }
        file.set_len(len)?;
        pages.sort_unstable();
        let mut content = [0; PAGE];
        for (page, at) in pages {
            log.read_exact_at(&mut content, at)?;
            file.write_all_at(&content, page * PAGE as u64)?;
        }
        file.sync_all()?;
        Ok(Applied { generation, len })
    }

    /// Ends writing, after the last commit: what the database writes when it is dropped changes
    /// nothing, since each commit holds all that opening needs. Notes where the log's pages are.
    pub(super) fn seal(&self) -> io::Result<()> {
        let mut state = self.write_state();
        state.sealed = true;
        match state.active.log.wants_index() {
            true => state.write_index(&self.directory),
            false => Ok(()),
        }
    }

    /// Drops what was written since the last sync, for a database that is opened anew.
    pub(super) fn revert(&self) {
        *self.lock_failure() = None;
        let mut state = self.write_state();
        state.waiting.clear();
        state.len = state.active.len;
        state.len_logged = true;
    }

    /// Why the database that is open does nothing any more, if so.
    pub(super) fn failure(&self) -> Option<Arc<io::Error>> {
        self.lock_failure().clone()
    }

    fn lock_failure(&self) -> MutexGuard<'_, Option<Arc<io::Error>>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noting<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let same = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            self.lock_failure().get_or_insert(Arc::new(same));
        })
    }

    fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.write_state();
        if state.sealed {
            return Ok(());
        }
        self.noting(change(&mut state))
    }

    fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the machine went down before the database had written its first page.
    fn is_unborn(&self) -> io::Result<bool> {
        let mut start = [0; 8];
        if self.len >= start.len() as u64 {
            self.read(0, &mut start)?;
        }
        Ok(start == [0; 8])
    }

    fn place(&self, page: u64) -> Place<'_> {
        if let Some(content) = self.waiting.get(&page) {
            return Place::Memory(content);
        }
        for layer in [Some(&self.active), self.draining.as_ref()]
            .into_iter()
            .flatten()
        {
            if let Some(at) = layer.pages.get(&page) {
                return Place::File(&layer.log.file, *at);
            }
            if layer.covers(page) {
                return Place::Nowhere;
            }
        }
        Place::File(&self.file, page * PAGE as u64)
    }

    /// Reads from a page on, as much as fits.
    fn read_page(&self, page: u64, start: usize, out: &mut [u8]) -> io::Result<()> {
        match self.place(page) {
            Place::Memory(content) => out.copy_from_slice(&content[start..start + out.len()]),
            Place::Nowhere => out.fill(0),
            Place::File(file, at) => read_or_zero(file, at + start as u64, out)?,
        }
        Ok(())
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut page = offset / PAGE as u64;
        let mut start = (offset % PAGE as u64) as usize;
        while !out.is_empty() {
            let len = out.len().min(PAGE - start);
            let (now, rest) = out.split_at_mut(len);
            self.read_page(page, start, now)?;
            (page, start, out) = (page + 1, 0, rest);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut page = offset / PAGE as u64;
        let mut start = (offset % PAGE as u64) as usize;
        while !data.is_empty() {
            let len = data.len().min(PAGE - start);
            let (now, rest) = data.split_at(len);
            let mut content = Box::new([0; PAGE]);
            if len < PAGE {
                self.read_page(page, 0, &mut content[..])?;
            }
            content[start..start + len].copy_from_slice(now);
            self.waiting.insert(page, content);
            (page, start, data) = (page + 1, 0, rest);
        }
        if self.waiting.len() > MAX_WAITING {
            self.append()?;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        // In order with the writes before it.
        self.append()?;
        self.len = len;
        self.len_logged = false;
        self.append()
    }

    fn write_index(&self, directory: &Path) -> io::Result<()> {
        let layer = &self.active;
        let pages = layer.pages.iter().map(|(page, at)| (*page, *at)).collect();
        let path = log_path(directory, layer.log.generation);
        layer.log.write_index(&path, pages, layer.floor, layer.len)
    }

    /// Logs what waits.
    fn append(&mut self) -> io::Result<()> {
        let length = (!self.len_logged).then_some(Entry::SetLen(self.len));
        let writes = self
            .waiting
            .iter()
            .map(|(page, content)| Entry::Write(*page, content));
        let entries: Vec<_> = length.into_iter().chain(writes).collect();
        if entries.is_empty() {
            return Ok(());
        }
        for logged in self.active.log.append(&entries)? {
            self.active.note(logged);
        }
        self.len_logged = true;
        self.waiting.clear();
        Ok(())
    }
}

/// Reads from a file; what is behind its end is zero.
fn read_or_zero(file: &File, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match file.read_at(out, at) {
            Ok(0) => {
                out.fill(0);
                break;
            }
            Ok(len) => {
                at += len as u64;
                out = &mut out[len..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage({})", self.directory.display())
    }
}

/// The storage as the database has it, shared with who checkpoints it.
#[derive(Clone, Debug)]
pub(super) struct Backend(pub(super) Arc<Storage>);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.read_state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.noting(self.0.read_state().read(offset, out))
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.change(|state| state.set_len(len))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.change(State::append)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.change(|state| state.write(offset, data))
    }

    fn close(&self) -> Result<(), io::Error> {
        self.0.change(State::append)
    }
}

mod logs;
#[cfg(test)]
mod tests;
