//! `weld build --explain` under edits in random order: every reason that is told is one that there is.
//!
//! The model knows of each step what it was made of in each build. `WELD_TEST_SEEDS` says how many runs there are, `WELD_TEST_SEED`
//! which is the first.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::collections::BTreeMap;

use support::Bed;

/// A small generator of numbers.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A step of a stage.
#[derive(Clone, PartialEq, Eq)]
enum Step {
    /// Copies the file of this number, by `ADD` if so.
    Copy(usize, bool),
    /// Fails where a file that was copied into the stage says so.
    Test(usize),
    Run(usize),
    /// Has the value of the build argument in its name.
    Say,
    /// Copies a file out of the first stage.
    Take(usize),
}

impl Step {
    /// The line, without the names of stages.
    fn said(&self, stage: usize) -> String {
        match self {
            Self::Copy(file, false) => format!("COPY f{file} /s{stage}f{file}"),
            Self::Copy(file, true) => format!("ADD f{file} /s{stage}f{file}"),
            Self::Take(file) => format!("COPY --from= /s0f{file} /taken"),
            Self::Test(file) => format!("RUN ! grep -q bad /s{stage}f{file}"),
            Self::Run(number) => format!("RUN echo {stage} {number}"),
            Self::Say => SAY.to_owned(),
        }
    }
}

/// What the step says that has the build argument in it.
const SAY: &str = "RUN echo say $A";

/// How a line is said of a stage that is called so.
fn of_stage(said: &str, name: &str) -> String {
    said.replace("--from=", &format!("--from={name}"))
}

/// The line without the name of the stage and the value of the argument.
fn of_any_stage(said: &str) -> String {
    if said.starts_with("RUN echo say ") {
        return SAY.to_owned();
    }
    match said.split_once("--from=") {
        Some((head, tail)) => {
            let rest = tail.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{head}--from= {rest}")
        }
        None => said.to_owned(),
    }
}

const STAGES: usize = 3;
/// Values of the build argument.
const ARGUMENTS: [&str; 2] = ["one", "two"];
/// The orders of variables, and what a command is told beside them: nothing of the argument, or its value.
const SURROUNDINGS: [[&str; 3]; 2] = [["X Y", "X Y one", "X Y two"], ["Y X", "Y X one", "Y X two"]];

#[derive(Clone)]
struct Project {
    names: [String; STAGES],
    stages: [Vec<Step>; STAGES],
    files: [&'static str; 3],
    /// The second of two variables comes first.
    swapped: bool,
    /// Which value the argument has.
    argument: usize,
}

impl Project {
    fn dockerfile(&self) -> String {
        let mut text = format!("FROM base AS {}\n", self.names[0]);
        text += ["ENV X=1\nENV Y=2\n", "ENV Y=2\nENV X=1\n"][usize::from(self.swapped)];
        for (number, steps) in self.stages.iter().enumerate() {
            if number > 0 {
                text += &format!(
                    "FROM {} AS {}\n",
                    self.names[number - 1],
                    self.names[number]
                );
            }
            for step in steps {
                if *step == Step::Say {
                    text += "ARG A\n";
                }
                text += &format!("{}\n", of_stage(&step.said(number), &self.names[0]));
            }
        }
        text
    }

    /// What its steps say and are made of, in their order.
    fn made(&self) -> Vec<Made> {
        let mut made: Vec<Made> = Vec::new();
        let mut declared = 0;
        for (stage, steps) in self.stages.iter().enumerate() {
            for (at, step) in steps.iter().enumerate() {
                let said = step.said(stage);
                let mut of = made.last().map(|made| made.of.clone()).unwrap_or_default();
                let content = match step {
                    Step::Copy(file, _) | Step::Take(file) => self.files[*file],
                    Step::Test(_) | Step::Run(_) | Step::Say => {
                        if *step == Step::Say {
                            declared = 1 + self.argument;
                        }
                        SURROUNDINGS[usize::from(self.swapped)][declared]
                    }
                };
                of.push((said.clone(), content));
                // An image that a stage begins with counts, and another stage does not.
                let count = steps.len() + usize::from(stage == 0);
                let (width, number) = (count.to_string().len(), at + 1);
                let place = format!("[{} {number:>width$}/{count}]", self.names[stage]);
                made.push(Made {
                    name: format!("{place} {}", of_stage(&said, &self.names[0]))
                        .replace("$A", ARGUMENTS[self.argument]),
                    said,
                    of,
                });
            }
        }
        made
    }

    fn used(&self) -> BTreeMap<usize, &'static str> {
        let steps = self.stages.iter().flatten();
        let used = steps.filter_map(|step| match step {
            Step::Copy(file, _) => Some((*file, self.files[*file])),
            Step::Test(_) | Step::Run(_) | Step::Say | Step::Take(_) => None,
        });
        used.collect()
    }

    fn edit(&mut self, rng: &mut Rng) {
        let stage = rng.below(STAGES);
        let steps = &mut self.stages[stage];
        match rng.below(11) {
            10 => self.argument = 1 - self.argument,
            0..3 => {
                let file = rng.below(3);
                self.files[file] = ["good 1", "good 2", "good 3", "bad"][rng.below(4)];
            }
            3 => {
                let numbers = steps.iter_mut().filter_map(|step| match step {
                    Step::Run(number) => Some(number),
                    Step::Copy(..) | Step::Test(_) | Step::Say | Step::Take(_) => None,
                });
                let free = 10 + rng.below(1000);
                numbers.take(1).for_each(|number| *number = free);
            }
            4 => {
                // What tests a file stays behind what copies it.
                let can = |pair: &[Step]| !pair.iter().any(|step| matches!(step, Step::Test(_)));
                let at = steps.windows(2).position(can);
                if let Some(at) = at {
                    steps.swap(at, at + 1);
                }
            }
            5 => self.names[stage] = format!("{}{}", ["a", "b", "c"][stage], rng.below(50)),
            8 => self.swapped = !self.swapped,
            9 => {
                let mut copies = steps.iter_mut().filter_map(|step| match step {
                    Step::Copy(_, adds) => Some(adds),
                    Step::Test(_) | Step::Run(_) | Step::Say | Step::Take(_) => None,
                });
                copies.next().into_iter().for_each(|adds| *adds = !*adds);
            }
            6 => {
                let number = 10 + rng.below(1000);
                let at = rng.below(steps.len() + 1);
                steps.insert(at, Step::Run(number));
            }
            _ => {
                let removed = steps.iter().position(|step| matches!(step, Step::Run(_)));
                if let Some(at) = removed.filter(|_| steps.len() > 2) {
                    steps.remove(at);
                }
            }
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Made {
    name: String,
    said: String,
    of: Vec<(String, &'static str)>,
}

/// What was built, as far as it came.
struct Built {
    steps: Vec<Made>,
    failed: Option<Made>,
    used: BTreeMap<usize, &'static str>,
}

impl Built {
    fn came_to(&self) -> impl DoubleEndedIterator<Item = &Made> {
        self.steps.iter().chain(&self.failed)
    }
}

struct World {
    history: Vec<Built>,
    /// Everything was pruned once.
    pruned: bool,
    /// Steps ran whatever was cached, so that there are several results of the same.
    forced: bool,
}

/// The names of steps, with the reasons that they were told and whether they were cached.
fn told(output: &str) -> BTreeMap<String, (Option<String>, bool)> {
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut told: BTreeMap<String, (Option<String>, bool)> = BTreeMap::new();
    for line in output.lines().filter(|line| line.starts_with('#')) {
        let Some((number, rest)) = line.split_once(' ') else {
            continue;
        };
        if rest.starts_with('[') {
            names.entry(number).or_insert_with(|| rest.to_owned());
        }
        let Some(name) = names.get(number) else {
            continue;
        };
        let entry = told.entry(name.clone()).or_default();
        if let Some((_, reason)) = rest.split_once("not cached: ") {
            entry.0 = Some(reason.to_owned());
        }
        entry.1 |= rest == "CACHED";
    }
    told
}

/// The stage that a step is in.
fn stage(made: &Made) -> Option<&str> {
    made.name.split(' ').next()
}

impl World {
    /// The part of a reason that is none.
    fn wrong(
        &self,
        now: &Project,
        made: &Made,
        reason: &str,
        cached: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        let all = now.made();
        let before = all.iter().rev().skip_while(|other| *other != made).nth(1);
        let parts = reason.split("; ");
        let parts = parts.map(|part| {
            let of_good = part.strip_prefix("since it last had a result: ");
            of_good.unwrap_or(part)
        });
        let mut wrong = parts.filter(|part| {
            let is_true = self.is_true(made, before, part, reason.contains("since it"), cached);
            // Of many differences the first are told.
            is_true != Some(true) && *part != "and 1 more"
        });
        wrong.next().map(str::to_owned)
    }

    fn came_to(&self) -> impl Iterator<Item = &Made> {
        let built = self.history.iter().rev();
        built.flat_map(|built| built.came_to().rev())
    }

    /// Whether a part of a reason is true of a step that is made of `before`; `None` where it is not understood.
    fn is_true(
        &self,
        made: &Made,
        before: Option<&Made>,
        part: &str,
        of_good: bool,
        cached: &dyn Fn(&str) -> bool,
    ) -> Option<bool> {
        let last = self.came_to().find(|other| other.said == made.said);
        // Where arguments take turns, it is compared with when they were so.
        let takes_turns = made.of.iter().any(|of| of.0 == SAY);
        let files = part.strip_prefix("content of /");
        if let Some(file) = files.and_then(|rest| rest.strip_suffix(" changed")) {
            let content = made.of.last()?.1;
            // The step that said just this is nearer than the one by the other instruction.
            let copies = |made: &Made| made.said.replacen("ADD ", "COPY ", 1);
            let is_copy = |other: &&Made| copies(other) == copies(made);
            let last = last.or_else(|| self.came_to().find(is_copy));
            let other =
                |other: &Made| is_copy(&other) && other.of.last().map(|of| of.1) != Some(content);
            let by_other = self.came_to().find(is_copy).is_some_and(other);
            // Where its stage got another name and other steps at once, it is compared with an older one in its place.
            let renamed = last.is_some_and(|last| stage(last) != stage(made));
            // Where its input was another one last time, it is compared with when it was not.
            let below = |made: &Made| made.of.split_last().map(|(_, of)| of.to_vec());
            let is_nearer = |earlier: &Made| other(earlier) && below(earlier) == below(made);
            let far = last.is_some_and(|last| below(last) != below(made));
            let changed = last.is_some_and(other)
                || by_other
                || (of_good || renamed) && self.came_to().any(other)
                || far && self.came_to().any(is_nearer);
            let copies = ["COPY ", "ADD ", "COPY --from= /"];
            let mut copies = copies.map(|verb| format!("{verb}{file} ")).into_iter();
            return Some(copies.any(|copy| made.said.starts_with(&copy)) && changed);
        }
        if part.starts_with("whether archives are unpacked was ") {
            let other = match made.said.strip_prefix("COPY ") {
                Some(rest) => format!("ADD {rest}"),
                None => made.said.replacen("ADD ", "COPY ", 1),
            };
            return Some(self.came_to().any(|made| made.said == other));
        }
        if let Some(rest) = part.strip_prefix("the order of variables was ") {
            let (old, new) = rest.split_once(", now ")?;
            let order = made.of.last()?.1;
            let was = |made: &Made| made.of.last().is_some_and(|of| of.1.starts_with(old));
            let is_run = made.said.starts_with("RUN ");
            return Some(is_run && order.starts_with(new) && old != new && self.came_to().any(was));
        }
        if let Some(rest) = part.strip_prefix("build argument A ") {
            let has = |made: &Made, value: &str| {
                let of = made.of.last();
                made.said.starts_with("RUN ") && of.is_some_and(|of| of.1.ends_with(value))
            };
            let any_has = |value| self.came_to().any(|made| has(made, value));
            let Some(rest) = rest.strip_prefix("was ") else {
                let without = |made: &Made| !ARGUMENTS.iter().any(|value| has(made, value));
                let new = rest.strip_prefix("is new: ")?;
                return Some(has(made, new) && self.came_to().any(without));
            };
            let (old, new) = rest.split_once(", now ")?;
            let is_now = match new {
                "it is not set" => !ARGUMENTS.iter().any(|value| has(made, value)),
                value => has(made, value),
            };
            return Some(is_now && any_has(old) && old != new);
        }
        if let Some(rest) = part.strip_prefix("the command was ") {
            let (old, new) = rest.split_once(", now ")?;
            let says = |made: &Made, command: &str| made.said == format!("RUN {command}");
            return Some(says(made, new) && self.came_to().any(|made| says(made, old)));
        }
        if let Some(name) = part.strip_prefix("its input was made anew: ") {
            let base = || self.pruned && name.starts_with("[context base] OCI load");
            let is_input = before.map_or_else(base, |before| before.name == name);
            return Some(is_input && !cached(name));
        }
        if let Some((_, name)) = part.split_once(" result than before: ") {
            let Some(before) = before else {
                // The base is unpacked again after a prune.
                return Some(self.pruned && name.starts_with("[context base] OCI load"));
            };
            let input = Some(before).filter(|before| before.name == name)?;
            let differs = |other: &Made| other.of[..other.of.len() - 1] != input.of;
            let mut turns = self.came_to().filter(|other| other.said == made.said);
            let differ = last.is_some_and(differs) || of_good || takes_turns && turns.any(differs);
            return Some(cached(name) && (differ || self.pruned || self.forced));
        }
        if let Some(rest) = part.strip_prefix("its input is ") {
            let (name, old) = rest.split_once(", before ")?;
            let base = "[context base]";
            let is_input = before.map_or(name.starts_with(base), |before| before.name == name);
            let old_said = of_any_stage(old.split_once("] ")?.1);
            let was = |other: &Made| match other.of.len() {
                0 | 1 => old.starts_with(base),
                len => other.of[len - 2].0 == old_said,
            };
            // In another place, a step with another value may be another one.
            let place = old.split_inclusive('/').next()?;
            let is_other = |now: &Made| now.said != old_said || !now.name.starts_with(place);
            let is_other = before.is_none_or(is_other);
            let was_so = match last {
                Some(last) if !takes_turns => was(last),
                _ => self.came_to().any(was),
            };
            return Some(is_input && is_other && (was_so || of_good));
        }
        if part.starts_with("first time seen") {
            // Where it has another value, or its stage another name, and other steps at once, nothing tells that it is the same.
            let value = |made: &Made| made.of.last()?.1.rsplit(' ').next();
            let known = |last: &&Made| made.said != SAY || value(last) == value(made);
            let Some(last) = last.filter(known) else {
                return Some(true);
            };
            let said = |made: &Made| made.of.iter().map(|of| of.0.clone()).collect::<Vec<_>>();
            return Some(stage(last) != stage(made) && said(last) != said(made));
        }
        if part.starts_with("it failed last time") {
            let mut built = self.history.iter().rev();
            let failed = built.find_map(|built| {
                let step = built.came_to().find(|other| other.said == made.said)?;
                Some(built.failed.as_ref() == Some(step) && step.of == made.of)
            });
            return Some(failed == Some(true));
        }
        if part.starts_with("it failed when it was last made of this") {
            let mut failed = self
                .history
                .iter()
                .filter_map(|built| built.failed.as_ref());
            return Some(failed.any(|other| other.of == made.of));
        }
        if part.contains("record was pruned or is unusable") {
            return Some(self.pruned && self.came_to().any(|other| other.of == made.of));
        }
        None
    }

    /// The same for what is fetched.
    fn wrong_of_source(&self, now: &Project, name: &str, reason: &str) -> bool {
        let last = self.history.last();
        let is_context = name == "[internal] load build context";
        // A build in which it was not looked at tells nothing of it.
        let changed = || last.is_none_or(|last| last.used != now.used());
        if reason.starts_with("first time seen") {
            last.is_some()
        } else if reason.starts_with("files that are used of it changed")
            || reason.starts_with("what is used of the context was")
        {
            !is_context || !changed()
        } else if reason.starts_with("nothing changed since it was fetched last") {
            !self.pruned
        } else {
            true
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

/// Builds a project again and again, with some edits in between, and looks at all that is told.
fn run(seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let bed = Bed::new();
    let mut project = Project {
        names: ["a", "b", "c"].map(str::to_owned),
        stages: [
            vec![
                Step::Copy(0, false),
                Step::Run(1),
                Step::Copy(1, false),
                Step::Test(1),
            ],
            vec![Step::Run(2), Step::Say, Step::Copy(2, false), Step::Run(3)],
            vec![Step::Take(0), Step::Run(4)],
        ],
        files: ["good 1"; 3],
        swapped: false,
        argument: 0,
    };
    let mut world = World {
        history: Vec::new(),
        pruned: false,
        forced: false,
    };
    let mut edited = Vec::new();
    for round in 0..25 {
        let mut only_file = None;
        let mut only_pruned = false;
        if round > 0 {
            let before = project.clone();
            for _ in 0..rng.below(3) {
                project.edit(&mut rng);
            }
            let changed: Vec<_> = (0..3)
                .filter(|file| before.files[*file] != project.files[*file])
                .collect();
            if before.dockerfile() == project.dockerfile() && changed.len() == 1 {
                only_file = Some(format!(" f{} ", changed[0]));
            }
            if rng.below(12) == 0 {
                bed.run(&["prune", "--all"]).ok();
                world.pruned = true;
                only_pruned = before.dockerfile() == project.dockerfile() && changed.is_empty();
            }
        }
        bed.dockerfile(&project.dockerfile());
        for (number, content) in project.files.iter().enumerate() {
            bed.file(&format!("f{number}"), content);
        }
        let no_cache = rng.below(15) == 0;
        world.forced |= no_cache;
        // What its address is does not count.
        let host = format!("far:10.0.0.{}", rng.below(250));
        let value = format!("A={}", ARGUMENTS[project.argument]);
        let mut arguments = vec!["--explain", "--add-host", &host, "--build-arg", &value];
        arguments.extend(no_cache.then_some("--no-cache"));
        let ended = bed.build(&arguments);
        let output = &ended.stderr;
        let all = told(output);
        let said = format!("{}{:?}\n", project.dockerfile(), project.files);
        let reasons: Vec<String> = all
            .iter()
            .map(|(name, told)| format!("    {name}: {told:?}\n"))
            .collect();
        edited.push(format!("{arguments:?}\n{said}{}", reasons.concat()));
        let cached = |name: &str| all.get(name).is_some_and(|told| told.1);
        let steps = project.made();
        let context = || {
            format!(
                "seed {seed}, round {round}\n{}\n{output}",
                edited.join("\n")
            )
        };
        for (name, (reason, _)) in &all {
            let Some(reason) = reason else {
                continue;
            };
            if no_cache && steps.iter().any(|step| step.name == *name) {
                assert_eq!(reason, "the cache was not to be used", "{}", context());
                continue;
            }
            match steps.iter().find(|step| step.name == *name) {
                Some(made) => {
                    let was_made = world
                        .history
                        .last()
                        .is_some_and(|last| last.steps.contains(made));
                    assert!(
                        !(only_pruned && was_made) || reason.contains("its record was pruned"),
                        "{name}: {reason}\n{}",
                        context()
                    );
                    let wrong = world.wrong(&project, made, reason, &cached);
                    assert!(
                        wrong.is_none(),
                        "{name}: {}\n{}",
                        wrong.unwrap_or_default(),
                        context()
                    );
                    if let Some(copy) = &only_file
                        && made.said.contains(copy)
                        && world
                            .history
                            .last()
                            .is_some_and(|last| last.came_to().any(|other| other.name == *name))
                    {
                        assert!(
                            reason.contains("content of /"),
                            "{name}: {reason}\n{}",
                            context()
                        );
                    }
                }
                None => assert!(
                    !world.wrong_of_source(&project, name, reason),
                    "{name}: {reason}\n{}",
                    context()
                ),
            }
        }
        let failed = steps
            .iter()
            .find(|step| output.contains(&format!("ERROR: failed to solve: {}: ", step.name)));
        assert_eq!(failed.is_some(), ended.code != Some(0), "{}", context());
        let end = failed.and_then(|failed| steps.iter().position(|step| step == failed));
        world.history.push(Built {
            failed: failed.cloned(),
            steps: steps[..end.unwrap_or(steps.len())].to_vec(),
            used: project.used(),
        });
    }
}

#[test]
fn whatever_is_edited_the_reasons_are_true() {
    let first = number("WELD_TEST_SEED", 1);
    for seed in first..first + number("WELD_TEST_SEEDS", 3) {
        run(seed);
    }
}
