//! How the snapshots of a state directory were made: whoever uses them must do it alike.
//!
//! Files of an overlay are changes with marks of removals, a copy holds everything, and the owners of files are as the user namespace
//! maps them. Read another way, a tree loses files, removed ones come back, or belong to somebody else, and none of that is an error.

use std::fmt;
use std::fs;
use std::io;

use redb::ReadableTableMetadata as _;

use super::record::SNAPSHOTS;
use super::{SnapshotError, driver::Driver};
use crate::durability;
use crate::store::Store;

/// The text about a state directory that says how its snapshots were made.
const MADE_WITH: &str = "snapshots-made-with";

/// How snapshots were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeWith {
    kind: Kind,
    /// Users and groups: how the user namespace maps them to those of the machine.
    ids: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With overlay mounts and marks that only root can make.
    Trusted,
    /// With overlay mounts and marks that any user can make.
    User,
    Copies,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Trusted, Self::User, Self::Copies];

    fn name(self) -> &'static str {
        match self {
            Self::Trusted => "overlay",
            Self::User => "overlay-user",
            Self::Copies => "copies",
        }
    }

    fn of(driver: &Driver) -> Self {
        match driver {
            Driver::Overlay {
                userxattr: false, ..
            } => Self::Trusted,
            Driver::Overlay {
                userxattr: true, ..
            } => Self::User,
            Driver::Copy => Self::Copies,
        }
    }
}

impl MadeWith {
    /// How this process makes them with a driver.
    pub(super) fn here(driver: &Driver) -> io::Result<Self> {
        let ids = |file| fs::read_to_string(file).map(|text| normalised(&text));
        let (users, groups) = (ids("/proc/self/uid_map")?, ids("/proc/self/gid_map")?);
        Ok(Self {
            kind: Kind::of(driver),
            ids: format!("users {users}, groups {groups}"),
        })
    }

    /// How those that are there were made; `None` where there are none. To be asked before a driver is looked for.
    pub(super) fn of_those_in(store: &Store) -> Result<Option<Self>, SnapshotError> {
        let empty = |tx: &redb::ReadTransaction| Ok(tx.open_table(SNAPSHOTS)?.is_empty()?);
        if store.db().read(empty)? {
            return Ok(None);
        }
        let Some(text) = durability::text(store.db(), MADE_WITH)? else {
            let made = Self::from_before(store)?;
            made.remember(store);
            return Ok(Some(made));
        };
        match Self::parse(&text) {
            Some(made) => Ok(Some(made)),
            None => Err(SnapshotError::MadeUnknown {
                root: store.root().to_owned(),
                made: text,
            }),
        }
    }

    /// Of a directory from before this was kept: overlay mounts left a note that they had been found to work, and copies none.
    fn from_before(store: &Store) -> Result<Self, SnapshotError> {
        let driver = Driver::found_before(store)?;
        Self::here(&driver).map_err(unreadable)
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, ids) = text.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some(Self {
            kind,
            ids: ids.to_owned(),
        })
    }

    pub(super) fn are_copies(&self) -> bool {
        self.kind == Kind::Copies
    }

    /// Remembers how snapshots are made from now on. It is written before the first of them.
    pub(super) fn remember(&self, store: &Store) {
        let text = format!("{} {}", self.kind.name(), self.ids);
        drop(durability::set_text(store.db(), MADE_WITH, text));
    }
}

/// The maps of the user namespace cannot be read.
pub(super) fn unreadable(source: io::Error) -> SnapshotError {
    SnapshotError::Directory {
        action: "read",
        path: "/proc/self/uid_map".into(),
        source,
    }
}

/// Numbers with one space between them, and a semicolon between lines.
fn normalised(map: &str) -> String {
    let lines = map.lines().map(|line| {
        let numbers: Vec<_> = line.split_whitespace().collect();
        numbers.join(" ")
    });
    lines.collect::<Vec<_>>().join("; ")
}

impl fmt::Display for MadeWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.kind {
            Kind::Trusted => "with overlay mounts",
            Kind::User => "with overlay mounts of a normal user",
            Kind::Copies => "as copies",
        };
        write!(f, "{how} ({})", self.ids)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "helpers may fail their test")]
mod tests {
    use super::super::Snapshots;
    use super::*;
    use crate::{NewUsage, RecordType, StoreOptions, db::Db, object::Object};

    fn open(root: &std::path::Path) -> Store {
        Store::open(root, StoreOptions::default()).unwrap()
    }

    /// Leaves a snapshot that was made in this way, and this text in place of what says so.
    fn left(copies: bool, text: Option<&'static str>) -> (tempfile::TempDir, bool) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let snapshots = match copies {
            true => Snapshots::open_copying(&store).unwrap(),
            false => Snapshots::open(&store).unwrap(),
        };
        let overlay = snapshots.is_overlay();
        let usage = NewUsage {
            record_type: RecordType::Regular,
            description: "a test".to_owned(),
            mutable: false,
            size: None,
        };
        let made = snapshots.create(None).unwrap().commit(usage).unwrap();
        let object = Object::Snapshot(made.id());
        store.results().save(vec![object], Vec::new()).unwrap();
        drop((made, snapshots));
        set(store.db(), text);
        (directory, overlay)
    }

    fn set(db: &Db, text: Option<&'static str>) {
        let ticket = db.update(move |tx| {
            let mut table = tx.open_table(crate::durability::META_TEXT)?;
            match text {
                Some(text) => drop(table.insert(MADE_WITH, text)?),
                None => drop(table.remove(MADE_WITH)?),
            }
            Ok(())
        });
        ticket.wait().unwrap();
    }

    #[test]
    fn a_directory_from_before_is_taken_as_it_was_made() {
        for copies in [true, false] {
            let (directory, overlay) = left(copies, None);
            let store = open(directory.path());
            // Who only asks for the other kind is refused, and changes nothing.
            let refused = match overlay {
                true => Snapshots::open_copying(&store).err(),
                false => Snapshots::open_overlay(&store).err(),
            };
            assert!(refused.is_some());
            drop(store);
            let store = open(directory.path());
            assert_eq!(Snapshots::open(&store).unwrap().is_overlay(), overlay);
        }
    }

    #[test]
    fn what_a_later_version_says_is_refused() {
        let (directory, _) = left(true, Some("folded users 1, groups 2"));
        let store = open(directory.path());
        let error = Snapshots::open_copying(&store).err().unwrap();
        assert!(error.to_string().contains("folded"), "{error}");
    }
}
