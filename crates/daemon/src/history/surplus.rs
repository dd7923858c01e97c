//! Which builds are forgotten: those that are too old where there are too many, and the oldest where all take too much.

use std::time::{Duration, SystemTime};

use crate::config::Space;

/// What is remembered, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryConfig {
    /// A record that is older may be deleted …
    pub max_age: Duration,
    /// … if there are more than these.
    pub max_entries: usize,
    /// What of the disk all records may take with their logs and other blobs: the oldest go, of whatever age, but none
    /// that is pinned.
    pub max_used: Space,
}

impl Default for HistoryConfig {
    /// Ages and numbers as BuildKit has them, which knows no bound of bytes.
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 50,
            max_used: Space::Bytes(512 << 20),
        }
    }
}

/// A build that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) reference: String,
    pub(super) completed: SystemTime,
    /// It is kept for ever.
    pub(super) pinned: bool,
    /// What it takes on the disk that no newer and no pinned one takes already.
    pub(super) bytes: u64,
}

/// Which builds to forget.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Surplus {
    pub(super) references: Vec<String>,
    /// Until when no other one will be too old, whichever end meanwhile.
    pub(super) quiet_until: Option<SystemTime>,
    /// How many bytes there may be more before any has to go.
    pub(super) bytes_left: u64,
}

impl HistoryConfig {
    /// Which of these builds to forget, the newest of which come first, on a disk of so many bytes.
    pub(super) fn surplus(&self, builds: &[Ended], disk: u64, now: SystemTime) -> Surplus {
        let oldest = now
            .checked_sub(self.max_age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let pinned = builds.iter().filter(|build| build.pinned);
        let pinned: u64 = pinned.map(|build| build.bytes).sum();
        let mut surplus = Surplus {
            references: Vec::new(),
            quiet_until: now.checked_add(self.max_age),
            bytes_left: self.max_used.of(disk).saturating_sub(pinned),
        };
        let mut fits = true;
        let others = builds.iter().filter(|build| !build.pinned);
        for (number, build) in others.enumerate() {
            fits &= build.bytes <= surplus.bytes_left;
            if !fits {
                surplus.references.push(build.reference.clone());
                continue;
            }
            if build.completed >= oldest {
                surplus.quiet_until = build.completed.checked_add(self.max_age);
            } else if number >= self.max_entries {
                surplus.references.push(build.reference.clone());
                continue;
            } else {
                // It goes as soon as there are more.
                surplus.quiet_until = Some(now);
            }
            surplus.bytes_left -= build.bytes;
        }
        surplus
    }
}

/// The oldest of builds, the newest of which come first, until so many bytes are free.
pub(super) fn oldest(builds: &[Ended], bytes: u64) -> (Vec<String>, u64) {
    let (mut references, mut freed) = (Vec::new(), 0);
    for build in builds.iter().rev().filter(|build| !build.pinned) {
        if freed >= bytes {
            break;
        }
        references.push(build.reference.clone());
        freed += build.bytes;
    }
    (references, freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600)
    }

    fn builds(ended: &[u64]) -> Vec<Ended> {
        let named = |ended: &u64| Ended {
            reference: ended.to_string(),
            completed: hours(*ended),
            pinned: false,
            bytes: 10,
        };
        ended.iter().map(named).collect()
    }

    fn config(bytes: u64) -> HistoryConfig {
        HistoryConfig {
            max_age: Duration::from_secs(48 * 3600),
            max_entries: 2,
            max_used: Space::Bytes(bytes),
        }
    }

    #[test]
    fn what_is_neither_new_nor_young_goes_and_the_rest_is_left_alone_till_its_time() {
        let at = |ended: &[u64], now| {
            let surplus = config(1000).surplus(&builds(ended), 0, hours(now));
            (surplus.references, surplus.quiet_until)
        };
        let none = Vec::<String>::new();
        assert_eq!(at(&[], 100), (none.clone(), Some(hours(148))));
        assert_eq!(at(&[90, 70, 60], 100), (none.clone(), Some(hours(108))));
        // Both are among the newest: the next one that ends drives one out.
        assert_eq!(at(&[20, 10], 100), (none, Some(hours(100))));
        let (gone, until) = at(&[70, 60, 20, 10], 100);
        assert_eq!(
            (gone, until),
            (vec!["20".into(), "10".into()], Some(hours(108)))
        );
        let (gone, until) = at(&[70, 20, 10], 100);
        assert_eq!((gone, until), (vec!["10".into()], Some(hours(100))));
    }

    #[test]
    fn the_oldest_go_where_all_take_too_much_but_none_that_is_pinned() {
        let mut some = builds(&[90, 80, 70, 60]);
        let gone = |some: &[Ended], bytes| {
            let surplus = config(bytes).surplus(some, 0, hours(100));
            (surplus.references, surplus.bytes_left)
        };
        assert_eq!(gone(&some, 45), (vec![], 5));
        assert_eq!(gone(&some, 25), (vec!["70".into(), "60".into()], 5));
        some[3].pinned = true;
        assert_eq!(gone(&some, 25), (vec!["80".into(), "70".into()], 5));
        // Not those in between that would fit.
        some[1].bytes = 100;
        assert_eq!(gone(&some, 45), (vec!["80".into(), "70".into()], 25));
        assert_eq!(oldest(&some, 5), (vec!["70".into()], 10));
        let (references, freed) = oldest(&some, 1000);
        assert_eq!((references.len(), freed), (3, 120));
    }
}
