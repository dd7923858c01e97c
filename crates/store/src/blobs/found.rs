//! Blobs that a database which is lost knew of: those whose content has the digest that they are named by need not be fetched again.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use weld_digest::{Algorithm, Digest, Hasher};

use super::{BLOBS, BlobInfo, BlobRecord, Blobs, on_disk};
use crate::clock;
use crate::db::{Db, DbError, Ticket, encode};
use crate::durability::{self, META_TEXT};
use crate::names;
use crate::object::Object;
use crate::usage::{self, NewUsage, RecordType};

/// Read at once of a file whose digest is computed, in bytes.
const CHUNK_LEN: usize = 1 << 20;
/// There while files of blobs that no record knows are to be looked at and not to be deleted.
const WANTED: &str = "blobs-to-be-found";

/// The digest of a file's content; tells the bytes that it reads.
pub(crate) fn digest_of(
    mut file: &File,
    algorithm: Algorithm,
    read: impl Fn(u64),
) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => {
                hasher.update(&buffer[..length]);
                read(length as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Has the next sweep keep what blobs there are.
pub(crate) fn want(db: &Db) -> Ticket<()> {
    durability::set_text(db, WANTED, "1".to_owned())
}

/// Whether blobs that no record knows are to be kept.
pub(crate) fn are_wanted(db: &Db) -> Result<bool, DbError> {
    Ok(durability::text(db, WANTED)?.is_some())
}

/// All that there were are found.
pub(crate) fn all_found(db: &Db) -> Ticket<()> {
    db.update(|tx| {
        tx.open_table(META_TEXT)?.remove(WANTED)?;
        Ok(())
    })
}

impl Blobs {
    /// Makes a blob of a file that no record knows, if it has the content of its name; whether it does. The blob has a name, so
    /// that it stays until it is worth least.
    pub(crate) fn adopt(&self, digest: &Digest, path: &Path) -> Result<bool, DbError> {
        let hashed = File::open(path).and_then(|file| {
            let size = file.metadata()?.len();
            Ok((digest_of(&file, digest.algorithm(), |_| ())?, size))
        });
        let Ok((found, size)) = hashed else {
            return Ok(false);
        };
        if found != *digest {
            return Ok(false);
        }
        let record = BlobRecord {
            size,
            sequence: self.0.sequence.next()?,
            created: clock::seconds(),
            info: BlobInfo::default(),
        };
        let usage = NewUsage {
            record_type: RecordType::Regular,
            description: "blob of a database that was damaged".to_owned(),
            mutable: false,
            size: Some(on_disk(size)),
        };
        let (key, row) = (digest.to_string(), encode(&record)?);
        let object = Object::Blob(digest.clone());
        let adopted = self.0.db.update(move |tx| {
            tx.open_table(BLOBS)?.insert(key.as_str(), row.as_slice())?;
            usage::record(tx, &object, &usage)?;
            names::set(tx, &format!("found-blob/{key}"), &object)
        });
        adopted.wait()?;
        Ok(true)
    }
}
