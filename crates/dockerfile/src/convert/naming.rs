//! What steps are called: `[stage 2/5] RUN make`.

use weld_llb::{Constraints, EnvList, Platform, Position, Range};

use super::stages::{Converter, Node};
use crate::instruction::Instruction;
use crate::shell::{Environment, Lexer};
use crate::source::LineRange;
use crate::weld_comment::{self, WeldComment};

/// `text` with its variables expanded, or as it is where that fails.
pub(super) fn expanded(lexer: Lexer, text: &str, environment: &dyn Environment) -> String {
    match lexer.expand(text, environment) {
        Ok(expansion) => expansion.text,
        Err(_) => text.to_owned(),
    }
}

/// `text` with its first word in capitals.
pub(super) fn with_keyword_in_capitals(text: &str) -> String {
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// The first line of a heredoc.
pub(super) fn summary(heredoc: &str) -> String {
    let heredoc = heredoc.trim();
    match heredoc.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => heredoc.to_owned(),
    }
}

impl Converter<'_> {
    /// Counts a step of `node` and gives its name.
    pub(super) fn next_name(
        &self,
        node: &mut Node,
        text: &str,
        platform: Option<&Platform>,
        env: &EnvList,
    ) -> String {
        node.step.index += usize::from(node.step.total > 0);
        self.name(node, text, platform, env)
    }

    /// The name of the step that was counted last.
    pub(super) fn name(
        &self,
        node: &Node,
        text: &str,
        platform: Option<&Platform>,
        env: &EnvList,
    ) -> String {
        let step = node.step;
        // Who gets the definition tells the names to others.
        let text = weld_llb::mask_credentials(text);
        if step.total == 0 {
            return text.into_owned();
        }
        let mut prefix = String::from("[");
        if let Some(platform) = platform.filter(|_| self.request.multi_platform) {
            prefix.push_str(&format!("{platform}{} ", crossing(platform, env)));
        }
        if !node.label.is_empty() {
            prefix.push_str(&node.label);
            prefix.push(' ');
        }
        let width = step.total.to_string().len();
        let on_build = if step.on_build { "ONBUILD " } else { "" };
        format!(
            "{prefix}{:width$}/{}] {on_build}{text}",
            step.index, step.total
        )
    }

    /// What is said of an instruction's operation: where it comes from, and what its comments ask for.
    pub(super) fn constraints(&self, instruction: &Instruction) -> Constraints {
        let constraints = Constraints::new().at(self.file, ranges(instruction.lines));
        match weld_comment::merge(&instruction.comments) {
            Some(WeldComment::MergeNever) => constraints.described("weld.merge", "never"),
            Some(WeldComment::MergeAuto) | None => constraints,
        }
    }
}

/// Each line by itself, as clients expect them.
pub(super) fn ranges(lines: LineRange) -> Vec<Range> {
    let position = |line: u32| {
        Some(Position {
            line: i32::try_from(line).unwrap_or(i32::MAX),
            character: 0,
        })
    };
    let lines = lines.start..=lines.end;
    lines
        .map(|line| Range {
            start: position(line),
            end: position(line),
        })
        .collect()
}

/// `->arm64` where a stage that runs on `base` says that it builds for another platform.
fn crossing(base: &Platform, env: &EnvList) -> String {
    let Some(mut target) = target_in(env) else {
        return String::new();
    };
    if target.os.is_empty() {
        target.os.clone_from(&base.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&base.architecture);
    }
    let target = target.normalize();
    if target.os != base.os {
        return format!("->{target}");
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    match target.variant.as_str() {
        "" => format!("->{}", target.architecture),
        variant => format!("->{}/{variant}", target.architecture),
    }
}

/// The platform that the `TARGET…` variables of a stage name.
fn target_in(env: &EnvList) -> Option<Platform> {
    if let Some(platform) = env.get("TARGETPLATFORM").and_then(|text| text.parse().ok()) {
        return Some(platform);
    }
    let part = |name| env.get(name);
    let (os, arch, variant) = (part("TARGETOS"), part("TARGETARCH"), part("TARGETVARIANT"));
    if os.is_none() && arch.is_none() && variant.is_none() {
        return None;
    }
    Some(Platform::new(
        os.unwrap_or_default(),
        arch.unwrap_or_default(),
        variant.unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_words_and_first_lines() {
        assert_eq!(with_keyword_in_capitals("run a b"), "RUN a b");
        assert_eq!(summary("\n a\nb\n"), "a...");
        assert_eq!(summary("a\n"), "a");
    }

    #[test]
    fn a_cross_build_is_shown() {
        let base = Platform::new("linux", "amd64", "");
        let env = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<EnvList>();
        assert_eq!(crossing(&base, &env(&[])), "");
        assert_eq!(crossing(&base, &env(&[("TARGETARCH", "arm64")])), "->arm64");
        assert_eq!(
            crossing(&base, &env(&[("TARGETPLATFORM", "linux/arm/v6")])),
            "->arm/v6"
        );
        assert_eq!(
            crossing(&base, &env(&[("TARGETOS", "darwin")])),
            "->darwin/amd64"
        );
    }
}
