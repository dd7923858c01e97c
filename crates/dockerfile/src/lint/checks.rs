//! Checks for the converter, which knows variables, platforms and what came before.

use std::collections::BTreeSet;

use super::Finding;
use crate::shell::Environment;
use crate::suggest;

/// Words that make a variable's name suspicious when they stand between underscores.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];

/// Words that make a suspicious name harmless.
const HARMLESS_WORDS: [&str; 3] = ["public", "file", "version"];

/// Variables that exist for the builder alone, never in the environment.
const BUILDER_ARGS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// `SecretsUsedInArgOrEnv`: whether the name of an `ARG` or `ENV` sounds like a secret.
///
/// `instruction` is `ARG` or `ENV`.
pub fn secret_name(instruction: &str, name: &str) -> Option<Finding> {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    (has(&SECRET_WORDS) && !has(&HARMLESS_WORDS)).then(|| Finding::SecretsUsedInArgOrEnv {
        instruction: instruction.to_owned(),
        name: name.to_owned(),
    })
}

/// `UndefinedVar`: variables that an instruction used and nobody set.
///
/// `declared` are the names of the stage's `ARG`s, which may be used unset.
pub fn undefined_variables(
    unmatched: &BTreeSet<String>,
    declared: &[&str],
    environment: &dyn Environment,
) -> Vec<Finding> {
    unmatched
        .iter()
        .filter(|name| !declared.contains(&name.as_str()))
        .filter(|name| !BUILDER_ARGS.contains(&name.as_str()))
        .map(|name| Finding::UndefinedVar {
            name: name.clone(),
            suggestion: suggest::closest(name, environment.names()).unwrap_or_default(),
        })
        .collect()
}

/// `UndefinedArgInFrom`: variables of a `FROM` that no global `ARG` declares.
pub fn undeclared_in_from(unmatched: &BTreeSet<String>, declared: &[&str]) -> Vec<Finding> {
    unmatched
        .iter()
        .filter(|name| !declared.contains(&name.as_str()))
        .map(|name| Finding::UndefinedArgInFrom {
            name: name.clone(),
            suggestion: suggest::closest(name, declared.iter().copied()).unwrap_or_default(),
        })
        .collect()
}

/// `RedundantTargetPlatform`: `FROM --platform` that is `$TARGETPLATFORM` and nothing else.
///
/// `platform` is the flag as written, `expanded` its value, then the names it used that were
/// set and not set, and the value of `TARGETPLATFORM`.
pub fn redundant_platform(
    platform: &str,
    expanded: &str,
    matched: &BTreeSet<String>,
    unmatched: &BTreeSet<String>,
    target_platform: &str,
) -> Option<Finding> {
    let alone = matched.len() == 1 && matched.contains("TARGETPLATFORM") && unmatched.is_empty();
    (alone && expanded == target_platform).then(|| Finding::RedundantTargetPlatform {
        platform: platform.to_owned(),
    })
}

/// `FromPlatformFlagConstDisallowed`: `FROM --platform` without a variable, unless the stage's
/// name says that it is for that system or processor.
pub fn constant_platform(
    platform: &str,
    matched: &BTreeSet<String>,
    unmatched: &BTreeSet<String>,
    stage: Option<&str>,
    os: &str,
    architecture: &str,
) -> Option<Finding> {
    let stage = stage.unwrap_or_default();
    let constant = matched.is_empty() && unmatched.is_empty();
    let named = stage.contains(os) || stage.contains(architecture);
    (constant && !named).then(|| Finding::FromPlatformFlagConstDisallowed {
        platform: platform.to_owned(),
    })
}
