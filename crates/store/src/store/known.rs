//! What a state directory's database knows, and beginning anew where it is damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{DATABASE, Mended, OnDamage, StoreOptions, TABLES, aside};
use crate::blobs::found;
use crate::db::{Damage, Db, DbError, Opening};
use crate::durability::{self, LastRun, Sequence};
use crate::lock::DirectoryLock;
use crate::records::steps::Steps;

/// A number that no directory has, also of those that a database knew which is lost.
fn first_unused(root: &Path) -> u64 {
    let entries = fs::read_dir(root.join("snapshots"));
    let numbers = entries.into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u64>().ok()
    });
    numbers.max().map_or(1, |last| last.saturating_add(1))
}

/// The database, and what is read of it at once.
pub(super) struct Known {
    pub(super) db: Db,
    pub(super) last_run: LastRun,
    pub(super) sequence: Arc<Sequence>,
    pub(super) steps: Steps,
    pub(super) mended: Vec<Mended>,
}

pub(super) fn open_known(
    root: &Path,
    options: &StoreOptions,
    boot: &str,
    lock: DirectoryLock,
) -> Result<Known, DbError> {
    let lock = Arc::new(lock);
    let opening = Opening {
        cache_bytes: options.db_cache,
        boot: durability::boot_number(boot),
        mend: options.on_damage == OnDamage::StartAnew,
        verify: options.verify,
    };
    match read_known(root, &opening, boot, &lock) {
        Err(error) if opening.mend && error.is_damage() => {
            let aside = aside::put(root).map_err(|error| DbError::Aside(Arc::new(error)))?;
            let told = Mended(format!(
                "{error}; what it knew is lost, and the build cache begins anew: steps run again, cache mounts are empty, only blobs are kept; \
                 the damaged database is put aside as {}, until `weld prune --all` or for a week",
                aside.display()
            ));
            tracing::warn!("{told}");
            let mut known = read_known(root, &opening, boot, &lock)?;
            found::want(&known.db).wait()?;
            known.mended.push(told);
            Ok(known)
        }
        known => known,
    }
}

fn read_known(
    root: &Path,
    opening: &Opening,
    boot: &str,
    lock: &Arc<DirectoryLock>,
) -> Result<Known, DbError> {
    let db = Db::open(&root.join(DATABASE), opening, lock.clone())?;
    // A kill may have come between the making of the file and of the tables.
    let new = db.read(|tx| Ok(tx.list_tables()?.next().is_none()))?;
    if new {
        let unused = first_unused(root);
        db.update(move |tx| {
            TABLES.iter().try_for_each(|create| create(tx))?;
            durability::mark_closed(tx, unused, false)
        })
        .wait()?;
    }
    let last_run = durability::last_run(&db, boot)?;
    let mut sequence = Sequence::new(&db)?;
    if db.may_lack_commits() {
        sequence.skip_to(first_unused(root));
    }
    let mended = db.mended().iter().map(|Damage { error, outcome }| {
        let told = Mended(format!("{error}; {outcome}"));
        tracing::warn!("{told}");
        told
    });
    Ok(Known {
        last_run,
        sequence: Arc::new(sequence),
        steps: Steps::open(&db)?,
        mended: mended.collect(),
        db,
    })
}
