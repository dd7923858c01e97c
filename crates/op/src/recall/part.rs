//! What steps turn out to be while they are live, with all that they are made of.
//!
//! Two steps of two builds are the same for a cache where they do the same with inputs that are the same, whatever they and their
//! stages are called. That is known once the cache maps of a step and of all beneath it are, files of the client's included, and it
//! needs neither a result nor a look at one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use weld_digest::FieldHasher;
use weld_store::StepName;

/// What a step is known as that is the same for a cache as another one: by what it is, and by the content of its inputs where it is
/// known.
pub(super) type KnownAs<'a> = &'a dyn Fn(&StepName, Option<StepName>) -> Option<StepName>;

/// A vertex, and what is known of it.
pub(crate) struct Part {
    /// With the number of the output that is used.
    inputs: Vec<(Arc<Self>, u32)>,
    known: Mutex<Known>,
    ran: AtomicBool,
    /// It ran for nothing but that its result was not kept.
    lost: AtomicBool,
    /// It runs whatever is cached, or is made of something that does.
    forced: bool,
}

#[derive(Default)]
struct Known {
    /// What it does.
    does: Option<StepName>,
    /// The content of inputs, as far as it was looked at.
    contents: Vec<Option<StepName>>,
    whole: Option<StepName>,
}

impl Part {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what it does.
    pub(super) fn does(&self, what: StepName) {
        let mut known = self.known();
        if known.does.replace(what) != Some(what) {
            known.whole = None;
        }
    }

    /// Notes what the step sees of an input.
    pub(super) fn sees(&self, input: usize, content: Option<StepName>) {
        let mut known = self.known();
        known.contents.resize(self.inputs.len(), None);
        if let Some(known) = known.contents.get_mut(input) {
            *known = content;
        }
    }

    /// What the step sees of its inputs, as far as it was looked at.
    pub(super) fn contents(&self) -> Vec<Option<StepName>> {
        let mut contents = self.known().contents.clone();
        contents.resize(self.inputs.len(), None);
        contents
    }

    /// Notes that it runs.
    pub(super) fn runs(&self) {
        self.ran.store(true, Ordering::Relaxed);
    }

    /// Whether it ran while it was live: its result is new.
    pub(super) fn ran(&self) -> bool {
        self.ran.load(Ordering::Relaxed)
    }

    /// Notes that it runs for nothing but that its result was not kept.
    pub(super) fn was_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether that is why it ran.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether it runs, or something that it is made of, whatever is cached.
    pub(super) const fn is_forced(&self) -> bool {
        self.forced
    }

    /// Its inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Self> {
        self.inputs.iter().map(|(part, _)| part.as_ref())
    }

    /// What it is, with all that it is made of; `None` as long as that is not known. To be asked once the inputs have their results, so
    /// that what there is to see of theirs is known.
    pub(super) fn whole(&self, known_as: KnownAs<'_>) -> Option<StepName> {
        let mut ahead = vec![self];
        while let Some(part) = ahead.last().copied() {
            let missing = match &*part.known() {
                Known { whole: Some(_), .. } => Vec::new(),
                Known { does: None, .. } => return None,
                Known { .. } => {
                    let inputs = part.inputs();
                    inputs
                        .filter(|input| input.known().whole.is_none())
                        .collect()
                }
            };
            if missing.is_empty() {
                part.conclude(known_as);
                ahead.pop();
            }
            ahead.extend(missing);
        }
        self.known().whole
    }

    /// What an input is: of what, and which output of that.
    pub(super) fn input(&self, number: usize, known_as: KnownAs<'_>) -> Option<StepName> {
        let (part, output) = self.inputs.get(number)?;
        Some(output_of(&part.whole(known_as)?, *output))
    }

    fn conclude(&self, known_as: KnownAs<'_>) {
        let mut known = self.known();
        let (None, Some(does)) = (known.whole, known.does) else {
            return;
        };
        let inputs = self.inputs.iter();
        let inputs = inputs.map(|(part, output)| Some(output_of(&part.known().whole?, *output)));
        let inputs: Vec<_> = inputs.collect();
        let Some(whole) = identity("whole", &does, inputs.iter().copied()) else {
            return;
        };
        let sees = known.contents.iter().any(Option::is_some);
        let seen = inputs.iter().zip(&known.contents);
        let seen = identity("content", &does, seen.map(|(input, seen)| seen.or(*input)));
        known.whole = Some(known_as(&whole, seen.filter(|_| sees)).unwrap_or(whole));
    }
}

impl Drop for Part {
    /// Chains are as long as definitions are, and a stack is not.
    fn drop(&mut self) {
        let mut ahead = std::mem::take(&mut self.inputs);
        while let Some((part, _)) = ahead.pop() {
            if let Some(mut part) = Arc::into_inner(part) {
                ahead.append(&mut part.inputs);
            }
        }
    }
}

/// What names a step that does this to inputs of these names; `None` where one of them is not known.
pub(super) fn identity(
    kind: &str,
    does: &StepName,
    inputs: impl Iterator<Item = Option<StepName>>,
) -> Option<StepName> {
    let hasher = FieldHasher::new("weld.step.identity.v1");
    let mut hasher = hasher.text(kind).bytes(does);
    for input in inputs {
        hasher = hasher.bytes(&input?);
    }
    Some(crate::digest::to_solver(&hasher.finish()).0)
}

fn output_of(whole: &StepName, output: u32) -> StepName {
    let hasher = FieldHasher::new("weld.step.output.v1").bytes(whole);
    let digest = hasher.number(u64::from(output)).finish();
    crate::digest::to_solver(&digest).0
}

/// The parts that are live: a vertex that several builds have is asked in one of them only.
#[derive(Default)]
pub(crate) struct Parts(Mutex<Live>);

#[derive(Default)]
struct Live {
    parts: HashMap<StepName, Weak<Part>>,
    /// How many there may be before those that are not live are dropped.
    limit: usize,
}

impl Parts {
    /// The part of this name; a part of another name is another one's.
    pub(crate) fn part(
        &self,
        name: StepName,
        inputs: Vec<(Arc<Part>, u32)>,
        ignore_cache: bool,
    ) -> Arc<Part> {
        let mut live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = live.parts.get(&name).and_then(Weak::upgrade) {
            return part;
        }
        if live.parts.len() >= live.limit {
            live.parts.retain(|_, part| part.strong_count() > 0);
            live.limit = (live.parts.len() * 2).max(1024);
        }
        let forced = ignore_cache || inputs.iter().any(|(part, _)| part.forced);
        let part = Arc::new(Part {
            inputs,
            known: Mutex::default(),
            ran: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            forced,
        });
        live.parts.insert(name, Arc::downgrade(&part));
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_chains_and_ladders_are_known_and_dropped() {
        let parts = Parts::default();
        let mut all = vec![parts.part([0; 32], Vec::new(), false)];
        for number in 1..200_000_u32 {
            let mut name = [0; 32];
            name[..4].copy_from_slice(&number.to_le_bytes());
            let below = all[number as usize - 1].clone();
            all.push(parts.part(name, vec![(below.clone(), 0), (below, 1)], false));
        }
        let last = all[all.len() - 1].clone();
        all.iter().skip(1).for_each(|part| part.does([1; 32]));
        assert_eq!(last.whole(&|_, _| None), None);
        all[0].does([2; 32]);
        let first = last.whole(&|_, _| None);
        assert!(first.is_some());
        all.iter().for_each(|part| part.known().whole = None);
        all[0].does([3; 32]);
        assert_ne!(last.whole(&|_, _| None), first);
        drop(all);
    }
}
