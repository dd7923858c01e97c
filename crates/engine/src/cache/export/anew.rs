//! Layers that a cache export finds lost, and what is made of them anew.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use weld_digest::Digest;
use weld_export::cache::{CacheLayer, LayerFetch, Remote};
use weld_op::Tree;
use weld_op::lazy::{self, LostLayer};
use weld_solver::Root;
use weld_solver::chain::CacheChains;
use weld_source::progress::Progress;
use weld_store::BlobRef;
use weld_store::snapshot::LayerDescriptor;

use crate::cache::CacheExportError;
use crate::internal::Internal;
use crate::job::JobCore;

/// How many results are asked for at once; the solver has a limit of its own on what runs.
const AT_ONCE: usize = 16;

/// A cache whose layers are to be made sure of.
pub(super) struct Ready {
    pub(super) remotes: CacheChains<Remote>,
    pub(super) layers: HashMap<Digest, CacheLayer>,
    /// Of each item.
    pub(super) origins: Vec<ItemOrigin>,
}

/// What is known of an item beside its result.
#[derive(Default)]
pub(super) struct ItemOrigin {
    /// How it is had anew, if it may be.
    pub(super) root: Option<Root>,
    /// The layers that were known to be lost, where it has no result without.
    pub(super) lost: Vec<Digest>,
}

/// What is to be made anew.
#[derive(Default)]
pub(super) struct ToMake {
    /// Each once, inputs first.
    pub(super) roots: Vec<Root>,
    /// The lost layers that are the reason.
    pub(super) layers: HashSet<Digest>,
}

impl Ready {
    /// The results that layers were lost of, as far as it is known how they are had anew.
    pub(super) fn to_make_anew(&self, lost: &HashSet<Digest>) -> ToMake {
        let mut anew = ToMake::default();
        let mut seen = HashSet::new();
        for (item, origin) in self.remotes.items.iter().zip(&self.origins) {
            let found = item.results.first();
            let found = found.map(|result| lost_layers(&result.value, &self.layers, lost));
            let layers: Vec<_> = found.into_iter().flatten().chain(&origin.lost).collect();
            if let (false, Some(root)) = (layers.is_empty(), origin.root) {
                anew.layers.extend(layers.into_iter().cloned());
                if seen.insert(root) {
                    anew.roots.push(root);
                }
            }
        }
        anew
    }
}

/// The layers of a result that are lost.
pub(super) fn lost_layers<'a>(
    remote: &'a Remote,
    layers: &'a HashMap<Digest, CacheLayer>,
    lost: &'a HashSet<Digest>,
) -> impl Iterator<Item = &'a Digest> {
    let digests = remote.layers.iter().map(|layer| &layer.digest);
    // The same may have been made again.
    let is_here = |digest| layers.get(digest).is_some_and(|layer| layer.blob.is_some());
    digests.filter(move |digest| lost.contains(*digest) && !is_here(digest))
}

/// Brings layers that are elsewhere, as the client of a build, and keeps in mind which are lost.
pub(super) struct Fetch<'a> {
    job: &'a Arc<JobCore>,
    lost: Mutex<Lost>,
}

#[derive(Default)]
struct Lost {
    layers: HashSet<Digest>,
    /// What the build was not told of yet.
    news: Vec<LostLayer>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(job: &'a Arc<JobCore>) -> Self {
        Self {
            job,
            lost: Mutex::default(),
        }
    }

    /// The layers that are lost so far.
    pub(super) fn lost(&self) -> Arc<HashSet<Digest>> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::new(lost.layers.clone())
    }

    /// Tells what was lost since the last time, and what comes of it.
    pub(super) fn tell(&self, step: &Internal, anew: &HashSet<Digest>) {
        let news = {
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut lost.news)
        };
        for lost in news {
            let comes_of_it = match anew.contains(&lost.digest) {
                true => "what is made of it is made anew",
                false => "what needs it is left out of the cache",
            };
            step.warn(format!("WARNING: {lost}: {comes_of_it}"));
        }
    }
}

#[async_trait]
impl LayerFetch for Fetch<'_> {
    async fn fetch(&self, layer: &LayerDescriptor, progress: &Progress) -> Option<BlobRef> {
        let session = Some(&self.job.session);
        match lazy::fetch_blob(&self.job.worker, layer, session, progress).await {
            Ok(blob) => Some(blob),
            Err(error) => {
                let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
                lost.layers.insert(layer.digest.clone());
                if error.is_news {
                    lost.news.push(error);
                }
                None
            }
        }
    }
}

/// Has those of some results made anew that are made of lost layers.
pub(super) async fn make(
    job: &JobCore,
    roots: Vec<Root>,
    lost: &HashSet<Digest>,
) -> Result<(), CacheExportError> {
    let solved = job
        .solver_job()
        .map_err(|error| CacheExportError::Chains(error.to_string()))?;
    let work = roots.into_iter().map(|root| {
        let solved = Arc::clone(&solved);
        async move {
            let built = solved.build(root).await?;
            if needs(&built.value, lost) {
                solved.rebuild(root, &built).await?;
            }
            Ok::<_, weld_solver::SolveError<Tree>>(())
        }
        .boxed()
    });
    let mut work = futures_util::stream::iter(work).buffer_unordered(AT_ONCE);
    while let Some(()) = work
        .try_next()
        .await
        .map_err(|failure| CacheExportError::Anew(Box::new(failure)))?
    {}
    Ok(())
}

/// Whether files of a tree are to be had of lost layers alone.
fn needs(tree: &Tree, lost: &HashSet<Digest>) -> bool {
    let lazy = tree.snapshot().map(|snapshot| snapshot.lazy_layers());
    let mut lazy = lazy.into_iter().flatten();
    lazy.any(|layer| {
        layer
            .lazy()
            .is_some_and(|layer| lost.contains(&layer.digest))
    })
}
