use std::cmp::Ordering;

use weld_fileset::compare_paths;

use super::index::IndexEntry;
use super::stat::Stat;

/// What is to be done for a path that is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it is as it was.
    Keep,
    /// Its content may have changed without a trace: it is to be read and compared.
    Verify,
    /// It is a directory that is the same but for owner, permissions or attributes.
    Metadata,
    /// It is new, or different so that it is made anew: a file may have names elsewhere, so even
    /// its metadata are never changed in place. What was there before must go first.
    Make,
}

/// The differences between an index and stats, both in path order.
pub(super) struct Diff {
    /// For each stat: the step, and its entry in the index if it has one.
    pub(super) steps: Vec<(Step, Option<usize>)>,
    /// Entries of the index that are gone or to be made anew, in path order.
    pub(super) removed: Vec<usize>,
}

impl Diff {
    pub(super) fn of(before: &[IndexEntry], now: &[Stat]) -> Self {
        let mut diff = Self {
            steps: Vec::with_capacity(now.len()),
            removed: Vec::new(),
        };
        let mut old = before.iter().enumerate().peekable();
        for stat in now {
            let mut found = None;
            while let Some((index, entry)) = old.peek() {
                match compare_paths(&entry.stat.path, &stat.path) {
                    Ordering::Less => diff.removed.push(*index),
                    Ordering::Equal => found = Some((*index, *entry)),
                    Ordering::Greater => break,
                }
                old.next();
            }
            let step = match found {
                None => Step::Make,
                Some((index, entry)) => {
                    let step = compare(entry, stat);
                    if step == Step::Make {
                        diff.removed.push(index);
                    }
                    step
                }
            };
            diff.steps.push((step, found.map(|(index, _)| index)));
        }
        diff.removed.extend(old.map(|(index, _)| index));
        diff
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.steps.iter().all(|(step, _)| *step == Step::Keep)
    }

    /// Has a further name made anew when the file that it names is. To be called once no step is
    /// [`Step::Verify`] any more.
    pub(super) fn follow_hard_links(&mut self, now: &[Stat]) {
        for (position, stat) in now.iter().enumerate() {
            let Some(target) = &stat.hard_link else {
                continue;
            };
            let first = now.binary_search_by(|stat| compare_paths(&stat.path, target));
            let remade = first
                .ok()
                .and_then(|first| self.steps.get(first))
                .is_some_and(|(step, _)| *step == Step::Make);
            if let Some((step, old)) = self.steps.get_mut(position)
                && remade
                && *step != Step::Make
            {
                *step = Step::Make;
                self.removed.extend(*old);
            }
        }
        // The index is in path order, so its numbers are too.
        self.removed.sort_unstable();
    }
}

fn compare(entry: &IndexEntry, now: &Stat) -> Step {
    let before = &entry.stat;
    let same_kind = before.file_type() == now.file_type()
        && before.link_target == now.link_target
        && before.hard_link == now.hard_link
        && before.rdev == now.rdev;
    if !same_kind {
        return Step::Make;
    }
    let same = before.mode == now.mode
        && before.uid == now.uid
        && before.gid == now.gid
        && before.xattrs == now.xattrs;
    if now.is_dir() {
        // Its time changes with what is in it; what matters of that is in the entries.
        return if same { Step::Keep } else { Step::Metadata };
    }
    if !same || before.mtime != now.mtime {
        return Step::Make;
    }
    if now.has_content() {
        if before.size != now.size || entry.digest.is_none() {
            return Step::Make;
        }
        // Without a change's traces, size and time have to do, as for every BuildKit client.
        let traced = now.change.is_some() && before.change.is_some();
        if traced && (before.change != now.change || !entry.settled) {
            return Step::Verify;
        }
    }
    Step::Keep
}
