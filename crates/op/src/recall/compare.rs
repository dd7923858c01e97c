//! In what two recipes differ, in words.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::excerpt::{beginning, differing};
use super::field::{self, Field};
use super::input::{Change, in_input, made_anew, moved, other_result};
use super::part::Part;
use super::recipe::{self, End, Recipe};
use super::said::Fields;

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

/// What a step is compared in.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) part: &'a Part,
    /// The names of build arguments that the user gave.
    pub(super) build_args: &'a [String],
    /// The names of the definition's stages.
    pub(super) stages: &'a HashSet<String>,
    /// It is a directory that is looked at in each build.
    pub(super) is_looked_at: bool,
}

impl Before {
    /// Whether it was last the same for a cache as it is now.
    pub(super) fn is_as_last(&self) -> bool {
        let last = self.last.as_ref();
        self.same
            .as_ref()
            .is_some_and(|same| last.is_none_or(|last| last.is_like(same)))
    }

    /// Why a step runs that is `now` made of this.
    pub(super) fn why(&self, now: &Recipe, scene: Scene<'_>) -> String {
        if let Some(same) = &self.same {
            return self.again(same, now, scene);
        }
        let Some(last) = &self.last else {
            return FIRST_TIME.to_owned();
        };
        let Differences { told, unknown, .. } = differences(last, now, scene);
        match (told.is_empty(), unknown.is_empty()) {
            (false, _) => list(&told, "; "),
            (true, false) => list(&unknown, "; "),
            (true, true) => self.again(last, now, scene),
        }
    }

    /// Why a step runs that was what it is now before.
    fn again(&self, same: &Recipe, now: &Recipe, scene: Scene<'_>) -> String {
        let last = self.last.as_ref();
        let is_last = last.is_none_or(|last| last.is_like(same));
        let ended = match same.end {
            End::Failed => "it failed",
            End::Cancelled => "it was cancelled",
            End::Found | End::Made => {
                let since = last.filter(|_| !is_last);
                let since = since.map(|last| differences(last, now, scene).told);
                let mut told = since.unwrap_or_default();
                if scene.is_looked_at && !told.is_empty() {
                    return list(&told, "; ");
                }
                for reason in without_record(same, now, scene, is_last) {
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
        let since = good.map(|good| differences(good, now, scene).told);
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
fn without_record(same: &Recipe, now: &Recipe, scene: Scene<'_>, is_last: bool) -> Vec<String> {
    // Nothing is found by way of what had to run.
    let inputs = same.inputs.iter().zip(&now.inputs).zip(scene.part.inputs());
    let unsure =
        inputs.filter(|((before, now), _)| now.content.is_none() || now.content != before.content);
    let unsure: Vec<_> = unsure
        .map(|((before, now), part)| (before, now, part))
        .collect();
    let forced = unsure.iter().filter(|(.., part)| part.is_forced());
    let forced: Vec<_> = forced.map(|(_, now, _)| made_anew(now)).collect();
    if !forced.is_empty() {
        return forced;
    }
    // What is the same by its content may be under another key, such as after a run that took nothing from the cache. By way of what had
    // to be made again for want of its result, there would have been one.
    let other = unsure.iter().filter(|(.., part)| !part.is_lost());
    let other = other.filter_map(|(before, now, part)| {
        let text = other_result(before, now)?;
        Some(if part.ran() { made_anew(now) } else { text })
    });
    let other: Vec<_> = other.collect();
    if !other.is_empty() {
        return other;
    }
    // The same layers are found under another digest, and what was made of them only as far as it was looked for by them.
    let moved = unsure
        .iter()
        .filter_map(|(before, now, part)| moved(before, now, part));
    let moved: Vec<_> = moved.collect();
    if !moved.is_empty() {
        return moved;
    }
    scene.part.was_lost();
    let reason = match (same.end, now.inputs.is_empty(), is_last) {
        (End::Found, true, _) => {
            "it was not fetched before: what was made of it came from a cache elsewhere"
        }
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

/// In how much a step differs from what it was, but for the content of files: those come one after the other, whoever builds. `None`
/// where nothing is known to differ, or not all is known.
pub(super) fn distance(before: &Recipe, now: &Recipe, scene: Scene<'_>) -> Option<usize> {
    let Differences {
        told,
        of_files,
        unknown,
    } = differences(before, now, scene);
    (unknown.is_empty() && !told.is_empty()).then(|| told.len() - of_files)
}

/// In what a step differs from what it was.
struct Differences {
    told: Vec<String>,
    /// How many of these are of the content of files.
    of_files: usize,
    /// What may be different, for all that is known.
    unknown: Vec<String>,
}

fn differences(before: &Recipe, now: &Recipe, scene: Scene<'_>) -> Differences {
    let (mut told, mut unknown) = (Vec::new(), Vec::new());
    let is_known = before.does.is_some() && now.does.is_some();
    // How inputs are numbered is told by what they are.
    let are_others = before.inputs.len() != now.inputs.len();
    // What a definition says otherwise is no reason where it means the same for a cache.
    if !is_known || before.does != now.does {
        let fields = in_fields(&before.fields, &now.fields, scene.build_args);
        told = fields.told;
        if told.is_empty() && !are_others {
            told = fields.details;
        }
        if told.is_empty() && is_known && !are_others {
            let changed = match (scene.is_looked_at, now.inputs.is_empty()) {
                (true, _) => "files that are used of it changed",
                (false, true) => "what it fetches changed",
                (false, false) => "its definition changed",
            };
            told.push(changed.to_owned());
        }
    }
    if are_others {
        let (now, before) = (made_of(now), made_of(before));
        told.push(format!("it is made of {now}, before of {before}"));
        return Differences {
            told,
            of_files: 0,
            unknown,
        };
    }
    let mut of_files = 0;
    let inputs = before
        .inputs
        .iter()
        .zip(&now.inputs)
        .zip(scene.part.inputs());
    for ((before, now), part) in inputs {
        match in_input(before, now, part, scene.stages) {
            Change::None => {}
            Change::Told(text) => told.push(text),
            Change::Files(text) => {
                of_files += 1;
                told.push(text);
            }
            Change::Unknown(text) => unknown.push(text),
        }
    }
    Differences {
        told,
        of_files,
        unknown,
    }
}

/// The names of a step's inputs.
fn made_of(recipe: &Recipe) -> String {
    if recipe.inputs.is_empty() {
        return "nothing".to_owned();
    }
    let names = recipe.inputs.iter().map(|input| input.name.clone());
    list(&names.collect::<Vec<_>>(), " and ")
}

pub(super) fn list(told: &[String], separator: &str) -> String {
    let text = told[..told.len().min(TOLD)].join(separator);
    match told.len().saturating_sub(TOLD) {
        0 => text,
        more => format!("{text}{separator}and {more} more"),
    }
}

/// What is told of fields that differ.
pub(super) struct InFields {
    pub(super) told: Vec<String>,
    /// What is worth telling only where nothing else is.
    pub(super) details: Vec<String>,
}

/// In what fields differ, in words.
pub(super) fn in_fields(before: &Fields, now: &Fields, build_args: &[String]) -> InFields {
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
        let (old, new) = (old.map(recipe::visible), new.map(recipe::visible));
        let text = match (old, new) {
            (Some(old), Some(new)) if old == new => {
                format!("{subject} changed in a part that is not shown")
            }
            (Some(old), Some(new)) => match differing(old, new) {
                Some((one, same)) if shown(&one) == shown(&same) => {
                    let whole = |value: &str| value.replace('\n', "\\n");
                    format!("{subject} was {}, now {}", whole(&one), whole(&same))
                }
                Some((old, new)) => format!("{subject} was {}, now {}", shown(&old), shown(&new)),
                None => format!("{subject} changed far behind its beginning"),
            },
            (None, Some(new)) => format!("{subject} is new: {}", shown(new)),
            (Some(old), None) if subject == field::MOUNT => {
                format!("{subject} is gone: {}", shown(old))
            }
            (Some(old), None) => format!("{subject} was {}, now it is not set", shown(old)),
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
    told.extend(in_order("variables", before, now, |field| {
        field.strip_prefix("env.")
    }));
    told.extend(in_order("mounts", before, now, |field| {
        field.strip_prefix("mounts[")?.strip_suffix("].dest")
    }));
    InFields { told, details }
}

/// Whether what is there as before comes in another order: programs may tell, and so do keys.
fn in_order(
    what: &str,
    before: &Fields,
    now: &Fields,
    name: impl for<'f> Fn(&'f str) -> Option<&'f str>,
) -> Option<String> {
    let names = |fields| pairs(fields).filter_map(|(field, _)| name(field));
    let (was, is): (BTreeSet<&str>, BTreeSet<&str>) =
        (names(before).collect(), names(now).collect());
    let both = |name: &&str| was.contains(name) && is.contains(name);
    let old: Vec<&str> = names(before).filter(both).collect();
    let new: Vec<&str> = names(now).filter(both).collect();
    let first = old.iter().zip(&new).position(|(old, new)| old != new)?;
    let last = old.iter().zip(&new).rposition(|(old, new)| old != new)?;
    let (old, new) = (old.get(first..=last)?, new.get(first..=last)?);
    Some(format!(
        "the order of {what} was {}, now {}",
        old.join(" "),
        new.join(" ")
    ))
}

fn pairs(fields: &Fields) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    let fields = fields.iter();
    fields.map(|(field, value)| (field.as_str(), value.as_str()))
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
    beginning(value.trim_end()).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weld_digest::FieldHasher;

    use super::super::part::Parts;
    use super::super::recipe::{File, Input, Lineage};
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
            lineage: Lineage::default(),
            does: Some(digest_of(fields)),
            whole: None,
            fields: fields
                .iter()
                .map(|(field, value)| (own(field), own(value)))
                .collect(),
            inputs: vec![Input {
                name: own("[internal] load build context"),
                written: None,
                content: Some([files.iter().map(|(_, key)| key).sum(); 32]),
                seen: None,
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
        let (arguments, stages) = (["VERSION".to_owned()], HashSet::new());
        let scene = |part| Scene {
            part,
            build_args: &arguments,
            stages: &stages,
            is_looked_at: false,
        };
        let told = |now: &Recipe| known.why(now, scene(&part));
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
        let told = |now: &Recipe| known.why(now, scene(&part));
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
        let stages = HashSet::new();
        let scene = Scene {
            part: &part,
            build_args: &[],
            stages: &stages,
            is_looked_at: false,
        };
        let told = |before: &Before, now: &Recipe| before.why(now, scene);
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
