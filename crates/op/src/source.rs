//! The source operations: content from outside as trees.

pub(crate) mod answers;
pub(crate) mod blob;
pub(crate) mod git;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod layers;
pub(crate) mod layout;
pub(crate) mod local;
mod pieces;
mod secrets;
pub(crate) mod trees;
mod upload;

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

impl Worker {
    async fn http_source(&self) -> Result<&HttpSource, HttpError> {
        let made = || async { HttpSource::new(HttpConfig::default()) };
        self.outside.http.get_or_try_init(made).await
    }

    async fn git_source(&self) -> &GitSource {
        let made = || async { GitSource::new(GitConfig::new(self.store.cache_mounts().clone())) };
        self.outside.git.get_or_init(made).await
    }
}
