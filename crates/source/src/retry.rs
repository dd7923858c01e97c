//! When a failed request is made again, and after how long.

use std::time::Duration;

/// How often and how patiently to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures in a row, without progress between them, after which to give up.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub initial: Duration,
    /// The longest wait, also for what a server's `Retry-After` asks.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            initial: Duration::from_millis(250),
            max: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Never tries again.
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }

    pub(crate) fn start(&self) -> Attempts<'_> {
        Attempts {
            policy: self,
            failures: 0,
        }
    }
}

/// The failures of one request so far.
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    failures: u32,
}

impl Attempts<'_> {
    /// Forgets the failures: there was progress.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try, or says that there is none. `asked` is the server's wish.
    pub(crate) async fn again(&mut self, asked: Option<Duration>) -> bool {
        self.failures += 1;
        if self.failures >= self.policy.attempts {
            return false;
        }
        tokio::time::sleep(self.wait(asked)).await;
        true
    }

    fn wait(&self, asked: Option<Duration>) -> Duration {
        if let Some(asked) = asked {
            return asked.min(self.policy.max);
        }
        let doublings = (self.failures - 1).min(16);
        let full = self
            .policy
            .initial
            .saturating_mul(1 << doublings)
            .min(self.policy.max);
        // Half fixed, half random, so that clients that failed together do not return together.
        full.div_f64(2.0)
            .saturating_add(full.mul_f64(fastrand::f64() / 2.0))
    }
}

/// The wait that a `Retry-After` header asks for: seconds, or a date.
pub(crate) fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let value = headers
        .get(reqwest::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(
        date.duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_within_bounds() {
        let policy = RetryPolicy::default();
        let mut attempts = policy.start();
        let mut previous = Duration::ZERO;
        for failures in 1..20 {
            attempts.failures = failures;
            let wait = attempts.wait(None);
            assert!(wait <= policy.max, "{wait:?}");
            assert!(wait >= previous / 2, "{wait:?} after {previous:?}");
            previous = wait;
        }
        assert_eq!(
            attempts.wait(Some(Duration::from_secs(3))),
            Duration::from_secs(3)
        );
        assert_eq!(attempts.wait(Some(Duration::from_secs(3000))), policy.max);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let of = |value: &str| {
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert(reqwest::header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }
}
