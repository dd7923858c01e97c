//! No call of a client disturbs a daemon or its other clients: a session's stream.
#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

use std::sync::{LazyLock, Mutex};

use harness::daemon::{Tried, service};
use libfuzzer_sys::fuzz_target;

static DAEMON: LazyLock<Mutex<Tried>> = LazyLock::new(|| Mutex::new(Tried::start()));

fuzz_target!(|input: &[u8]| {
    let mut daemon = DAEMON.lock().expect("no input panicked before");
    daemon.run(service("session"), input);
});
