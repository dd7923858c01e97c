//! The cache of GitHub Actions, and what speaks its protocol: entries that are never changed, by keys that nobody can reserve twice.
//!
//! A blob is an entry at the key of its digest. A document is the newest of several entries whose keys end in a number, `NAME#1`,
//! `NAME#2`: whoever replaces it reserves the next number, which one alone can have. Keys and versions of entries are BuildKit's.

mod client;
mod content;
mod service;
mod token;

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

pub use token::{ActionsToken, ParseTokenError};

use super::{ActionsService, ObjectError};
use content::Content;
use service::{Entry, Reservation, Service};

/// How long somebody may take to complete an entry whose key is reserved before he counts as gone.
const ABANDONED: Duration = Duration::from_secs(15);
/// How often it is looked whether it is complete.
const LOOK: Duration = Duration::from_secs(1);
/// How many numbers in a row may have been reserved by those who are gone.
const MAX_SKIPPED: u64 = 100;
/// How often a document is written anew because others came between.
const ROUNDS: usize = 40;

/// A repository's cache, as a job may use it.
#[derive(Clone)]
pub(super) struct Actions {
    service: Service,
    token: ActionsToken,
}

impl Actions {
    pub(super) fn open(
        service: &ActionsService,
        token: &ActionsToken,
        patience: Duration,
    ) -> Result<Self, ObjectError> {
        Ok(Self {
            service: Service::new(&service.url, service.version, token.secret(), patience)?,
            token: token.clone(),
        })
    }

    /// Whether the token lets anything be written.
    pub(super) fn check_writable(&self) -> Result<(), ObjectError> {
        let reason = match self.token.written_scope() {
            None => "may be read with and not written with, as those of pull requests from forks",
            Some(_) if self.token.has_expired(SystemTime::now()) => "has expired",
            Some(_) => return Ok(()),
        };
        Err(ObjectError::Setting {
            attribute: "token",
            reason: reason.to_owned(),
        })
    }

    /// The entry of this key and no other.
    async fn exactly(&self, key: &str) -> Result<Option<Entry>, ObjectError> {
        let found = self.service.find(key).await?;
        Ok(found.filter(|entry| entry.key == key))
    }

    pub(super) async fn has(&self, key: &str) -> Result<bool, ObjectError> {
        Ok(self.exactly(key).await?.is_some())
    }

    /// The length of an entry, in bytes.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, ObjectError> {
        match self.exactly(key).await? {
            Some(entry) => self.service.length(&entry).await,
            None => Ok(None),
        }
    }

    pub(super) async fn read(
        &self,
        key: &str,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, ObjectError> {
        let entry = self.exactly(key).await?;
        let entry = entry.ok_or_else(|| ObjectError::Request {
            action: "read",
            key: key.to_owned(),
            reason: "it is not there".to_owned(),
            status: Some(http::StatusCode::NOT_FOUND),
        })?;
        self.service.read(entry).await
    }

    /// Writes an entry; one that somebody else is writing is waited for.
    pub(super) async fn write_file(
        &self,
        key: &str,
        size: u64,
        path: &Path,
    ) -> Result<(), ObjectError> {
        let content = Content::file(path, size).await?;
        match self.service.reserve(key).await? {
            Reservation::Made(upload) => self.service.write(key, &upload, &content).await,
            Reservation::Taken => {
                let mut waited = Duration::ZERO;
                while !self.has(key).await? {
                    if waited >= ABANDONED {
                        return Err(ObjectError::Abandoned(key.to_owned()));
                    }
                    tokio::time::sleep(LOOK).await;
                    waited += LOOK;
                }
                Ok(())
            }
        }
    }

    /// The newest entry of a document, and its number.
    async fn newest(&self, name: &str) -> Result<Option<(u64, Entry)>, ObjectError> {
        let prefix = format!("{name}#");
        let Some(entry) = self.service.find(&prefix).await? else {
            return Ok(None);
        };
        let number = entry.key.strip_prefix(&prefix);
        match number.and_then(|number| number.parse().ok()) {
            Some(number) => Ok(Some((number, entry))),
            None => Err(ObjectError::Request {
                action: "read",
                key: prefix,
                reason: format!("the service has {:?} for it", entry.key),
                status: None,
            }),
        }
    }

    /// A document and its number; `None` and 0 if there is none.
    pub(super) async fn document(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<(Option<Bytes>, u64), ObjectError> {
        let Some((number, entry)) = self.newest(name).await? else {
            return Ok((None, 0));
        };
        let key = entry.key.clone();
        let mut pieces = ReaderStream::new(self.service.read(entry).await?);
        let mut document = BytesMut::new();
        while let Some(piece) = pieces
            .try_next()
            .await
            .map_err(|error| read_error(&key, error))?
        {
            if (document.len() + piece.len()) as u64 > limit {
                return Err(ObjectError::TooLarge { key, limit });
            }
            document.extend_from_slice(&piece);
        }
        Ok((Some(document.freeze()), number))
    }

    /// Writes a document in place of the one of this number, if that is the newest still; whether it was.
    pub(super) async fn replace(
        &self,
        name: &str,
        content: Bytes,
        before: u64,
    ) -> Result<bool, ObjectError> {
        let content = Content::Bytes(content);
        let mut waited = Duration::ZERO;
        for step in 1..=MAX_SKIPPED {
            let key = format!("{name}#{}", before.saturating_add(step));
            if let Reservation::Made(upload) = self.service.reserve(&key).await? {
                self.service.write(&key, &upload, &content).await?;
                return Ok(true);
            }
            // Somebody is writing this one, or broke off. If nothing comes of it, it is passed over.
            loop {
                let newest = self.newest(name).await?;
                if newest.is_some_and(|(newest, _)| newest > before) {
                    return Ok(false);
                }
                if waited >= ABANDONED {
                    break;
                }
                tokio::time::sleep(LOOK).await;
                waited += LOOK;
            }
        }
        Err(ObjectError::Abandoned(name.to_owned()))
    }

    /// Writes a document in place of whatever is there.
    pub(super) async fn write_document(
        &self,
        name: &str,
        content: Bytes,
    ) -> Result<(), ObjectError> {
        for _ in 0..ROUNDS {
            let newest = self.newest(name).await?;
            let before = newest.map_or(0, |(number, _)| number);
            if self.replace(name, content.clone(), before).await? {
                return Ok(());
            }
        }
        Err(ObjectError::Request {
            action: "write",
            key: name.to_owned(),
            reason: "others came between each time".to_owned(),
            status: None,
        })
    }
}

fn read_error(key: &str, error: io::Error) -> ObjectError {
    ObjectError::Request {
        action: "read",
        key: key.to_owned(),
        reason: error.to_string(),
        status: None,
    }
}
