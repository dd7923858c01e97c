//! Content into an object: at once if it is small, else in parts of which a few are on their way.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::ObjectError;

/// Up to this length, in bytes, content goes in one request.
const AT_ONCE: u64 = 16 << 20;
/// The length of a part; S3 takes none under 5 MiB but the last.
const PART: u64 = 8 << 20;
/// Most parts of an object: S3 has 10,000.
const MAX_PARTS: u64 = 10_000;
/// How many parts of one object are on their way.
const PARALLEL: usize = 2;

/// Bytes that are here.
pub(super) async fn bytes(
    store: &dyn ObjectStore,
    key: &Key,
    content: Bytes,
) -> Result<(), ObjectError> {
    if content.len() as u64 <= AT_ONCE {
        let put = store.put(key, content.into()).await;
        put.map_err(|error| ObjectError::of("write", key, &error))?;
        return Ok(());
    }
    let mut parts = Parts::start(store, key, content.len() as u64).await?;
    for piece in content.chunks(PART as usize) {
        parts.add(content.slice_ref(piece)).await?;
    }
    parts.finish().await
}

/// A file's content, which has to be `size` bytes.
pub(super) async fn file(
    store: &dyn ObjectStore,
    key: &Key,
    size: u64,
    path: &Path,
) -> Result<(), ObjectError> {
    let unreadable = |source| ObjectError::File {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).await.map_err(unreadable)?;
    if size <= AT_ONCE {
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut limited = (&mut file).take(size + 1);
        limited
            .read_to_end(&mut content)
            .await
            .map_err(unreadable)?;
        if content.len() as u64 != size {
            return Err(unreadable(other_length(size)));
        }
        return bytes(store, key, content.into()).await;
    }
    let mut parts = Parts::start(store, key, size).await?;
    let mut rest = size;
    while rest > 0 {
        let length = usize::try_from(rest.min(PART)).unwrap_or(0);
        let mut piece = BytesMut::zeroed(length);
        if let Err(source) = file.read_exact(&mut piece).await {
            return parts.give_up(unreadable(source)).await;
        }
        rest -= length as u64;
        parts.add(piece.freeze()).await?;
    }
    match file.read(&mut [0]).await {
        Ok(0) => parts.finish().await,
        Ok(_) => parts.give_up(unreadable(other_length(size))).await,
        Err(source) => parts.give_up(unreadable(source)).await,
    }
}

fn other_length(size: u64) -> std::io::Error {
    std::io::Error::other(format!("it is not {size} bytes long"))
}

/// An upload in parts. Nothing is there before it is finished.
struct Parts<'a> {
    /// Gone once it was finished or given up.
    upload: Option<WriteMultipart>,
    key: &'a Key,
}

impl<'a> Parts<'a> {
    async fn start(store: &dyn ObjectStore, key: &'a Key, size: u64) -> Result<Self, ObjectError> {
        let length = PART.max(size.div_ceil(MAX_PARTS));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let started = store.put_multipart(key).await;
        let started = started.map_err(|error| ObjectError::of("write", key, &error))?;
        Ok(Self {
            upload: Some(WriteMultipart::new_with_chunk_size(started, length)),
            key,
        })
    }

    async fn add(&mut self, piece: Bytes) -> Result<(), ObjectError> {
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        match upload.wait_for_capacity(PARALLEL).await {
            Ok(()) => {
                upload.put(piece);
                Ok(())
            }
            Err(error) => {
                let error = ObjectError::of("write", self.key, &error);
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn finish(mut self) -> Result<(), ObjectError> {
        if let Some(upload) = self.upload.take() {
            // It gives up by itself if it fails.
            let finished = upload.finish().await;
            finished.map_err(|error| ObjectError::of("write", self.key, &error))?;
        }
        Ok(())
    }

    async fn give_up(mut self, error: ObjectError) -> Result<(), ObjectError> {
        self.abort().await;
        Err(error)
    }

    /// Has the parts forgotten; where that fails, the store's own rules drop them some day.
    async fn abort(&mut self) {
        if let Some(upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            let error = ObjectError::of("give up", self.key, &error);
            tracing::debug!(%error, "parts of an upload are left");
        }
    }
}
