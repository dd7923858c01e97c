//! The operations that are remembered, and what those of a definition have in common.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weld_solver::Op;

use super::said::Fields;
use super::{names, recipe};
use crate::captured::Pin;
use crate::content::Selector;
use crate::{Tree, Worker};

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

    /// Whether it is looked at in each build before anything can be known of it, so that a run of it costs nothing more.
    fn is_known_by_looking(&self) -> bool {
        false
    }

    /// What of an input's content is in its slow key.
    fn selectors(&self, input: u32) -> Vec<Selector> {
        let _ = input;
        Vec::new()
    }

    /// What it says, as far as that is in its key; `None` where the key is not made of what it says.
    fn said(&self) -> Option<Fields> {
        None
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
    /// What its steps say, without the numbers that other steps change, and how many of them say so.
    pub(super) texts: HashMap<String, usize>,
    pub(super) names: HashSet<String>,
    /// The names of its stages.
    pub(super) stages: HashSet<String>,
}

impl Surroundings {
    /// Those of a definition whose vertices have these names.
    pub(crate) fn new(
        worker: Arc<Worker>,
        origin: Origin,
        names: impl Iterator<Item = String>,
    ) -> Self {
        let names: Vec<String> = names.map(|name| recipe::bounded(&name)).collect();
        let mut texts = HashMap::new();
        for name in &names {
            *texts.entry(names::unnumbered(name)).or_default() += 1;
        }
        Self {
            worker,
            origin,
            texts,
            stages: names
                .iter()
                .map(|name| names::stage(name).to_owned())
                .collect(),
            names: names.into_iter().collect(),
        }
    }
}
