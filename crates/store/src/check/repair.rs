use std::collections::HashSet;

use redb::WriteTransaction;
use weld_solver::RecordId;

use super::{CheckError, CheckReport, Problem, RepairReport};
use crate::blobs;
use crate::collector::remove_error;
use crate::db::DbError;
use crate::gc::{self, Removal};
use crate::names;
use crate::object::Object;
use crate::refs;
use crate::reserve::Room;
use crate::store::Store;
use crate::usage::{self, NewUsage, RecordType};

impl Store {
    /// Mends what a check found: drops what is damaged with all that was made of it, and sets
    /// references and usage records right. Steps whose results go run again in the next build.
    ///
    /// # Errors
    /// [`CheckError`]; what was mended until then stays so.
    pub fn repair(&self, report: &CheckReport) -> Result<RepairReport, CheckError> {
        let root = self.root();
        let _room = Room::make(root).map_err(remove_error(root))?;
        let problems = report.problems.clone();
        let removal = self.db().update(move |tx| mend(tx, &problems)).wait()?;
        let dead = report.problems.iter().filter_map(|problem| match problem {
            Problem::KeyOfNothing(result) => Some(RecordId(*result)),
            _ => None,
        });
        self.keys().drop_records(&dead.collect::<Vec<_>>());
        self.collector().finish(&removal)?;
        let released = removal.released.iter();
        released.for_each(|object| self.pins().release(object));
        self.db().flush()?;
        self.sweep()?;
        Ok(RepairReport {
            objects: removal.removed,
            results: removal.results.len(),
        })
    }
}

fn mend(tx: &WriteTransaction, problems: &[Problem]) -> Result<Removal, DbError> {
    let (mut damaged, mut released) = (Vec::new(), Vec::new());
    let mut blobs = HashSet::new();
    for problem in problems {
        match problem {
            Problem::BlobMissing(digest)
            | Problem::BlobUnreadable(digest, _)
            | Problem::BlobContent { digest, .. } => {
                blobs.insert(digest.clone());
            }
            Problem::FilesMissing(id, _)
            | Problem::ParentMissing(id, _)
            | Problem::LayerMissing(id, _) => damaged.push(Object::Snapshot(*id)),
            Problem::UsageOfNothing(object) => damaged.push(object.clone()),
            Problem::NoUsage(object) => {
                let new = NewUsage {
                    record_type: RecordType::Regular,
                    description: "found by a check".to_owned(),
                    mutable: false,
                    size: None,
                };
                usage::record(tx, object, &new)?;
            }
            Problem::NotHeld { holder, object } => refs::add(tx, holder, object)?,
            Problem::HolderMissing { holder, object } => {
                refs::remove(tx, holder, object)?;
                released.push(object.clone());
            }
            Problem::HeldMissing { holder, object } => {
                // Both tables have to have it for what holds it to go with it.
                refs::add(tx, holder, object)?;
                damaged.push(object.clone());
            }
            Problem::DanglingName(name) => names::remove(tx, name)?,
            Problem::KeyOfNothing(_) => {}
        }
    }
    // What was unpacked from a blob is as sound as before.
    let mut removal = blobs::lost::remove(tx, &blobs)?;
    removal.append(gc::remove_damaged(tx, damaged)?);
    removal.released.append(&mut released);
    Ok(removal)
}
