//! The pattern languages, checked against tables and against a slow, independent reference.

#![allow(clippy::unwrap_used, reason = "a test helper fails by panicking")]

use std::path::Path;

use proptest::prelude::*;
use weld_fileset::{
    Glob, GlobError, ParentMatches, PatternError, PatternMatcher, clean, compare_paths, escape,
    has_wildcards, unescape,
};

fn matcher(patterns: &[&str]) -> PatternMatcher {
    PatternMatcher::new(patterns).unwrap()
}

/// What a walk from the root down gives for `path`.
fn walked(matcher: &PatternMatcher, path: &str) -> bool {
    let mut flags = ParentMatches::default();
    let mut matched = false;
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        (matched, flags) = matcher.matches_using_parent(Path::new(&path[..at]), &flags);
    }
    matched
}

#[test]
fn single_patterns() {
    let table = [
        ("**", "file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/a/b", true),
        ("dir/**", "dir", false),
        ("**/dir", "dir", true),
        ("**/dir", "x/dir/file", true),
        ("**/dir", "xdir", false),
        ("**dir", "xdir", true),
        ("**dir", "a/xdir", true),
        ("**d*r", "xdir", false),
        ("**\\dir", "xdir", false),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("**/**/*.txt2", "dir/file.txt", false),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/b/c/file.txt", true),
        ("a**b", "ab", true),
        ("a**b", "axb", false),
        ("a**b", "ax/b", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        ("a[^b]c", "a/c", true),
        ("a[*]c", "a*c", true),
        ("a]c", "a]c", true),
        ("[\\]a]", "]", true),
        ("[x\\-]", "-", true),
        ("[a-ζ]*", "α", true),
        ("a?b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("a*", "ab/c", true),
        ("abc.def", "abcZdef", false),
        ("a(b)|{c}+$^", "a(b)|{c}+$^", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a\\\\", "a\\", true),
        ("a\\*b/**", "a*b/c", true),
        ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ("**/a***b", "axb", true),
        ("a/./b/../c//d/", "a/c/d", true),
        ("  spaced\t", "spaced", true),
        ("/rooted", "rooted", false),
        (".", "a", false),
    ];
    for (pattern, path, expected) in table {
        let matcher = matcher(&[pattern]);
        let found = matcher.matches_or_parent_matches(Path::new(path));
        assert_eq!(found, expected, "{pattern:?} on {path:?}");
        assert_eq!(
            walked(&matcher, path),
            expected,
            "{pattern:?} on {path:?}, walked"
        );
    }
}

#[test]
fn exceptions_apply_in_order() {
    let table: [(&[&str], &str, bool); 10] = [
        (&["!file.go", "*.go"], "file.go", true),
        (&["*.go", "!file.go"], "file.go", false),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/x", true),
        (&["docs/*", " !docs/README.md "], "docs/README.md", false),
        (&["**", "!util/docker/web"], "util/docker/web/foo", false),
        (
            &["**", "!util/docker/web", "util/docker/web/foo"],
            "util/docker/web/foo",
            true,
        ),
        (&["a", "!a/b", "a"], "a/b", true),
        (&["a", "!a/b", "a/b", "!a/b/c", "a"], "a/b/c", true),
        (&["", "   "], "any", false),
    ];
    for (patterns, path, expected) in table {
        let matcher = matcher(patterns);
        let found = matcher.matches_or_parent_matches(Path::new(path));
        assert_eq!(found, expected, "{patterns:?} on {path:?}");
        assert_eq!(
            walked(&matcher, path),
            expected,
            "{patterns:?} on {path:?}, walked"
        );
    }
    assert!(matcher(&["a", "!b"]).has_exclusions());
    assert!(!matcher(&["a", ""]).has_exclusions());
}

/// moby/patternmatcher's two ways disagree here; BuildKit walks, and so clients see the second.
#[test]
fn an_exception_for_an_unmatched_parent_is_lost_on_a_walk() {
    let matcher = matcher(&["a/b", "!a"]);
    assert!(!matcher.matches_or_parent_matches(Path::new("a/b")));
    assert!(walked(&matcher, "a/b"));
}

#[test]
fn bad_patterns_say_what_is_wrong() {
    let table = [
        ("[", GlobError::UnclosedClass),
        ("a[^", GlobError::UnclosedClass),
        ("[^bc", GlobError::UnclosedClass),
        ("[]a]", GlobError::BadClass),
        ("[-x]", GlobError::BadClass),
        ("[x-]", GlobError::BadClass),
        ("[a-b-c]", GlobError::BadClass),
        ("[Local-Only]", GlobError::BackwardRange('l', 'O')),
        ("\\", GlobError::TrailingEscape),
    ];
    for (pattern, expected) in table {
        let error = PatternMatcher::new([pattern]).unwrap_err();
        assert_eq!(
            error,
            PatternError::Syntax {
                pattern: pattern.to_owned(),
                error: expected
            },
            "{pattern:?}"
        );
        assert!(error.to_string().contains(&format!("{pattern:?}")));
    }
    assert_eq!(
        PatternMatcher::new(["!"]).unwrap_err(),
        PatternError::BareExclusion
    );
    let long = "a".repeat(5000);
    assert!(PatternMatcher::new([long.as_str()]).is_err());
}

#[test]
fn a_hostile_pattern_is_not_slow() {
    let pattern = "*a**/".repeat(400) + "z";
    let path = "a/".repeat(2000);
    assert!(!Glob::new(&pattern).unwrap().matches(path.as_bytes()));
    assert!(!matcher(&[&pattern]).matches_or_parent_matches(Path::new("a/a/a/a/a/a/a/b")));
}

#[test]
fn names_that_are_no_utf8() {
    let glob = Glob::new("a?b*").unwrap();
    assert!(glob.matches(b"a\xffb\xfe\xfd"));
    assert!(!glob.matches(b"a\xff\xffb"));
    assert!(Glob::new("[^x]").unwrap().matches(b"\x80"));
}

#[test]
fn escapes() {
    assert!(has_wildcards("a[b") && has_wildcards("*") && has_wildcards("a?"));
    assert!(!has_wildcards("a\\*b") && !has_wildcards("plain"));
    assert_eq!(unescape("a\\*b\\\\"), "a*b\\");
}

/// The language by its definition: try everything.
mod reference {
    pub(crate) enum Part {
        Char(char),
        Any,
        Class(bool, Vec<(char, char)>),
        Star,
        Dirs,
        Rest,
    }

    /// Only for the patterns that the generators make: valid, clean, without escapes.
    pub(crate) fn parse(pattern: &str, double_star: bool) -> Vec<Part> {
        let chars: Vec<char> = pattern.chars().collect();
        let is_plain = |text: &[char]| !text.iter().any(|c| matches!(c, '*' | '?' | '[' | ']'));
        if double_star && chars.starts_with(&['*', '*']) && !chars[2..].starts_with(&['/']) {
            let rest = &chars[2..];
            if !rest.is_empty() && is_plain(rest) {
                return [Part::Rest]
                    .into_iter()
                    .chain(rest.iter().map(|c| Part::Char(*c)))
                    .collect();
            }
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while at < chars.len() {
            match chars[at] {
                '*' if double_star && chars.get(at + 1) == Some(&'*') => {
                    at += 2;
                    if chars.get(at) == Some(&'/') {
                        at += 1;
                    }
                    parts.push(if at == chars.len() {
                        Part::Rest
                    } else {
                        Part::Dirs
                    });
                    continue;
                }
                '*' => parts.push(Part::Star),
                '?' => parts.push(Part::Any),
                '[' => {
                    let end = at + chars[at..].iter().position(|c| *c == ']').unwrap();
                    let body = &chars[at + 1..end];
                    let negated = body[0] == '^';
                    let body = &body[usize::from(negated)..];
                    let ranges = match body {
                        [low, '-', high] => vec![(*low, *high)],
                        singles => singles.iter().map(|c| (*c, *c)).collect(),
                    };
                    parts.push(Part::Class(negated, ranges));
                    at = end;
                }
                c => parts.push(Part::Char(c)),
            }
            at += 1;
        }
        parts
    }

    pub(crate) fn matches(parts: &[Part], text: &[char]) -> bool {
        let Some((first, rest)) = parts.split_first() else {
            return text.is_empty();
        };
        let one = |accepts: bool| accepts && matches(rest, &text[1..]);
        match first {
            Part::Char(c) => text.first() == Some(c) && one(true),
            Part::Any => text.first().is_some_and(|t| *t != '/') && one(true),
            Part::Class(negated, ranges) => text.first().is_some_and(|t| {
                one(ranges.iter().any(|(low, high)| low <= t && t <= high) != *negated)
            }),
            Part::Star => (0..=text.len())
                .take_while(|n| !text[..*n].contains(&'/'))
                .any(|n| matches(rest, &text[n..])),
            Part::Dirs => (0..=text.len())
                .filter(|n| *n == 0 || text[n - 1] == '/')
                .any(|n| matches(rest, &text[n..])),
            Part::Rest => (0..=text.len()).any(|n| matches(rest, &text[n..])),
        }
    }

    pub(crate) fn matches_or_parent(patterns: &[String], path: &str) -> bool {
        let mut matched = false;
        for pattern in patterns {
            let (exclusion, text) = match pattern.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, pattern.as_str()),
            };
            let parts = parse(text, true);
            let ends = path
                .match_indices('/')
                .map(|(at, _)| at)
                .chain([path.len()]);
            for end in ends {
                let text: Vec<char> = path[..end].chars().collect();
                if matches(&parts, &text) {
                    matched = !exclusion;
                }
            }
        }
        matched
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "b", "a", "b", "/", "/", "*", "**", "**/", "/**", "?", "[ab]", "[^a]", "[a-b]", ".",
        "ü",
    ]);
    prop::collection::vec(piece, 1..7)
        .prop_map(|pieces| clean(&pieces.concat()))
        .prop_filter("relative", |p| !p.starts_with('/') && p != ".")
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "ab", "ba", "a.b", "ü", "aüb"]);
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    let one = (prop::bool::weighted(0.3), pattern())
        .prop_map(|(exclusion, p)| if exclusion { format!("!{p}") } else { p });
    prop::collection::vec(one, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn matcher_is_as_defined(patterns in patterns(), path in path()) {
        let matcher = PatternMatcher::new(&patterns).unwrap();
        let expected = reference::matches_or_parent(&patterns, &path);
        prop_assert_eq!(matcher.matches_or_parent_matches(Path::new(&path)), expected);
        if !matcher.has_exclusions() {
            prop_assert_eq!(walked(&matcher, &path), expected);
        }
    }

    #[test]
    fn glob_is_as_defined(pattern in pattern(), path in path()) {
        let text: Vec<char> = path.chars().collect();
        let expected = reference::matches(&reference::parse(&pattern, false), &text);
        prop_assert_eq!(Glob::new(&pattern).unwrap().matches(path.as_bytes()), expected);
    }

    /// If a longer path matches then every directory on the way was found possible.
    #[test]
    fn a_no_for_what_is_beneath_is_certain(pattern in pattern(), path in path()) {
        let glob = Glob::new(&pattern).unwrap();
        if glob.matches(path.as_bytes()) {
            for (at, _) in path.match_indices('/') {
                prop_assert!(glob.may_match_beneath(&path.as_bytes()[..=at]));
            }
        }
    }

    #[test]
    fn an_escaped_text_matches_only_itself(text in "[ab*?\\[\\]\\\\ü^-]{1,6}", other in "[ab*]{1,6}") {
        let glob = Glob::new(&escape(&text)).unwrap();
        prop_assert_eq!(glob.as_literal(), Some(text.as_bytes()));
        prop_assert!(glob.matches(text.as_bytes()));
        prop_assert_eq!(glob.matches(other.as_bytes()), other == text);
    }

    #[test]
    fn any_text_is_a_pattern_or_an_error(text in any::<String>(), path in any::<String>()) {
        if let Ok(matcher) = PatternMatcher::new([text]) {
            matcher.matches_or_parent_matches(Path::new(&path));
        }
    }

    #[test]
    fn paths_compare_by_component(a in "[a./]{1,6}", b in "[a./]{1,6}") {
        let (a, b) = (clean(&format!("/{a}")), clean(&format!("/{b}")));
        let by_component = a.split('/').cmp(b.split('/'));
        prop_assert_eq!(compare_paths(Path::new(&a), Path::new(&b)), by_component);
    }
}
