//! What running operations reported of themselves, for jobs that come later.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::{LogChunk, Status, progress::Report};

/// Most bytes of log that are kept of one vertex: the last ones.
const PER_VERTEX: usize = 256 << 10;
/// Most bytes that are kept in all: of those that reported first, the logs go first.
const IN_ALL: usize = 64 << 20;
/// Most different bars that are kept of one vertex.
const BARS: usize = 1 << 10;

/// Reports by the vertex whose operation made them. Bounded; a vertex that is freed is forgotten.
#[derive(Default)]
pub(super) struct Histories {
    by_vertex: HashMap<u64, History>,
    /// Vertices in the order in which they first reported; perhaps some that are forgotten.
    order: VecDeque<u64>,
    bytes: usize,
}

#[derive(Default)]
struct History {
    logs: VecDeque<LogChunk>,
    bytes: usize,
    dropped: u64,
    bars: Vec<Status>,
    /// Why the step was not cached.
    why: Option<Arc<str>>,
}

impl Histories {
    pub(super) fn add(&mut self, ran: u64, reports: &[Report]) {
        let order = &mut self.order;
        let history = self.by_vertex.entry(ran).or_insert_with(|| {
            order.push_back(ran);
            History::default()
        });
        let before = history.bytes;
        reports.iter().for_each(|report| history.add(report));
        self.bytes = self.bytes + history.bytes - before;
        while self.bytes > IN_ALL {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(history) = self.by_vertex.get_mut(&oldest) {
                self.bytes -= history.bytes;
                history.drop_logs();
                // It may report more.
                self.order.push_back(oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, ran: u64) {
        if let Some(history) = self.by_vertex.remove(&ran) {
            self.bytes -= history.bytes;
        }
        if self.by_vertex.is_empty() {
            *self = Self::default();
        } else if self.order.len() > 2 * self.by_vertex.len() + 64 {
            let known = &self.by_vertex;
            self.order.retain(|ran| known.contains_key(ran));
        }
    }

    pub(super) fn replay(&self, ran: u64, mut send: impl FnMut(Report)) {
        let Some(history) = self.by_vertex.get(&ran) else {
            return;
        };
        if history.dropped > 0 {
            send(Report::Dropped(history.dropped));
        }
        let logs = history.logs.iter();
        logs.for_each(|chunk| send(Report::Log(chunk.clone())));
        let bars = history.bars.iter();
        bars.for_each(|bar| send(Report::Status(bar.clone())));
        let why = history.why.iter();
        why.for_each(|why| send(Report::Explained(Arc::clone(why))));
    }
}

impl History {
    fn add(&mut self, report: &Report) {
        match report {
            Report::Log(chunk) => self.add_log(chunk.clone()),
            Report::Dropped(bytes) => self.dropped += bytes,
            Report::Status(bar) => self.add_bar(bar),
            Report::Explained(why) => self.why = Some(Arc::clone(why)),
        }
    }

    fn add_bar(&mut self, bar: &Status) {
        if let Some(known) = self.bars.iter_mut().find(|known| known.id == bar.id) {
            *known = bar.clone();
        } else if self.bars.len() < BARS {
            self.bars.push(bar.clone());
        }
    }

    fn add_log(&mut self, chunk: LogChunk) {
        self.bytes += chunk.data.len();
        self.logs.push_back(chunk);
        while self.bytes > PER_VERTEX {
            let Some(first) = self.logs.pop_front() else {
                return;
            };
            self.bytes -= first.data.len();
            self.dropped += first.data.len() as u64;
        }
    }

    fn drop_logs(&mut self) {
        self.dropped += self.bytes as u64;
        self.bytes = 0;
        self.logs = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn log(bytes: usize) -> Report {
        Report::Log(LogChunk {
            stream: 1,
            data: vec![b'x'; bytes],
            at: SystemTime::UNIX_EPOCH,
        })
    }

    fn kept(histories: &Histories, ran: u64) -> (usize, u64) {
        let (mut kept, mut dropped) = (0, 0);
        histories.replay(ran, |report| match report {
            Report::Log(chunk) => kept += chunk.data.len(),
            Report::Dropped(bytes) => dropped += bytes,
            Report::Status(_) | Report::Explained(_) => {}
        });
        (kept, dropped)
    }

    #[test]
    fn a_vertex_keeps_its_last_words() {
        let mut histories = Histories::default();
        for _ in 0..5 {
            histories.add(1, &[log(PER_VERTEX / 2)]);
        }
        assert_eq!(
            kept(&histories, 1),
            (PER_VERTEX, 3 * (PER_VERTEX / 2) as u64)
        );
        histories.forget(1);
        assert_eq!((histories.bytes, histories.order.len()), (0, 0));
    }

    #[test]
    fn all_together_are_bounded_and_the_oldest_goes_first() {
        let mut histories = Histories::default();
        let count = (IN_ALL / PER_VERTEX) as u64 + 1;
        for ran in 0..count {
            histories.add(ran, &[log(PER_VERTEX)]);
        }
        assert_eq!(histories.bytes, IN_ALL);
        assert_eq!(kept(&histories, 0), (0, PER_VERTEX as u64));
        assert_eq!(kept(&histories, 1), (PER_VERTEX, 0));
    }
}
