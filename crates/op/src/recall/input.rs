//! What became of an input of a step, in words.

use std::collections::HashSet;

use super::compare::list;
use super::files::in_files;
use super::names;
use super::part::Part;
use super::recipe::Input;

/// What became of an input.
pub(super) enum Change {
    None,
    Told(String),
    /// What is told is of the content of its files.
    Files(String),
    /// It may be another, for all that is known.
    Unknown(String),
}

pub(super) fn in_input(
    before: &Input,
    now: &Input,
    part: &Part,
    stages: &HashSet<String>,
) -> Change {
    let both = |before: Option<_>, now: Option<_>| before.is_some() && before == now;
    if let (Some(old), Some(new)) = (before.content, now.content) {
        if old == new {
            return Change::None;
        }
        // Of what it sees otherwise, it is told what it sees.
        let told = in_files(before, now);
        return match (told.is_empty(), before.seen == now.seen) {
            (false, _) => Change::Files(list(&told, ", ")),
            (true, true) => Change::Files(format!("content of {} changed", now.name)),
            (true, false) => Change::None,
        };
    }
    if both(before.whole, now.whole) || (before.result.is_some() && before.result == now.result) {
        return Change::None;
    }
    let other = || Change::Told(format!("its input is {}, before {}", now.name, before.name));
    let says_another = names::said_to_any(&before.name) != names::said_to_any(&now.name);
    if says_another && !is_same_line(before, now, stages)
        || takes_from_another(&before.name, &now.name, stages)
    {
        return other();
    }
    if says_another || before.content.is_some() == now.content.is_some() {
        if part.ran() {
            return Change::Told(made_anew(now));
        }
        if let Some(text) = other_result(before, now) {
            return Change::Told(text);
        }
    }
    if says_another {
        return other();
    }
    // Where a record was found elsewhere, nothing but the names of what it was made of is known.
    let name = &now.name;
    Change::Unknown(format!(
        "the content of its input is another, or its record was pruned: {name}"
    ))
}

/// Whether two inputs are one line of one stage, in the same place: it says something else for nothing but its arguments' values.
fn is_same_line(before: &Input, now: &Input, stages: &HashSet<String>) -> bool {
    let (old, new) = (names::stage(&before.name), names::stage(&now.name));
    let is_same_stage = old == new || !stages.contains(old);
    let is_in_place = names::rank(&before.name) == names::rank(&now.name);
    is_same_stage && is_in_place && now.written.is_some() && before.written == now.written
}

/// Whether two steps take files from stages of which one is not the other under another name.
fn takes_from_another(before: &str, now: &str, stages: &HashSet<String>) -> bool {
    let mut sources = names::stages_said(before).zip(names::stages_said(now));
    sources.any(|(before, now)| before != now && stages.contains(before))
}

pub(super) fn other_result(before: &Input, now: &Input) -> Option<String> {
    let (old, new) = (before.result?, now.result?);
    let which = if new < old { "an older" } else { "another" };
    let name = &now.name;
    (new != old).then(|| format!("its input is {which} result than before: {name}"))
}

/// How an input is another one that has the same files.
pub(super) fn moved(before: &Input, now: &Input, part: &Part) -> Option<String> {
    let (old, new, name) = (before.whole?, now.whole?, &now.name);
    let is_same = before.result.is_some() && before.result == now.result;
    (is_same && old != new).then(|| {
        if before.name != now.name {
            format!("its input is {name}, before {}", before.name)
        } else if part.inputs().next().is_none() {
            format!("its input has another digest than before, and the same files: {name}")
        } else {
            format!("its input is made of something else than before, and the same files: {name}")
        }
    })
}

pub(super) fn made_anew(input: &Input) -> String {
    format!("its input was made anew: {}", input.name)
}
