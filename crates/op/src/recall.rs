//! What steps that ran were made of, remembered in the store, so that the next build can tell why it runs one again.
//!
//! Every operation is wrapped in a [`Remembered`]: when it executes, what it is made of (its [`Recipe`]) is compared with the nearest
//! one that is remembered, and remembered in turn. Values of secrets are in no operation, so they are in no recipe.

mod compare;
mod recipe;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weld_digest::FieldHasher;
use weld_llb::Vertex;
use weld_solver::{CacheMap, Digest, Op, OpContext, OpError, ResultRef};
use weld_store::{Object, StepName};

use self::recipe::{Input, Recipe};
use crate::blocking::blocking;
use crate::captured::{Captured, Pin};
use crate::content::Selector;
use crate::{Tree, Worker, room};

/// Whether steps tell why they run.
#[derive(Debug, Default)]
pub struct Explaining(AtomicBool);

impl Explaining {
    /// Switches it on or off.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An operation of this crate.
pub(crate) trait Step: Op<Tree> {
    /// What it turned out to stand for, once it was asked.
    fn pin(&self) -> Option<Pin> {
        None
    }

    /// What of an input's content is in its slow key.
    fn selectors(&self, input: u32) -> Vec<Selector> {
        let _ = input;
        Vec::new()
    }
}

/// Where a definition comes from: steps of one origin are compared with one another.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Tells projects apart, such as by the directory and the Dockerfile.
    pub scope: String,
    /// The names of build arguments that the user gave.
    pub build_args: Vec<String>,
}

/// What a definition's operations have in common.
pub(crate) struct Surroundings {
    pub(crate) worker: Arc<Worker>,
    pub(crate) origin: Origin,
}

/// An operation whose recipe is remembered when it runs.
pub(crate) struct Remembered {
    step: Arc<dyn Step>,
    surroundings: Arc<Surroundings>,
    vertex: Vertex,
    name: String,
    /// Names of the vertices of its inputs.
    inputs: Vec<String>,
    ignore_cache: bool,
    keys: Mutex<Keys>,
}

/// What its calls found out.
#[derive(Clone, Default)]
struct Keys {
    op: Option<StepName>,
    contents: Vec<Option<StepName>>,
}

impl Remembered {
    pub(crate) fn new(
        step: Arc<dyn Step>,
        surroundings: Arc<Surroundings>,
        vertex: Vertex,
        name: String,
        inputs: Vec<String>,
        ignore_cache: bool,
    ) -> Self {
        Self {
            step,
            surroundings,
            vertex,
            keys: Mutex::new(Keys {
                op: None,
                contents: vec![None; inputs.len()],
            }),
            name,
            inputs,
            ignore_cache,
        }
    }

    /// What it is, for provenance.
    pub(crate) fn captured(&self) -> Captured<'_> {
        Captured {
            vertex: &self.vertex,
            pin: self.step.pin(),
        }
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches what of an input is not here: operations read it.
    async fn realize(&self, ctx: &OpContext<Tree>, input: u32, tree: &Tree) -> Result<(), OpError> {
        let worker = &self.surroundings.worker;
        worker.realize_input(ctx, input, tree).await
    }

    /// What it is made of, with the content of its inputs as far as that is in its key.
    async fn recipe(&self, inputs: &[ResultRef<Tree>]) -> Recipe {
        let keys = self.keys().clone();
        let mut made_of = Vec::with_capacity(inputs.len());
        for (number, (tree, name)) in (0..).zip(inputs.iter().zip(&self.inputs)) {
            let content = keys.contents.get(number as usize).copied().flatten();
            let mut input = Input {
                name: recipe::bounded(name),
                content,
                record: tree.record().map(|record| record.0),
                files: Vec::new(),
                all_files: false,
            };
            if content.is_some() {
                let selectors = self.step.selectors(number);
                let listed = files(tree, selectors).await;
                // Without the files there is less to tell.
                (input.files, input.all_files) = listed.unwrap_or_default();
            }
            made_of.push(input);
        }
        Recipe {
            name: recipe::bounded(&self.name),
            op: keys.op,
            fields: recipe::fields(&self.vertex),
            inputs: made_of,
        }
    }

    /// What names the step, and what it may be found by when its definition has changed: its whole name, then what it says, then its
    /// place.
    fn slots(&self) -> (StepName, [StepName; 3]) {
        let domain = self.surroundings.worker.domain();
        let scope = domain.scoped(self.surroundings.origin.scope.clone());
        let hash = |slot: &str, text: &str| {
            let digest = FieldHasher::new("weld.step.slot.v1")
                .text(&scope)
                .text(slot)
                .text(text)
                .finish();
            crate::digest::to_solver(&digest).0
        };
        let (place, text) = recipe::place_and_text(&self.name);
        let vertex = match domain.name() {
            None => crate::digest::to_solver(self.vertex.digest()).0,
            Some(_) => hash("vertex", &self.vertex.digest().to_string()),
        };
        (
            vertex,
            [
                hash("name", &self.name),
                hash("text", &text),
                hash("place", &place),
            ],
        )
    }

    fn remembered(&self) -> Option<Recipe> {
        let steps = self.surroundings.worker.store.steps();
        let (vertex, slots) = self.slots();
        let read = |name: &StepName| {
            let bytes = steps.get(name).ok().flatten()?;
            Recipe::decode(&bytes)
        };
        read(&vertex).or_else(|| {
            let mut latest = slots
                .iter()
                .filter_map(|slot| steps.latest(slot).ok().flatten());
            latest.find_map(|name| read(&name))
        })
    }

    fn why(&self, recipe: &Recipe) -> String {
        if self.ignore_cache {
            return "the cache was not to be used".to_owned();
        }
        let Some(before) = self.remembered() else {
            return "first time seen: nothing like it is remembered".to_owned();
        };
        compare::differences(&before, recipe, &self.surroundings.origin.build_args)
    }

    /// Has the store know what it would cost to make the results again. An image's layers are told of one by
    /// one, by who fetches them.
    fn tell_cost(&self, outputs: &[Tree], time: Duration) {
        let is_image = matches!(self.vertex.op(), weld_llb::Op::Source(source)
            if matches!(**source, weld_llb::Source::Image(_) | weld_llb::Source::OciLayout(_)));
        if is_image {
            return;
        }
        let uses = self.surroundings.worker.store.uses();
        for snapshot in outputs.iter().filter_map(Tree::snapshot) {
            uses.took(&Object::Snapshot(snapshot.id()), time);
        }
    }

    fn remember(&self, recipe: &Recipe) {
        let (vertex, slots) = self.slots();
        let Some(bytes) = recipe.encode() else {
            return;
        };
        let steps = self.surroundings.worker.store.steps();
        if let Err(error) = steps.put(&vertex, &slots, &bytes) {
            tracing::warn!(%error, "cannot remember a step");
        }
    }
}

type Files = (Vec<(String, [u8; 8])>, bool);

/// The files that selectors mean, with a part of their keys.
async fn files(tree: &Tree, selectors: Vec<Selector>) -> Result<Files, OpError> {
    let Some(snapshot) = tree.snapshot().cloned() else {
        return Ok((Vec::new(), true));
    };
    blocking(move || {
        let mut files = Vec::new();
        let mut all = true;
        for selector in &selectors {
            let room = recipe::FILES - files.len();
            let (entries, whole) =
                snapshot.content_entries(&selector.path, &selector.options, room)?;
            all &= whole;
            for (path, key) in entries {
                let [a, b, c, d, e, f, g, h, ..] = key;
                files.push((
                    path.to_string_lossy().into_owned(),
                    [a, b, c, d, e, f, g, h],
                ));
            }
        }
        Ok::<_, weld_store::snapshot::SnapshotError>((files, all))
    })
    .await
}

#[async_trait]
impl Op<Tree> for Remembered {
    async fn cache_map(&self, ctx: &OpContext<Tree>, index: u32) -> Result<CacheMap, OpError> {
        let map = match self.vertex.op() {
            // A client's directory and a repository are fetched to be known.
            weld_llb::Op::Source(_) => {
                let space = self.surroundings.worker.store.space();
                let run = || self.step.cache_map(ctx, index);
                Box::pin(room::with_room(space, ctx, run)).await?
            }
            _ => self.step.cache_map(ctx, index).await?,
        };
        self.keys().op = Some(map.digest.0);
        Ok(map)
    }

    async fn preprocess(
        &self,
        ctx: &OpContext<Tree>,
        input: u32,
        tree: &ResultRef<Tree>,
    ) -> Result<(), OpError> {
        self.realize(ctx, input, tree).await?;
        self.step.preprocess(ctx, input, tree).await
    }

    async fn slow_key(
        &self,
        ctx: &OpContext<Tree>,
        input: u32,
        tree: &ResultRef<Tree>,
    ) -> Result<Option<Digest>, OpError> {
        self.realize(ctx, input, tree).await?;
        let key = self.step.slow_key(ctx, input, tree).await?;
        if let Some(content) = self.keys().contents.get_mut(input as usize) {
            *content = key.map(|key| key.0);
        }
        Ok(key)
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    async fn exec(
        &self,
        ctx: &OpContext<Tree>,
        inputs: Vec<ResultRef<Tree>>,
    ) -> Result<Vec<Tree>, OpError> {
        for (input, tree) in (0..).zip(&inputs) {
            self.realize(ctx, input, tree).await?;
        }
        let recipe = self.recipe(&inputs).await;
        if self.surroundings.worker.explaining.is_on() {
            ctx.explain(self.why(&recipe));
        }
        let space = self.surroundings.worker.store.space();
        let run = || self.step.exec(ctx, inputs.clone());
        let began = Instant::now();
        let outputs = Box::pin(room::with_room(space, ctx, run)).await?;
        self.tell_cost(&outputs, began.elapsed());
        self.remember(&recipe);
        Ok(outputs)
    }
}
