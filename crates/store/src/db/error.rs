use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the database did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// The database itself failed.
    #[error("state database: {0}")]
    Engine(#[source] Arc<redb::Error>),
    /// Its file could not be read or written, by this or by an earlier access.
    #[error("state database: {0}")]
    Io(#[source] Arc<io::Error>),
    /// A file of it is damaged.
    #[error("state database: {} is damaged: {reason}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value cannot be turned into bytes.
    #[error("state database: encode a record: {0}")]
    Encode(postcard::Error),
    /// A record is not what this version writes.
    #[error("state database: decode {what}: {source}")]
    Decode {
        /// What kind of record.
        what: &'static str,
        /// What is wrong with it.
        source: postcard::Error,
    },
    /// A key is not what this version writes.
    #[error("state database: {what} has a malformed key")]
    MalformedKey {
        /// What kind of record.
        what: &'static str,
    },
    /// An update panicked; nothing of it was committed.
    #[error("state database: an update panicked: {0}")]
    Panicked(String),
    /// The committer thread could not be started.
    #[error("state database: start the committer thread: {0}")]
    Thread(Arc<io::Error>),
    /// A damaged database cannot be put aside.
    #[error("state database: rename the damaged file: {0}")]
    Aside(Arc<io::Error>),
    /// The store was closed.
    #[error("state database: closed")]
    Closed,
}

impl DbError {
    /// Whether the disk has no space for it.
    pub fn is_no_space(&self) -> bool {
        let kind = match self {
            Self::Io(error) => error.kind(),
            Self::Engine(error) => match &**error {
                redb::Error::Io(error) => error.kind(),
                _ => return false,
            },
            _ => return false,
        };
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Whether it says only that something had failed before.
    pub(super) fn is_consequence(&self) -> bool {
        matches!(self, Self::Engine(error) if matches!(**error, redb::Error::PreviousIo))
    }

    /// Whether the database can do nothing more with its file.
    pub(super) fn is_storage_failure(&self) -> bool {
        match self {
            Self::Io(_) => true,
            Self::Engine(error) => matches!(
                **error,
                redb::Error::Io(_)
                    | redb::Error::Backend(_)
                    | redb::Error::PreviousIo
                    | redb::Error::DatabaseClosed
                    | redb::Error::Corrupted(_)
            ),
            _ => false,
        }
    }

    /// The same, of this file if its content is at fault.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        let reason = match &self {
            Self::Damaged { .. } => return self,
            error if !error.is_damage() => return self,
            Self::Engine(error) => error.to_string(),
            Self::Panicked(text) => text.clone(),
            error => error.to_string(),
        };
        Self::Damaged {
            path: path.to_owned(),
            reason,
        }
    }

    /// Whether the content of the database's files is at fault.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Engine(error) => match &**error {
                redb::Error::Corrupted(_) => true,
                redb::Error::Io(error) => is_damage(error),
                _ => false,
            },
            Self::Io(error) => is_damage(error),
            Self::Decode { .. } | Self::MalformedKey { .. } | Self::Panicked(_) => true,
            _ => false,
        }
    }
}

fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

impl From<io::Error> for DbError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<redb::Error> for DbError {
    fn from(error: redb::Error) -> Self {
        Self::Engine(Arc::new(error))
    }
}

macro_rules! from_engine {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for DbError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_engine!(StorageError TableError TransactionError CommitError);
