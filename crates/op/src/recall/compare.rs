//! In what two recipes differ, in words.

use std::collections::BTreeMap;

use super::field::{self, Field};
use super::recipe::{End, File, Input, Kind, Recipe, unnumbered};

/// Nothing is remembered that a step could be compared with.
pub(super) const FIRST_TIME: &str = "first time seen: nothing like it is remembered";

/// What a step is told whose record was found and gave no result.
pub(super) const LOST: &str = "its cached result could not be fetched";

/// How many differences are told; the others are counted.
const TOLD: usize = 3;

/// Why a step that was made of `before` is not found as `now`.
pub(super) fn differences(before: &Recipe, now: &Recipe, build_args: &[String]) -> String {
    let mut told = in_fields(before, now, build_args);
    if told.is_empty() && before.op.is_some() && now.op.is_some() && before.op != now.op {
        told.push(if now.inputs.is_empty() {
            "what it fetches changed".to_owned()
        } else {
            "its definition changed".to_owned()
        });
    }
    if before.inputs.len() != now.inputs.len() {
        let (now, before) = (now.inputs.len(), before.inputs.len());
        told.push(format!("it has {now} inputs, before {before}"));
    } else {
        for (before, now) in before.inputs.iter().zip(&now.inputs) {
            told.extend(in_input(before, now));
        }
    }
    if told.is_empty() {
        told.extend(without_differences(before, now));
    }
    list(&told, "; ")
}

/// Why a step runs again of which nothing is known to differ.
fn without_differences(before: &Recipe, now: &Recipe) -> Vec<String> {
    let inputs = || before.inputs.iter().zip(&now.inputs);
    match before.end {
        End::Failed => return vec!["it failed last time".to_owned()],
        End::Cancelled => return vec!["it was cancelled last time".to_owned()],
        End::Found => {
            let told: Vec<_> = inputs().filter_map(|(a, b)| content_of(a, b)).collect();
            if !told.is_empty() {
                return told;
            }
        }
        End::Made => {}
    }
    let anew = inputs().filter_map(|(input, now)| made_anew(input, now, before.since));
    let told: Vec<_> = anew.collect();
    if !told.is_empty() {
        return told;
    }
    let reason = match before.end {
        End::Found => {
            "nothing changed since it was found last: its record was pruned or is unusable"
        }
        _ if now.inputs.is_empty() => {
            "nothing changed since it was fetched last: what was fetched is not kept any more"
        }
        _ => "nothing changed since it ran last: its record was pruned or is unusable",
    };
    vec![reason.to_owned()]
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

fn in_input(before: &Input, now: &Input) -> Option<String> {
    match (&before.content, &now.content) {
        (Some(old), Some(new)) if old == new => None,
        (Some(_), Some(_)) => Some(in_files(before, now)),
        // The same result, whatever it was called: a definition may name a session, which changes nothing.
        _ if before.record.is_some() && before.record == now.record => None,
        _ if unnumbered(&before.name) != unnumbered(&now.name) => {
            Some(format!("its input is {}, before {}", now.name, before.name))
        }
        _ if before.record.is_some() && now.record.is_some() => {
            Some(format!("its input was made anew: {}", now.name))
        }
        _ => None,
    }
}

/// What may explain why a step runs that never ran here: of what its record was made, only the names are known.
fn content_of(before: &Input, now: &Input) -> Option<String> {
    let unknown = before.content.is_none() && now.content.is_some();
    let name = &now.name;
    unknown
        .then(|| format!("the content of its input is another, or its record was pruned: {name}"))
}

/// What explains it where nothing is known to differ: the result of an input was saved `since`, or is not saved.
fn made_anew(before: &Input, now: &Input, since: u64) -> Option<String> {
    let same_content = before.content.is_some() && before.content == now.content;
    let was_there = now.record.is_some_and(|record| record < since);
    let same_record = match before.record {
        Some(record) => now.record == Some(record),
        None => was_there,
    };
    (!same_content && !same_record).then(|| format!("its input was made anew: {}", now.name))
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
    use super::*;

    fn recipe(fields: &[(&str, &str)], files: &[(&str, u8)]) -> Recipe {
        let own = |text: &str| text.to_owned();
        Recipe {
            name: own("[2/2] COPY . /app"),
            outline: [7; 32],
            op: Some([1; 32]),
            fields: fields
                .iter()
                .map(|(field, value)| (own(field), own(value)))
                .collect(),
            inputs: vec![Input {
                name: own("[internal] load build context"),
                content: Some([files.iter().map(|(_, key)| key).sum(); 32]),
                record: Some(1),
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
            since: 2,
        }
    }

    #[test]
    fn differences_are_told_in_words() {
        let before = recipe(
            &[("env.VERSION", "1"), ("args", "make")],
            &[("/a", 1), ("/b", 2)],
        );
        let told = |now: &Recipe| differences(&before, now, &["VERSION".to_owned()]);
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
        other.op = Some([9; 32]);
        assert_eq!(told(&other), "its definition changed");
        let mut input = before.clone();
        input.inputs[0].content = None;
        input.inputs[0].record = Some(2);
        assert_eq!(
            told(&input),
            "its input was made anew: [internal] load build context"
        );
    }
}
