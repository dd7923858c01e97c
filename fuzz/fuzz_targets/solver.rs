//! No schedule breaks an invariant of the solver's core: the simulator's harness, with schedules that coverage leads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weld_solver::sim::{Step, play};

/// Most steps of a schedule.
const STEPS: usize = 600;

fuzz_target!(|bytes: &[u8]| {
    // Two bytes choose the universe of operations.
    let Some((universe, schedule)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let steps: Vec<Step> = schedule
        .as_chunks::<{ Step::BYTES }>()
        .0
        .iter()
        .take(STEPS)
        .map(|bytes| Step::from_bytes(*bytes))
        .collect();
    let seed = u64::from(u16::from_le_bytes(*universe));
    if let Some(violation) = play(seed, &steps, None).violation {
        let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
        panic!("{violation}\nseed {seed}\n{}", steps.join("\n"));
    }
});
