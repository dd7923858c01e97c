//! Graphs of operations that do nothing.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    CacheMap, Definition, Digest, Op, OpContext, OpDefinition, OpError, Output, ResultRef,
    VertexDef, VertexOptions,
};

struct Nothing(Digest);

#[async_trait]
impl Op<u64> for Nothing {
    async fn cache_map(&self, _: &OpContext<u64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(self.0))
    }

    async fn exec(&self, _: &OpContext<u64>, _: Vec<ResultRef<u64>>) -> Result<Vec<u64>, OpError> {
        Ok(vec![0])
    }
}

/// Runs until it is cancelled, and has no key that others have.
struct Endless(Digest);

#[async_trait]
impl Op<u64> for Endless {
    async fn cache_map(&self, _: &OpContext<u64>, _: u32) -> Result<CacheMap, OpError> {
        Ok(CacheMap::new(self.0))
    }

    async fn exec(
        &self,
        context: &OpContext<u64>,
        _: Vec<ResultRef<u64>>,
    ) -> Result<Vec<u64>, OpError> {
        context.cancellation().cancelled().await;
        Err(OpError::Cancelled)
    }
}

type Vertices = Vec<VertexDef<Arc<dyn Op<u64>>>>;

/// Adds a vertex. `who` makes the digest differ, `what` the cache key.
fn add(vertices: &mut Vertices, who: &str, what: &str, inputs: Vec<Output>) -> Output {
    let below: Vec<_> = inputs
        .iter()
        .map(|input| vertices[input.vertex as usize].digest)
        .collect();
    vertices.push(VertexDef {
        digest: Digest::of(format!("{who} {what} {below:?}")),
        name: what.into(),
        op: Arc::new(Nothing(Digest::of(what))),
        inputs,
        options: VertexOptions::default(),
    });
    Output {
        vertex: vertices.len() as u32 - 1,
        index: 0,
    }
}

fn finish(vertices: Vertices, root: Output) -> OpDefinition<u64> {
    match Definition::new(vertices, root) {
        Ok(definition) => definition,
        Err(error) => unreachable!("inputs come first: {error}"),
    }
}

/// `layers` × `width` vertices with `inputs` inputs each, and one on top.
pub(super) fn layers(who: &str, layers: usize, width: usize, inputs: usize) -> OpDefinition<u64> {
    let mut vertices = Vertices::with_capacity(layers * width + 1);
    let mut below: Vec<Output> = Vec::new();
    for layer in 0..layers {
        let next = (0..width).map(|at| {
            let count = if below.is_empty() { 0 } else { inputs };
            let chosen = (0..count)
                .map(|input| below[(at * 7 + input * 31 + layer) % width])
                .collect();
            add(
                &mut vertices,
                who,
                &format!("layer {layer} at {at}"),
                chosen,
            )
        });
        below = next.collect();
    }
    let root = add(&mut vertices, who, "top", below);
    finish(vertices, root)
}

/// Vertices over the same two inputs, each with one of its own between them, and a tree on top.
pub(super) fn one_apart(count: usize) -> OpDefinition<u64> {
    let mut vertices = Vertices::with_capacity(3 * count);
    let ends = ["first", "last"].map(|end| add(&mut vertices, "", end, Vec::new()));
    let leaves = (0..count)
        .map(|at| {
            let own = add(&mut vertices, "", &format!("own {at}"), Vec::new());
            add(&mut vertices, "", "over", vec![ends[0], own, ends[1]])
        })
        .collect();
    tree(vertices, leaves)
}

/// Vertices that differ in nothing but their digest, and a tree on top.
pub(super) fn one_target(count: usize) -> OpDefinition<u64> {
    let mut vertices = Vertices::with_capacity(2 * count);
    let below = add(&mut vertices, "", "below", Vec::new());
    let leaves = (0..count)
        .map(|at| add(&mut vertices, &format!("{at}"), "equal", vec![below]))
        .collect();
    tree(vertices, leaves)
}

fn tree(mut vertices: Vertices, mut leaves: Vec<Output>) -> OpDefinition<u64> {
    for level in 0.. {
        let next = leaves.chunks(8).enumerate().map(|(at, few)| {
            let what = format!("node {at} of {level}");
            add(&mut vertices, "", &what, few.to_vec())
        });
        leaves = next.collect();
        if let [root] = *leaves {
            return finish(vertices, root);
        }
    }
    unreachable!("each level has fewer")
}

/// A chain.
pub(super) fn chain(who: &str, length: usize) -> OpDefinition<u64> {
    let mut vertices = Vertices::with_capacity(length);
    let mut last = add(&mut vertices, who, &format!("{who} bottom"), Vec::new());
    for at in 1..length {
        last = add(&mut vertices, who, &format!("link {at}"), vec![last]);
    }
    finish(vertices, last)
}

/// A chain, and operations on top of it that run until they are cancelled.
pub(super) fn endless(who: &str, length: usize, tops: usize) -> Vec<OpDefinition<u64>> {
    let chain = chain(who, length);
    let below = chain.vertices().to_vec();
    let last = Output {
        vertex: length as u32 - 1,
        index: 0,
    };
    let on_top = |at: usize| {
        let mut vertices = below.clone();
        let what = format!("endless {at}");
        let top = add(&mut vertices, who, &what, vec![last]);
        vertices[top.vertex as usize].op = Arc::new(Endless(Digest::of(what)));
        finish(vertices, top)
    };
    (0..tops).map(on_top).collect()
}

/// Two vertices a level, each over both of the level below.
pub(super) fn ladder(who: &str, depth: usize) -> OpDefinition<u64> {
    let mut vertices = Vertices::with_capacity(2 * depth + 3);
    let mut pair = [
        add(&mut vertices, who, "left", Vec::new()),
        add(&mut vertices, who, "right", Vec::new()),
    ];
    for level in 0..depth {
        pair = ["left", "right"].map(|side| {
            add(
                &mut vertices,
                who,
                &format!("{side} {level}"),
                pair.to_vec(),
            )
        });
    }
    let root = add(&mut vertices, who, "top", pair.to_vec());
    finish(vertices, root)
}
