//! From a source's reports on its transfers to the statuses of a vertex.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use weld_solver::{OpContext, Status};
use weld_source::progress::{Phase, Progress, ProgressSink, Status as Report};

use crate::Tree;

/// How many log lines wait until they are passed on.
const LOG_LIMIT: usize = 1 << 20;

/// Calls `work` and passes on what it reports until it ends.
pub(crate) async fn reporting<F: Future>(
    ctx: &OpContext<Tree>,
    work: impl FnOnce(Progress) -> F,
) -> F::Output {
    let relay = Arc::new(Relay::default());
    let work = work(Progress::new(Arc::clone(&relay) as Arc<dyn ProgressSink>));
    tokio::pin!(work);
    let output = loop {
        tokio::select! {
            biased;
            output = &mut work => break output,
            () = relay.changed.notified() => relay.pass_on(ctx),
        }
    };
    relay.pass_on(ctx);
    output
}

/// Takes reports from any thread. The newest of each transfer waits; earlier ones do not matter.
#[derive(Default)]
struct Relay {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    statuses: Vec<Status>,
    /// When each transfer that is under way began.
    began: Vec<(Arc<str>, SystemTime)>,
    logs: VecDeque<Vec<u8>>,
    log_bytes: usize,
}

impl Relay {
    fn pass_on(&self, ctx: &OpContext<Tree>) {
        let (statuses, logs) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.log_bytes = 0;
            (
                std::mem::take(&mut waiting.statuses),
                std::mem::take(&mut waiting.logs),
            )
        };
        statuses.into_iter().for_each(|status| ctx.status(status));
        logs.into_iter().for_each(|line| ctx.log(2, line));
    }
}

impl ProgressSink for Relay {
    fn report(&self, report: &Report<'_>) {
        let now = SystemTime::now();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.began.iter().position(|(id, _)| **id == *report.id);
        let (id, started) = match known {
            Some(index) if report.phase == Phase::Completed => waiting.began.swap_remove(index),
            Some(index) => waiting.began[index].clone(),
            None => {
                let began = (Arc::from(report.id), now);
                if report.phase != Phase::Completed {
                    waiting.began.push(began.clone());
                }
                began
            }
        };
        let status = Status {
            id,
            name: Arc::from(report.name),
            current: report.current,
            total: report.total.unwrap_or(0),
            started: Some(started),
            completed: (report.phase == Phase::Completed).then_some(now),
        };
        match waiting
            .statuses
            .iter_mut()
            .find(|waiting| waiting.id == status.id)
        {
            Some(waiting) => *waiting = status,
            None => waiting.statuses.push(status),
        }
        drop(waiting);
        self.changed.notify_one();
    }

    fn log(&self, _id: &str, text: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.log_bytes + text.len() <= LOG_LIMIT {
            waiting.log_bytes += text.len();
            let ending = if text.ends_with('\n') { "" } else { "\n" };
            waiting.logs.push_back([text, ending].concat().into_bytes());
        }
        drop(waiting);
        self.changed.notify_one();
    }
}
