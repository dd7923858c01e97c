//! Files that clients have as streams, such as their standard input. To definitions they are files
//! of an HTTP server that there is not.

use std::fs::File;
use std::io::{self, Write};

use bytes::Bytes;
use url::Url;
use weld_digest::{Digest, Hasher};
use weld_solver::{OpContext, OpError};
use weld_source::http::Download;
use weld_source::progress::Progress;

use super::pieces;
use crate::Tree;
use crate::session::{self, SessionError, Upload};

/// The server that there is not.
const HOST: &str = "buildkit-session";

/// Why a stream does not become a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the client offers no uploaded file {0:?}")]
    NotOffered(String),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot receive {name}: {source}")]
    Receive { name: String, source: io::Error },
    #[error("cannot write {name}: {source}")]
    Write { name: String, source: io::Error },
    #[error("{name}: the digest is {actual}, and {expected} is required")]
    Checksum {
        name: String,
        expected: Digest,
        actual: Digest,
    },
}

/// The path of a URL that means a client's stream.
pub(super) fn path(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    (url.host_str() == Some(HOST)).then(|| url.path().to_owned())
}

/// Asks for the stream.
pub(super) async fn open(ctx: &OpContext<Tree>, path: &str) -> Result<Upload, OpError> {
    ctx.with_session(|handle| async move {
        let upload = match session::of(&handle) {
            Some(session) => session.upload(path).await,
            None => Ok(None),
        };
        let upload = upload.map_err(|error| OpError::failed(UploadError::from(error)))?;
        upload.ok_or_else(|| OpError::gone(UploadError::NotOffered(path.to_owned())))
    })
    .await
}

/// Writes the stream to `file`. Dropped, it ends at the next piece.
pub(super) async fn receive(
    content: Upload,
    file: File,
    filename: String,
    expected: Option<&Digest>,
    progress: &Progress,
) -> Result<(File, Download), UploadError> {
    let transfer = progress.start("transferring", "receiving upload", None);
    let mut hasher = match expected {
        Some(digest) => Hasher::new(digest.algorithm()),
        None => Hasher::sha256(),
    };
    let write = move |pieces: &mut dyn Iterator<Item = Bytes>| {
        let mut writer = &file;
        let mut size = 0;
        for piece in pieces {
            hasher.update(&piece);
            writer.write_all(&piece)?;
            size += piece.len() as u64;
        }
        Ok((file, size, hasher.finish()))
    };
    let relayed = pieces::relay(content, transfer, write).await;
    let written = relayed.map_err(|source| UploadError::Receive {
        name: filename.clone(),
        source,
    })?;
    let (file, size, digest) = written.map_err(|source| UploadError::Write {
        name: filename.clone(),
        source,
    })?;
    if let Some(expected) = expected
        && *expected != digest
    {
        return Err(UploadError::Checksum {
            name: filename,
            expected: expected.clone(),
            actual: digest,
        });
    }
    let download = Download {
        digest,
        size,
        filename,
        last_modified: None,
        etag: None,
    };
    Ok((file, download))
}
