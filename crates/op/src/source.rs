//! The source operations: content from outside as trees.

pub(crate) mod blob;
pub(crate) mod git;
pub(crate) mod http;
pub(crate) mod image;
mod layers;
mod layout;
pub(crate) mod local;
mod secrets;

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use tokio::sync::OnceCell;
use weld_source::git::{GitConfig, GitSource};
use weld_source::http::{HttpConfig, HttpError, HttpSource};

use crate::Worker;

/// The ways to HTTP servers and git remotes, made when they are first needed.
#[derive(Default)]
pub(crate) struct Outside {
    http: OnceCell<HttpSource>,
    git: OnceCell<GitSource>,
}

/// The directory for repositories cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the directory {path} for git repositories: {source}", path = path.display())]
struct RepositoriesError {
    path: PathBuf,
    source: io::Error,
}

impl Worker {
    async fn http_source(&self) -> Result<&HttpSource, HttpError> {
        let made = || async { HttpSource::new(HttpConfig::default()) };
        self.outside.http.get_or_try_init(made).await
    }

    async fn git_source(&self) -> Result<&GitSource, RepositoriesError> {
        let made = || async {
            let path = &self.repositories;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| RepositoriesError {
                    path: path.clone(),
                    source,
                })?;
            Ok(GitSource::new(GitConfig::new(path)))
        };
        self.outside.git.get_or_try_init(made).await
    }
}
