//! Frontends: what turns a client's options into definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use weld_llb::pb;

use crate::bridge::Bridge;
use crate::cache::CacheImport;
use crate::error::BuildError;
use crate::result::FrontendResult;

/// What turns a client's options into results, by asking for solves.
#[async_trait]
pub trait Frontend: Send + Sync + 'static {
    /// Answers a request.
    async fn solve(
        &self,
        bridge: &Bridge,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError>;
}

/// What a frontend is asked for.
#[derive(Clone, Debug, Default)]
pub struct FrontendRequest {
    /// Its options.
    pub opts: BTreeMap<String, String>,
    /// Definitions by name.
    pub inputs: BTreeMap<String, pb::Definition>,
    /// Where results may be imported from.
    pub cache_imports: Vec<CacheImport>,
}

/// The frontends of an engine, by name.
#[derive(Clone, Default)]
pub(crate) struct Frontends(Arc<BTreeMap<String, Arc<dyn Frontend>>>);

impl Frontends {
    pub(crate) fn add(&mut self, name: &str, frontend: Arc<dyn Frontend>) {
        Arc::make_mut(&mut self.0).insert(name.to_owned(), frontend);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        Arc::make_mut(&mut self.0).remove(name);
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<dyn Frontend>, BuildError> {
        let found = self.0.get(name).cloned();
        found.ok_or_else(|| BuildError::UnknownFrontend(name.to_owned()))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
