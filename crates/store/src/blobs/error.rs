use std::io;

use weld_digest::Digest;

use crate::db::DbError;
use crate::space::SpaceError;

/// Why a blob cannot be read or taken.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Its file cannot be read.
    #[error("read blob {digest}: {source}")]
    Read {
        /// Which blob.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// More was asked for than there is.
    #[error("read blob {digest}: {len} bytes at {offset} are past its end ({size} bytes)")]
    OutOfRange {
        /// Which blob.
        digest: Digest,
        /// Where the range starts.
        offset: u64,
        /// How long the range is.
        len: u64,
        /// How long the blob is.
        size: u64,
    },
    /// It is longer than the caller reads into memory.
    #[error("read blob {digest}: it has {size} bytes, at most {limit} are allowed here")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// How long it is.
        size: u64,
        /// How long it may be.
        limit: u64,
    },
    /// What came in cannot be written.
    #[error("ingest {name}: {action}: {source}")]
    Write {
        /// The reference or digest of what is ingested.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What came in has another digest than was announced; it was dropped.
    #[error("ingest {name}: content has digest {actual}, expected {expected}")]
    WrongDigest {
        /// The reference or digest of what is ingested.
        name: String,
        /// What was announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// What came in has another length than was announced.
    #[error("ingest {name}: content has {actual} bytes, expected {expected}")]
    WrongSize {
        /// The reference or digest of what is ingested.
        name: String,
        /// What was announced.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// There is no room for it.
    #[error("ingest {name}: {source}")]
    Space {
        /// The reference or digest of what is ingested.
        name: String,
        /// Why not.
        source: Box<SpaceError>,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}
