//! Shell patterns: `?` is any character, `*` any text, a backslash takes the meaning away.
//!
//! Bracket expressions are text. As in BuildKit neither wildcard matches a line feed. Patterns
//! become regular expressions without back-references, matched in time linear in the text.

use regex::{Regex, RegexBuilder};

use super::ExpandReason;

/// The longest pattern that is compiled, in bytes.
const MAX_PATTERN: usize = 16 << 10;

/// The memory that one compiled pattern may take, in bytes.
const COMPILED_LIMIT: usize = 4 << 20;

/// Whether `*` takes as little or as much as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

/// `value` without what `pattern` matches at its beginning.
pub(super) fn trim_prefix(
    pattern: &str,
    value: &str,
    reach: Reach,
) -> Result<String, ExpandReason> {
    let regex = compile(pattern, reach, true)?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value.get(end..).unwrap_or_default().to_owned())
}

/// `value` without what `pattern` matches at its end.
///
/// The leftmost match from the other side: both are turned around.
pub(super) fn trim_suffix(
    pattern: &str,
    value: &str,
    reach: Reach,
) -> Result<String, ExpandReason> {
    let rest = trim_prefix(&reverse_pattern(pattern), &reverse(value), reach)
        .map_err(|reason| with_pattern(reason, pattern))?;
    Ok(reverse(&rest))
}

/// `value` with the first or every match of `pattern` replaced.
pub(super) fn replace(
    pattern: &str,
    value: &str,
    replacement: &str,
    all: bool,
) -> Result<String, ExpandReason> {
    let regex = compile(pattern, Reach::Longest, false)?;
    let limit = if all { usize::MAX } else { 1 };
    let mut result = String::with_capacity(value.len());
    let mut rest = 0;
    for found in regex.find_iter(value).take(limit) {
        result.push_str(value.get(rest..found.start()).unwrap_or_default());
        result.push_str(replacement);
        if result.len() > super::MAX_EXPANSION {
            return Err(ExpandReason::TooLong);
        }
        rest = found.end();
    }
    result.push_str(value.get(rest..).unwrap_or_default());
    Ok(result)
}

fn compile(pattern: &str, reach: Reach, anchored: bool) -> Result<Regex, ExpandReason> {
    let length = pattern.len();
    if length > MAX_PATTERN {
        return Err(ExpandReason::PatternTooLarge { length });
    }
    let expression = to_regex(pattern, reach, anchored)?;
    RegexBuilder::new(&expression)
        .unicode(true)
        .size_limit(COMPILED_LIMIT)
        .build()
        .map_err(|_| ExpandReason::PatternTooLarge { length })
}

fn to_regex(pattern: &str, reach: Reach, anchored: bool) -> Result<String, ExpandReason> {
    let mut expression = String::with_capacity(pattern.len() + 8);
    if anchored {
        expression.push('^');
    }
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if reach == Reach::Longest => expression.push_str(".*"),
            '*' => expression.push_str(".*?"),
            '?' => expression.push('.'),
            '\\' => match chars.peek() {
                // Only ${} needs these escaped, the pattern does not.
                Some('}' | '/') => {}
                Some(&escaped @ ('*' | '?' | '\\')) => {
                    chars.next();
                    expression.push('\\');
                    expression.push(escaped);
                }
                other => {
                    return Err(ExpandReason::InvalidEscape {
                        pattern: pattern.to_owned(),
                        escaped: other.copied(),
                    });
                }
            },
            c => {
                let mut buffer = [0; 4];
                expression.push_str(&regex::escape(c.encode_utf8(&mut buffer)));
            }
        }
    }
    Ok(expression)
}

fn with_pattern(reason: ExpandReason, pattern: &str) -> ExpandReason {
    match reason {
        ExpandReason::InvalidEscape { escaped, .. } => ExpandReason::InvalidEscape {
            pattern: pattern.to_owned(),
            escaped,
        },
        other => other,
    }
}

fn reverse(text: &str) -> String {
    text.chars().rev().collect()
}

/// The pattern back to front, each backslash still before the character it escapes.
fn reverse_pattern(pattern: &str) -> String {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push((c, if c == '\\' { chars.next() } else { None }));
    }
    let mut reversed = String::with_capacity(pattern.len());
    for (c, escaped) in pieces.into_iter().rev() {
        reversed.push(c);
        reversed.extend(escaped);
    }
    reversed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_of_regular_expressions_are_text() {
        let pattern = r"(()[]{\}^$.\*\?|\\";
        assert_eq!(
            trim_prefix(pattern, "(()[]{}^$.*?|\\rest", Reach::Longest),
            Ok("rest".to_owned())
        );
    }

    #[test]
    fn escapes_that_mean_nothing_are_refused() {
        for pattern in ["\\", "\\x", "\\\\\\"] {
            let result = trim_prefix(pattern, "x", Reach::Longest);
            assert!(
                matches!(result, Err(ExpandReason::InvalidEscape { .. })),
                "{pattern}: {result:?}"
            );
        }
    }

    #[test]
    fn a_reversed_pattern_keeps_its_escapes() {
        for (pattern, reversed) in [
            ("a\\*c", "c\\*a"),
            ("\\\\\\ab", "b\\a\\\\"),
            ("👽\\🚀🖖", "🖖\\🚀👽"),
            ("\\\\b", "b\\\\"),
        ] {
            assert_eq!(reverse_pattern(pattern), reversed);
        }
    }

    #[test]
    fn a_pattern_too_large_to_compile_is_an_error() {
        for pattern in ["x".repeat(MAX_PATTERN + 1), "*?".repeat(MAX_PATTERN / 2)] {
            assert!(matches!(
                trim_prefix(&pattern, "x", Reach::Longest),
                Err(ExpandReason::PatternTooLarge { .. })
            ));
        }
    }
}
