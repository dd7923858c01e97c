use std::sync::Arc;

use weld_llb::{LinuxResources, Platform};
use weld_runtime::{Runtime, RuntimeError};
use weld_source::registry::{Credentials, Registry};
use weld_store::Store;
use weld_store::snapshot::Snapshots;

use crate::devices::DeviceConfig;
use crate::domain::Domain;
use crate::exec::resources;
use crate::mount_contents::MountSources;
use crate::objects::ObjectStores;
use crate::recall::Explaining;
use crate::recall::part::Parts;
use crate::source::Outside;
use crate::source::git::Commits;
use crate::source::image::Resolutions;
use crate::source::trees::Trees;
use crate::supply::Supplies;

/// What operations work with: the store, the runtime and the ways to the outside. One for each
/// domain of an engine; all of them share everything but what [`Domain`] keeps apart.
#[derive(Clone)]
pub struct Worker {
    /// Blobs, results and cache mounts.
    pub store: Store,
    /// Snapshots.
    pub snapshots: Snapshots,
    /// What runs steps.
    pub runtime: Runtime,
    /// The way to registries, as nobody.
    pub registry: Registry,
    /// The platform of steps that name none.
    pub platform: Platform,
    /// Where devices are described that steps may ask for.
    pub devices: Arc<DeviceConfig>,
    /// Whether steps tell why they run.
    pub explaining: Arc<Explaining>,
    /// The object stores of builds under way.
    pub objects: Arc<ObjectStores>,
    /// Content that builds under way have for cache mounts.
    pub mount_sources: Arc<MountSources>,
    pub(crate) resolutions: Arc<Resolutions>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) sources: Arc<Trees>,
    pub(crate) parts: Arc<Parts>,
    pub(crate) supplies: Arc<Supplies>,
    pub(crate) domain: Domain,
}

impl Worker {
    /// A worker.
    pub fn new(store: Store, snapshots: Snapshots, runtime: Runtime, registry: Registry) -> Self {
        Self {
            store,
            snapshots,
            runtime,
            registry,
            platform: Platform::host(),
            devices: Arc::default(),
            explaining: Arc::default(),
            objects: Arc::default(),
            mount_sources: Arc::default(),
            resolutions: Arc::default(),
            commits: Arc::default(),
            outside: Arc::default(),
            sources: Arc::default(),
            parts: Arc::default(),
            supplies: Arc::default(),
            domain: Domain::default(),
        }
    }

    /// The same worker, working for the builds of a domain.
    pub fn in_domain(&self, domain: Domain) -> Self {
        Self {
            domain,
            ..self.clone()
        }
    }

    /// Whose builds it works for.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Refuses limits that this machine cannot keep for any step.
    ///
    /// # Errors
    /// [`RuntimeError::NotAvailable`] for the first such limit.
    pub fn check_limits(&self, limits: &LinuxResources) -> Result<(), RuntimeError> {
        self.runtime.check_limits(&resources(limits))
    }

    /// The way to registries as the client of a session.
    pub(crate) fn registry_as(&self, credentials: Arc<dyn Credentials>) -> Registry {
        self.registry.with_credentials(credentials)
    }
}
