//! Object stores: S3 and what speaks its protocol, Azure Blob Storage, and the cache of GitHub Actions.
//!
//! The protocols, signatures and ways to credentials of buckets are the `object_store` crate's; the connections are the same as those
//! of all other sources. A store has blobs by their digests and documents by their names, at keys as BuildKit has them, and is a
//! [`BlobStore`].

mod actions;
mod azure;
mod error;
mod http;
mod location;
mod s3;
mod upload;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::http::StatusCode;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, RetryConfig, UpdateVersion,
};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use weld_digest::Digest;

pub use actions::{ActionsToken, ParseTokenError};
pub use error::ObjectError;
pub use location::{
    ActionsService, ActionsVersion, AzureAccount, Bucket, Location, ParseLocationError, S3Bucket,
};

use crate::Secret;
use crate::blob_store::BlobStore;
use crate::oci_layout::BlobProvider;

/// Who asks an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectCredentials {
    /// Whoever the environment of this process, or the machine that it runs on, is.
    Environment,
    /// The holder of a key of S3's.
    S3 {
        /// The key's id.
        id: String,
        /// The key.
        secret: Secret,
        /// The token of a key that holds for a while.
        token: Option<Secret>,
    },
    /// The holder of an Azure account's key, in Base64.
    Azure(Secret),
    /// A job of GitHub Actions.
    Actions(ActionsToken),
}

impl ObjectCredentials {
    /// Whether they are a client's, and only a client can be asked for them again.
    pub const fn are_clients(&self) -> bool {
        !matches!(self, Self::Environment)
    }
}

/// How an object store is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectOptions {
    /// How often a request is made until it succeeds.
    pub attempts: usize,
    /// A blob that is there is made young again if it is older than this, so that rules by which a bucket drops what is old spare it.
    pub refresh: Option<Duration>,
    /// How long a request may be made again and again; where the server says that it is asked too often, as often as that takes.
    pub patience: Duration,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            refresh: None,
            patience: PATIENCE,
        }
    }
}

/// How long a request may be made again and again unless told.
const PATIENCE: Duration = Duration::from_secs(60);

/// The protocol that a bucket speaks.
#[derive(Clone)]
enum Protocol {
    S3(s3::S3),
    Azure(azure::Azure),
}

/// Who has the objects.
#[derive(Clone)]
enum Server {
    Bucket(Arc<dyn ObjectStore>, Protocol),
    Actions(actions::Actions),
}

/// Which version of a document was read, or that there was none.
#[derive(Clone, Debug)]
pub struct DocumentVersion(Version);

#[derive(Clone, Debug)]
enum Version {
    Absent,
    Tagged(UpdateVersion),
    /// From 1 on; 0 if there is none.
    Numbered(u64),
}

/// Blobs and documents in an object store.
#[derive(Clone)]
pub struct Objects {
    location: Arc<Location>,
    name: Arc<str>,
    server: Server,
    refresh: Option<Duration>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("location", &self.name)
            .finish_non_exhaustive()
    }
}

impl Objects {
    /// The store at `location`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ObjectError`] if what it is given cannot be used.
    pub fn open(
        location: Location,
        credentials: &ObjectCredentials,
        options: &ObjectOptions,
    ) -> Result<Self, ObjectError> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: options.attempts.saturating_sub(1),
            retry_timeout: options.patience,
        };
        let server = match &location.bucket {
            Bucket::S3(bucket) => {
                let s3 = s3::S3::open(bucket, credentials, retry)?;
                Server::Bucket(s3.store(), Protocol::S3(s3))
            }
            Bucket::Azure(account) => {
                let azure = azure::Azure::open(account, credentials, retry)?;
                Server::Bucket(azure.store(), Protocol::Azure(azure))
            }
            Bucket::Actions(service) => {
                let ObjectCredentials::Actions(token) = credentials else {
                    return Err(ObjectError::Setting {
                        attribute: "token",
                        reason: "is needed".to_owned(),
                    });
                };
                Server::Actions(actions::Actions::open(service, token, options.patience)?)
            }
        };
        Ok(Self {
            name: location.to_string().into(),
            location: Arc::new(location),
            server,
            refresh: options.refresh,
        })
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Makes the container that it is in, if that is not there and can be made: Azure's. A token has to let something be written.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn prepare(&self) -> Result<(), ObjectError> {
        match &self.server {
            Server::Bucket(_, Protocol::S3(_)) => Ok(()),
            Server::Bucket(_, Protocol::Azure(azure)) => azure.make_container().await,
            Server::Actions(actions) => actions.check_writable(),
        }
    }

    /// A document; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`ObjectError`], also if it is larger than `limit` bytes.
    pub async fn document(&self, name: &str, limit: u64) -> Result<Option<Bytes>, ObjectError> {
        Ok(self.versioned_document(name, limit).await?.0)
    }

    /// The same, with what tells it from what may take its place.
    ///
    /// # Errors
    /// [`ObjectError`], also if it is larger than `limit` bytes.
    pub async fn versioned_document(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<(Option<Bytes>, DocumentVersion), ObjectError> {
        let key = self.location.document(name);
        let store = match &self.server {
            Server::Bucket(store, _) => store,
            Server::Actions(actions) => {
                let (document, number) = actions.document(&key, limit).await?;
                return Ok((document, DocumentVersion(Version::Numbered(number))));
            }
        };
        let key = checked(key)?;
        let got = match store.get(&key).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => {
                return Ok((None, DocumentVersion(Version::Absent)));
            }
            Err(error) => return Err(ObjectError::of("read", &key, &error)),
        };
        let too_large = || ObjectError::TooLarge {
            key: key.to_string(),
            limit,
        };
        if got.meta.size > limit {
            return Err(too_large());
        }
        let version = DocumentVersion(Version::Tagged(UpdateVersion {
            e_tag: got.meta.e_tag.clone(),
            version: got.meta.version.clone(),
        }));
        let mut content = BytesMut::new();
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces
            .try_next()
            .await
            .map_err(|error| ObjectError::of("read", &key, &error))?
        {
            if (content.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            content.extend_from_slice(&piece);
        }
        Ok((Some(content.freeze()), version))
    }

    /// Writes a document in place of the version that was read, if that is still there; whether it was.
    ///
    /// # Errors
    /// [`ObjectError`], also if the store cannot compare versions.
    pub async fn replace_document(
        &self,
        name: &str,
        content: Bytes,
        version: DocumentVersion,
    ) -> Result<bool, ObjectError> {
        let key = self.location.document(name);
        let store = match &self.server {
            Server::Bucket(store, _) => store,
            Server::Actions(actions) => {
                let before = match version.0 {
                    Version::Numbered(number) => number,
                    Version::Absent | Version::Tagged(_) => 0,
                };
                return actions.replace(&key, content, before).await;
            }
        };
        let key = checked(key)?;
        let mode = match version.0 {
            Version::Tagged(version) => PutMode::Update(version),
            Version::Absent | Version::Numbered(_) => PutMode::Create,
        };
        match store.put_opts(&key, content.into(), mode.into()).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::Precondition { .. }
                | object_store::Error::AlreadyExists { .. }
                | object_store::Error::NotModified { .. },
            ) => Ok(false),
            Err(error) => Err(ObjectError::of("write", &key, &error)),
        }
    }

    /// Writes a document in place of what has that name.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn write_document(&self, name: &str, content: Bytes) -> Result<(), ObjectError> {
        let key = self.location.document(name);
        match &self.server {
            Server::Bucket(store, _) => upload::bytes(&**store, &checked(key)?, content).await,
            Server::Actions(actions) => actions.write_document(&key, content).await,
        }
    }

    /// The length of a blob, in bytes; `None` if it is not there.
    async fn held(&self, digest: &Digest) -> Result<Option<u64>, ObjectError> {
        let key = self.location.blob(digest);
        let (store, protocol) = match &self.server {
            Server::Bucket(store, protocol) => (store, protocol),
            Server::Actions(actions) => return actions.size(&key).await,
        };
        let key = checked(key)?;
        let meta = match store.head(&key).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(ObjectError::of("look for", &key, &error)),
        };
        let written = SystemTime::from(meta.last_modified);
        let age = written.elapsed().unwrap_or_default();
        if let (Protocol::S3(s3), Some(refresh)) = (protocol, self.refresh)
            && age > refresh
        {
            match s3.touch(&key, meta.size).await {
                Ok(()) => {}
                // It went away meanwhile, by the rule that this is to spare it from.
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(meta.size))
    }
}

/// A key as the protocols' crate has it, which must not change it.
fn checked(text: String) -> Result<Key, ObjectError> {
    match Key::parse(&text) {
        Ok(key) if key.as_ref() == text => Ok(key),
        _ => Err(ObjectError::Key(text)),
    }
}

#[async_trait]
impl BlobProvider for Objects {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(&self, digest: &Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let key = self.location.blob(digest);
        let store = match &self.server {
            Server::Bucket(store, _) => store,
            Server::Actions(actions) => return Ok(actions.read(&key).await?),
        };
        let key = checked(key)?;
        let got = store.get(&key).await;
        let got = got.map_err(|error| ObjectError::of("read", &key, &error))?;
        let pieces = got
            .into_stream()
            .map_err(move |error| io::Error::from(ObjectError::of("read", &key, &error)));
        Ok(Box::new(StreamReader::new(pieces)))
    }
}

#[async_trait]
impl BlobStore for Objects {
    /// Also makes it young again where the options say so: whoever asks counts on it from now on.
    async fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.held(digest).await?)
    }

    /// An entry of GitHub Actions is never changed, so its length is not asked for.
    async fn has(&self, digest: &Digest, size: u64) -> io::Result<bool> {
        match &self.server {
            Server::Bucket(..) => Ok(self.held(digest).await? == Some(size)),
            Server::Actions(actions) => Ok(actions.has(&self.location.blob(digest)).await?),
        }
    }

    async fn put(&self, digest: &Digest, size: u64, file: &Path) -> io::Result<()> {
        let key = self.location.blob(digest);
        match &self.server {
            Server::Bucket(store, _) => {
                Ok(upload::file(&**store, &checked(key)?, size, file).await?)
            }
            Server::Actions(actions) => Ok(actions.write_file(&key, size, file).await?),
        }
    }
}
