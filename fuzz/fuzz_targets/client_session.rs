//! No call of a daemon disturbs the session that a client serves, or writes where no result goes: files, results, credentials,
//! secrets, agents, uploads and content.
#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

use std::sync::{LazyLock, Mutex};

use harness::client::TriedClient;
use libfuzzer_sys::fuzz_target;

static CLIENT: LazyLock<Mutex<TriedClient>> = LazyLock::new(|| Mutex::new(TriedClient::start()));

fuzz_target!(|input: &[u8]| {
    let mut client = CLIENT.lock().expect("no input panicked before");
    client.run(input);
});
