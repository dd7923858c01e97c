//! In what two recipes differ, in words.

use std::collections::BTreeMap;

use super::recipe::{Input, Recipe};

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
        return "nothing changed since it ran last: its record was pruned or is unusable"
            .to_owned();
    }
    list(&told, "; ")
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
    let mut told = Vec::new();
    for (field, value) in pairs(now) {
        match old.get(field) {
            Some(old) if *old == value => {}
            Some(old) => told.push(format!(
                "{} was {old}, now {value}",
                label(field, build_args)
            )),
            None => told.push(format!("{} is new: {value}", label(field, build_args))),
        }
    }
    let gone = pairs(before).filter(|(field, _)| !new.contains_key(field));
    told.extend(
        gone.map(|(field, old)| {
            format!("{} was {old}, now it is not set", label(field, build_args))
        }),
    );
    told
}

fn pairs(recipe: &Recipe) -> impl Iterator<Item = (&str, &str)> {
    recipe
        .fields
        .iter()
        .map(|(field, value)| (field.as_str(), value.as_str()))
}

/// What a user calls a field.
fn label(field: &str, build_args: &[String]) -> String {
    if let Some(variable) = field.strip_prefix("env.") {
        return if build_args.iter().any(|name| name == variable) {
            format!("build argument {variable}")
        } else {
            format!("variable {variable}")
        };
    }
    match field {
        "args" => return "the command".to_owned(),
        "cwd" => return "the working directory".to_owned(),
        "identifier" => return "the source".to_owned(),
        _ => {}
    }
    let last = field.rsplit('.').next().unwrap_or(field);
    match last {
        "src" => "the copied path".to_owned(),
        "dest" => "the destination".to_owned(),
        "include_patterns" | "exclude_patterns" => format!("the selector {last}"),
        "selector" => "the selector of a mount".to_owned(),
        _ => field.to_owned(),
    }
}

fn in_input(before: &Input, now: &Input) -> Option<String> {
    match (&before.content, &now.content) {
        (Some(old), Some(new)) if old == new => None,
        (Some(_), Some(_)) => Some(in_files(before, now)),
        // The same result, whatever it was called: a definition may name a session, which changes nothing.
        _ if before.record.is_some() && before.record == now.record => None,
        _ if before.name != now.name => {
            Some(format!("its input is {}, before {}", now.name, before.name))
        }
        _ => Some(format!("its input was made anew: {}", now.name)),
    }
}

fn in_files(before: &Input, now: &Input) -> String {
    let old: BTreeMap<&str, &[u8; 8]> = files(before).collect();
    let new: BTreeMap<&str, &[u8; 8]> = files(now).collect();
    let mut told = Vec::new();
    for (path, key) in &new {
        match old.get(path) {
            Some(old) if old == key => {}
            Some(_) => told.push(format!("content of {path} changed")),
            None if before.all_files => told.push(format!("{path} was added")),
            None => {}
        }
    }
    if now.all_files {
        let gone = old.keys().filter(|path| !new.contains_key(*path));
        told.extend(gone.map(|path| format!("{path} was removed")));
    }
    if told.is_empty() {
        return format!("content of {} changed", now.name);
    }
    list(&told, ", ")
}

fn files(input: &Input) -> impl Iterator<Item = (&str, &[u8; 8])> {
    input.files.iter().map(|(path, key)| (path.as_str(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(fields: &[(&str, &str)], files: &[(&str, u8)]) -> Recipe {
        let own = |text: &str| text.to_owned();
        Recipe {
            name: own("[2/2] COPY . /app"),
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
                    .map(|(path, key)| (own(path), [*key; 8]))
                    .collect(),
                all_files: true,
            }],
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
