//! A solver's sink for whoever looks at it from outside while it works: what is live can be asked for at any time, and events go to a
//! file while that is wanted.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use weld_solver::{TraceEvent, TraceSink, TraceStamp};

use crate::{encode::encode, line::Line, model::Trace, writer::Tracer};

/// How many events of what is live are taken; what is more is left out.
const LIMIT: usize = 1 << 20;
/// Numbers of recordings below this are the tracer's.
const LOOK: u64 = 1 << 32;

/// Watches a solver. Give it to the solver as its sink from the beginning.
#[derive(Default)]
pub struct Observer {
    tracer: Tracer,
    looks: AtomicU64,
    look: Mutex<Option<Look>>,
}

/// A look at what is live.
#[derive(Default)]
struct Look {
    events: Vec<(TraceStamp, TraceEvent)>,
    state: LookState,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum LookState {
    /// The solver has not begun to tell.
    #[default]
    Waiting,
    /// It tells, at this position.
    Telling(u64),
    /// It has told all.
    Told,
}

impl Look {
    /// Whether an event is of what is live, rather than of what happens.
    fn takes(&mut self, at: TraceStamp, event: &TraceEvent) -> bool {
        self.state = match self.state {
            LookState::Waiting if matches!(event, TraceEvent::Resumed) => {
                LookState::Telling(at.position)
            }
            LookState::Telling(position) if at.position != position => LookState::Told,
            state => state,
        };
        matches!(self.state, LookState::Telling(_))
    }
}

impl Observer {
    /// Nobody looks, and no file is written.
    pub fn new() -> Self {
        Self::default()
    }

    /// What writes events to a file.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Begins a look. The solver tells what is live before it takes the next batch of messages; only one look is had at a time.
    pub fn begin_look(&self) -> LookGuard<'_> {
        *self.look() = Some(Look::default());
        self.looks.fetch_add(LOOK, Ordering::Release);
        LookGuard(self)
    }

    fn look(&self) -> MutexGuard<'_, Option<Look>> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look that goes on until this is dropped.
#[must_use]
pub struct LookGuard<'a>(&'a Observer);

impl LookGuard<'_> {
    /// Ends the look; returns what was told.
    pub fn finish(self) -> Trace {
        let look = self.0.look().take().unwrap_or_default();
        Trace::of_events(&look.events)
    }
}

impl Drop for LookGuard<'_> {
    fn drop(&mut self) {
        *self.0.look() = None;
    }
}

impl TraceSink for Observer {
    fn event(&self, recording: u64, at: TraceStamp, event: TraceEvent) {
        if let Some(look) = &mut *self.look()
            && look.takes(at, &event)
        {
            if look.events.len() < LIMIT {
                look.events.push((at, event));
            }
            return;
        }
        self.tracer.event(recording % LOOK, at, event);
    }

    fn events(&self, recording: u64, at: TraceStamp, events: &mut Vec<TraceEvent>) {
        if self.look().is_none() {
            return self.tracer.events(recording % LOOK, at, events);
        }
        for event in events.drain(..) {
            self.event(recording, at, event);
        }
    }

    fn recording(&self) -> u64 {
        let tracer = self.tracer.recording();
        let looks = self.looks.load(Ordering::Acquire);
        // While a file is written, the end of a look is no new recording.
        match tracer == 0 && self.look().is_none() {
            true => 0,
            false => looks + tracer,
        }
    }
}

impl Trace {
    /// A trace of events that were in no file.
    pub fn of_events(events: &[(TraceStamp, TraceEvent)]) -> Self {
        let mut trace = Self::default();
        let mut text = Vec::new();
        for (at, event) in events {
            text.clear();
            encode(&mut text, *at, event);
            match Line::parse(text.trim_ascii_end()) {
                Ok(line) => trace.line(&line),
                Err(_) => trace.malformed += 1,
            }
        }
        trace.mark_unreached();
        trace
    }
}
