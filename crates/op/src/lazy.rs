//! Trees whose layers are known and not here: what an imported cache gives.
//!
//! A lazy layer says in its description where its blob is to be had ([`Home`]). It is fetched and unpacked when something reads the
//! tree. If it cannot be had, the tree is lost: whoever needed it has what made it executed anew.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_util::task::AbortOnDropHandle;
use weld_digest::Digest;
use weld_llb::reference::Repository;
use weld_solver::{OpContext, OpError};
use weld_source::image::{Descriptor, media_type};
use weld_source::objects::{Location, ObjectError};
use weld_source::progress::Progress;
use weld_store::snapshot::{LayerDescriptor, SnapshotError, SnapshotRef};
use weld_store::{BlobRef, NewUsage, Object, RecordType};

use crate::reporting::reporting;
use crate::session::{self, Session, SessionError};
use crate::source::image::Place;
use crate::source::layers::{self, Fetched, Layer, LayersError, Origin};
use crate::source::layout::Layout;
use crate::{Tree, Worker};

/// The annotation of a layer in the store that says where it is to be had.
pub const ANNOTATION_HOME: &str = "weld.home";

/// The annotation of a result's uppermost layer that says when the result was made, in milliseconds since 1970.
pub const ANNOTATION_MADE: &str = "weld.made";

/// How many sessions are asked for a layer.
const MAX_SESSIONS: usize = 3;

/// Where layers are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// A repository of a registry.
    Registry {
        /// The repository.
        repository: Repository,
        /// Any certificate is taken, or plain HTTP.
        insecure: bool,
    },
    /// A client's store of blobs, by its id.
    Store(String),
    /// An object store.
    Objects {
        /// Where in it.
        location: Box<Location>,
        /// Whether a client said who asks: then only a build that names the store again can have its layers.
        by_client: bool,
    },
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry {
                repository,
                insecure: false,
            } => write!(f, "registry:{repository}"),
            Self::Registry { repository, .. } => write!(f, "insecure-registry:{repository}"),
            Self::Store(id) => write!(f, "store:{id}"),
            Self::Objects {
                location,
                by_client: false,
            } => write!(f, "objects:{location}"),
            Self::Objects { location, .. } => write!(f, "client-objects:{location}"),
        }
    }
}

/// Text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place where layers are")]
pub struct ParseHomeError(String);

impl FromStr for Home {
    type Err = ParseHomeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseHomeError(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let registry = |insecure| {
            Ok(Self::Registry {
                repository: rest.parse().map_err(|_| bad())?,
                insecure,
            })
        };
        let objects = |by_client| {
            Ok(Self::Objects {
                location: Box::new(rest.parse().map_err(|_| bad())?),
                by_client,
            })
        };
        match kind {
            "objects" => objects(false),
            "client-objects" => objects(true),
            "registry" => registry(false),
            "insecure-registry" => registry(true),
            "store" => Ok(Self::Store(rest.to_owned())),
            _ => Err(bad()),
        }
    }
}

/// What is needed of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The blobs of its layers.
    Blobs,
    /// Its files.
    Files,
}

/// A layer that cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cached layer {digest} ({home}): {reason}")]
pub struct LostLayer {
    /// The layer's blob.
    pub digest: Digest,
    /// Where it should have been.
    pub home: String,
    /// Why it is not to be had.
    pub reason: Arc<dyn std::error::Error + Send + Sync>,
}

#[derive(Debug, thiserror::Error)]
enum LazyError {
    #[error(transparent)]
    Home(#[from] ParseHomeError),
    #[error("nobody says where it is")]
    Homeless,
    #[error("the client that has it is not there")]
    NoSession,
    #[error("the client does not offer the content store {0:?}")]
    NoStore(String),
    #[error("the client's key for it is not there: a build that reads this cache has it")]
    NoKey,
    #[error(transparent)]
    Objects(#[from] ObjectError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Layers(#[from] LayersError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Blob(#[from] weld_store::BlobError),
    #[error("the work was stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
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
pub struct Declared(Mutex<HashMap<String, SnapshotRef>>);

impl Declared {
    fn get(&self, name: &str) -> Option<SnapshotRef> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned()
    }

    fn add(&self, names: &[String], snapshots: &[SnapshotRef]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = names.iter().cloned().zip(snapshots.iter().cloned());
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
            let known = match declared.get(name) {
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
        let mut places: HashMap<String, Place> = HashMap::new();
        let mut fetches = Vec::with_capacity(lazy.len());
        for (descriptor, _) in &lazy {
            let lost = |reason: LazyError| lost(descriptor, reason);
            let home = home_of(descriptor);
            let (home, place) = match home {
                Err(error) => return Err(lost(error)),
                Ok(home) => match places.get(&home.to_string()) {
                    Some(place) => (home, place.clone()),
                    None => {
                        let place = self.place(&home, session).await.map_err(lost)?;
                        places.insert(home.to_string(), place.clone());
                        (home, place)
                    }
                },
            };
            let origin = Origin {
                place,
                repository: match home {
                    Home::Registry { repository, .. } => Some(repository),
                    Home::Store(_) | Home::Objects { .. } => None,
                },
            };
            let layer = Layer {
                descriptor: blob_descriptor(descriptor),
                diff_id: descriptor.diff_id.clone(),
            };
            let (worker, progress) = (Arc::clone(self), progress.clone());
            // Tasks of their own, so that they go on while this one unpacks.
            fetches.push(AbortOnDropHandle::new(tokio::spawn(async move {
                let began = Instant::now();
                let fetched = layers::fetch(&worker, &origin, &layer, "", None, &progress).await;
                fetched.map(|fetched| (fetched, began.elapsed()))
            })));
        }
        for ((descriptor, layer), fetch) in lazy.iter().zip(fetches) {
            let fetched = async {
                let (Fetched::Blob(blob), took) = fetch.await?? else {
                    return Ok(());
                };
                let began = Instant::now();
                self.settle(layer.clone(), blob, need, progress).await?;
                let object = Object::Snapshot(layer.id());
                self.store.uses().took(&object, took + began.elapsed());
                Ok(())
            };
            fetched.await.map_err(|error| lost(descriptor, error))?;
        }
        Ok(())
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

    async fn place(
        &self,
        home: &Home,
        session: Option<&Arc<dyn Session>>,
    ) -> Result<Place, LazyError> {
        match home {
            Home::Registry {
                repository,
                insecure,
            } => match Place::registry(self, session) {
                Place::Registry(registry) if *insecure => {
                    Ok(Place::Registry(registry.trusting(repository.domain())))
                }
                place => Ok(place),
            },
            Home::Store(id) => {
                let session = session.ok_or(LazyError::NoSession)?;
                let store = session.blob_store(id).await?;
                let store = store.ok_or_else(|| LazyError::NoStore(id.clone()))?;
                Ok(Place::Layout(Layout::Blobs(store)))
            }
            Home::Objects {
                location,
                by_client,
            } => {
                let session = session.map(|session| session.id());
                let store = self.objects.open(session, location, *by_client)?;
                Ok(Place::Layout(Layout::Blobs(store.ok_or(LazyError::NoKey)?)))
            }
        }
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
                    Err(error) => failed = Some(error),
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
            ctx.log(2, warning(&error).into_bytes());
            OpError::lost_input(input, error)
        })
    }
}

/// What is told when a cached result is lost.
pub fn warning(lost: &LostLayer) -> String {
    format!("WARNING: {lost}: the step that made it runs again\n")
}

fn lost(descriptor: &LayerDescriptor, reason: LazyError) -> LostLayer {
    let home = descriptor.annotations.get(ANNOTATION_HOME);
    LostLayer {
        digest: descriptor.digest.clone(),
        home: home.cloned().unwrap_or_default(),
        reason: Arc::new(reason),
    }
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
    let fetched = async {
        let home = home_of(layer)?;
        let origin = Origin {
            place: worker.place(&home, session).await?,
            repository: match home {
                Home::Registry { repository, .. } => Some(repository),
                Home::Store(_) | Home::Objects { .. } => None,
            },
        };
        let wanted = Layer {
            descriptor: blob_descriptor(layer),
            diff_id: layer.diff_id.clone(),
        };
        match layers::fetch(worker, &origin, &wanted, "", None, progress).await? {
            Fetched::Blob(blob) => Ok(blob),
            // Nothing was given to unpack it on.
            Fetched::Unpacked(_) => Err(LazyError::Homeless),
        }
    };
    fetched.await.map_err(|error: LazyError| lost(layer, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_read_as_they_are_written() {
        for text in [
            "registry:localhost:5000/a/b",
            "insecure-registry:example.com/cache",
            "store:local:/tmp/cache dir",
            "objects:s3://b?region=r&blobs=blobs%2F&documents=manifests%2F",
            "client-objects:azblob://c?account=a&url=http%3A%2F%2Fh%2Fa&blobs=b%2F&documents=m%2F",
        ] {
            let home: Home = text.parse().unwrap();
            assert_eq!(home.to_string(), text);
        }
        assert!("elsewhere:x".parse::<Home>().is_err());
        assert!("registry:".parse::<Home>().is_err());
    }
}
