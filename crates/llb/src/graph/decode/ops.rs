//! Operations, each for itself on all processors, then linked in their order.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;
use weld_digest::Digest;
use weld_proto::pb;

use super::{Limits, Positions, Unlinked, decode_op, edges};
use crate::graph::{DecodeError, Vertex};
use crate::{Op, OpError, Platform};

/// How many operations are decoded at a time by all processors together: what is decoded waits
/// until it is linked.
pub(super) const AT_ONCE: usize = 64 << 10;
/// How many of them are worth another processor.
const PER_TASK: usize = 256;

pub(super) fn decode_ops(def: Vec<Bytes>, limits: Limits) -> Result<Unlinked, DecodeError> {
    let mut vertices: Vec<Vertex> = Vec::with_capacity(def.len());
    let mut unlinked = Vec::new();
    let mut positions = Positions::with_capacity(def.len());
    let mut platforms = Platforms::default();
    for (number, encoded) in def.chunks(AT_ONCE).enumerate() {
        let alone =
            |(place, bytes): (usize, &Bytes)| decode_alone(bytes, number * AT_ONCE + place, limits);
        let ops = on_all(encoded, alone);
        for (position, DecodedOp { digest, op }) in (number * AT_ONCE..).zip(ops) {
            let op = op?;
            // One that stands there twice is one: nothing leads to its repetition, which is left out with all
            // that the result does not need.
            if let Some(hash) = digest.as_sha256() {
                positions.entry(*hash).or_insert(position);
            }
            // Most come after what they work on. The others wait until all are known.
            let edges = edges(&op.inputs, position, &vertices, &positions).unwrap_or_else(|_| {
                unlinked.push((position, op.inputs));
                Vec::new()
            });
            vertices.push(Vertex {
                digest,
                bytes: op.bytes,
                op: op.typed,
                inputs: edges,
                platform: op.platform.map(|platform| platforms.shared(platform)),
                worker_filters: op.worker_filters,
                metadata: None,
            });
        }
    }
    Ok((vertices, unlinked, positions))
}

/// What `each` makes of items and their places, on all processors if there are enough of them: a
/// small definition must start no threads.
pub(super) fn on_all<T: Sync, R: Send>(
    items: &[T],
    each: impl Fn((usize, &T)) -> R + Sync + Send,
) -> Vec<R> {
    if items.len() < 2 * PER_TASK {
        return items.iter().enumerate().map(each).collect();
    }
    let items = items.par_iter().with_min_len(PER_TASK).enumerate();
    items.map(each).collect()
}

/// What can be told of an operation without the others.
struct DecodedOp {
    digest: Digest,
    op: Result<LoneOp, DecodeError>,
}

struct LoneOp {
    bytes: Bytes,
    typed: Op,
    inputs: Vec<pb::Input>,
    platform: Option<pb::Platform>,
    worker_filters: Vec<String>,
}

fn decode_alone(bytes: &Bytes, position: usize, limits: Limits) -> DecodedOp {
    let digest = Digest::sha256_of(bytes);
    let decode = || {
        let op = decode_op(bytes.clone(), position, &digest)?;
        if op.inputs.len() > limits.inputs {
            return Err(DecodeError::TooManyInputs {
                position,
                inputs: op.inputs.len(),
                limit: limits.inputs,
            });
        }
        let typed = op
            .op
            .ok_or(OpError::Unknown)
            .and_then(|typed| Op::from_pb(typed, op.inputs.len()))
            .map_err(|source| DecodeError::Op {
                position,
                digest: digest.clone(),
                source: Box::new(source),
            })?;
        Ok(LoneOp {
            bytes: bytes.clone(),
            typed,
            inputs: op.inputs,
            platform: op.platform,
            worker_filters: op.constraints.unwrap_or_default().filter,
        })
    };
    let op = decode();
    DecodedOp { digest, op }
}

/// Most operations of a definition are for the same few platforms.
#[derive(Default)]
struct Platforms {
    all: HashMap<pb::Platform, Arc<Platform>>,
    /// The last one: it is most often the next one.
    last: Option<(pb::Platform, Arc<Platform>)>,
}

impl Platforms {
    fn shared(&mut self, platform: pb::Platform) -> Arc<Platform> {
        if let Some((last, shared)) = &self.last
            && *last == platform
        {
            return Arc::clone(shared);
        }
        let shared = match self.all.get(&platform) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = Arc::new(Platform::from(platform.clone()));
                self.all.insert(platform.clone(), Arc::clone(&shared));
                shared
            }
        };
        self.last = Some((platform, Arc::clone(&shared)));
        shared
    }
}
