//! The fuzz targets of services, with inputs of a seed instead of a fuzzer's.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../fuzz/harness/mod.rs"]
mod harness;

use harness::client::TriedClient;
use harness::daemon::{SERVICES, Tried};

/// Inputs for each service.
const INPUTS: usize = 300;

#[test]
fn no_input_disturbs_a_daemon_or_its_other_clients() {
    let mut tried = Tried::start();
    for (number, (_, service)) in SERVICES.into_iter().enumerate() {
        for input in harness::inputs(number as u64, INPUTS) {
            tried.run(service, &input);
        }
    }
    tried.end();
}

#[test]
fn no_input_of_a_daemon_disturbs_a_client() {
    let mut tried = TriedClient::start();
    for input in harness::inputs(7, INPUTS) {
        tried.run(&input);
    }
}
