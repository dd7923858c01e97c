//! Scripted vertices: what they are called, how they are cached, what they compute, and how often they were asked.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::Barrier;
use weld_solver::{
    CacheMap, Definition, Digest, InputMap, MergePolicy, Op, OpDefinition, OpError, Output,
    ResultRef, VertexDef, VertexOptions,
};

use super::{Context, Gate, Value};

type Pending = Pin<Box<dyn Future<Output = Result<(), OpError>> + Send>>;
type Hook = Arc<
    dyn for<'a> Fn(&'a Context) -> Pin<Box<dyn Future<Output = Result<(), OpError>> + Send + 'a>>
        + Send
        + Sync,
>;

enum Kind {
    /// A fixed value for every output.
    Fixed(Value),
    /// One value when it is executed first, and another from then on.
    Changing(Value, Value),
    /// A number plus the sum of the inputs.
    Sum(i64),
    /// Output `i` is a number plus input `i`.
    Add(i64),
    /// The result of a graph that is built during execution.
    Sub(Vtx),
}

/// A vertex. Counts how often its first cache map and its execution were asked for.
pub(crate) struct Vertex {
    name: String,
    seeds: Vec<String>,
    inputs: Vec<(Vtx, u32)>,
    kind: Kind,
    slow: HashSet<u32>,
    slow_fails: bool,
    preprocess: HashSet<u32>,
    selectors: HashMap<u32, String>,
    options: VertexOptions,
    outputs: u32,
    before_map: Option<Hook>,
    before_exec: Option<Hook>,
    pub(crate) maps: AtomicU32,
    pub(crate) execs: AtomicU32,
    pub(crate) preprocessed: AtomicU32,
    running: AtomicBool,
}

pub(crate) type Vtx = Arc<Vertex>;

/// A vertex under construction.
pub(crate) struct Builder(Vertex);

static NAMES: AtomicU32 = AtomicU32::new(0);

fn start(name: &str, kind: Kind) -> Builder {
    Builder(Vertex {
        name: name.to_owned(),
        seeds: vec![format!("seed of {name}")],
        inputs: Vec::new(),
        kind,
        slow: HashSet::new(),
        slow_fails: false,
        preprocess: HashSet::new(),
        selectors: HashMap::new(),
        options: VertexOptions::default(),
        outputs: 1,
        before_map: None,
        before_exec: None,
        maps: AtomicU32::new(0),
        execs: AtomicU32::new(0),
        preprocessed: AtomicU32::new(0),
        running: AtomicBool::new(false),
    })
}

fn anonymous(kind: Kind) -> Builder {
    start(
        &format!("anonymous {}", NAMES.fetch_add(1, Ordering::Relaxed)),
        kind,
    )
}

/// A vertex with a fixed value.
pub(crate) fn vtx(name: &str, seed: &str, value: &str) -> Builder {
    start(name, Kind::Fixed(value.to_owned())).seeds(&[seed])
}

pub(crate) fn constant(value: i64) -> Vtx {
    anonymous(Kind::Sum(value))
        .seeds(&[&format!("const-{value}")])
        .done()
}

pub(crate) fn sum(value: i64, inputs: &[&Vtx]) -> Vtx {
    let seed = format!("sum-{value}-{}", inputs.len());
    inputs
        .iter()
        .fold(
            anonymous(Kind::Sum(value)).seeds(&[&seed]),
            |builder, input| builder.on(input),
        )
        .done()
}

pub(crate) fn add(value: i64, inputs: &[&Vtx]) -> Vtx {
    let seed = format!("add-{value}-{}", inputs.len());
    let mut builder = inputs.iter().fold(
        anonymous(Kind::Add(value)).seeds(&[&seed]),
        |builder, input| builder.on(input),
    );
    builder.0.outputs = inputs.len() as u32;
    builder.done()
}

pub(crate) fn sub(name: &str, graph: &Vtx) -> Builder {
    start(name, Kind::Sub(Arc::clone(graph)))
}

impl Builder {
    pub(crate) fn done(self) -> Vtx {
        Arc::new(self.0)
    }

    pub(crate) fn on(self, input: &Vtx) -> Self {
        self.on_output(input, 0)
    }

    pub(crate) fn on_output(mut self, input: &Vtx, output: u32) -> Self {
        self.0.inputs.push((Arc::clone(input), output));
        self
    }

    pub(crate) fn seeds(mut self, seeds: &[&str]) -> Self {
        self.0.seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        self
    }

    pub(crate) fn slow(mut self, input: u32) -> Self {
        self.0.slow.insert(input);
        self
    }

    pub(crate) fn slow_fails(mut self) -> Self {
        self.0.slow_fails = true;
        self
    }

    pub(crate) fn preprocess(mut self, input: u32) -> Self {
        self.0.preprocess.insert(input);
        self
    }

    pub(crate) fn selector(mut self, input: u32, selector: &str) -> Self {
        self.0.selectors.insert(input, selector.to_owned());
        self
    }

    /// Has another value when it is executed again.
    pub(crate) fn then(mut self, later: &str) -> Self {
        if let Kind::Fixed(first) = self.0.kind {
            self.0.kind = Kind::Changing(first, later.to_owned());
        }
        self
    }

    /// Computes a number plus the sum of the inputs.
    pub(crate) fn sum(mut self, value: i64) -> Self {
        self.0.kind = Kind::Sum(value);
        self
    }

    pub(crate) fn outputs(mut self, outputs: u32) -> Self {
        self.0.outputs = outputs;
        self
    }

    pub(crate) fn ignore_cache(mut self) -> Self {
        self.0.options.ignore_cache = true;
        self
    }

    pub(crate) fn never_merge(mut self) -> Self {
        self.0.options.merge = MergePolicy::Never;
        self
    }

    pub(crate) fn public(mut self) -> Self {
        self.0.options.public = true;
        self
    }

    pub(crate) fn options(mut self, change: impl FnOnce(&mut VertexOptions)) -> Self {
        change(&mut self.0.options);
        self
    }

    pub(crate) fn before_map<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(
                &'a Context,
            )
                -> Pin<Box<dyn Future<Output = Result<(), OpError>> + Send + 'a>>
            + Send
            + Sync
            + 'static,
    {
        self.0.before_map = Some(Arc::new(hook));
        self
    }

    pub(crate) fn before_exec<F>(mut self, hook: F) -> Self
    where
        F: for<'a> Fn(
                &'a Context,
            )
                -> Pin<Box<dyn Future<Output = Result<(), OpError>> + Send + 'a>>
            + Send
            + Sync
            + 'static,
    {
        self.0.before_exec = Some(Arc::new(hook));
        self
    }

    pub(crate) fn exec_fails(self, text: &'static str) -> Self {
        self.before_exec(move |_| Box::pin(async move { Err(OpError::failed(text)) }))
    }

    pub(crate) fn map_fails(self, text: &'static str) -> Self {
        self.before_map(move |_| Box::pin(async move { Err(OpError::failed(text)) }))
    }

    pub(crate) fn map_waits(self, barrier: &Arc<Barrier>) -> Self {
        let barrier = Arc::clone(barrier);
        self.before_map(move |_| meet(&barrier))
    }

    pub(crate) fn exec_waits(self, barrier: &Arc<Barrier>) -> Self {
        let barrier = Arc::clone(barrier);
        self.before_exec(move |_| meet(&barrier))
    }

    pub(crate) fn exec_gate(self, gate: &Arc<Gate>) -> Self {
        let gate = Arc::clone(gate);
        self.before_exec(move |context| gate.pass(context))
    }

    /// Says that it has begun, and waits for the gate.
    pub(crate) fn begins(self, gate: &Arc<Gate>) -> Self {
        let gate = Arc::clone(gate);
        self.before_exec(move |context| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                context.log(1, b"begun".to_vec());
                gate.pass(context).await
            })
        })
    }

    pub(crate) fn map_gate(self, gate: &Arc<Gate>) -> Self {
        let gate = Arc::clone(gate);
        self.before_map(move |context| gate.pass(context))
    }
}

fn meet(barrier: &Arc<Barrier>) -> Pending {
    let barrier = Arc::clone(barrier);
    Box::pin(async move {
        barrier.wait().await;
        Ok(())
    })
}

impl Vertex {
    pub(crate) fn into_first_input(self) -> Option<Vtx> {
        self.inputs.into_iter().next().map(|(input, _)| input)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.name)
    }

    /// First cache maps and executions in the graph that ends here; what is built inside operations does not count.
    pub(crate) fn counts(self: &Arc<Self>) -> (u32, u32) {
        let graph = graph_of(self);
        let sum = |count: fn(&Vertex) -> &AtomicU32| {
            graph
                .iter()
                .map(|vertex| count(vertex).load(Ordering::SeqCst))
                .sum()
        };
        (sum(|vertex| &vertex.maps), sum(|vertex| &vertex.execs))
    }

    /// Whether it is being executed.
    pub(crate) fn runs(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }
}

/// The vertices below one, inputs first, each once.
fn graph_of(root: &Vtx) -> Vec<Vtx> {
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    let mut work = vec![(Arc::clone(root), false)];
    while let Some((vertex, done)) = work.pop() {
        if done {
            order.push(vertex);
        } else if seen.insert(Arc::as_ptr(&vertex)) {
            work.push((Arc::clone(&vertex), true));
            work.extend(
                vertex
                    .inputs
                    .iter()
                    .map(|(input, _)| (Arc::clone(input), false)),
            );
        }
    }
    order
}

/// The definition that ends in an output of a vertex.
pub(crate) fn definition_of(root: &Vtx, output: u32) -> OpDefinition<Value> {
    let graph = graph_of(root);
    let position = |vertex: &Vtx| {
        graph
            .iter()
            .position(|other| Arc::ptr_eq(other, vertex))
            .unwrap() as u32
    };
    let positions: HashMap<_, _> = graph
        .iter()
        .enumerate()
        .map(|(at, vertex)| (Arc::as_ptr(vertex), at as u32))
        .collect();
    let vertices = graph.iter().map(|vertex| VertexDef {
        digest: vertex.digest(),
        name: vertex.name.as_str().into(),
        op: Arc::new(Scripted(Arc::clone(vertex))) as Arc<dyn Op<Value>>,
        inputs: vertex
            .inputs
            .iter()
            .map(|(input, output)| Output {
                vertex: positions[&Arc::as_ptr(input)],
                index: *output,
            })
            .collect(),
        options: vertex.options.clone(),
    });
    Definition::new(
        vertices.collect(),
        Output {
            vertex: position(root),
            index: output,
        },
    )
    .unwrap()
}

struct Scripted(Vtx);

#[async_trait]
impl Op<Value> for Scripted {
    async fn cache_map(&self, context: &Context, index: u32) -> Result<CacheMap, OpError> {
        if index == 0 {
            if let Some(hook) = &self.0.before_map {
                hook(context).await?;
            }
            self.0.maps.fetch_add(1, Ordering::SeqCst);
        }
        let inputs = (0..self.0.inputs.len() as u32).map(|input| InputMap {
            selector: self.0.selectors.get(&input).map(Digest::of),
            slow_key: self.0.slow.contains(&input),
            preprocess: self.0.preprocess.contains(&input),
        });
        Ok(CacheMap {
            digest: Digest::of(&self.0.seeds[index as usize]),
            inputs: inputs.collect(),
            more: index as usize + 1 < self.0.seeds.len(),
        })
    }

    async fn preprocess(&self, _: &Context, _: u32, _: &ResultRef<Value>) -> Result<(), OpError> {
        self.0.preprocessed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn slow_key(
        &self,
        _: &Context,
        _: u32,
        value: &ResultRef<Value>,
    ) -> Result<Option<Digest>, OpError> {
        if self.0.slow_fails {
            return Err(OpError::failed("no content key"));
        }
        Ok(Some(Digest::of(value.as_bytes())))
    }

    async fn exec(
        &self,
        context: &Context,
        inputs: Vec<ResultRef<Value>>,
    ) -> Result<Vec<Value>, OpError> {
        assert!(
            !self.0.running.swap(true, Ordering::SeqCst),
            "an operation runs once at a time"
        );
        let _running = Running(&self.0.running);
        self.run(context, inputs).await
    }
}

/// Resets the flag when a run ends, also by being dropped.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Scripted {
    async fn run(
        &self,
        context: &Context,
        inputs: Vec<ResultRef<Value>>,
    ) -> Result<Vec<Value>, OpError> {
        if let Some(hook) = &self.0.before_exec {
            hook(context).await?;
        }
        let before = self.0.execs.fetch_add(1, Ordering::SeqCst);
        let numbers = || inputs.iter().map(|input| input.parse::<i64>().unwrap());
        Ok(match &self.0.kind {
            Kind::Fixed(value) => vec![value.clone(); self.0.outputs as usize],
            Kind::Changing(first, later) => {
                let value = if before == 0 { first } else { later };
                vec![value.clone(); self.0.outputs as usize]
            }
            Kind::Sum(value) => vec![(value + numbers().sum::<i64>()).to_string()],
            Kind::Add(value) => numbers().map(|input| (value + input).to_string()).collect(),
            Kind::Sub(graph) => {
                let built = context
                    .build(definition_of(graph, 0))
                    .await
                    .map_err(OpError::failed)?;
                vec![(*built.value).clone()]
            }
        })
    }
}
