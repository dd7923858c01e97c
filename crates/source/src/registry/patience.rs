//! How long a registry may be silent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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
        let before = movement.seen();
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) if movement.seen() == before && !movement.is_reading() => {
                return Err(Failure::Silent(patience));
            }
            Err(_) => {}
        }
    }
}

/// What was taken of a body, and whether it is this side that keeps the other one waiting.
#[derive(Debug, Default)]
pub(super) struct Movement {
    pieces: AtomicU64,
    reading: AtomicBool,
}

impl Movement {
    pub(super) fn note(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for more of the content, which the registry cannot help.
    pub(super) async fn reading<T>(&self, read: impl Future<Output = T>) -> T {
        // Also where the body is given up meanwhile.
        let _reading = Reading::begin(self);
        read.await
    }

    fn seen(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }
}

struct Reading<'a>(&'a Movement);

impl<'a> Reading<'a> {
    fn begin(movement: &'a Movement) -> Self {
        movement.reading.store(true, Ordering::Relaxed);
        Self(movement)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.note();
        self.0.reading.store(false, Ordering::Relaxed);
    }
}

/// How fast a body comes, by the time that it is waited for: what its receiver takes is not the server's.
pub(super) struct Flow {
    patience: Option<Duration>,
    waited: Duration,
    bytes: u64,
}

impl Flow {
    pub(super) const fn new(patience: Option<Duration>) -> Self {
        Self {
            patience,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// So many bytes came after such a wait.
    ///
    /// # Errors
    /// [`Failure::Trickle`] if no more than a trickle came for as long as the patience lasts.
    pub(super) fn came(&mut self, bytes: usize, after: Duration) -> Result<(), Failure> {
        self.bytes += bytes as u64;
        self.waited += after;
        if self.patience.is_none_or(|patience| self.waited < patience) {
            return Ok(());
        }
        if self.bytes < TRICKLE.saturating_mul(self.waited.as_secs()) {
            return Err(Failure::Trickle {
                bytes: self.bytes,
                during: self.waited,
            });
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether bytes that come so many at a time, each time after such a wait, are too few within sixty times.
    fn is_trickle(bytes: usize, after: Duration, patience: Option<Duration>) -> bool {
        let mut flow = Flow::new(patience);
        (0..60).any(|_| flow.came(bytes, after).is_err())
    }

    #[test]
    fn a_trickle_is_told_from_a_slow_line() {
        let (second, patience) = (Duration::from_secs(1), Some(Duration::from_secs(10)));
        assert!(is_trickle(1, second, patience));
        assert!(is_trickle(999, second, patience));
        assert!(!is_trickle(1000, second, patience));
        assert!(!is_trickle(1, second, None), "nobody asked for more");
    }

    #[test]
    fn what_the_receiver_takes_is_not_waited_for() {
        let patience = Some(Duration::from_secs(10));
        // However long it was between two of them.
        assert!(!is_trickle(1, Duration::ZERO, patience));
    }
}
