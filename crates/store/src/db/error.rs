use std::io;
use std::sync::Arc;

/// Why the database did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// The database itself failed.
    #[error("state database: {0}")]
    Engine(Arc<redb::Error>),
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
    /// The store was closed.
    #[error("state database: closed")]
    Closed,
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
