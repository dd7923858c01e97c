//! The merge and diff operations: trees out of trees, without copying where that can be avoided.

use std::sync::Arc;

use async_trait::async_trait;
use weld_digest::FieldHasher;
use weld_llb::{DiffOp, MergeOp};
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};
use weld_store::snapshot::{SnapshotError, SnapshotRef};
use weld_store::{NewUsage, RecordType};

use crate::blocking::blocking;
use crate::digest::to_solver;
use crate::{Tree, Worker};

pub(crate) struct Merge {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: MergeOp,
    pub(crate) description: String,
}

pub(crate) struct Diff {
    pub(crate) worker: Arc<Worker>,
    pub(crate) op: DiffOp,
    pub(crate) description: String,
}

fn usage(description: &str) -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: description.to_owned(),
        mutable: false,
        size: None,
    }
}

fn tree(made: Option<SnapshotRef>) -> Vec<Tree> {
    vec![made.map_or_else(Tree::scratch, Tree::of)]
}

impl crate::recall::Step for Merge {}

#[async_trait]
impl Op<Tree> for Merge {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let inputs: Vec<u64> = self.op.inputs.iter().map(|input| *input as u64).collect();
        let digest = inputs
            .iter()
            .fold(
                FieldHasher::new("weld.op.merge.v1").number(inputs.len() as u64),
                |hasher, input| hasher.number(*input),
            )
            .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        _ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let layers: Vec<SnapshotRef> = self
            .op
            .inputs
            .iter()
            .filter_map(|input| inputs.get(*input)?.snapshot().cloned())
            .collect();
        let (worker, usage) = (Arc::clone(&self.worker), usage(&self.description));
        let merged = blocking(move || match layers.as_slice() {
            [] => Ok::<_, SnapshotError>(None),
            [only] => Ok(Some(only.clone())),
            _ => worker.snapshots.merge(&layers, usage).map(Some),
        });
        merged.await.map(tree)
    }
}

impl crate::recall::Step for Diff {}

#[async_trait]
impl Op<Tree> for Diff {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let side = |hasher: FieldHasher, input: Option<usize>| match input {
            None => hasher.number(0),
            Some(input) => hasher.number(1).number(input as u64),
        };
        let digest = side(
            side(FieldHasher::new("weld.op.diff.v1"), self.op.lower),
            self.op.upper,
        )
        .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        _ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let side =
            |input: Option<usize>| input.and_then(|input| inputs.get(input)?.snapshot().cloned());
        let (lower, upper) = (side(self.op.lower), side(self.op.upper));
        let (worker, usage) = (Arc::clone(&self.worker), usage(&self.description));
        let made = blocking(move || match (&lower, &upper) {
            (None, None) => Ok::<_, SnapshotError>(None),
            _ => worker
                .snapshots
                .diff(lower.as_ref(), upper.as_ref(), usage)
                .map(Some),
        });
        made.await.map(tree)
    }
}
