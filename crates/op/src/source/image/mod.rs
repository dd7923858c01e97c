//! Images as sources: what a reference stands for, and its layers as a tree.

mod attestations;
mod error;
mod resolve;

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use weld_digest::{Digest, FieldHasher};
use weld_llb::reference::Reference;
use weld_llb::{ImageSource, OciLayoutSource, Platform};
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};

pub use attestations::{AttestationChain, AttestedContent};
pub use error::ImageError;
pub use resolve::Resolved;
pub(super) use resolve::off_reactor;
pub(crate) use resolve::{Place, Resolutions, open_layout};

use super::layers::{self, Layer, Origin};
use crate::captured::Pin;
use crate::digest::to_solver;
use crate::reporting::reporting;
use crate::session::{self, Session};
use crate::{Tree, Worker};

/// An image as a vertex, from a registry or an OCI layout.
pub(crate) struct Image {
    pub(crate) worker: Arc<Worker>,
    pub(crate) wanted: Wanted,
    pub(crate) platform: Platform,
    pub(crate) description: String,
    /// What the reference turned out to stand for when it was first asked.
    pub(crate) resolved: OnceLock<Digest>,
}

pub(crate) enum Wanted {
    Registry(ImageSource),
    Layout(OciLayoutSource),
}

impl Wanted {
    fn reference(&self) -> &str {
        match self {
            Self::Registry(image) => &image.reference,
            Self::Layout(image) => &image.reference,
        }
    }

    fn layer_limit(&self) -> Option<u64> {
        match self {
            Self::Registry(image) => image.layer_limit,
            Self::Layout(image) => image.layer_limit,
        }
    }
}

impl Image {
    async fn resolve(
        &self,
        ctx: &OpContext<Tree>,
    ) -> Result<(Arc<Resolved>, Place, Reference), OpError> {
        if let Some(handle) = ctx.next_session(&[]).await {
            drop(handle);
            return ctx
                .with_session(|handle| async move { self.resolve_with(session::of(&handle)).await })
                .await;
        }
        self.resolve_with(None).await
    }

    async fn resolve_with(
        &self,
        session: Option<Arc<dyn Session>>,
    ) -> Result<(Arc<Resolved>, Place, Reference), OpError> {
        let resolved = async {
            let session = session.as_ref();
            match &self.wanted {
                Wanted::Registry(image) => {
                    let place = Place::registry(&self.worker, session);
                    let resolved = self
                        .worker
                        .resolve_once(session, &place, &image.reference, &self.platform)
                        .await?;
                    check(image, &resolved)?;
                    Ok((resolved, place, image.reference.parse()?))
                }
                Wanted::Layout(image) => {
                    let place =
                        open_layout(session, image.store.as_deref().unwrap_or_default()).await?;
                    let resolved = self
                        .worker
                        .resolve_once(session, &place, &image.reference, &self.platform)
                        .await?;
                    Ok((resolved, place, image.reference.parse()?))
                }
            }
        };
        match resolved.await {
            // Another client may offer it.
            Err(error @ ImageError::NoLayout(_)) => Err(OpError::gone(error)),
            other => other.map_err(OpError::failed),
        }
    }

    /// Fetches its layers as one client may, who may be the one to have them.
    async fn fetch(
        &self,
        ctx: &OpContext<Tree>,
        session: Option<Arc<dyn Session>>,
    ) -> Result<Tree, OpError> {
        let (resolved, place, reference) = self.resolve_with(session).await?;
        let limit = self
            .wanted
            .layer_limit()
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let layers: Vec<Layer> = resolved
            .manifest
            .layers
            .iter()
            .zip(&resolved.diff_ids)
            .take(limit)
            .map(|(descriptor, diff_id)| Layer {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
            })
            .collect();
        let origin = Origin {
            place,
            repository: Some(reference.repository().clone()),
            supply: None,
        };
        let work = reporting(ctx, |progress| {
            layers::tree(&self.worker, origin, layers, &self.description, progress)
        });
        tokio::select! {
            tree = work => tree.map_err(OpError::failed),
            () = ctx.cancellation().cancelled() => Err(OpError::Cancelled),
        }
    }
}

fn check(image: &ImageSource, resolved: &Resolved) -> Result<(), ImageError> {
    match &image.checksum {
        Some(expected) if *expected != resolved.digest => Err(ImageError::Checksum {
            reference: image.reference.clone(),
            expected: expected.clone(),
            actual: resolved.digest.clone(),
        }),
        _ => Ok(()),
    }
}

impl crate::recall::Step for Image {
    fn pin(&self) -> Option<Pin> {
        self.resolved.get().cloned().map(Pin::Digest)
    }
}

#[async_trait]
impl Op<Tree> for Image {
    /// Known by its manifest first, then by its layers alone: the same layers may be found under
    /// another name, or with another config.
    async fn cache_map(&self, ctx: &OpContext<Tree>, index: u32) -> Result<CacheMap, OpError> {
        let what = || format!("resolve {}", self.wanted.reference());
        let (resolved, ..) = ctx.told_when_slow(what, self.resolve(ctx)).await?;
        // A later answer is for a key that was found by the first one already.
        let _ = self.resolved.set(resolved.digest.clone());
        let limit = self.wanted.layer_limit().unwrap_or(u64::MAX);
        let digest = match index {
            0 => FieldHasher::new("weld.op.image.manifest.v1")
                .digest(&resolved.manifest_digest)
                .number(limit),
            _ => {
                let count = usize::try_from(limit)
                    .unwrap_or(usize::MAX)
                    .min(resolved.diff_ids.len());
                resolved.diff_ids[..count].iter().fold(
                    FieldHasher::new("weld.op.image.layers.v1").number(count as u64),
                    |hasher, id| hasher.digest(id),
                )
            }
        };
        let mut map = CacheMap::new(to_solver(&digest.finish()));
        map.more = index == 0;
        Ok(map)
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        _inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let tree = ctx.with_some_session(|handle| async move {
            let session = handle.as_ref().and_then(session::of);
            self.fetch(ctx, session).await
        });
        Ok(vec![tree.await?])
    }
}
