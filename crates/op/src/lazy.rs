//! Trees whose layers are known and not here: what an imported cache gives.
//!
//! A lazy layer says in its description where its blob is to be had ([`Home`]). It is fetched and unpacked when something reads the
//! tree. If it cannot be had, the tree is lost: whoever needed it has what made it executed anew.

mod home;
mod lost;
mod restore;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use weld_digest::Digest;
use weld_llb::reference::Repository;
use weld_solver::{OpContext, OpError};
use weld_source::image::{Descriptor, media_type};
use weld_source::progress::Progress;
use weld_store::snapshot::{LayerDescriptor, SnapshotError, SnapshotRef};
use weld_store::{BlobRef, NewUsage, Object, RecordType, SnapshotId};

use crate::reporting::reporting;
use crate::session::{self, Session};
use crate::source::image::Place;
use crate::source::layers::{self, Fetched, Layer, Origin, is_dropped};
use crate::source::layout::Layout;
use crate::supply::{Absent, Reason, Supply};
use crate::{Tree, Worker};

pub use home::{Home, ParseHomeError};
use lost::LazyError;
pub use lost::LostLayer;
pub use restore::LostBlob;

pub use weld_store::snapshot::ANNOTATION_HOME;

/// The annotation of a result's uppermost layer that says when the result was made, in milliseconds since 1970.
pub const ANNOTATION_MADE: &str = "weld.made";

/// How many sessions are asked for a layer.
const MAX_SESSIONS: usize = 3;

/// What is needed of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The blobs of its layers.
    Blobs,
    /// Its files.
    Files,
}

/// A layer of a result that is declared.
#[derive(Clone, Debug)]
pub struct RemoteLayer {
    /// Its blob.
    pub descriptor: Descriptor,
    /// The digest of its content.
    pub diff_id: Digest,
    /// What made it.
    pub description: String,
}

/// The layers that one cache declared, so that its results share them.
#[derive(Default)]
pub struct Declared(Mutex<HashMap<String, SnapshotId>>);

impl Declared {
    /// Those that nobody needs any more are not kept by this.
    fn get(&self, worker: &Worker, name: &str) -> Option<SnapshotRef> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *known.get(name)?;
        drop(known);
        worker.snapshots.get(id).ok().flatten()
    }

    fn add(&self, names: &[String], snapshots: &[SnapshotRef]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = snapshots.iter().map(SnapshotRef::id);
        let pairs = names.iter().cloned().zip(ids);
        known.extend(pairs);
    }
}

impl Tree {
    /// Whether files of it are not here.
    pub fn is_lazy(&self) -> bool {
        let snapshot = self.snapshot();
        snapshot.is_some_and(|snapshot| !snapshot.is_unpacked())
    }
}

impl Worker {
    /// The tree that layers make, lowest first, which are at `home`; nothing is fetched. What the store has of it is taken from there.
    /// May block.
    ///
    /// # Errors
    /// What the store meets.
    pub fn declare(
        &self,
        declared: &Declared,
        home: &Home,
        stack: &[RemoteLayer],
    ) -> Result<Tree, SnapshotError> {
        let diff_ids = stack.iter().map(|layer| &layer.diff_id);
        let names = layers::chain_names(diff_ids);
        let mut below = None;
        let mut present = 0;
        for (number, name) in names.iter().enumerate().rev() {
            let known = match declared.get(self, name) {
                Some(known) => Some(known),
                None => layers::named(self, name)?,
            };
            if let Some(known) = known {
                (below, present) = (Some(known), number + 1);
                break;
            }
        }
        let missing = stack.iter().skip(present).map(|layer| {
            let mut annotations = layer.descriptor.annotations.clone();
            annotations.insert(ANNOTATION_HOME.to_owned(), home.to_string());
            let media_type = media_type::oci_layer_type(&layer.descriptor.media_type);
            let descriptor = LayerDescriptor {
                diff_id: layer.diff_id.clone(),
                media_type: media_type.to_owned(),
                digest: layer.descriptor.digest.clone(),
                size: layer.descriptor.size,
                annotations,
            };
            let usage = NewUsage {
                record_type: RecordType::Regular,
                description: layer.description.clone(),
                mutable: false,
                size: None,
            };
            (descriptor, usage)
        });
        let made = self.snapshots.declare_stack(below.as_ref(), missing)?;
        declared.add(&names[present..], &made);
        let top = made.last().cloned().or(below);
        Ok(top.map_or_else(Tree::scratch, Tree::of))
    }

    /// Sees to it that what is needed of a tree is here, with what `session` offers.
    ///
    /// # Errors
    /// [`LostLayer`] names the first layer that cannot be had, and why.
    pub async fn realize(
        self: &Arc<Self>,
        tree: &Tree,
        need: Need,
        session: Option<&Arc<dyn Session>>,
        progress: &Progress,
    ) -> Result<(), LostLayer> {
        let Some(snapshot) = tree.snapshot().filter(|_| tree.is_lazy()) else {
            return Ok(());
        };
        let lazy: Vec<_> = snapshot
            .lazy_layers()
            .into_iter()
            .filter_map(|layer| Some((layer.lazy()?, layer)))
            .collect();
        let mut places: HashMap<String, (Place, Asked)> = HashMap::new();
        let mut wanted = Vec::with_capacity(lazy.len());
        for (descriptor, _) in &lazy {
            let place = match descriptor.annotations.get(ANNOTATION_HOME) {
                None => return Err(lost(descriptor, LazyError::Homeless)),
                Some(home) => match places.get(home) {
                    Some(place) => place.clone(),
                    None => {
                        let place = self.place(descriptor, session).await;
                        let place =
                            place.map_err(|error| self.unplaced(descriptor, session, error))?;
                        places.entry(home.clone()).or_insert(place).clone()
                    }
                },
            };
            self.known_loss(descriptor, &place.1)?;
            wanted.push(place);
        }
        let mut fetches = Vec::with_capacity(lazy.len());
        for ((descriptor, _), (place, asked)) in lazy.iter().zip(&wanted) {
            let (worker, progress) = (Arc::clone(self), progress.clone());
            let (descriptor, place, asked) = (descriptor.clone(), place.clone(), asked.clone());
            // Tasks of their own, so that they go on while this one unpacks.
            fetches.push(AbortOnDropHandle::new(tokio::spawn(async move {
                let began = Instant::now();
                let blob = worker.bring(&descriptor, &place, &asked, &progress).await;
                blob.map(|blob| (blob, began.elapsed()))
            })));
        }
        for (((descriptor, layer), (place, asked)), fetch) in lazy.iter().zip(&wanted).zip(fetches)
        {
            let brought = fetch
                .await
                .map_err(|error| lost(descriptor, error.into()))?;
            let (blob, took) = brought.map_err(|reason| asked.lost(descriptor, reason))?;
            let began = Instant::now();
            let settled = self.settle(layer.clone(), blob.clone(), need, progress);
            if let Err(error) = settled.await {
                if !is_dropped(&blob).await {
                    return Err(lost(descriptor, error));
                }
                // One that was here and was damaged.
                let brought = self.bring(descriptor, place, asked, progress).await;
                let blob = brought.map_err(|reason| asked.lost(descriptor, reason))?;
                let settled = self.settle(layer.clone(), blob, need, progress).await;
                settled.map_err(|error| lost(descriptor, error))?;
            }
            let object = Object::Snapshot(layer.id());
            self.store.uses().took(&object, took + began.elapsed());
        }
        Ok(())
    }

    /// What is known already to be lost. What is here none the less is not.
    fn known_loss(&self, descriptor: &LayerDescriptor, asked: &Asked) -> Result<(), LostLayer> {
        let Err(reason) = asked.supply.check(&asked.client, &descriptor.digest) else {
            return Ok(());
        };
        match self.store.blobs().contains(&descriptor.digest) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(asked.lost(descriptor, reason)),
        }
    }

    /// The blob of a layer: asked for as often as its place is worth it.
    async fn bring(
        self: &Arc<Self>,
        descriptor: &LayerDescriptor,
        place: &Place,
        asked: &Asked,
        progress: &Progress,
    ) -> Result<BlobRef, Reason> {
        if let Ok(Some(blob)) = self.store.blobs().get(&descriptor.digest) {
            return Ok(blob);
        }
        let supply = &asked.supply;
        let origin = Origin {
            place: match place {
                Place::Registry(registry) => {
                    Place::Registry(registry.impatient(supply.patience()).once())
                }
                place => place.clone(),
            },
            repository: asked.repository.clone(),
            supply: Some(Arc::clone(supply)),
        };
        let layer = Layer {
            descriptor: blob_descriptor(descriptor),
            diff_id: descriptor.diff_id.clone(),
        };
        let request = || async {
            match layers::fetch(self, &origin, &layer, "", None, progress).await? {
                Fetched::Blob(blob) => Ok(blob),
                // Nothing was given to unpack it on.
                Fetched::Unpacked(_) => Err(LazyError::Homeless),
            }
        };
        supply
            .ask(&asked.client, &descriptor.digest, LazyError::says, request)
            .await
    }

    /// Keeps the blob of a layer that came, and unpacks it if that is needed.
    async fn settle(
        self: &Arc<Self>,
        layer: SnapshotRef,
        blob: BlobRef,
        need: Need,
        progress: &Progress,
    ) -> Result<(), LazyError> {
        let transfer = (need == Need::Files).then(|| {
            let name = format!("extracting {}", blob.digest());
            progress.start(name.clone(), name, None)
        });
        let worker = Arc::clone(self);
        let settle = move || {
            layer.keep_blob(&blob)?;
            if need == Need::Files {
                worker.snapshots.unpack(&layer, blob.open()?)?;
                layers::name_stack(&worker, &layer);
            }
            Ok::<_, LazyError>(())
        };
        tokio::task::spawn_blocking(settle).await??;
        if let Some(transfer) = transfer {
            transfer.complete();
        }
        Ok(())
    }

    /// The place of a layer, and who asks there.
    async fn place(
        &self,
        descriptor: &LayerDescriptor,
        session: Option<&Arc<dyn Session>>,
    ) -> Result<(Place, Asked), LazyError> {
        let home = home_of(descriptor)?;
        let place = match &home {
            Home::Registry {
                repository,
                insecure,
            } => match Place::registry(self, session) {
                Place::Registry(registry) if *insecure => {
                    Place::Registry(registry.trusting(repository.domain()))
                }
                place => place,
            },
            Home::Store(id) => {
                let session = session.ok_or(LazyError::NoSession)?;
                let store = session.blob_store(id).await?;
                let store = store.ok_or_else(|| LazyError::NoStore(id.clone()))?;
                Place::Layout(Layout::Blobs(store))
            }
            Home::Objects {
                location,
                by_client,
            } => {
                let session = session.map(|session| session.id());
                let store = self.objects.open(session, location, *by_client)?;
                Place::Layout(Layout::Blobs(store.ok_or(LazyError::NoKey)?))
            }
        };
        let client = session.map_or("", |session| session.id());
        let asked = Asked {
            supply: self.supply(&home, client),
            client: client.to_owned(),
            repository: match home {
                Home::Registry { repository, .. } => Some(repository),
                Home::Store(_) | Home::Objects { .. } => None,
            },
        };
        Ok((place, asked))
    }

    /// A layer whose place cannot even be asked.
    fn unplaced(
        &self,
        descriptor: &LayerDescriptor,
        session: Option<&Arc<dyn Session>>,
        reason: LazyError,
    ) -> LostLayer {
        let client = session.map_or("", |session| session.id());
        let is_news = home_of(descriptor).map_or(true, |home| {
            self.supply(&home, client).is_news(client, reason.cause())
        });
        LostLayer {
            is_news,
            ..lost(descriptor, reason)
        }
    }

    fn supply(&self, home: &Home, client: &str) -> Arc<Supply> {
        // What a client says who asks, or serves itself, says nothing of others.
        let name = match home {
            Home::Registry { .. }
            | Home::Objects {
                by_client: false, ..
            } => home.to_string(),
            Home::Store(_) | Home::Objects { .. } => format!("{home}\n{client}"),
        };
        let name = self.domain.scoped(name);
        self.supplies.get(name, self.registry.parallel())
    }

    /// How long a cache's place may give nothing of a layer: as long as the cache may take to be read.
    pub fn wait_for_layers(
        &self,
        home: &Home,
        session: Option<&Arc<dyn Session>>,
        patience: Duration,
    ) {
        let client = session.map_or("", |session| session.id());
        self.supply(home, client).set_patience(patience);
    }

    /// The same for an input of an operation: with the sessions of those who wait for it. What it meets is told in the step's log.
    pub(crate) async fn realize_input(
        self: &Arc<Self>,
        ctx: &OpContext<Tree>,
        input: u32,
        tree: &Tree,
    ) -> Result<(), OpError> {
        if !tree.is_lazy() {
            return Ok(());
        }
        let work = reporting(ctx, |progress| async move {
            let mut tried = Vec::new();
            let mut failed = None;
            while tried.len() < MAX_SESSIONS
                && let Some(handle) = ctx.next_session(&tried).await
            {
                let session = session::of(&handle);
                match self
                    .realize(tree, Need::Files, session.as_ref(), &progress)
                    .await
                {
                    Ok(()) => return Ok(()),
                    // What was not told yet is what is told.
                    Err(error) => {
                        failed = Some(failed.filter(|_| !error.is_news).unwrap_or(error));
                    }
                }
                tried.push(handle);
            }
            match failed {
                Some(error) => Err(error),
                None => self.realize(tree, Need::Files, None, &progress).await,
            }
        });
        let realized = tokio::select! {
            realized = work => realized,
            () = ctx.cancellation().cancelled() => return Err(OpError::Cancelled),
        };
        realized.map_err(|error| {
            if error.is_news {
                ctx.log(2, warning(&error).into_bytes());
            }
            OpError::lost_input(input, error)
        })
    }
}

/// What is told when a cached result is lost.
pub fn warning(lost: &LostLayer) -> String {
    format!("WARNING: {lost}: the step that made it runs again\n")
}

fn lost(descriptor: &LayerDescriptor, reason: LazyError) -> LostLayer {
    LostLayer {
        digest: descriptor.digest.clone(),
        home: home_text(descriptor),
        reason: Arc::new(reason),
        is_news: true,
    }
}

/// Who asks for layers at a place.
#[derive(Clone)]
struct Asked {
    supply: Arc<Supply>,
    /// The id of a session, or nothing.
    client: String,
    repository: Option<Repository>,
}

impl Asked {
    fn lost(&self, descriptor: &LayerDescriptor, reason: Reason) -> LostLayer {
        let cause = match reason.downcast_ref::<Absent>() {
            Some(absent) => &absent.cause,
            None => &reason,
        };
        let text = match cause.downcast_ref::<LazyError>() {
            Some(error) => error.cause(),
            None => cause.to_string(),
        };
        LostLayer {
            digest: descriptor.digest.clone(),
            home: home_text(descriptor),
            is_news: self.supply.is_news(&self.client, text),
            reason,
        }
    }
}

fn home_text(descriptor: &LayerDescriptor) -> String {
    let home = descriptor.annotations.get(ANNOTATION_HOME);
    home.cloned().unwrap_or_default()
}

/// Where the blob of a layer is to be had.
fn home_of(descriptor: &LayerDescriptor) -> Result<Home, LazyError> {
    let home = descriptor.annotations.get(ANNOTATION_HOME);
    Ok(home.ok_or(LazyError::Homeless)?.parse()?)
}

fn blob_descriptor(layer: &LayerDescriptor) -> Descriptor {
    Descriptor::new(layer.media_type.clone(), layer.digest.clone(), layer.size)
}

/// Fetches the blob of one lazy layer, for whoever copies it elsewhere.
///
/// # Errors
/// [`LostLayer`].
pub async fn fetch_blob(
    worker: &Arc<Worker>,
    layer: &LayerDescriptor,
    session: Option<&Arc<dyn Session>>,
    progress: &Progress,
) -> Result<BlobRef, LostLayer> {
    let place = worker.place(layer, session).await;
    let (place, asked) = place.map_err(|error| worker.unplaced(layer, session, error))?;
    let brought = worker.bring(layer, &place, &asked, progress).await;
    brought.map_err(|reason| asked.lost(layer, reason))
}
