//! What steps that ran were made of, remembered in the store, so that the next build can tell why it runs one again.
//!
//! Every operation is wrapped in a [`Remembered`]: when it executes, what it is made of (its [`Recipe`]) is compared with the nearest
//! one that is remembered, and remembered in turn, also where it fails or is cancelled. A step whose record is found is remembered as
//! what its record was made of, as far as that is known; a step that a build never came to is not. Values of secrets are in no operation, so they are in no recipe.

mod compare;
mod field;
pub(crate) mod recipe;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weld_digest::FieldHasher;
use weld_llb::Vertex;
use weld_solver::{CacheMap, Digest, Op, OpContext, OpError, ResultRef};
use weld_store::content_key::KeyEntryKind;
use weld_store::{Object, StepName};

use self::recipe::{End, File, Input, Kind, Recipe};
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
    /// See [`recipe::lineage`].
    lineage: StepName,
    ignore_cache: bool,
    keys: Mutex<Keys>,
}

/// What its calls found out.
#[derive(Clone, Default)]
struct Keys {
    op: Option<StepName>,
    contents: Vec<Option<StepName>>,
    /// What it is without the content of its inputs: see [`recipe::outline`].
    outline: Option<StepName>,
    /// Builds that come would not know what it was made of.
    unknown: bool,
    /// What it was made of when it ran and came to no result.
    attempt: Option<Recipe>,
}

impl Remembered {
    pub(crate) fn new(
        step: Arc<dyn Step>,
        surroundings: Arc<Surroundings>,
        vertex: Vertex,
        name: String,
        inputs: Vec<String>,
        lineage: StepName,
        ignore_cache: bool,
    ) -> Self {
        Self {
            step,
            surroundings,
            vertex,
            keys: Mutex::new(Keys {
                op: None,
                contents: vec![None; inputs.len()],
                outline: None,
                unknown: false,
                attempt: None,
            }),
            name,
            inputs,
            lineage,
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
            outline: keys.outline.unwrap_or_default(),
            op: keys.op,
            fields: recipe::fields(&self.vertex),
            inputs: made_of,
            end: End::Cancelled,
            since: 0,
        }
    }

    /// What names the step, and what it may be found by when its definition has changed: its whole name, then what it says, then its
    /// place. Last come what finds it among those of equal outlines, and with equal content.
    fn slots(&self) -> (StepName, Vec<StepName>) {
        let (place, _) = recipe::place_and_text(&self.name);
        let (bare_place, text) = recipe::bare_place_and_text(&self.name);
        let mut slots = vec![
            self.slot("name", &self.name),
            self.slot("bare text", &text),
            self.slot("place", &place),
            self.slot("bare place", &bare_place),
        ];
        if let Some((outline, exact)) = self.found_out() {
            slots.extend([
                self.slot_of("outline", &outline),
                self.slot_of("exact", &exact),
            ]);
        }
        (self.vertex_name(), slots)
    }

    fn vertex_name(&self) -> StepName {
        match self.surroundings.worker.domain().name() {
            None => crate::digest::to_solver(self.vertex.digest()).0,
            Some(_) => self.slot("vertex", &self.vertex.digest().to_string()),
        }
    }

    fn slot(&self, slot: &str, text: &str) -> StepName {
        let domain = self.surroundings.worker.domain();
        let scope = domain.scoped(self.surroundings.origin.scope.clone());
        let digest = FieldHasher::new("weld.step.slot.v1")
            .text(&scope)
            .text(slot)
            .text(text)
            .finish();
        crate::digest::to_solver(&digest).0
    }

    /// A slot that is the same in every project.
    fn slot_of(&self, slot: &str, what: &StepName) -> StepName {
        let domain = self.surroundings.worker.domain();
        let digest = FieldHasher::new("weld.step.slot.v2")
            .text(&domain.scoped(String::new()))
            .text(slot)
            .bytes(what)
            .finish();
        crate::digest::to_solver(&digest).0
    }

    /// Its outline, and with the content of its inputs as far as that was asked for.
    fn found_out(&self) -> Option<(StepName, StepName)> {
        let keys = self.keys();
        let outline = keys.outline?;
        let exact = recipe::exact(&outline, keys.contents.iter().copied());
        Some((outline, exact))
    }

    /// Whether builds of this origin that come will know what the step was made of.
    fn is_known(&self) -> bool {
        let Some((outline, exact)) = self.found_out() else {
            return false;
        };
        let has_content = self.keys().contents.iter().any(Option::is_some);
        let steps = self.surroundings.worker.store.steps();
        let latest = |slot| steps.latest(&slot).ok().flatten();
        let (place, _) = recipe::place_and_text(&self.name);
        let known = latest(self.slot("name", &self.name));
        if known.is_none() || known != latest(self.slot("place", &place)) {
            return false;
        }
        let bytes = known.and_then(|name| steps.get(&name).ok().flatten());
        let header = bytes.and_then(|bytes| recipe::header(&bytes));
        header.is_some_and(|header| {
            let same = !has_content || header.exact == exact;
            header.has_result && header.outline == outline && same
        })
    }

    /// Has builds that come know of a step that has a result and did not run here: its record was found, or another step's result.
    fn note(&self) {
        let (vertex, slots) = self.slots();
        let mut recipe = self.known_as().unwrap_or_else(|| self.unseen());
        // Found by these next time, whatever the step was called when it ran.
        recipe.name = recipe::bounded(&self.name);
        recipe.outline = self.keys().outline.unwrap_or_default();
        for (input, name) in recipe.inputs.iter_mut().zip(&self.inputs) {
            input.name = recipe::bounded(name);
        }
        if let Some(bytes) = recipe.encode() {
            self.put(&vertex, &slots, &bytes);
        }
    }

    /// What its result was made of, if something like it is remembered: the very same, or else the last that differs in no more than
    /// what is not known here, since a record may be found without a look at files.
    fn known_as(&self) -> Option<Recipe> {
        let steps = self.surroundings.worker.store.steps();
        let read = |name: &StepName| Recipe::decode(&steps.get(name).ok().flatten()?);
        let latest = |slot: &StepName| read(&steps.latest(slot).ok().flatten()?);
        let (outline, exact) = self.found_out()?;
        let contents = self.keys().contents.clone();
        let fits = |recipe: &Recipe| {
            let mut inputs = recipe.inputs.iter().zip(&contents);
            recipe.op == self.keys().op
                && recipe.inputs.len() == contents.len()
                && inputs.all(|(input, content)| content.is_none() || input.content == *content)
        };
        if let Some(recipe) = latest(&self.slot_of("exact", &exact)).filter(|recipe| {
            // It is the very same with a look at files only.
            contents.iter().any(Option::is_some) && fits(recipe)
        }) {
            return Some(Recipe {
                end: End::Made,
                ..recipe
            });
        }
        let (vertex, slots) = self.slots();
        let alike = self.slot_of("outline", &outline);
        let similar = slots.iter().take(recipe::SIMILAR);
        let near = read(&vertex).into_iter();
        let near = near.chain(std::iter::once(&alike).chain(similar).filter_map(latest));
        let near: Vec<_> = near.filter(fits).collect();
        let best = |end| near.iter().find(|recipe| recipe.end == end);
        let ran = best(End::Made).or_else(|| near.iter().find(|recipe| !recipe.has_result()));
        ran.map(|recipe| Recipe {
            end: End::Made,
            ..recipe.clone()
        })
    }

    /// What is known of it where it never ran.
    fn unseen(&self) -> Recipe {
        let keys = self.keys().clone();
        let contents = keys.contents.iter();
        let input = |(name, content): (&String, &Option<StepName>)| Input {
            name: recipe::bounded(name),
            content: *content,
            ..Input::default()
        };
        Recipe {
            name: recipe::bounded(&self.name),
            outline: keys.outline.unwrap_or_default(),
            op: keys.op,
            fields: recipe::fields(&self.vertex),
            inputs: self.inputs.iter().zip(contents).map(input).collect(),
            end: End::Found,
            since: self.surroundings.worker.store.results().unused(),
        }
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
                .take(recipe::SIMILAR)
                .filter_map(|slot| steps.latest(slot).ok().flatten());
            latest.find_map(|name| read(&name))
        })
    }

    fn why(&self, recipe: &Recipe, after_loss: bool) -> String {
        if after_loss {
            return compare::LOST.to_owned();
        }
        if self.ignore_cache {
            return "the cache was not to be used".to_owned();
        }
        let Some(before) = self.remembered() else {
            return compare::FIRST_TIME.to_owned();
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

    /// Remembers how it ran, or what it came to in place of a result.
    fn remember(&self, recipe: Recipe) {
        let (vertex, slots) = self.slots();
        let since = self.surroundings.worker.store.results().unused();
        if let Some(bytes) = (Recipe { since, ..recipe }).encode() {
            self.put(&vertex, &slots, &bytes);
        }
    }

    /// Notes how a run ended: without a result it is remembered only once it is known that the step came to none by another way.
    fn ran(&self, end: End) {
        let Some(attempt) = self.keys().attempt.take() else {
            return;
        };
        let recipe = Recipe { end, ..attempt };
        if recipe.has_result() {
            self.keys().unknown = false;
            self.remember(recipe);
        } else {
            self.keys().attempt = Some(recipe);
        }
    }

    fn put(&self, vertex: &StepName, slots: &[StepName], bytes: &[u8]) {
        let steps = self.surroundings.worker.store.steps();
        if let Err(error) = steps.put(vertex, slots, bytes) {
            tracing::warn!(%error, "cannot remember a step");
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let attempt = self.keys().attempt.take();
        if let Some(attempt) = attempt {
            self.remember(attempt);
        }
    }
}

type Files = (Vec<File>, bool);

/// The files that selectors mean, and whether these are all.
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
            for entry in entries {
                let [a, b, c, d, e, f, g, h, ..] = entry.key;
                files.push(File {
                    path: entry.path.to_string_lossy().into_owned(),
                    kind: match entry.kind {
                        KeyEntryKind::File => Kind::File,
                        KeyEntryKind::Symlink => Kind::Symlink,
                        KeyEntryKind::Directory => Kind::Directory,
                    },
                    key: [a, b, c, d, e, f, g, h],
                    mode: entry.mode,
                    uid: entry.uid,
                    gid: entry.gid,
                });
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
        if index == 0 {
            self.keys().outline = Some(recipe::outline(map.digest.0, &self.lineage));
            self.keys().unknown = !self.is_known();
        }
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
        self.keys().unknown = !self.is_known();
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
            ctx.explain(self.why(&recipe, ctx.is_after_loss()));
        }
        // Where this is dropped in the middle, it was cancelled.
        self.keys().attempt = Some(recipe);
        let space = self.surroundings.worker.store.space();
        let run = || self.step.exec(ctx, inputs.clone());
        let began = Instant::now();
        let outputs = match Box::pin(room::with_room(space, ctx, run)).await {
            Ok(outputs) => outputs,
            Err(error) => {
                let is_cancelled = ctx.is_cancelled() || matches!(error, OpError::Cancelled);
                self.ran(if is_cancelled {
                    End::Cancelled
                } else {
                    End::Failed
                });
                return Err(error);
            }
        };
        self.tell_cost(&outputs, began.elapsed());
        self.ran(End::Made);
        Ok(outputs)
    }

    fn retire(&self, served: bool) {
        let attempt = self.keys().attempt.take();
        match attempt {
            Some(attempt) if !served => self.remember(attempt),
            _ if served && self.keys().unknown => self.note(),
            _ => {}
        }
    }
}
