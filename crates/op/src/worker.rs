use std::sync::Arc;

use weld_llb::Platform;
use weld_runtime::Runtime;
use weld_source::registry::{Credentials, Registry};
use weld_store::Store;
use weld_store::snapshot::Snapshots;

use crate::recall::Explaining;
use crate::source::Outside;
use crate::source::image::Resolutions;
use crate::source::local::Trees;

/// What operations work with: the store, the runtime and the ways to the outside. One for an
/// engine.
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
    /// Whether steps tell why they run.
    pub explaining: Explaining,
    pub(crate) resolutions: Resolutions,
    pub(crate) outside: Outside,
    pub(crate) sources: Trees,
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
            explaining: Explaining::default(),
            resolutions: Resolutions::default(),
            outside: Outside::default(),
            sources: Trees::default(),
        }
    }

    /// The way to registries as the client of a session.
    pub(crate) fn registry_as(&self, credentials: Arc<dyn Credentials>) -> Registry {
        self.registry.with_credentials(credentials)
    }
}
