//! Damaged databases that were put aside, beside the one that took their place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::DATABASE;
use crate::clock;

/// Nobody looks at one any more that is older.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A damaged database.
pub(crate) struct Aside {
    pub(crate) path: PathBuf,
    /// Its name in the state directory.
    pub(crate) name: String,
    /// When it was put aside, in seconds since 1970.
    pub(crate) since: u64,
}

impl Aside {
    fn at(root: &Path, name: String) -> Option<Self> {
        let rest = name.strip_prefix(DATABASE)?.strip_prefix(".damaged-")?;
        let since = rest.split('-').next()?.parse().ok()?;
        Some(Self {
            path: root.join(&name),
            name,
            since,
        })
    }

    pub(crate) fn is_old(&self) -> bool {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(self.since);
        since.elapsed().is_ok_and(|age| age > LIFETIME)
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// All that there are.
pub(crate) fn all(root: &Path) -> io::Result<Vec<Aside>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().into_string();
        found.extend(name.ok().and_then(|name| Aside::at(root, name)));
    }
    Ok(found)
}

/// Puts the database aside. Of those that were before nobody will learn more than of this one.
pub(super) fn put(root: &Path) -> io::Result<PathBuf> {
    for older in all(root)? {
        older.remove()?;
    }
    let aside = root.join(format!("{DATABASE}.damaged-{}", clock::seconds()));
    fs::rename(root.join(DATABASE), &aside)?;
    Ok(aside)
}
