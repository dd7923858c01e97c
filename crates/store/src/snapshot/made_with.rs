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

    /// How those that are there were made; `None` where there are none.
    pub(super) fn of_those_in(store: &Store) -> Result<Option<Self>, SnapshotError> {
        let empty = |tx: &redb::ReadTransaction| Ok(tx.open_table(SNAPSHOTS)?.is_empty()?);
        if store.db().read(empty)? {
            return Ok(None);
        }
        let text = durability::text(store.db(), MADE_WITH)?;
        Ok(text.and_then(|text| Self::parse(&text)))
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
