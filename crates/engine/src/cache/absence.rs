//! Caches that did not answer, and so count as absent for a while: builds must not wait for each of them again and again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CacheImport;

/// How often in a row a cache may fail before it counts as absent.
const FAILURES: u32 = 3;
/// For how long it does at first; with each further failure twice as long.
const FIRST: Duration = Duration::from_secs(60);
/// For how long at most.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How many caches are kept in mind.
const KEPT: usize = 1000;

/// What is known of the caches that failed last.
#[derive(Default)]
pub(crate) struct Absences(Mutex<HashMap<CacheImport, Absence>>);

struct Absence {
    /// In a row.
    failures: u32,
    last: Instant,
    /// When it is asked again.
    until: Option<Instant>,
}

/// How much a failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// It may be better the next time.
    One,
    /// Waiting for it took all the time that there was.
    All,
}

impl Absences {
    fn lock(&self) -> MutexGuard<'_, HashMap<CacheImport, Absence>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long a cache still counts as absent.
    pub(super) fn left(&self, import: &CacheImport, now: Instant) -> Option<Duration> {
        let until = self.lock().get(import)?.until?;
        let left = until.saturating_duration_since(now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// It failed.
    pub(super) fn failed(&self, import: &CacheImport, weight: Weight, now: Instant) {
        let mut known = self.lock();
        if known.len() >= KEPT && !known.contains_key(import) {
            let oldest = known.iter().min_by_key(|(_, absence)| absence.last);
            if let Some(oldest) = oldest.map(|(import, _)| import.clone()) {
                known.remove(&oldest);
            }
        }
        let absence = known.entry(import.clone()).or_insert(Absence {
            failures: 0,
            last: now,
            until: None,
        });
        absence.last = now;
        absence.failures = match weight {
            Weight::One => absence.failures.saturating_add(1),
            Weight::All => absence.failures.saturating_add(1).max(FAILURES),
        };
        if let Some(more) = absence.failures.checked_sub(FAILURES) {
            let doubled = FIRST.saturating_mul(1 << more.min(16));
            absence.until = now.checked_add(doubled.min(LONGEST));
        }
    }

    /// It answered.
    pub(super) fn answered(&self, import: &CacheImport) {
        self.lock().remove(import);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(name: &str) -> CacheImport {
        CacheImport {
            kind: "registry".to_owned(),
            attrs: [("ref".to_owned(), name.to_owned())].into(),
        }
    }

    #[test]
    fn it_takes_some_failures_and_the_waits_grow() {
        let (absences, cache) = (Absences::default(), import("a"));
        let mut now = Instant::now();
        absences.failed(&cache, Weight::One, now);
        absences.failed(&cache, Weight::One, now);
        assert_eq!(absences.left(&cache, now), None);
        absences.failed(&cache, Weight::One, now);
        assert_eq!(absences.left(&cache, now), Some(FIRST));
        assert_eq!(absences.left(&import("b"), now), None);
        now += FIRST;
        assert_eq!(absences.left(&cache, now), None, "it is asked again");
        absences.failed(&cache, Weight::One, now);
        assert_eq!(absences.left(&cache, now), Some(FIRST * 2));
        for _ in 0..100 {
            absences.failed(&cache, Weight::All, now);
        }
        assert_eq!(absences.left(&cache, now), Some(LONGEST));
        absences.answered(&cache);
        assert_eq!(absences.left(&cache, now), None);
        absences.failed(&cache, Weight::One, now);
        assert_eq!(absences.left(&cache, now), None, "all is forgotten");
    }

    #[test]
    fn one_wait_that_took_all_the_time_is_enough() {
        let (absences, now) = (Absences::default(), Instant::now());
        absences.failed(&import("a"), Weight::All, now);
        assert_eq!(absences.left(&import("a"), now), Some(FIRST));
    }

    #[test]
    fn only_so_many_are_kept_in_mind() {
        let (absences, now) = (Absences::default(), Instant::now());
        for number in 0..KEPT as u64 + 10 {
            let later = now + Duration::from_secs(number);
            absences.failed(&import(&number.to_string()), Weight::All, later);
        }
        assert_eq!(absences.lock().len(), KEPT);
        assert_eq!(absences.left(&import("9"), now), None);
        assert!(absences.left(&import("10"), now).is_some());
    }
}
