//! A directory of the client's as a source.
//!
//! The directory is synced when its cache map is asked for, and its key is that of its content:
//! what is built on it is found by it at once. The store keeps a copy of it: only what changed is
//! written, and an unchanged tree costs its stats.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use weld_digest::{Digest, FieldHasher};
use weld_fileset::{PatternError, PatternMatcher, SelectionOptions};
use weld_llb::LocalSource;
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_source::local::{
    Differ, MetadataOnly, StoreSyncError, TreeIndex, TreeProvider, sync_into_store,
};
use weld_source::progress::Progress;
use weld_store::{NewUsage, RecordType};

use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::session::{self, Session, SessionError};
use crate::{Tree, Worker};

/// Why a local directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("local directory {0:?} is not offered by the client")]
    NotOffered(String),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("local directory {name:?}: {source}")]
    Sync {
        name: String,
        source: Box<StoreSyncError>,
    },
    #[error("local directory {name:?}: {source}")]
    Pattern { name: String, source: PatternError },
}

pub(crate) struct Local {
    pub(crate) worker: Arc<Worker>,
    pub(crate) source: LocalSource,
    pub(crate) description: String,
    pub(crate) synced: OnceLock<(Tree, Digest)>,
}

impl crate::recall::Step for Local {
    fn is_known_by_looking(&self) -> bool {
        true
    }
}

#[async_trait]
impl Op<Tree> for Local {
    async fn cache_map(&self, ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let (_, content) = self.synced(ctx).await?;
        let digest = FieldHasher::new("weld.op.local.v1")
            .digest(&content)
            .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        Ok(vec![self.synced(ctx).await?.0])
    }
}

impl Local {
    async fn synced(&self, ctx: &OpContext<Tree>) -> Result<(Tree, Digest), OpError> {
        if let Some(synced) = self.synced.get() {
            return Ok(synced.clone());
        }
        let work = reporting(ctx, |progress| {
            ctx.with_session(move |handle| {
                let progress = progress.clone();
                async move { self.sync_from(session::of(&handle), progress).await }
            })
        });
        let synced = tokio::select! {
            synced = work => synced?,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        Ok(self.synced.get_or_init(|| synced).clone())
    }

    async fn sync_from(
        &self,
        session: Option<Arc<dyn Session>>,
        progress: Progress,
    ) -> Result<(Tree, Digest), OpError> {
        let name = &self.source.name;
        let gone = || OpError::gone(LocalError::NotOffered(name.clone()));
        let session = session.ok_or_else(gone)?;
        // A definition may want the directory of one session and no other's.
        let session = match self.source.session.as_deref() {
            Some(wanted) if wanted != session.id() => {
                session.other(wanted).await.ok_or_else(gone)?
            }
            _ => session,
        };
        let selection = SelectionOptions {
            include_patterns: self.source.include_patterns.clone(),
            exclude_patterns: self.source.exclude_patterns.clone(),
            follow_paths: self.source.follow_paths.clone(),
        };
        let provider = session
            .directory(name, selection)
            .await
            .map_err(|error| OpError::failed(LocalError::Session(error)))?
            .ok_or_else(gone)?;
        let provider = self.transferred(provider).map_err(OpError::failed)?;
        let identity = session.directory_identity(name);
        let key = self.key(identity.as_deref().unwrap_or(name));
        // Only where it is the same directory is there something to be gained from waiting.
        let (turn, by_default) = match identity {
            Some(_) => (self.worker.sources.take(&key).await, Differ::Metadata),
            None => (self.worker.sources.take_any(&key).await, Differ::Settled),
        };
        let differ = match self.source.differ.as_deref() {
            Some("none") => Differ::None,
            Some("metadata") => Differ::Metadata,
            _ => by_default,
        };
        let progress = progress.telling(turn.mover());
        self.sync_tree(turn.key.clone(), differ, provider, progress)
            .await
            .map_err(OpError::failed)
    }

    /// What of the tree is transferred.
    fn transferred(&self, all: Arc<dyn TreeProvider>) -> Result<Arc<dyn TreeProvider>, LocalError> {
        let Some(transfer) = &self.source.metadata_transfer else {
            return Ok(all);
        };
        let exceptions = PatternMatcher::new(&transfer.exceptions);
        let exceptions = exceptions.map_err(|source| LocalError::Pattern {
            name: self.source.name.clone(),
            source,
        })?;
        Ok(Arc::new(MetadataOnly::new(all, exceptions)))
    }

    /// What tells the kept tree from others: whose directory it is, and what is selected of it.
    fn key(&self, identity: &str) -> String {
        let hasher = FieldHasher::new("weld.local.v1")
            .text(identity)
            .optional(self.source.shared_key_hint.as_deref())
            .texts(&self.source.include_patterns)
            .texts(&self.source.exclude_patterns)
            .texts(&self.source.follow_paths);
        let digest = match &self.source.metadata_transfer {
            Some(transfer) => hasher.text("metadata").texts(&transfer.exceptions),
            None => hasher,
        }
        .finish();
        self.worker.domain().scoped(digest.hex())
    }

    async fn sync_tree(
        &self,
        key: String,
        differ: Differ,
        provider: Arc<dyn TreeProvider>,
        progress: Progress,
    ) -> Result<(Tree, Digest), LocalError> {
        let usage = NewUsage {
            record_type: RecordType::LocalSource,
            description: format!("local source for {}", self.description),
            mutable: false,
            size: None,
        };
        let stored = sync_into_store(
            provider,
            &self.worker.snapshots,
            &key,
            differ,
            usage,
            &progress,
        )
        .await
        .map_err(|source| LocalError::Sync {
            name: self.source.name.clone(),
            source: Box::new(source),
        })?;
        let content = content_digest(&stored.synced.index);
        Ok((Tree::of(stored.snapshot), content))
    }
}

/// The digest of what a tree holds: all but times, which change nothing in what is built.
fn content_digest(index: &TreeIndex) -> Digest {
    let entries = index.entries();
    entries
        .iter()
        .fold(
            FieldHasher::new("weld.local.content.v1").number(entries.len() as u64),
            |hasher, entry| {
                let stat = &entry.stat;
                let link = stat.link_target.as_deref().or(stat.hard_link.as_deref());
                let hasher = hasher
                    .bytes(bytes_of(&stat.path))
                    .number(u64::from(stat.mode))
                    .number(u64::from(stat.uid) << 32 | u64::from(stat.gid))
                    .number(u64::from(stat.rdev.0) << 32 | u64::from(stat.rdev.1))
                    .bytes(link.map_or(b"", bytes_of))
                    .number(stat.xattrs.len() as u64);
                let hasher = stat.xattrs.iter().fold(hasher, |hasher, (name, value)| {
                    hasher.bytes(name.as_encoded_bytes()).bytes(value)
                });
                match &entry.digest {
                    Some(digest) => hasher.number(1).digest(digest),
                    None => hasher.number(0),
                }
            },
        )
        .finish()
}

fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
