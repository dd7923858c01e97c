//! Where steps are remembered, and by what they are found.

use weld_digest::FieldHasher;
use weld_llb::Vertex;
use weld_store::{StepName, Steps};

use super::names;
use super::recipe::{self, Lineage, Recipe};
use crate::domain::Domain;

/// How many slots of places there are, first of those that are looked at in their order.
pub(super) const PLACES: usize = 2;

/// What is remembered of the steps of one origin.
///
/// A row is a step as it was at one time. Slots lead to the newest row of a step: by its whole name, by its definition, by what it and
/// all that it is made of say, and by what it says; where it says something new, by its place, by what it does for a cache, and by the
/// places of all that it is made of. Other slots lead to what is the same for a cache, in every project.
pub(super) struct Memory<'a> {
    pub(super) steps: &'a Steps,
    pub(super) domain: &'a Domain,
    pub(super) scope: &'a str,
    /// Whether the steps are sources: what an `ADD` fetches has the name of what it copies.
    pub(super) of_sources: bool,
}

impl Memory<'_> {
    fn slot(&self, kind: &str, bytes: &[&[u8]]) -> StepName {
        let rule = match self.of_sources {
            true => "weld.step.source.v3",
            false => "weld.step.slot.v3",
        };
        self.hashed(rule, self.scope, kind, bytes)
    }

    fn hashed(&self, rule: &'static str, scope: &str, kind: &str, bytes: &[&[u8]]) -> StepName {
        let scope = self.domain.scoped(scope.to_owned());
        let mut hasher = FieldHasher::new(rule).text(&scope).text(kind);
        for bytes in bytes {
            hasher = hasher.bytes(bytes);
        }
        crate::digest::to_solver(&hasher.finish()).0
    }

    fn named(&self, kind: &str, name: &str) -> StepName {
        self.slot(kind, &[name.as_bytes()])
    }

    /// The row of a step that is the same with all that it is made of, and is called the same; where what it is made of is not known, of
    /// its definition.
    pub(super) fn row(
        &self,
        name: &str,
        inputs: &[&str],
        vertex: &Vertex,
        whole: Option<StepName>,
    ) -> StepName {
        let vertex = vertex.digest().to_string();
        let (kind, what) = match &whole {
            Some(whole) => ("whole", whole.as_slice()),
            None => ("row", vertex.as_bytes()),
        };
        let mut bytes = vec![what, name.as_bytes()];
        bytes.extend(inputs.iter().map(|input| input.as_bytes()));
        self.slot(kind, &bytes)
    }

    /// Slots that lead to what a step was before: first those of which the newest row is the step, then those that are looked at in
    /// their order.
    pub(super) fn slots(
        &self,
        name: &str,
        vertex: &Vertex,
        lineage: &Lineage,
        does: Option<StepName>,
    ) -> (Vec<StepName>, Vec<StepName>) {
        let vertex = vertex.digest().to_string();
        let named = vec![
            self.named("name", name),
            self.slot("vertex", &[vertex.as_bytes()]),
            self.slot("lineage", &[&lineage.said]),
            self.named("text", &names::unnumbered(name)),
        ];
        let places: [_; PLACES] = [
            self.named("place", &names::place(name)),
            self.named("bare place", &names::bare_place(name)),
        ];
        let mut placed = places.to_vec();
        let anywhere = names::in_any_stage(name);
        placed.extend(anywhere.map(|text| self.named("any stage", text)));
        placed.extend(does.map(|does| self.slot("does", &[&does])));
        placed.push(self.slot("shape", &[&lineage.shape]));
        (named, placed)
    }

    /// Where the step was while its stage was the only one: steps are not called by the stage then.
    pub(super) fn place_alone(&self, name: &str) -> StepName {
        self.named("place", &names::place_alone(name))
    }

    fn identity(&self, identity: &StepName) -> StepName {
        self.hashed("weld.step.same.v1", "", "", &[identity])
    }

    fn alias(&self, whole: &StepName) -> StepName {
        self.hashed("weld.step.alias.v1", "", "", &[whole])
    }

    /// What a step is known as that turned out to be the same as another one by the content of its inputs, now or once before.
    pub(super) fn known_as(&self, whole: &StepName, seen: Option<StepName>) -> Option<StepName> {
        let alias = self.alias(whole);
        if let Some(bytes) = self.steps.get(&alias).ok().flatten() {
            return bytes.try_into().ok();
        }
        let known = self.identical(&seen?)?.whole?;
        if known != *whole {
            // Next time it is found without a look at the content.
            self.write(&alias, &[], &known);
        }
        Some(known)
    }

    fn write(&self, row: &StepName, slots: &[StepName], bytes: &[u8]) {
        if let Err(error) = self.steps.put(row, slots, bytes) {
            tracing::warn!(%error, "cannot remember a step");
        }
    }

    /// The newest row of a slot.
    pub(super) fn latest(&self, slot: &StepName) -> Option<Recipe> {
        Recipe::decode(&self.steps.newest(slot).ok().flatten()?)
    }

    fn read(&self, row: &StepName) -> Option<Recipe> {
        Recipe::decode(&self.steps.get(row).ok().flatten()?)
    }

    /// What was remembered last of a step in each of these slots, the newest first.
    pub(super) fn newest(&self, slots: &[StepName]) -> impl Iterator<Item = Recipe> {
        let rows = slots
            .iter()
            .filter_map(|slot| self.steps.latest(slot).ok().flatten());
        let rows = rows.filter_map(|row| Some((self.steps.number(&row).ok().flatten()?, row)));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        rows.dedup();
        rows.into_iter().filter_map(|(_, row)| self.read(&row))
    }

    /// The last few things that were remembered of a step of this name, the newest first.
    pub(super) fn variants(&self, name: &str) -> impl Iterator<Item = Recipe> {
        let rows = self.steps.variants(&self.named("name", name));
        let rows = rows.unwrap_or_default().into_iter();
        rows.filter_map(|row| self.read(&row))
    }

    /// What was remembered last of a step of this name that had a result.
    pub(super) fn good(&self, name: &str) -> Option<Recipe> {
        self.latest(&self.named("good", name))
    }

    /// What was remembered last of a step that is the same for a cache.
    pub(super) fn identical(&self, identity: &StepName) -> Option<Recipe> {
        self.latest(&self.identity(identity))
    }

    /// Whether the row is the newest of the step, by its name, its place, and by what it says if no other step says that; and had a
    /// result.
    pub(super) fn is_latest(&self, row: &StepName, name: &str, says_it_alone: bool) -> bool {
        let mut slots = vec![
            self.named("name", name),
            self.named("place", &names::place(name)),
        ];
        slots.extend(says_it_alone.then(|| self.named("text", &names::unnumbered(name))));
        let bytes = self.steps.if_newest(row, &slots).ok().flatten();
        bytes.is_some_and(|bytes| recipe::had_result(&bytes) == Some(true))
    }

    /// Remembers a step.
    pub(super) fn put(&self, name: &str, vertex: &Vertex, recipe: &Recipe) {
        let Some(bytes) = recipe.encode() else {
            return;
        };
        let inputs = recipe.inputs.iter().map(|input| input.name.as_str());
        let inputs: Vec<_> = inputs.collect();
        let row = self.row(name, &inputs, vertex, recipe.whole);
        let (mut slots, placed) = self.slots(name, vertex, &recipe.lineage, recipe.does);
        slots.extend(recipe.has_result().then(|| self.named("good", name)));
        slots.extend(placed);
        slots.extend(recipe.identities().iter().map(|name| self.identity(name)));
        self.write(&row, &slots, &bytes);
    }
}
