//! Arbitrary bytes as calls of gRPC methods: what fuzz targets and a test in CI have in common.
//!
//! An input chooses a method, then messages: bytes as they are, or a message that makes sense with some of its bytes changed, so
//! that most of what is sent gets past the decoder. Whatever it is, nothing may panic and others must get their answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be set up is no finding"
)]
#![allow(dead_code, reason = "each target uses a part of it")]

pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod samples;
pub(crate) mod script;

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics from now on, also those that a task or a server catches.
pub(crate) fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            usual(info);
        }));
    });
}

/// Fails if anything has panicked.
pub(crate) fn assert_no_panic(told: &str) {
    assert_eq!(
        PANICS.load(Ordering::SeqCst),
        0,
        "a handler panicked: {told}"
    );
}

/// Inputs of a seed, most of them of changed samples.
pub(crate) fn inputs(seed: u64, count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut state = seed;
    // SplitMix64: the same inputs on all machines, without a dependency of the fuzz targets.
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..count).map(move |number| {
        let length = 4 + (next() % 60) as usize;
        let mut input: Vec<u8> = (0..length).map(|_| (next() >> 32) as u8).collect();
        // All methods get their turn.
        input[0] = number as u8;
        if !number.is_multiple_of(5) {
            input[1] |= script::SAMPLE;
        }
        input
    })
}
