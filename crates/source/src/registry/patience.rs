//! How long a registry may be silent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::Failure;

/// What has to come of a blob for it not to count as a trickle, in bytes a second.
const TRICKLE: u64 = 1000;

/// Waits for an answer, or for the next part of one, as long as the patience lasts.
pub(super) async fn answer<T>(
    patience: Option<Duration>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match patience {
        None => answer.await,
        Some(patience) => match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Silent(patience)),
        },
    }
}

/// Waits for the answer to a request with a body, as long as there is some movement: after the end of the patience without it, before twice
/// the patience.
pub(super) async fn answer_to<T>(
    patience: Option<Duration>,
    movement: &Movement,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(patience) = patience else {
        return answer.await;
    };
    let mut answer = std::pin::pin!(answer);
    loop {
        let before = movement.0.load(Ordering::Relaxed);
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) if movement.0.load(Ordering::Relaxed) == before => {
                return Err(Failure::Silent(patience));
            }
            Err(_) => {}
        }
    }
}

/// What was taken of a body.
#[derive(Debug, Default)]
pub(super) struct Movement(AtomicU64);

impl Movement {
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How fast a body comes.
pub(super) struct Flow {
    patience: Option<Duration>,
    since: Instant,
    bytes: u64,
}

impl Flow {
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self {
            patience,
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// So many bytes came.
    ///
    /// # Errors
    /// [`Failure::Trickle`] if no more than a trickle came for as long as the patience lasts.
    pub(super) fn came(&mut self, bytes: usize) -> Result<(), Failure> {
        self.came_at(bytes as u64, Instant::now())
    }

    fn came_at(&mut self, bytes: u64, now: Instant) -> Result<(), Failure> {
        self.bytes += bytes;
        let during = now.duration_since(self.since);
        if self.patience.is_none_or(|patience| during < patience) {
            return Ok(());
        }
        if self.bytes < TRICKLE.saturating_mul(during.as_secs()) {
            return Err(Failure::Trickle {
                bytes: self.bytes,
                during,
            });
        }
        (self.since, self.bytes) = (now, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether bytes that come so many at a time, one time a second, are too few within a minute.
    fn is_trickle(bytes: u64, patience: Option<Duration>) -> bool {
        let mut flow = Flow::new(patience);
        let began = flow.since;
        let mut seconds = 1..=60;
        seconds.any(|second| {
            flow.came_at(bytes, began + Duration::from_secs(second))
                .is_err()
        })
    }

    #[test]
    fn a_trickle_is_told_from_a_slow_line() {
        let patience = Some(Duration::from_secs(10));
        assert!(is_trickle(1, patience));
        assert!(is_trickle(TRICKLE - 1, patience));
        assert!(!is_trickle(TRICKLE, patience));
        assert!(!is_trickle(1, None), "nobody asked for more");
    }
}
