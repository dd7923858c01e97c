//! The rules that the text alone decides.

use super::{Finding, Linter};
use crate::instruction::{Instruction, Kind};
use crate::source::LineRange;
use crate::stage::{Dockerfile, Stage};
use crate::weld_comment;

/// Names that mean something else than a stage.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Reports what the text of `dockerfile` shows, in BuildKit's order.
pub fn check_syntax(dockerfile: &Dockerfile, linter: &mut Linter) {
    for lines in &dockerfile.empty_continuations {
        linter.report(Finding::NoEmptyContinuation {}, *lines, &[]);
    }
    for arg in &dockerfile.global_args {
        check_instruction(arg, linter);
        check_weld_comments(false, arg.lines, &arg.comments, linter);
    }
    for stage in &dockerfile.stages {
        check_from(stage, linter);
        check_weld_comments(false, stage.lines, &stage.comments, linter);
        for instruction in &stage.instructions {
            check_instruction(instruction, linter);
            let step = matches!(
                instruction.kind,
                Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_)
            );
            check_weld_comments(step, instruction.lines, &instruction.comments, linter);
        }
    }
    check_stage_names(&dockerfile.stages, linter);
    check_casing(&dockerfile.stages, linter);
}

fn check_instruction(instruction: &Instruction, linter: &mut Linter) {
    let (lines, comments) = (instruction.lines, &instruction.comments);
    match &instruction.kind {
        Kind::Maintainer(_) => linter.report(Finding::MaintainerDeprecated {}, lines, comments),
        Kind::Arg(arg) => {
            let names: Vec<&str> = arg.definitions.iter().map(|d| d.name.as_str()).collect();
            check_description("ARG", &names, lines, comments, linter);
        }
        _ => {}
    }
}

/// What is asked of Weldkit should be known, and asked for a step.
fn check_weld_comments(step: bool, lines: LineRange, comments: &[String], linter: &mut Linter) {
    for comment in comments {
        let reason = match weld_comment::read(comment) {
            None => continue,
            Some(Ok(_)) if step => continue,
            Some(Ok(_)) => "it is not above RUN, COPY, ADD or WORKDIR".to_owned(),
            Some(Err(reason)) => reason,
        };
        let comment = comment.trim().to_owned();
        let finding = Finding::UnknownWeldComment { comment, reason };
        linter.report(finding, lines, comments);
    }
}

fn check_from(stage: &Stage, linter: &mut Linter) {
    let Some(written) = &stage.written_name else {
        return;
    };
    if written.name != written.name.to_lowercase() {
        let finding = Finding::StageNameCasing {
            stage: written.name.clone(),
        };
        linter.report(finding, stage.lines, &stage.comments);
    }
    // A FROM in mixed case is another rule's matter.
    let expected = match casing(&stage.keyword) {
        Some(Casing::Lower) => written.keyword.to_lowercase(),
        Some(Casing::Upper) => written.keyword.to_uppercase(),
        None => written.keyword.clone(),
    };
    if written.keyword != expected {
        let finding = Finding::FromAsCasing {
            from: stage.keyword.clone(),
            keyword: written.keyword.clone(),
        };
        linter.report(finding, stage.lines, &stage.comments);
    }
    if let Some(name) = &stage.name {
        check_description("FROM", &[name], stage.lines, &stage.comments, linter);
    }
}

/// The last comment above should begin with one of `names`.
fn check_description(
    instruction: &str,
    names: &[&str],
    lines: LineRange,
    comments: &[String],
    linter: &mut Linter,
) {
    let Some(first_word) = comments
        .last()
        .and_then(|comment| comment.split(' ').next())
    else {
        return;
    };
    if names.contains(&first_word) {
        return;
    }
    let name = match names {
        [name] => (*name).to_owned(),
        _ => "<arg_key>".to_owned(),
    };
    let finding = Finding::InvalidDefinitionDescription {
        instruction: instruction.to_owned(),
        name,
    };
    linter.report(finding, lines, comments);
}

fn check_stage_names(stages: &[Stage], linter: &mut Linter) {
    let mut seen = std::collections::HashSet::new();
    for stage in stages {
        let Some(name) = &stage.name else { continue };
        if RESERVED.contains(&name.as_str()) {
            let finding = Finding::ReservedStageName {
                stage: name.clone(),
            };
            linter.report(finding, stage.lines, &[]);
        }
        if !seen.insert(name) {
            let finding = Finding::DuplicateStageName {
                stage: name.clone(),
            };
            linter.report(finding, stage.lines, &[]);
        }
    }
}

/// Every keyword should have the casing of the majority; upper case if there is none.
fn check_casing(stages: &[Stage], linter: &mut Linter) {
    let keywords = || {
        stages.iter().flat_map(|stage| {
            let own = (stage.keyword.as_str(), stage.lines);
            let inner = stage.instructions.iter();
            std::iter::once(own).chain(inner.map(|i| (i.keyword.as_str(), i.lines)))
        })
    };
    let counted = |wanted| {
        keywords()
            .filter(|(keyword, _)| casing(keyword) == Some(wanted))
            .count()
    };
    let (majority, name) = if counted(Casing::Lower) > counted(Casing::Upper) {
        (Casing::Lower, "lowercase")
    } else {
        (Casing::Upper, "uppercase")
    };
    for (keyword, lines) in keywords() {
        if casing(keyword) != Some(majority) {
            let finding = Finding::ConsistentInstructionCasing {
                keyword: keyword.to_owned(),
                casing: name.to_owned(),
            };
            linter.report(finding, lines, &[]);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

/// The casing of a keyword, none if it is mixed.
fn casing(keyword: &str) -> Option<Casing> {
    if keyword == keyword.to_lowercase() {
        Some(Casing::Lower)
    } else if keyword == keyword.to_uppercase() {
        Some(Casing::Upper)
    } else {
        None
    }
}
