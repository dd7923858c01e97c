//! In what two recipes differ, in words.

use std::collections::BTreeMap;

use super::field::{self, Field};
use super::names;
use super::part::Part;
use super::recipe::{End, File, Input, Kind, Recipe};

/// Nothing is remembered that a step could be compared with.
pub(super) const FIRST_TIME: &str = "first time seen: nothing like it is remembered";

/// What a step is told whose record was found and gave no result.
pub(super) const LOST: &str = "its cached result could not be fetched";

/// How many differences are told; the others are counted.
const TOLD: usize = 3;

/// What is remembered of a step.
pub(super) struct Before {
    /// How it was last.
    pub(super) last: Option<Recipe>,
    /// How it was when it was last the same for a cache as it is now.
    pub(super) same: Option<Recipe>,
    /// How it was when it last had a result.
    pub(super) good: Option<Recipe>,
}

impl Before {
    /// Whether it was last the same for a cache as it is now.
    pub(super) fn is_as_last(&self) -> bool {
        let last = self.last.as_ref();
        self.same
            .as_ref()
            .is_some_and(|same| last.is_none_or(|last| last.is_like(same)))
    }

    /// Why a step runs that is `now` made of this, and `part`.
    pub(super) fn why(&self, now: &Recipe, part: &Part, build_args: &[String]) -> String {
        if let Some(same) = &self.same {
            return self.again(same, now, part, build_args);
        }
        let Some(last) = &self.last else {
            return FIRST_TIME.to_owned();
        };
        let Differences { told, unknown } = differences(last, now, part, build_args);
        match (told.is_empty(), unknown.is_empty()) {
            (false, _) => list(&told, "; "),
            (true, false) => list(&unknown, "; "),
            (true, true) => self.again(last, now, part, build_args),
        }
    }

    /// Why a step runs that was what it is now before.
    fn again(&self, same: &Recipe, now: &Recipe, part: &Part, build_args: &[String]) -> String {
        let last = self.last.as_ref();
        let is_last = last.is_none_or(|last| last.is_like(same));
        let ended = match same.end {
            End::Failed => "it failed",
            End::Cancelled => "it was cancelled",
            End::Found | End::Made => {
                let since = last.filter(|_| !is_last);
                let since = since.map(|last| differences(last, now, part, build_args).told);
                let mut told = since.unwrap_or_default();
                for reason in without_record(same, now, part, is_last) {
                    if !told.contains(&reason) {
                        told.push(reason);
                    }
                }
                return list(&told, "; ");
            }
        };
        let when = if is_last {
            "last time"
        } else {
            "when it was last made of this"
        };
        let good = self.good.as_ref().filter(|good| !good.is_like(same));
        let since = good.map(|good| differences(good, now, part, build_args).told);
        match since.filter(|told| !told.is_empty()) {
            Some(told) => {
                let told = list(&told, "; ");
                format!("{ended} {when}; since it last had a result: {told}")
            }
            None => format!("{ended} {when}"),
        }
    }
}

/// Why a step runs that had a result of just this.
fn without_record(same: &Recipe, now: &Recipe, part: &Part, is_last: bool) -> Vec<String> {
    // Nothing is found by way of what had to run.
    let inputs = now.inputs.iter().zip(part.inputs());
    let forced = inputs.filter(|(input, part)| input.content.is_none() && part.is_forced());
    let forced: Vec<_> = forced.map(|(input, _)| made_anew(input)).collect();
    if !forced.is_empty() {
        return forced;
    }
    // What is the same by its content may be under another key, such as after a run that took nothing from the cache.
    let inputs = same.inputs.iter().zip(&now.inputs).zip(part.inputs());
    let other = inputs.filter(|((_, now), _)| now.content.is_none());
    let other = other.filter_map(|((before, now), part)| {
        let text = other_result(before, now)?;
        Some(if part.ran() { made_anew(now) } else { text })
    });
    let other: Vec<_> = other.collect();
    if !other.is_empty() {
        return other;
    }
    let reason = match (same.end, now.inputs.is_empty(), is_last) {
        (_, true, true) => {
            "nothing changed since it was fetched last: what was fetched is not kept any more"
        }
        (_, true, false) => "what was fetched when it was so before is not kept any more",
        (_, false, false) => "it is as it was once before: its record was pruned or is unusable",
        (End::Found, ..) => {
            "nothing changed since it was found last: its record was pruned or is unusable"
        }
        _ => "nothing changed since it ran last: its record was pruned or is unusable",
    };
    vec![reason.to_owned()]
}

/// In what a step differs from what it was.
struct Differences {
    told: Vec<String>,
    /// What may be different, for all that is known.
    unknown: Vec<String>,
}

fn differences(before: &Recipe, now: &Recipe, part: &Part, build_args: &[String]) -> Differences {
    let (mut told, mut unknown) = (Vec::new(), Vec::new());
    let is_known = before.does.is_some() && now.does.is_some();
    // What a definition says otherwise is no reason where it means the same for a cache.
    if !is_known || before.does != now.does {
        told = in_fields(before, now, build_args);
        if told.is_empty() && is_known {
            told.push(if now.inputs.is_empty() {
                "what it fetches changed".to_owned()
            } else {
                "its definition changed".to_owned()
            });
        }
    }
    if before.inputs.len() != now.inputs.len() {
        let (now, before) = (made_of(now), made_of(before));
        told.push(format!("it is made of {now}, before of {before}"));
        return Differences { told, unknown };
    }
    let inputs = before.inputs.iter().zip(&now.inputs).zip(part.inputs());
    for ((before, now), part) in inputs {
        match in_input(before, now, part) {
            Change::None => {}
            Change::Told(text) => told.push(text),
            Change::Unknown(text) => unknown.push(text),
        }
    }
    Differences { told, unknown }
}

/// The names of a step's inputs.
fn made_of(recipe: &Recipe) -> String {
    if recipe.inputs.is_empty() {
        return "nothing".to_owned();
    }
    let names = recipe.inputs.iter().map(|input| input.name.clone());
    list(&names.collect::<Vec<_>>(), " and ")
}

fn list(told: &[String], separator: &str) -> String {
    let text = told[..told.len().min(TOLD)].join(separator);
    match told.len().saturating_sub(TOLD) {
        0 => text,
        more => format!("{text}{separator}and {more} more"),
    }
}

fn in_fields(before: &Recipe, now: &Recipe, build_args: &[String]) -> Vec<String> {
    let old: BTreeMap<&str, &str> = pairs(before).collect();
    let new: BTreeMap<&str, &str> = pairs(now).collect();
    let has = |fields: &BTreeMap<&str, &str>, part: &str| {
        let mut from = fields.range(part..);
        from.next()
            .is_some_and(|(field, _)| field.starts_with(part))
    };
    let (mut told, mut details) = (Vec::new(), Vec::new());
    let mut tell = |field: &str, old: Option<&str>, new: Option<&str>| {
        let Field { subject, is_detail } = Field::of(field, build_args);
        let text = match (old.map(shown), new.map(shown)) {
            (Some(one), Some(same)) if one == same => {
                let whole = |value: Option<&str>| value.unwrap_or_default().replace('\n', "\\n");
                format!("{subject} was {}, now {}", whole(old), whole(new))
            }
            (Some(old), Some(new)) => format!("{subject} was {old}, now {new}"),
            (None, Some(new)) => format!("{subject} is new: {new}"),
            (Some(old), None) => format!("{subject} was {old}, now it is not set"),
            (None, None) => return,
        };
        let told = if is_detail { &mut details } else { &mut told };
        if !told.contains(&text) {
            told.push(text);
        }
    };
    // What came or went as a whole is told of by the one field that says what it is.
    let is_known = |field: &str, others: &BTreeMap<&str, &str>| {
        part(field).is_some_and(|part| !has(others, part)) && !field::names_its_part(field)
    };
    for (field, value) in pairs(now) {
        let before = old.get(field).copied();
        if before != Some(value) && !is_known(field, &old) {
            tell(field, before, Some(value));
        }
    }
    for (field, value) in pairs(before) {
        if !new.contains_key(field) && !is_known(field, &new) {
            tell(field, Some(value), None);
        }
    }
    if told.is_empty() { details } else { told }
}

fn pairs(recipe: &Recipe) -> impl Iterator<Item = (&str, &str)> {
    recipe
        .fields
        .iter()
        .map(|(field, value)| (field.as_str(), value.as_str()))
}

/// `actions[1].` or `mounts[/c].` of a field in there.
fn part(field: &str) -> Option<&str> {
    let end = field.find("].")?;
    field.get(..end + 2)
}

/// A value in a line of text.
fn shown(value: &str) -> String {
    if value.is_empty() {
        return "empty".to_owned();
    }
    value.trim_end().replace('\n', "\\n")
}

/// What became of an input.
enum Change {
    None,
    Told(String),
    Unknown(String),
}

fn in_input(before: &Input, now: &Input, part: &Part) -> Change {
    let both = |before: Option<_>, now: Option<_>| before.is_some() && before == now;
    if let (Some(old), Some(new)) = (before.content, now.content) {
        if old == new {
            return Change::None;
        }
        return Change::Told(in_files(before, now));
    }
    if both(before.whole, now.whole) || (before.result.is_some() && before.result == now.result) {
        return Change::None;
    }
    if names::said(&before.name) != names::said(&now.name) {
        return Change::Told(format!("its input is {}, before {}", now.name, before.name));
    }
    if before.content.is_some() == now.content.is_some() {
        if part.ran() {
            return Change::Told(made_anew(now));
        }
        if let Some(text) = other_result(before, now) {
            return Change::Told(text);
        }
    }
    // Where a record was found elsewhere, nothing but the names of what it was made of is known.
    let name = &now.name;
    Change::Unknown(format!(
        "the content of its input is another, or its record was pruned: {name}"
    ))
}

fn other_result(before: &Input, now: &Input) -> Option<String> {
    let (old, new) = (before.result?, now.result?);
    let which = if new < old { "an older" } else { "another" };
    let name = &now.name;
    (new != old).then(|| format!("its input is {which} result than before: {name}"))
}

fn made_anew(input: &Input) -> String {
    format!("its input was made anew: {}", input.name)
}

fn in_files(before: &Input, now: &Input) -> String {
    let old: BTreeMap<&str, &File> = files(before).collect();
    let new: BTreeMap<&str, &File> = files(now).collect();
    let mut told = Vec::new();
    // What became of a whole directory, or what a directory came from: nothing is told of what is in there.
    let mut replaced: Vec<&str> = Vec::new();
    for (path, file) in &new {
        match old.get(path) {
            Some(old) if old.key == file.key => {}
            Some(old) => told.push(in_file(old, file)),
            // An empty directory is a file of the list, and any other is what is in it.
            None if file.kind == Kind::Directory && holds(&old, path) => {}
            None if holds(&old, path) => {
                told.push(of_other_kind(path, file.kind, Kind::Directory));
                replaced.push(path);
            }
            None if before.all_files => match above(&old, path) {
                Some(file) if replaced.contains(&file.path.as_str()) => {}
                Some(file) if file.kind == Kind::Directory => {
                    told.push(format!("{path} was added"));
                }
                Some(file) => {
                    told.push(of_other_kind(&file.path, Kind::Directory, file.kind));
                    replaced.push(&file.path);
                }
                None => told.push(format!("{path} was added")),
            },
            None => {}
        }
    }
    if now.all_files {
        let gone = old.keys().filter(|path| {
            let under = |path: &str| replaced.iter().any(|there| is_within(path, there));
            !new.contains_key(*path) && !holds(&new, path) && !under(path)
        });
        told.extend(gone.map(|path| format!("{path} was removed")));
    }
    if told.is_empty() {
        return format!("content of {} changed", now.name);
    }
    list(&told, ", ")
}

/// The file of the list that is at a place above a path.
fn above<'f>(files: &BTreeMap<&str, &'f File>, path: &str) -> Option<&'f File> {
    let mut ends = path.rmatch_indices('/').map(|(end, _)| end);
    ends.find_map(|end| files.get(path.get(..end)?).copied())
}

fn is_within(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

fn of_other_kind(path: &str, now: Kind, before: Kind) -> String {
    let word = |kind| match kind {
        Kind::File => "a file",
        Kind::Symlink => "a symbolic link",
        Kind::Directory => "a directory",
    };
    format!("{path} is {} now, before {}", word(now), word(before))
}

/// Whether something is in a directory.
fn holds(files: &BTreeMap<&str, &File>, directory: &str) -> bool {
    let inside = format!("{directory}/");
    let mut from = files.range(inside.as_str()..);
    from.next()
        .is_some_and(|(path, _)| path.starts_with(&inside))
}

/// Whether the content changed, too, is not known where something else did.
fn in_file(before: &File, now: &File) -> String {
    let path = &now.path;
    if before.kind != now.kind {
        return of_other_kind(path, now.kind, before.kind);
    }
    if before.mode != now.mode {
        let (before, now) = (before.mode, now.mode);
        return format!("mode of {path} was {before:04o}, now {now:04o}");
    }
    if (before.uid, before.gid) != (now.uid, now.gid) {
        return format!(
            "owner of {path} was {}:{}, now {}:{}",
            before.uid, before.gid, now.uid, now.gid
        );
    }
    format!("content of {path} changed")
}

fn files(input: &Input) -> impl Iterator<Item = (&str, &File)> {
    input.files.iter().map(|file| (file.path.as_str(), file))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weld_digest::FieldHasher;

    use super::super::part::Parts;
    use super::*;

    fn digest_of(fields: &[(&str, &str)]) -> [u8; 32] {
        let digest = FieldHasher::new("test").texts(
            &fields
                .iter()
                .flat_map(|(a, b)| [*a, *b])
                .collect::<Vec<_>>(),
        );
        crate::digest::to_solver(&digest.finish()).0
    }

    /// A step with one input.
    fn part() -> (Arc<Part>, Arc<Part>) {
        let parts = Parts::default();
        let input = parts.part([1; 32], Vec::new(), false);
        let step = parts.part([2; 32], vec![(Arc::clone(&input), 0)], false);
        (input, step)
    }

    fn recipe(fields: &[(&str, &str)], files: &[(&str, u8)]) -> Recipe {
        let own = |text: &str| text.to_owned();
        Recipe {
            name: own("[2/2] COPY . /app"),
            lineage: [7; 32],
            does: Some(digest_of(fields)),
            whole: None,
            fields: fields
                .iter()
                .map(|(field, value)| (own(field), own(value)))
                .collect(),
            inputs: vec![Input {
                name: own("[internal] load build context"),
                content: Some([files.iter().map(|(_, key)| key).sum(); 32]),
                whole: None,
                result: Some(1),
                files: files
                    .iter()
                    .map(|(path, key)| File {
                        path: own(path),
                        key: [*key; 8],
                        mode: 0o644,
                        ..File::default()
                    })
                    .collect(),
                all_files: true,
            }],
            end: End::Made,
        }
    }

    #[test]
    fn differences_are_told_in_words() {
        let before = recipe(
            &[("env.VERSION", "1"), ("args", "make")],
            &[("/a", 1), ("/b", 2)],
        );
        let (input_part, part) = part();
        let known = Before {
            last: Some(before.clone()),
            same: None,
            good: None,
        };
        let told = |now: &Recipe| known.why(now, &part, &["VERSION".to_owned()]);
        let cases = [
            (
                recipe(
                    &[("env.VERSION", "2"), ("args", "make")],
                    &[("/a", 1), ("/b", 2)],
                ),
                "build argument VERSION was 1, now 2",
            ),
            (
                recipe(
                    &[("env.VERSION", "1"), ("args", "make all")],
                    &[("/a", 1), ("/b", 2)],
                ),
                "the command was make, now make all",
            ),
            (
                recipe(&[("args", "make")], &[("/a", 1), ("/b", 2)]),
                "build argument VERSION was 1, now it is not set",
            ),
            (
                recipe(
                    &[("env.VERSION", "1"), ("args", "make")],
                    &[("/a", 1), ("/b", 3)],
                ),
                "content of /b changed",
            ),
            (
                recipe(
                    &[("env.VERSION", "1"), ("args", "make")],
                    &[("/a", 1), ("/c", 9)],
                ),
                "/c was added, /b was removed",
            ),
            (
                recipe(
                    &[("env.VERSION", "1"), ("args", "make")],
                    &[("/a", 5), ("/b", 6), ("/c", 7), ("/d", 8)],
                ),
                "content of /a changed, content of /b changed, /c was added, and 1 more",
            ),
        ];
        for (now, expected) in cases {
            assert_eq!(told(&now), expected);
        }
        assert!(told(&before).contains("its record was pruned"));
        let mut mode = before.clone();
        mode.inputs[0].content = Some([77; 32]);
        mode.inputs[0].files[0].key = [77; 8];
        mode.inputs[0].files[0].mode = 0o755;
        assert_eq!(told(&mode), "mode of /a was 0644, now 0755");
        let mut other = before.clone();
        other.does = Some([9; 32]);
        assert_eq!(told(&other), "its definition changed");

        let mut input = before.clone();
        input.inputs[0].content = None;
        let known = Before {
            last: Some(input.clone()),
            same: None,
            good: None,
        };
        let told = |now: &Recipe| known.why(now, &part, &[]);
        let name = "[internal] load build context";
        for (result, which) in [(2, "another"), (0, "an older")] {
            input.inputs[0].result = Some(result);
            let expected = format!("its input is {which} result than before: {name}");
            assert_eq!(told(&input), expected);
        }
        input_part.runs();
        assert_eq!(told(&input), format!("its input was made anew: {name}"));
    }

    #[test]
    fn a_step_that_was_the_same_before_says_what_became_of_it() {
        let (_, part) = part();
        let good = recipe(&[("args", "make")], &[("/a", 1)]);
        let mut failed = recipe(&[("args", "make")], &[("/a", 2)]);
        failed.end = End::Failed;
        let before = |last: &Recipe, same: &Recipe| Before {
            last: Some(last.clone()),
            same: Some(same.clone()),
            good: Some(good.clone()),
        };
        let told = |before: &Before, now: &Recipe| before.why(now, &part, &[]);
        assert_eq!(
            told(&before(&failed, &failed), &failed),
            "it failed last time; since it last had a result: content of /a changed"
        );
        assert_eq!(
            told(&before(&good, &failed), &failed),
            "it failed when it was last made of this; since it last had a result: content of /a changed"
        );
        assert_eq!(
            told(&before(&failed, &good), &good),
            "content of /a changed; it is as it was once before: its record was pruned or is unusable"
        );
    }
}
