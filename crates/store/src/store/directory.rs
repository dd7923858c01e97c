//! A state directory before its database is open.

use std::fs;
use std::io;
use std::path::Path;

use super::{DATABASE, FORMAT, Mended, OnDamage, OnFullDisk, OpenError, StoreOptions};
use crate::lock::{Attempt, DirectoryLock};
use crate::reserve::{self, Room};
use crate::trash::Trash;

/// With fewer free bytes than this a start makes room first.
const LOW_SPACE: u64 = 64 << 20;
pub(super) const FORMAT_FILE: &str = "format";
const FORMAT_NAME: &str = "weld-state";

/// A state directory before it is known to be one.
pub(super) struct Directory<'a>(pub(super) &'a Path);

/// A directory that is this process's.
pub(super) struct Claim<'a> {
    pub(super) lock: DirectoryLock,
    pub(super) room: Room<'a>,
    pub(super) mended: Option<Mended>,
}

/// What tells a state directory from others.
enum Mark {
    Absent,
    Format(u32),
    Damaged { bytes: usize },
}

impl Directory<'_> {
    pub(super) fn claim(
        &self,
        options: &StoreOptions,
        on_full_disk: OnFullDisk,
    ) -> Result<Claim<'_>, OpenError> {
        self.create("")?;
        // Before the lock, which is a file: nothing is left in what is not ours.
        self.check_own()?;
        let lock = self.lock()?;
        let mended = self.check_format(options.on_damage)?;
        let room = self.make_room(on_full_disk)?;
        Ok(Claim { lock, room, mended })
    }

    pub(super) fn error(
        &self,
        action: &'static str,
        name: &str,
    ) -> impl FnOnce(io::Error) -> OpenError {
        let root = self.0.to_owned();
        let path = self.0.join(name);
        move |source| OpenError::Io {
            root,
            action,
            path,
            source,
        }
    }

    fn create(&self, name: &str) -> Result<(), OpenError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(self.0.join(name))
            .map_err(self.error("create", name))
    }

    fn lock(&self) -> Result<DirectoryLock, OpenError> {
        match DirectoryLock::attempt(&self.0.join("lock")).map_err(self.error("lock", "lock"))? {
            Attempt::Locked(lock) => Ok(lock),
            Attempt::Held(holder) => Err(OpenError::InUse {
                root: self.0.to_owned(),
                holder,
            }),
        }
    }

    fn check_format(&self, on_damage: OnDamage) -> Result<Option<Mended>, OpenError> {
        let bytes = match self.mark()? {
            Mark::Format(found) if found > FORMAT => {
                return Err(OpenError::TooNew {
                    root: self.0.to_owned(),
                    found,
                });
            }
            Mark::Format(_) => return Ok(None),
            Mark::Absent if !self.has_state() => {
                self.check_own()?;
                self.write_mark()?;
                return Ok(None);
            }
            Mark::Absent => 0,
            Mark::Damaged { bytes } => bytes,
        };
        if on_damage == OnDamage::Refuse {
            return Err(OpenError::Mark {
                root: self.0.to_owned(),
                bytes,
            });
        }
        // What newer versions change in the database is found there.
        self.write_mark()?;
        let mended = Mended(format!(
            "{} was damaged (it had {bytes} bytes, which tell no format) and is written anew",
            self.0.join(FORMAT_FILE).display()
        ));
        tracing::warn!("{mended}");
        Ok(Some(mended))
    }

    fn mark(&self) -> Result<Mark, OpenError> {
        let bytes = match fs::read(self.0.join(FORMAT_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Mark::Absent),
            Err(error) => return Err(self.error("read", FORMAT_FILE)(error)),
        };
        let format = std::str::from_utf8(&bytes).ok().and_then(|text| {
            let version = text.trim_end().strip_prefix(FORMAT_NAME)?;
            version.trim().parse::<u32>().ok()
        });
        Ok(format.map_or(Mark::Damaged { bytes: bytes.len() }, Mark::Format))
    }

    /// Whether it has what only a state directory has.
    fn has_state(&self) -> bool {
        let is_directory = |name: &str| self.0.join(name).is_dir();
        is_directory(DATABASE) && is_directory("content") && is_directory("trash")
    }

    /// On a disk that is all but full, deletes what earlier processes took away already. If that is not enough,
    /// gives back the reserve until it is open, if it is to be, since nothing else can be deleted before. On another
    /// disk, puts the reserve by before anything can fill it.
    fn make_room(&self, on_full_disk: OnFullDisk) -> Result<Room<'_>, OpenError> {
        let free =
            || reserve::free_space(self.0).map_err(self.error("measure the free space of", ""));
        if free()? < LOW_SPACE {
            Trash::open(self.0, 0)
                .and_then(|trash| trash.empty(None))
                .map_err(self.error("empty", "trash"))?;
        }
        let left = free()?;
        if left < reserve::NO_SPACE && on_full_disk == OnFullDisk::Refuse {
            return Err(OpenError::Full {
                root: self.0.to_owned(),
                free: left,
            });
        }
        if let Err(error) = reserve::make(self.0) {
            tracing::warn!(%error, "cannot put space by for a full disk");
        }
        Room::make(self.0).map_err(self.error("remove", "reserve"))
    }

    /// Refuses a directory with something in it that is no state directory.
    fn check_own(&self) -> Result<(), OpenError> {
        let entries = fs::read_dir(self.0).map_err(self.error("list", ""))?;
        let used = entries.filter_map(Result::ok).any(|entry| {
            !matches!(
                entry.file_name().to_str(),
                Some("lock" | "lost+found" | "format.new")
            )
        });
        // The mark is the first that is made of a state directory, so it is looked for last: another
        // process may be making this one.
        let is_ours = match self.mark()? {
            Mark::Format(_) => true,
            Mark::Absent => !used || self.has_state(),
            Mark::Damaged { .. } => self.has_state(),
        };
        match is_ours {
            true => Ok(()),
            false => Err(OpenError::Foreign {
                root: self.0.to_owned(),
            }),
        }
    }

    /// Marks it as a state directory.
    fn write_mark(&self) -> Result<(), OpenError> {
        fs::write(
            self.0.join("format.new"),
            format!("{FORMAT_NAME} {FORMAT}\n"),
        )
        .and_then(|()| fs::rename(self.0.join("format.new"), self.0.join(FORMAT_FILE)))
        .map_err(self.error("write", FORMAT_FILE))
    }
}
