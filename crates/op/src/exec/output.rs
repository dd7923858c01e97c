//! What a step writes, on its way to the step's log.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weld_runtime::{Chunk, Stdio, Stream};
use weld_solver::OpContext;

use crate::Tree;

/// How many chunks wait; the step waits beyond.
const QUEUE: usize = 16;

/// From where on speed counts, in bytes.
const SPEED_FREE: u64 = 1 << 20;

/// The step's streams, and where they come out.
pub(super) fn channel() -> (Stdio, Output) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (
        Stdio::stream(sender),
        Output {
            receiver,
            limit: Limit::of(|name| std::env::var(name).ok()),
        },
    )
}

pub(super) struct Output {
    receiver: mpsc::Receiver<Chunk>,
    limit: Limit,
}

impl Output {
    /// Passes chunks on until the step's streams end; what is over the limit is read and dropped.
    pub(super) async fn pass_on(mut self, ctx: &OpContext<Tree>) {
        while let Some(chunk) = self.receiver.recv().await {
            let stream = match chunk.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            };
            match self.limit.admit(chunk.bytes.len() as u64) {
                Admission::Pass => ctx.log(stream, chunk.bytes.to_vec()),
                Admission::Clip(why) => ctx.log(stream, format!("\n[output clipped, {why}]\n")),
                Admission::Drop => {}
            }
        }
    }
}

struct Limit {
    began: Instant,
    bytes: u64,
    size: Option<u64>,
    speed: Option<u64>,
    clipped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Pass,
    Clip(&'static str),
    Drop,
}

impl Limit {
    /// The limits that the environment sets by BuildKit's names. Without, there are none: all that a step writes is kept, as far as
    /// what keeps it has a limit, and those who watch it see what they can keep up with.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let limit = |name| {
            let number = variable(name)?.parse::<i64>().ok()?;
            u64::try_from(number).ok()
        };
        Self {
            began: Instant::now(),
            bytes: 0,
            size: limit("BUILDKIT_STEP_LOG_MAX_SIZE"),
            speed: limit("BUILDKIT_STEP_LOG_MAX_SPEED"),
            clipped: false,
        }
    }

    fn admit(&mut self, bytes: u64) -> Admission {
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed = self
            .began
            .elapsed()
            .max(Duration::from_secs(1))
            .as_secs_f64();
        let over = if self.size.is_some_and(|limit| self.bytes > limit) {
            Some("log limit reached: set BUILDKIT_STEP_LOG_MAX_SIZE to see more")
        } else if self.bytes > SPEED_FREE
            && self
                .speed
                .is_some_and(|limit| self.bytes as f64 / elapsed > limit as f64 * 10.0)
        {
            Some("it comes too fast: set BUILDKIT_STEP_LOG_MAX_SPEED to see more")
        } else {
            None
        };
        match (over, std::mem::replace(&mut self.clipped, over.is_some())) {
            (None, _) => Admission::Pass,
            (Some(why), false) => Admission::Clip(why),
            (Some(_), true) => Admission::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_all_is_passed_on() {
        let mut limit = Limit::of(|_| None);
        for _ in 0..3 {
            assert_eq!(limit.admit(1 << 30), Admission::Pass);
        }
    }

    #[test]
    fn limits_have_buildkits_names() {
        let mut limit = Limit::of(|name| match name {
            "BUILDKIT_STEP_LOG_MAX_SIZE" => Some("100".to_owned()),
            _ => Some("-1".to_owned()),
        });
        assert_eq!(limit.admit(100), Admission::Pass);
        assert!(matches!(limit.admit(1), Admission::Clip(_)));
    }

    #[test]
    fn what_is_over_the_limit_is_marked_once() {
        let mut limit = Limit {
            began: Instant::now(),
            bytes: 0,
            size: Some(100),
            speed: None,
            clipped: false,
        };
        assert_eq!(limit.admit(100), Admission::Pass);
        assert!(matches!(limit.admit(1), Admission::Clip(_)));
        assert_eq!(limit.admit(1), Admission::Drop);
    }
}
