//! What is simulated: operations, graphs of them, and a plain sequential evaluation to compare with.

use std::sync::Arc;

use super::rng::{Rng, scramble};
use crate::{
    CacheMap, Definition, Digest, InputMap, MergePolicy, Output, VertexDef, VertexOptions,
};

/// What an operation is like. Inputs are earlier operations of the universe.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Operations of one class have equal cache digests and compute the same.
    pub(super) class: u64,
    pub(super) inputs: Vec<InputSpec>,
    pub(super) outputs: u32,
    /// Number of cache maps; more than one only without inputs.
    pub(super) maps: u32,
    /// An operation that needs its own job: it is stranded when the job ends or its session closes.
    pub(super) bound: bool,
    /// An operation that asks for a session, of whatever job.
    pub(super) wants_session: bool,
    pub(super) public: bool,
    /// An operation that is built from inside the execution.
    pub(super) nested: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct InputSpec {
    pub(super) spec: usize,
    pub(super) output: u32,
    /// The operation sees the input's value modulo this, and has a content key of that.
    pub(super) content: Option<u64>,
    pub(super) selector: bool,
    pub(super) preprocess: bool,
}

impl InputSpec {
    /// What the operation sees of the input's value.
    pub(super) fn view(&self, value: u64) -> u64 {
        self.content.map_or(value, |modulus| value % modulus)
    }
}

/// All operations of one run.
pub(super) struct Universe {
    pub(super) specs: Vec<Spec>,
}

/// One vertex as a job loaded it: the handle that the core knows as the operation.
#[derive(Clone, Debug)]
pub(super) struct SimOp(pub(super) Arc<OpInfo>);

#[derive(Debug)]
pub(super) struct OpInfo {
    /// Unique per loaded vertex.
    pub(super) instance: u64,
    pub(super) spec: usize,
    pub(super) digest: Digest,
    /// Number of the job that loaded it.
    pub(super) job: u64,
    pub(super) domain: u64,
    pub(super) ignore_cache: bool,
    pub(super) never_merge: bool,
}

impl Universe {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let count = 4 + rng.below(10) as usize;
        let leaves = 2 + rng.below(3) as usize;
        let mut specs: Vec<Spec> = Vec::new();
        for at in 0..count.max(leaves + 2) {
            let spec = if at < leaves {
                let mut leaf = Self::leaf(rng, at);
                // One of a pair may stand in for the other.
                if let Some(other) = specs.iter().find(|other| other.class / 2 == leaf.class / 2) {
                    leaf.outputs = other.outputs;
                }
                leaf
            } else {
                Self::inner(rng, at, &specs)
            };
            specs.push(spec);
        }
        Self { specs }
    }

    fn leaf(rng: &mut Rng, at: usize) -> Spec {
        Spec {
            class: at as u64,
            inputs: Vec::new(),
            outputs: 1 + u32::from(rng.one_in(4)),
            maps: if rng.one_in(4) {
                1 + rng.below(3) as u32
            } else {
                1
            },
            bound: rng.one_in(5),
            wants_session: rng.one_in(4),
            public: rng.one_in(4),
            nested: None,
        }
    }

    fn inner(rng: &mut Rng, at: usize, specs: &[Spec]) -> Spec {
        let count = 1 + rng.below(3) as usize;
        let inputs: Vec<_> = (0..count)
            .map(|_| {
                // Near ones more often: deep graphs.
                let reach = 1 + rng.below(4);
                let back = 1 + rng.below((at as u64).min(reach)) as usize;
                let spec = at - back.min(at);
                InputSpec {
                    spec,
                    output: rng.below(u64::from(specs[spec].outputs)) as u32,
                    content: rng.one_in(3).then(|| 1 + rng.below(3)),
                    selector: rng.one_in(5),
                    preprocess: rng.one_in(6),
                }
            })
            .collect();
        // Now and then the same operation as the input's, over content: an edge that could merge with its own ancestor.
        let below = &specs[inputs[0].spec];
        let same = rng.one_in(4) && below.inputs.len() == 1 && below.inputs[0].content.is_some();
        if same {
            let mut spec = below.clone();
            spec.inputs[0] = InputSpec {
                spec: inputs[0].spec,
                output: inputs[0].output,
                ..spec.inputs[0].clone()
            };
            spec.nested = None;
            return spec;
        }
        Spec {
            class: 100 + at as u64,
            inputs,
            outputs: 1 + rng.below(2) as u32,
            maps: 1,
            bound: rng.one_in(12),
            wants_session: rng.one_in(8),
            public: false,
            nested: rng.one_in(7).then(|| rng.below(at as u64) as usize),
        }
    }

    /// The cache map of an operation.
    pub(super) fn cache_map(&self, spec: usize, index: u32) -> CacheMap {
        let spec = &self.specs[spec];
        let inputs = spec.inputs.iter().map(|input| InputMap {
            selector: input.selector.then(|| Digest::of(b"selector")),
            slow_key: input.content.is_some(),
            preprocess: input.preprocess,
        });
        // The last cache map of a leaf is shared by a pair of classes that compute the same.
        let class = if spec.maps > 1 && index + 1 == spec.maps {
            1000 + spec.class / 2
        } else {
            spec.class
        };
        CacheMap {
            digest: Digest::of(format!(
                "class {class} nested {:?} map {index}",
                spec.nested.map(|nested| self.value(nested, 0))
            )),
            inputs: inputs.collect(),
            more: index + 1 < spec.maps,
        }
    }

    /// What an operation computes from its inputs' values and the value of the build that it asks for.
    pub(super) fn compute(
        &self,
        spec: usize,
        output: u32,
        inputs: &[u64],
        nested: Option<u64>,
    ) -> u64 {
        let spec = &self.specs[spec];
        if spec.inputs.is_empty() {
            return 10 * (spec.class / 2) + u64::from(output);
        }
        let views = spec
            .inputs
            .iter()
            .zip(inputs)
            .map(|(input, value)| input.view(*value));
        let seed = scramble(spec.class ^ (u64::from(output) << 32) ^ nested.unwrap_or(0));
        views.fold(seed, |hash, view| scramble(hash ^ view))
    }

    /// The plain evaluation: no sharing, no caching.
    pub(super) fn value(&self, spec: usize, output: u32) -> u64 {
        let mut values: Vec<Vec<u64>> = Vec::new();
        for at in 0..=spec {
            let inputs: Vec<u64> = self.specs[at]
                .inputs
                .iter()
                .map(|input| values[input.spec][input.output as usize])
                .collect();
            let nested = self.specs[at].nested.map(|nested| values[nested][0]);
            let outputs =
                (0..self.specs[at].outputs).map(|output| self.compute(at, output, &inputs, nested));
            values.push(outputs.collect());
        }
        values[spec][output as usize]
    }

    /// A definition that ends in an operation. `choice` decides what is not part of the meaning: variants, options.
    pub(super) fn definition(
        &self,
        root: usize,
        output: u32,
        choice: u64,
        job: (u64, u64),
        instances: &mut u64,
    ) -> (Definition<SimOp>, Vec<Arc<OpInfo>>) {
        let mut rng = Rng::new(choice);
        let mut vertices: Vec<VertexDef<SimOp>> = Vec::new();
        let mut infos = Vec::new();
        for (at, spec) in self.specs.iter().enumerate().take(root + 1) {
            let variant = rng.below(3);
            let ignore_cache = rng.one_in(12);
            let never_merge = variant == 2 && rng.one_in(3);
            let below: Vec<_> = spec
                .inputs
                .iter()
                .map(|input| vertices[input.spec].digest)
                .collect();
            let owner = if spec.bound { job.0 } else { 0 };
            let digest = Digest::of(format!("{at} {variant} {owner} {below:?}"));
            *instances += 1;
            let info = Arc::new(OpInfo {
                instance: *instances,
                spec: at,
                digest,
                job: job.0,
                domain: job.1,
                ignore_cache,
                never_merge,
            });
            infos.push(Arc::clone(&info));
            vertices.push(VertexDef {
                digest,
                name: format!("{at}").into(),
                op: SimOp(info),
                inputs: spec
                    .inputs
                    .iter()
                    .map(|input| Output {
                        vertex: input.spec as u32,
                        index: input.output,
                    })
                    .collect(),
                options: VertexOptions {
                    ignore_cache,
                    merge: if never_merge {
                        MergePolicy::Never
                    } else {
                        MergePolicy::Auto
                    },
                    public: spec.public,
                    ..VertexOptions::default()
                },
            });
        }
        let root = Output {
            vertex: root as u32,
            index: output,
        };
        match Definition::new(vertices, root) {
            Ok(definition) => (definition, infos),
            Err(error) => unreachable!("specs are in topological order: {error}"),
        }
    }
}
