//! Calls that have not ended, and what they come to.

use super::CallTotals;

/// Time in which something was waited for.
#[derive(Default)]
pub(super) struct Wait {
    micros: u64,
    /// How many things are, and since when.
    open: u32,
    since: u64,
}

impl Wait {
    pub(super) fn begin(&mut self, time: u64) {
        if self.open == 0 {
            self.since = time;
        }
        self.open += 1;
    }

    pub(super) fn end(&mut self, time: u64) {
        if self.open > 0 {
            self.open -= 1;
            if self.open == 0 {
                self.micros += time.saturating_sub(self.since);
            }
        }
    }

    /// All of it, of what ends now.
    fn total(&self, time: u64) -> u64 {
        let open = (self.open > 0).then(|| time.saturating_sub(self.since));
        self.micros + open.unwrap_or(0)
    }
}

/// A call that has not ended.
pub(super) struct Running {
    pub(super) call: &'static str,
    pub(super) start: u64,
    pub(super) vertex: Box<str>,
    /// Whether it was counted when it began.
    pub(super) counted: bool,
    pub(super) slot: Wait,
    pub(super) lock: Wait,
    pub(super) builds: Wait,
}

/// What a call came to in time.
pub(super) struct Took {
    /// Without what it waited.
    pub(super) micros: u64,
    slot: u64,
    lock: u64,
    builds: u64,
}

impl Running {
    pub(super) fn took(&self, end: u64) -> Took {
        let (slot, lock) = (self.slot.total(end), self.lock.total(end));
        let builds = self.builds.total(end);
        let whole = end.saturating_sub(self.start);
        Took {
            micros: whole.saturating_sub(slot + lock + builds),
            slot,
            lock,
            builds,
        }
    }
}

impl CallTotals {
    pub(super) fn add(&mut self, running: &Running, took: &Took) {
        self.count += u64::from(!running.counted);
        self.micros += took.micros;
        self.longest = self.longest.max(took.micros);
        self.slot += took.slot;
        self.lock += took.lock;
        self.builds += took.builds;
    }
}
