//! Whether work that runs is given up and begun again although nothing happened that would be a reason to.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    model::SimOp,
    world::{SimValue, Violation, violation},
};
use crate::core::{Core, EdgeId, EdgeState, Input, Outcome};

type Slot = (EdgeId, usize);

/// What edges wanted after the last input.
#[derive(Default)]
pub(super) struct Steady {
    /// Inputs whose operations ran for an edge, by what was wanted of that edge.
    ran: BTreeMap<Slot, EdgeState>,
    /// Inputs that an edge gave up while they ran, although as much was wanted of it as before.
    given_up: BTreeMap<Slot, EdgeState>,
}

/// Whether an input only tells the core what it asked for: no client changes its mind, and nothing fails.
pub(super) fn is_calm(input: &Input<SimOp, SimValue>) -> bool {
    match input {
        Input::Answer { .. } => true,
        Input::Finished { outcome, .. } => match outcome {
            Outcome::CacheMap(outcome) => outcome.is_ok(),
            Outcome::Preprocess(outcome) => outcome.is_ok(),
            Outcome::SlowKey(outcome) => outcome.is_ok(),
            Outcome::Load(outcome) => outcome.is_ok(),
            Outcome::Exec(outcome) => outcome.is_ok(),
        },
        _ => false,
    }
}

impl Steady {
    /// Compares what edges want now with what they wanted before the input.
    pub(super) fn check(
        &mut self,
        calm: bool,
        core: &Core<SimOp, SimValue>,
    ) -> Result<(), Violation> {
        if !calm {
            self.given_up.clear();
        }
        // What was merged is what it became.
        let became = |known: BTreeMap<Slot, EdgeState>| {
            let mut now = BTreeMap::new();
            for ((edge, slot), wanted) in known {
                let least = now.entry((core.became(edge), slot)).or_insert(wanted);
                *least = wanted.min(*least);
            }
            now
        };
        let before = became(std::mem::take(&mut self.ran));
        self.given_up = became(std::mem::take(&mut self.given_up));
        let mut asked = BTreeSet::new();
        for want in core.wants() {
            if want.result && want.runs {
                self.ran.insert(want.of, want.desired);
            }
            let is_wanted = |wanted: &EdgeState| want.desired >= *wanted;
            let given_up = self.given_up.get(&want.of).is_some_and(is_wanted);
            let stopped = calm && want.stops && before.get(&want.of).is_some_and(is_wanted);
            if want.result && (given_up || stopped) {
                return violation("what runs goes on while it may be needed", want.of);
            }
            if stopped {
                self.given_up.insert(want.of, want.desired);
            }
            if stopped || given_up {
                asked.insert(want.of);
            }
        }
        self.given_up.retain(|slot, _| asked.contains(slot));
        Ok(())
    }
}
