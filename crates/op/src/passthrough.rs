//! The passthrough operation: inputs handed on as they are, once all of them are there.

use async_trait::async_trait;
use weld_digest::FieldHasher;
use weld_llb::PassthroughOp;
use weld_solver::{CacheMap, Op, OpContext, OpError, ResultRef};

use crate::Tree;
use crate::digest::to_solver;
use crate::recall::Step;

pub(crate) struct Passthrough {
    pub(crate) op: PassthroughOp,
}

/// An output that is of no input.
#[derive(Debug, thiserror::Error)]
#[error("passthrough {id}: output {output} is input {input}, and there are {inputs}")]
struct NoInputError {
    id: String,
    output: usize,
    input: usize,
    inputs: usize,
}

impl Step for Passthrough {}

#[async_trait]
impl Op<Tree> for Passthrough {
    async fn cache_map(&self, _ctx: &OpContext<Tree>, _index: u32) -> Result<CacheMap, OpError> {
        let digest = self
            .op
            .outputs
            .iter()
            .fold(
                FieldHasher::new("weld.op.passthrough.v1")
                    .text(&self.op.id)
                    .number(self.op.outputs.len() as u64),
                |hasher, input| hasher.number(*input as u64),
            )
            .finish();
        Ok(CacheMap::new(to_solver(&digest)))
    }

    async fn exec(
        &self,
        _ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        let outputs = self.op.outputs.iter().enumerate();
        outputs
            .map(|(output, &input)| {
                let tree = inputs.get(input).map(|tree| Tree::clone(tree));
                tree.ok_or_else(|| {
                    OpError::failed(NoInputError {
                        id: self.op.id.clone(),
                        output,
                        input,
                        inputs: inputs.len(),
                    })
                })
            })
            .collect()
    }
}
