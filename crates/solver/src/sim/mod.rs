//! The simulator: random graphs and random schedules, one step at a time, with every invariant checked after each.
//!
//! A run is determined by its seed. A failing run is shrunk to a short schedule that still breaks the same invariant. That the
//! simulator finds mistakes is proven with mistakes that are built in ([`Fault`]).

mod act;
mod model;
mod replies;
mod rng;
mod steady;
mod step;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rng::Rng;
pub use step::{Action, NotAStep, Step};
pub use world::Violation;
use world::World;

pub use crate::core::Fault;
use crate::{TraceEvent, TraceStamp};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// First seed.
    pub from: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Steps per seed, not counting the end of a run.
    pub steps: u64,
    /// A built-in mistake.
    pub fault: Option<Fault>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            from: 1,
            seeds: 1000,
            steps: 200,
            fault: None,
        }
    }
}

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// What broke.
    pub violation: Violation,
    /// A short schedule that breaks the same invariant.
    pub schedule: Vec<Step>,
    /// The live graph at the end of that schedule.
    pub graph: String,
}

/// What came of a simulation. It stops at the first failure.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Inputs that the core handled.
    pub handled: u64,
    /// Merges that happened.
    pub merges: u64,
    /// The failure, if there was one.
    pub failed: Option<Failed>,
}

/// Runs seed after seed until one fails.
pub fn run(options: &SimOptions) -> Report {
    let mut report = Report::default();
    for seed in options.from..options.from.saturating_add(options.seeds) {
        let schedule = schedule_of(seed, options.steps);
        let outcome = play(seed, &schedule, options.fault);
        report.seeds += 1;
        report.handled += outcome.handled;
        report.merges += outcome.merges;
        if let Some(violation) = outcome.violation {
            let schedule = shrink(seed, schedule, options.fault, &violation);
            let graph = play(seed, &schedule, options.fault).graph;
            report.failed = Some(Failed {
                seed,
                violation,
                schedule,
                graph,
            });
            break;
        }
    }
    report
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Played {
    /// Inputs that the core handled.
    pub handled: u64,
    /// Merges that happened.
    pub merges: u64,
    /// A digest over everything that was seen; equal for equal runs.
    pub digest: u64,
    /// What broke.
    pub violation: Option<Violation>,
    /// The live graph when it broke.
    pub graph: String,
}

/// The schedule of a seed.
pub fn schedule_of(seed: u64, steps: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed ^ 0xface);
    (0..steps).map(|_| Step::draw(&mut rng)).collect()
}

/// Plays a schedule in the universe of a seed, and then lets everything come to an end.
pub fn play(seed: u64, schedule: &[Step], fault: Option<Fault>) -> Played {
    let mut world = World::new(seed, fault);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        schedule.iter().try_for_each(|step| world.step(*step))?;
        world.drain()
    }));
    let violation = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let detail = text.unwrap_or_default();
            Some(Violation {
                invariant: "the core does not panic".to_owned(),
                detail,
            })
        }
    };
    let graph = if violation.is_some() {
        world.describe()
    } else {
        String::new()
    };
    let played = Played {
        handled: world.handled,
        merges: world.merges,
        digest: world.digest,
        violation,
        graph,
    };
    if played.violation.is_some() {
        // What a broken run holds is not worth taking apart, and may break again.
        std::mem::forget(world);
    }
    played
}

/// The trace of a schedule that is played, with all that its end brings. It begins before the step of this number.
pub fn trace_of(
    seed: u64,
    schedule: &[Step],
    begins: usize,
    fault: Option<Fault>,
) -> Result<Vec<(TraceStamp, TraceEvent)>, Violation> {
    let mut world = World::new(seed, fault);
    let (before, after) = schedule.split_at(begins.min(schedule.len()));
    before.iter().try_for_each(|step| world.step(*step))?;
    world.events = Some(Vec::new());
    if begins > 0 {
        world.resume_tracing()?;
    }
    after.iter().try_for_each(|step| world.step(*step))?;
    world.drain()?;
    Ok(world.events.take().unwrap_or_default())
}

/// Takes steps out, in ever smaller pieces, while the run still breaks the same invariant.
fn shrink(
    seed: u64,
    schedule: Vec<Step>,
    fault: Option<Fault>,
    violation: &Violation,
) -> Vec<Step> {
    let breaks = |schedule: &[Step]| {
        let played = play(seed, schedule, fault);
        played
            .violation
            .is_some_and(|other| other.invariant == violation.invariant)
    };
    let mut schedule = schedule;
    let mut piece = schedule.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < schedule.len() {
            let mut shorter = schedule.clone();
            shorter.drain(at..(at + piece).min(shorter.len()));
            if breaks(&shorter) {
                schedule = shorter;
            } else {
                at += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    schedule
}
