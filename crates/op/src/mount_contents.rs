//! Content for cache mounts that builds under way have from elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use weld_store::Staged;

/// Cache mounts elsewhere that a build reads.
#[async_trait]
pub trait MountContents: Send + Sync {
    /// What they have for a mount that is empty, ready to be put in place; `None` if that is nothing, or cannot be had, which
    /// the build was told. A mount's content is fetched once.
    async fn stage(&self, id: &str) -> Option<Arc<Staged>>;
}

/// Those of all builds, by their sessions. One is known for as long as its build holds it.
#[derive(Default)]
pub struct MountSources(Mutex<HashMap<String, Vec<Weak<dyn MountContents>>>>);

impl MountSources {
    /// Makes cache mounts known to the builds of a session.
    pub fn add(&self, session: &str, contents: &Arc<dyn MountContents>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, all| {
            all.retain(|contents| contents.strong_count() > 0);
            !all.is_empty()
        });
        let all = known.entry(session.to_owned()).or_default();
        all.push(Arc::downgrade(contents));
    }

    pub(crate) fn is_empty(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_empty()
    }

    pub(crate) fn of(&self, session: &str) -> Vec<Arc<dyn MountContents>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = known.get(session).into_iter().flatten();
        all.filter_map(Weak::upgrade).collect()
    }
}
