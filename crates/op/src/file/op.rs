//! The file operation as an operation of the solver.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use weld_llb::FileOp;
use weld_solver::{CacheMap, Digest, InputMap, Op, OpContext, OpError, ResultRef};
use weld_store::content_key::KeyOptions;
use weld_store::snapshot::SnapshotRef;
use weld_store::{NewUsage, RecordType};

use super::Context;
use super::cache::{ContentPath, cache_map};
use super::said::said;
use super::sequence::{Workshop, run};
use crate::blocking::blocking;
use crate::content::{self, Selector};
use crate::digest::to_solver;
use crate::recall::{Fields, Step};
use crate::{Tree, Worker, room};

pub(crate) struct File {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: FileOp,
    pub(crate) inputs: usize,
    /// What a user reads of what it made.
    pub(crate) description: String,
}

#[async_trait]
impl Op<Tree> for File {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let found = cache_map(&self.op, self.inputs);
        let mut map = CacheMap::new(to_solver(&found.digest));
        map.inputs = found
            .inputs
            .into_iter()
            .map(|content| InputMap {
                slow_key: content.is_some(),
                selector: content.map(|content| to_solver(&content.selector)),
                preprocess: false,
            })
            .collect();
        Ok(map)
    }

    async fn slow_key(
        &self,
        _ctx: &OpContext<Tree>,
        input: u32,
        tree: &ResultRef<Tree>,
    ) -> Result<Option<Digest>, OpError> {
        let Some(selectors) = self.content_of(input) else {
            return Ok(None);
        };
        content::key(tree, selectors).await.map(Some)
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let inputs: Vec<Option<SnapshotRef>> =
            inputs.iter().map(|tree| tree.snapshot().cloned()).collect();
        let (worker, op) = (Arc::clone(&self.worker), self.op.clone());
        let usage = NewUsage {
            record_type: RecordType::Regular,
            description: self.description.clone(),
            mutable: false,
            size: None,
        };
        let stop = StopOnDrop(Arc::default());
        let cancelled = Arc::clone(&stop.0);
        let unknown: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&unknown);
        let writer = room::writer();
        let work = blocking(move || {
            let workshop = Workshop {
                snapshots: &worker.snapshots,
                usage: &usage,
                context: Context {
                    cancelled: &cancelled,
                },
                unknown_owner: &|name| {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.push(name.to_owned());
                },
                writes_into: &|directory| {
                    if let Some(writer) = &writer {
                        writer.writes_into(directory);
                    }
                },
            };
            match run(&op, &inputs, workshop) {
                Err(failed) if failed.is_cancelled() => Ok(None),
                result => result.map(Some),
            }
        });
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done?,
            () = ctx.cancellation().cancelled() => {
                stop.0.store(true, Ordering::Relaxed);
                work.await?
            }
        };
        for name in unknown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            ctx.log(
                2,
                format!("no user or group {name:?} found; root is taken\n"),
            );
        }
        let outputs = done.ok_or(OpError::Cancelled)?;
        Ok(outputs.into_iter().map(Tree::of).collect())
    }
}

impl File {
    /// What of an input's content counts; `None` if only its own key does.
    fn content_of(&self, input: u32) -> Option<Vec<Selector>> {
        let mut inputs = cache_map(&self.op, self.inputs).inputs.into_iter();
        let content = inputs.nth(input as usize).flatten()?;
        Some(content.paths.into_iter().map(Selector::from).collect())
    }
}

impl Step for File {
    fn selectors(&self, input: u32) -> Vec<Selector> {
        self.content_of(input).unwrap_or_default()
    }

    fn said(&self) -> Option<Fields> {
        Some(said(&self.op, self.inputs))
    }
}

/// Stops the work when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl From<ContentPath> for Selector {
    fn from(content: ContentPath) -> Self {
        Self {
            path: content.path,
            options: KeyOptions {
                follow_links: content.follow_links,
                wildcard: content.wildcard,
                include: content.include_patterns,
                exclude: content.exclude_patterns,
                required: content.required_paths,
            },
        }
    }
}
