//! What steps that ran were made of, remembered in the store, so that the next build can tell why it runs one again.
//!
//! Every operation is wrapped in a [`Remembered`]: when it executes, what it is made of (its [`Recipe`]) is compared with the nearest
//! one that is remembered, and remembered in turn, also where it fails or is cancelled. A step whose record is found is remembered as
//! what its record was made of, as far as that is known; a step that a build never came to is not. Values of secrets are in no operation, so they are in no recipe.

mod compare;
mod excerpt;
mod field;
mod files;
mod input;
mod memory;
pub(crate) mod names;
pub(crate) mod part;
pub(crate) mod recipe;
pub(crate) mod said;
mod surroundings;
pub(crate) mod written;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weld_llb::Vertex;
use weld_solver::{CacheMap, Digest, Op, OpContext, OpError, ResultRef};
use weld_store::content_key::KeyEntryKind;
use weld_store::{Object, StepName};

use self::compare::{Before, Scene};
use self::memory::{Memory, PLACES};
use self::part::Part;
use self::recipe::{End, File, Input, Kind, Lineage, Recipe};
pub(crate) use self::said::Fields;
pub use self::surroundings::{Explaining, Origin};
pub(crate) use self::surroundings::{Step, Surroundings};
use self::written::Called;
use crate::blocking::blocking;
use crate::captured::Captured;
use crate::content;
use crate::content::Selector;
use crate::{Tree, lost, room};

/// An operation whose recipe is remembered when it runs.
pub(crate) struct Remembered {
    step: Arc<dyn Step>,
    surroundings: Arc<Surroundings>,
    vertex: Vertex,
    naming: Naming,
    ignore_cache: bool,
    /// What it is, with all that it is made of.
    part: Arc<Part>,
    keys: Mutex<Keys>,
}

/// What a step and its inputs are called.
pub(crate) struct Naming {
    pub(crate) name: String,
    /// Of the vertices of its inputs.
    pub(crate) inputs: Vec<Called>,
    pub(crate) lineage: Lineage,
}

/// What its calls found out.
#[derive(Clone, Default)]
struct Keys {
    does: Option<StepName>,
    ran: bool,
    /// What it was made of when it ran and came to no result.
    attempt: Option<Recipe>,
}

impl Remembered {
    pub(crate) fn new(
        step: Arc<dyn Step>,
        surroundings: Arc<Surroundings>,
        vertex: Vertex,
        naming: Naming,
        part: Arc<Part>,
        ignore_cache: bool,
    ) -> Self {
        Self {
            step,
            surroundings,
            vertex,
            naming,
            ignore_cache,
            part,
            keys: Mutex::default(),
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

    fn memory(&self) -> Memory<'_> {
        let Surroundings { worker, origin, .. } = &*self.surroundings;
        Memory {
            steps: worker.store.steps(),
            domain: worker.domain(),
            scope: &origin.scope,
            of_sources: matches!(self.vertex.op(), weld_llb::Op::Source(_)),
        }
    }

    /// Fetches what of an input is not here: operations read it.
    async fn realize(&self, ctx: &OpContext<Tree>, input: u32, tree: &Tree) -> Result<(), OpError> {
        let worker = &self.surroundings.worker;
        worker.realize_input(ctx, input, tree).await
    }

    /// What it is, with all that it is made of.
    fn whole(&self) -> Option<StepName> {
        let memory = self.memory();
        self.part.whole(&|whole, seen| memory.known_as(whole, seen))
    }

    /// What it is made of as far as calls other than a run found out.
    fn outline(&self) -> Recipe {
        Recipe {
            fields: self
                .step
                .said()
                .unwrap_or_else(|| recipe::fields(&self.vertex)),
            ..self.identity()
        }
    }

    /// The same, without what its definition says.
    fn identity(&self) -> Recipe {
        let memory = self.memory();
        let known_as = |whole: &StepName, seen| memory.known_as(whole, seen);
        let inputs = self.naming.inputs.iter().zip(self.part.contents());
        let inputs = inputs.enumerate();
        let input = |(number, (called, content)): (usize, (&Called, Option<StepName>))| Input {
            name: recipe::bounded(&called.name),
            written: called.written,
            seen: content.map(|_| self.sees(number)),
            content,
            whole: self.part.input(number, &known_as),
            ..Input::default()
        };
        Recipe {
            name: recipe::bounded(&self.naming.name),
            lineage: self.naming.lineage,
            does: self.keys().does,
            whole: self.whole(),
            fields: Vec::new(),
            inputs: inputs.map(input).collect(),
            end: End::Found,
        }
    }

    /// What names the parts of an input that are in its slow key.
    fn sees(&self, input: usize) -> StepName {
        let input = u32::try_from(input).unwrap_or(u32::MAX);
        recipe::seen(&self.step.selectors(input))
    }

    /// What it is made of, with the content of its inputs as far as that is in its key.
    async fn recipe(&self, inputs: &[ResultRef<Tree>]) -> Recipe {
        let mut recipe = self.outline();
        recipe.end = End::Cancelled;
        for (number, (tree, input)) in (0..).zip(inputs.iter().zip(&mut recipe.inputs)) {
            input.result = tree.snapshot().map(|snapshot| snapshot.id().0).or(Some(0));
            if input.content.is_some() {
                let selectors = self.step.selectors(number);
                let listed = files(tree, selectors).await;
                // Without the files there is less to tell.
                (input.files, input.all_files) = listed.unwrap_or_default();
            }
        }
        recipe
    }

    /// What was remembered of the step as it is now, by whatever name; the last of several.
    fn same(&self, now: &Recipe) -> Option<Recipe> {
        let memory = self.memory();
        let identities = now.identities();
        let mut found = identities.iter().filter_map(|name| memory.identical(name));
        found.find(|recipe| recipe.does == now.does && recipe.may_see_what(now))
    }

    /// What was remembered last of the step, as it was then.
    fn last(&self) -> Option<Recipe> {
        let memory = self.memory();
        let Naming { name, lineage, .. } = &self.naming;
        let does = self.keys().does;
        let (named, placed) = memory.slots(name, &self.vertex, lineage, does);
        let is_other = |recipe: &Recipe| self.is_another(recipe);
        let newest = memory.newest(&named).find(|recipe| self.may_be(recipe));
        let alone = memory.place_alone(name);
        // Names have values of arguments in them: with other values, another step may have this one's name of before.
        let command = self.command();
        let says_it = |recipe: &Recipe| command.as_deref() == recipe.command();
        if command.is_some() && !newest.as_ref().is_some_and(says_it) {
            let places = placed.iter().take(PLACES).chain([&alone]);
            let mut places = places.filter_map(|slot| memory.latest(slot));
            if let Some(recipe) = places.find(|recipe| says_it(recipe) && !is_other(recipe)) {
                return Some(recipe);
            }
        }
        newest.or_else(|| {
            let placed = placed.iter().chain([&alone]);
            let mut placed = placed.filter_map(|slot| memory.latest(slot));
            // What did the same and is not there any more is this step, wherever it was.
            let did_this = |recipe: &Recipe| recipe.does == does && !is_other(recipe);
            placed.find(|recipe| self.may_have_been(recipe) || did_this(recipe))
        })
    }

    /// What was remembered of the step when it differed in less than when it was last remembered: with these arguments, where builds with
    /// others take turns.
    fn nearest(&self, last: &Recipe, now: &Recipe, scene: Scene<'_>) -> Option<Recipe> {
        let most = compare::distance(last, now, scene)?;
        let memory = self.memory();
        let variants = memory.variants(&self.naming.name);
        let variants = variants.filter(|recipe| recipe.lineage == self.naming.lineage);
        let variants = variants.filter_map(|recipe| {
            let distance = compare::distance(&recipe, now, scene)?;
            (distance < most).then_some((distance, recipe))
        });
        let nearest = variants.min_by_key(|(distance, _)| *distance);
        nearest.map(|(_, recipe)| recipe)
    }

    /// Whether it is of another step, although they may be called alike: one of another stage that is still there was always that, and so
    /// was one for another platform.
    fn is_another(&self, recipe: &Recipe) -> bool {
        let own = recipe::bounded(&self.naming.name);
        recipe.name != own && self.surroundings.names.contains(&recipe.name)
            || names::are_of_other_platforms(&recipe.name, &own)
    }

    /// Whether it was this step, or may have been it.
    fn may_be(&self, recipe: &Recipe) -> bool {
        !self.is_another(recipe) && recipe.lineage == self.naming.lineage
            || self.may_have_been(recipe)
    }

    /// Its command, as the Dockerfile has it.
    fn command(&self) -> Option<String> {
        recipe::command(&self.step.said()?).map(str::to_owned)
    }

    /// How many steps of the definition say what the step of this name does.
    fn saying_so(&self, name: &str) -> usize {
        let text = names::unnumbered(&recipe::bounded(name));
        self.surroundings.texts.get(&text).copied().unwrap_or(0)
    }

    /// Whether a step that said the same, or was in the same place, may have been this one. It was another one if that is still there,
    /// or if it was made of something else.
    fn may_have_been(&self, recipe: &Recipe) -> bool {
        let own = recipe::bounded(&self.naming.name);
        if names::are_of_other_platforms(&recipe.name, &own) {
            return false;
        }
        let text = names::unnumbered(&recipe.name);
        let saying_so = self.saying_so(&recipe.name);
        let in_place = names::place(&recipe.name) == names::place(&own);
        if text == names::unnumbered(&own) {
            return in_place || saying_so == 1;
        }
        let now = self.naming.inputs.iter();
        let now = now.map(|called| names::rank(&recipe::bounded(&called.name)));
        let before = recipe.inputs.iter().map(|input| names::rank(&input.name));
        let follows_the_same = names::rank(&recipe.name) == names::rank(&own) && now.eq(before);
        saying_so == 0 && (in_place || follows_the_same)
    }

    /// Has builds that come know of a step that has a result and did not run here: its record was found, or another step's result.
    fn note(&self) {
        let memory = self.memory();
        let name = &self.naming.name;
        if self.keys().does.is_none() {
            return;
        }
        let whole = self.whole();
        if whole.is_some() {
            let inputs = self.naming.inputs.iter();
            let inputs: Vec<_> = inputs.map(|input| recipe::bounded(&input.name)).collect();
            let inputs: Vec<_> = inputs.iter().map(String::as_str).collect();
            let row = memory.row(name, &inputs, &self.vertex, whole);
            if memory.is_latest(&row, name, self.saying_so(name) <= 1) {
                return;
            }
        }
        let outline = self.outline();
        let known = self.same(&outline);
        let mut recipe = match known {
            Some(recipe) => Recipe {
                // Whatever it came to when it ran, there is a result of just this now.
                end: match recipe.end {
                    End::Found => End::Found,
                    End::Made | End::Failed | End::Cancelled => End::Made,
                },
                ..recipe
            },
            None => {
                let mut known = outline.clone();
                self.last().into_iter().for_each(|last| known.learn(last));
                known
            }
        };
        // Found by these next time, whatever the step was called when it ran.
        recipe.name = outline.name;
        recipe.lineage = outline.lineage;
        recipe.whole = outline.whole;
        for (input, now) in recipe.inputs.iter_mut().zip(outline.inputs) {
            (input.name, input.written, input.whole) = (now.name, now.written, now.whole);
        }
        memory.put(name, &self.vertex, &recipe);
    }

    /// Why it runs; `None` where that is no news.
    fn why(&self, now: &Recipe, after_loss: bool) -> Option<String> {
        if after_loss {
            return Some(compare::LOST.to_owned());
        }
        if self.ignore_cache {
            return Some("the cache was not to be used".to_owned());
        }
        let mut before = Before {
            last: self.last(),
            same: self.same(now),
            good: self.memory().good(&self.naming.name),
        };
        if self.step.is_known_by_looking() && before.is_as_last() {
            self.part.was_lost();
            return None;
        }
        let Surroundings { origin, stages, .. } = &*self.surroundings;
        let scene = Scene {
            part: &self.part,
            build_args: &origin.build_args,
            stages,
            is_looked_at: self.step.is_known_by_looking(),
        };
        if before.same.is_none()
            && let Some(nearest) = before
                .last
                .as_ref()
                .and_then(|last| self.nearest(last, now, scene))
        {
            before.last = Some(nearest);
        }
        Some(before.why(now, scene))
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
    fn remember(&self, recipe: &Recipe) {
        let memory = self.memory();
        memory.put(&self.naming.name, &self.vertex, recipe);
    }

    /// Notes how a run ended: without a result it is remembered only once it is known that the step came to none by another way.
    fn ran(&self, end: End) {
        let Some(attempt) = self.keys().attempt.take() else {
            return;
        };
        let recipe = Recipe { end, ..attempt };
        if recipe.has_result() {
            self.keys().ran = true;
            self.remember(&recipe);
        } else {
            self.keys().attempt = Some(recipe);
        }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let attempt = self.keys().attempt.take();
        if let Some(attempt) = attempt {
            self.remember(&attempt);
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
        if index == 0 {
            let does = recipe::does(&map);
            self.keys().does = Some(does);
            self.part.does(does);
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
        let key = match self.step.slow_key(ctx, input, tree).await {
            Ok(key) => key,
            Err(error) => {
                let tree: &Tree = tree;
                let error = lost::judge(ctx, std::iter::once((input, tree)), error).await;
                let inputs = &self.naming.inputs;
                let name = inputs.get(input as usize).map(|input| &input.name);
                return Err(content::in_input(error, name));
            }
        };
        self.part.sees(input as usize, key.map(|key| key.0));
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
        self.part.runs();
        let recipe = self.recipe(&inputs).await;
        if self.surroundings.worker.explaining.is_on()
            && let Some(why) = self.why(&recipe, ctx.is_after_loss())
        {
            ctx.explain(why);
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
                let inputs = (0..).zip(inputs.iter().map(|tree| &**tree));
                return Err(lost::judge(ctx, inputs, error).await);
            }
        };
        self.tell_cost(&outputs, began.elapsed());
        self.ran(End::Made);
        Ok(outputs)
    }

    fn retire(&self, served: bool) {
        let attempt = self.keys().attempt.take();
        match attempt {
            Some(attempt) if !served => self.remember(&attempt),
            _ if served && !self.keys().ran => self.note(),
            _ => {}
        }
    }
}

/// In what two steps differ that say this, in words.
#[cfg(test)]
pub(crate) fn told_of(before: &Fields, now: &Fields) -> Vec<String> {
    let compare::InFields { told, details } = compare::in_fields(before, now, &[]);
    if told.is_empty() { details } else { told }
}

/// What a step does, as a cache knows it.
#[cfg(test)]
pub(crate) fn does(map: &CacheMap) -> weld_store::StepName {
    recipe::does(map)
}
