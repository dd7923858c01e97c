//! Expansion: the rules of words, the fields of instructions, and agreement with a POSIX shell.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

use proptest::prelude::*;
use weld_dockerfile::instruction::Kind;
use weld_dockerfile::shell::{ExpandReason, Expander, Expansion, Lexer, MAX_NESTING};
use weld_dockerfile::{SourceFile, parse};

type Variables = Vec<(String, String)>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn environment() -> Variables {
    variables(&[
        ("NAME", "value"),
        ("EMPTY", ""),
        ("SPACES", " a  b "),
        ("PATHS", "/usr/local/lib/x.tar.gz"),
        ("GLOB", "a*b?c"),
        ("UNICODE", "안녕 하세요"),
        ("SLASH", "/"),
    ])
}

fn expand(word: &str) -> Result<Expansion, ExpandReason> {
    Lexer::new('\\')
        .expand(word, &environment())
        .map_err(|error| error.reason)
}

fn text(word: &str) -> String {
    expand(word).unwrap_or_else(|e| panic!("{word}: {e}")).text
}

#[test]
fn quotes_and_escapes() {
    for (word, expected) in [
        ("plain", "plain"),
        ("'single $NAME \\'", "single $NAME \\"),
        (
            "\"double $NAME \\\" \\$ \\\\ \\n 'q'\"",
            "double value \" $ \\ \\n 'q'",
        ),
        ("a\\ b\\'c\\$NAME\\\\", "a b'c$NAME\\"),
        ("end\\", "end"),
        ("안'녕'$NAME", "안녕value"),
        ("\"\"''", ""),
    ] {
        assert_eq!(text(word), expected, "{word}");
    }
    for word in ["'open", "\"open", "it's", "\"open\\\"", "a\\\\'b"] {
        assert!(
            matches!(expand(word), Err(ExpandReason::UnclosedQuote(_))),
            "{word}"
        );
    }
}

#[test]
fn names() {
    for (word, expected) in [
        ("$NAME.x", "value.x"),
        ("${NAME}x", "valuex"),
        ("$NAMEx", ""),
        ("$UNICODE$", "안녕 하세요$"),
        ("$. $", "$. $"),
        ("$1a $12a $@a $$a", "a a a a"),
        ("${1:-one}", "one"),
        ("${@:+all}", ""),
    ] {
        assert_eq!(text(word), expected, "{word}");
    }
    for word in ["${}", "${{NAME}", "${:-x}"] {
        assert_eq!(expand(word), Err(ExpandReason::BadSubstitution), "{word}");
    }
    for word in ["${", "${NAME", "${NAME:", "${NAME:-x", "${NAME:-${EMPTY}"] {
        assert_eq!(expand(word), Err(ExpandReason::MissingBrace), "{word}");
    }
    for word in ["${NAME=x}", "${NAME:=x}", "${NAME:#x}", "${.}", "${NAME^}"] {
        let result = expand(word);
        let refused = matches!(result, Err(ExpandReason::UnsupportedModifier(_)));
        assert!(refused, "{word}: {result:?}");
    }
}

#[test]
fn defaults_and_alternatives() {
    for (word, expected) in [
        ("${NAME:-d} ${EMPTY:-d} ${UNSET:-d}", "value d d"),
        ("${NAME-d} ${EMPTY-d} ${UNSET-d}", "value  d"),
        ("${NAME:+a}.${EMPTY:+a}.${UNSET:+a}", "a.."),
        ("${NAME+a}.${EMPTY+a}.${UNSET+a}", "a.a."),
        ("${UNSET:-${EMPTY:-$NAME}}", "value"),
        ("${UNSET:-'a}b'\\}}", "a}b}"),
        ("${NAME?x}${NAME:?}${EMPTY?}", "valuevalue"),
    ] {
        assert_eq!(text(word), expected, "{word}");
    }
    for (word, name, message) in [
        ("${UNSET?}", "UNSET", "is not allowed to be unset"),
        ("${UNSET:?}", "UNSET", "is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY", "is not allowed to be empty"),
        ("${UNSET:?set $NAME}", "UNSET", "set value"),
    ] {
        let (name, message) = (name.to_owned(), message.to_owned());
        let required = ExpandReason::Required { name, message };
        assert_eq!(expand(word), Err(required), "{word}");
    }
}

#[test]
fn prefixes_suffixes_and_replacements() {
    for (word, expected) in [
        ("${PATHS#*/}", "usr/local/lib/x.tar.gz"),
        ("${PATHS##*/}", "x.tar.gz"),
        ("${PATHS%.*}", "/usr/local/lib/x.tar"),
        ("${PATHS%%.*}", "/usr/local/lib/x"),
        ("${PATHS%/*}", "/usr/local/lib"),
        ("${PATHS##*$SLASH}", "x.tar.gz"),
        ("${GLOB#a\\*}", "b?c"),
        ("${GLOB%\\?c}", "a*b"),
        ("${GLOB#?\\*?}", "?c"),
        ("${GLOB#}${GLOB%}${GLOB##}", "a*b?ca*b?ca*b?c"),
        ("${UNICODE%?세요}", "안녕 "),
        ("${UNSET#x}", ""),
        ("${PATHS/\\//-}", "-usr/local/lib/x.tar.gz"),
        ("${PATHS//\\//-}", "-usr-local-lib-x.tar.gz"),
        ("${PATHS//l*b/L}", "/usr/L/x.tar.gz"),
    ] {
        assert_eq!(text(word), expected, "{word}");
    }
    for word in ["${PATHS/.*}", "${NAME//}"] {
        assert_eq!(expand(word), Err(ExpandReason::MissingSlash), "{word}");
    }
    let invalid = expand("${NAME#\\v}");
    assert!(matches!(invalid, Err(ExpandReason::InvalidEscape { .. })));
}

#[test]
fn words_are_split_after_expansion() {
    let words = |word: &str| expand(word).unwrap().words;
    assert_eq!(words("x${SPACES}y"), ["x", "a", "b", "y"]);
    assert_eq!(words("x\"${SPACES}\"y"), ["x a  b y"]);
    assert_eq!(words(" a\\ b 'c d'  e"), ["a b", "c d", "e"]);
    assert_eq!(words("\"\" '' $EMPTY"), [""; 0]);
    // A default does not lose what stands before it.
    assert_eq!(words("80${UNSET:-80} 1"), ["8080", "1"]);
    assert_eq!(words("<< EOF <x"), ["<< EOF", "<x"]);
}

#[test]
fn used_names_are_reported() {
    let expansion = expand("$NAME ${UNSET:-$OTHER} '$QUOTED' \\$ESCAPED ${EMPTY}").unwrap();
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(expansion.matched, set(&["EMPTY", "NAME"]));
    assert_eq!(expansion.unmatched, set(&["OTHER", "UNSET"]));
}

#[test]
fn unset_names_can_be_kept() {
    let lexer = Lexer {
        keep_unset: true,
        raw_quotes: true,
        ..Lexer::new('\\')
    };
    let word = "'q' $NAME $UNSET ${UNSET} ${UNSET:-d} ${UNSET##x} ${UNSET//a/b} \"${NAME}\"";
    assert_eq!(
        lexer.expand(word, &environment()).unwrap().text,
        "'q' value $UNSET ${UNSET} ${UNSET:-d} ${UNSET##x} ${UNSET//a/b} \"value\""
    );
}

#[test]
fn nesting_and_size_have_limits() {
    let nested = |depth: usize| format!("{}x{}", "${U:-".repeat(depth), "}".repeat(depth));
    assert_eq!(text(&nested(MAX_NESTING)), "x");
    assert_eq!(expand(&nested(MAX_NESTING + 1)), Err(ExpandReason::TooDeep));
    assert_eq!(expand(&nested(100_000)), Err(ExpandReason::TooDeep));

    let large = variables(&[("A", &"x".repeat(1 << 20))]);
    let result = Lexer::new('\\').expand(&"$A".repeat(20), &large);
    assert_eq!(result.map_err(|e| e.reason), Err(ExpandReason::TooLong));
    let result = Lexer::new('\\').expand(&format!("\"{}\"", "$A".repeat(20)), &large);
    assert_eq!(result.map_err(|e| e.reason), Err(ExpandReason::TooLong));
    let result = Lexer::new('\\').expand("${A//x/$A}", &large);
    assert_eq!(result.map_err(|e| e.reason), Err(ExpandReason::TooLong));
}

#[test]
fn patterns_take_linear_time() {
    let values = variables(&[("A", &"a".repeat(1 << 16))]);
    let pattern = "a*".repeat(100) + "b";
    let word = format!("${{A##{pattern}}}");
    let started = std::time::Instant::now();
    let result = Lexer::new('\\').expand(&word, &values).unwrap();
    assert_eq!(result.text.len(), 1 << 16);
    // Backtracking would not end in the age of the universe.
    assert!(started.elapsed().as_secs() < 20);
}

/// The instruction `line` with its fields expanded.
fn expanded(line: &str) -> (Kind, BTreeSet<String>) {
    let text = format!("FROM a\n{line}\n");
    let file = parse(&SourceFile::new("Dockerfile", text.as_bytes())).unwrap();
    let mut instruction = file.stages[0].instructions[0].clone();
    let environment = environment();
    let mut expander = Expander::new(file.escape, &environment);
    instruction.expand(&mut expander).unwrap();
    (instruction.kind, expander.unmatched().clone())
}

#[test]
fn fields_that_are_expanded() {
    let (Kind::Copy(copy), unmatched) = expanded(
        "COPY --chown=$NAME --chmod=${UNSET:-644} --exclude=$NAME <<f <<'g' \"$NAME\"/x $PATHS/\n\
         '$NAME' \\$x \"q\"\nf\n$NAME\ng",
    ) else {
        panic!()
    };
    let transfer = copy.transfer;
    assert_eq!(transfer.chown.as_deref(), Some("value"));
    assert_eq!(transfer.chmod.as_deref(), Some("644"));
    assert_eq!(transfer.exclude, ["$NAME"]);
    assert_eq!(transfer.sources, ["value/x"]);
    assert_eq!(transfer.destination, "/usr/local/lib/x.tar.gz/");
    assert_eq!(transfer.inline_files[0].data, "'value' $x \"q\"\n");
    assert_eq!(transfer.inline_files[1].data, "$NAME\n");
    assert_eq!(unmatched, BTreeSet::from(["UNSET".to_owned()]));

    let Kind::Add(add) = expanded("ADD --checksum=${NAME} a b").0 else {
        panic!()
    };
    assert_eq!(add.checksum.as_deref(), Some("value"));
    let Kind::Env(env) = expanded("ENV $NAME=\"a $NAME\" b='$NAME'").0 else {
        panic!()
    };
    let pairs: Vec<(&str, &str)> = env
        .pairs
        .iter()
        .map(|pair| (pair.key.as_str(), pair.value.as_str()))
        .collect();
    assert_eq!(pairs, [("value", "a value"), ("b", "$NAME")]);
    let Kind::Expose(expose) = expanded("EXPOSE $SPACES 3").0 else {
        panic!()
    };
    assert_eq!(expose.ports, ["a", "b", "3"]);
    assert_eq!(expanded("USER $NAME").0, Kind::User("value".into()));
    assert_eq!(expanded("WORKDIR /$NAME").0, Kind::Workdir("/value".into()));
    assert_eq!(
        expanded("STOPSIGNAL $NAME").0,
        Kind::StopSignal("value".into())
    );
    assert_eq!(
        expanded("VOLUME $NAME").0,
        Kind::Volume(vec!["value".into()])
    );
}

#[test]
fn fields_that_are_not_expanded() {
    for line in [
        "RUN echo $NAME",
        "CMD $NAME",
        "ENTRYPOINT [\"$NAME\"]",
        "HEALTHCHECK CMD $NAME",
        "SHELL [\"$NAME\"]",
        "ONBUILD RUN $NAME",
        "MAINTAINER $NAME",
        "ARG x=$NAME",
    ] {
        let text = format!("FROM a\n{line}\n");
        let file = parse(&SourceFile::new("Dockerfile", text.as_bytes())).unwrap();
        assert_eq!(
            expanded(line).0,
            file.stages[0].instructions[0].kind,
            "{line}"
        );
    }
}

// What follows compares with the machine's /bin/sh.

/// Runs `sh` and gives the fields that it makes of `word`, none if it refuses the word.
fn shell_fields(word: &str, split: bool) -> Option<Vec<String>> {
    let word = if split {
        word.to_owned()
    } else {
        // In a here-document nothing is split or globbed, yet double quotes would be text;
        // an assignment does neither and takes quotes away.
        format!("v={word}\nset -- \"$v\"")
    };
    let script = if split {
        format!("set -f\nset -- {word}\nprintf '%s\\0' \"$@\"")
    } else {
        format!("{word}\nprintf '%s\\0' \"$@\"")
    };
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env_clear()
        .envs(environment())
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Pieces of words whose meaning POSIX and Dockerfiles share: no command substitution, no
/// positional parameters, no tilde.
fn pieces() -> impl Strategy<Value = String> {
    let name = prop_oneof!["NAME", "EMPTY", "UNSET", "PATHS", "GLOB", "SPACES"];
    let simple = "[a-z/.]{1,3}";
    let pattern = prop_oneof![
        "[a-z/.*?]{0,4}",
        Just("*/".to_owned()),
        Just("/*".to_owned()),
        Just("\\*".to_owned()),
        Just("?\\?".to_owned()),
    ];
    let modifier = prop_oneof![
        (
            prop_oneof![Just(":-"), Just("-"), Just(":+"), Just("+")],
            simple
        )
            .prop_map(|(operator, word)| format!("{operator}{word}")),
        (
            prop_oneof![Just("#"), Just("##"), Just("%"), Just("%%")],
            pattern
        )
            .prop_map(|(operator, pattern)| format!("{operator}{pattern}")),
        Just(":?".to_owned()),
        Just("?".to_owned()),
        Just(String::new()),
    ];
    let substitution =
        (name, modifier).prop_map(|(name, modifier)| format!("${{{name}{modifier}}}"));
    prop_oneof![
        simple.boxed(),
        substitution.clone().boxed(),
        substitution.prop_map(|text| format!("\"{text}\"")).boxed(),
        "'[a-z$ *\\\\]{0,4}'".boxed(),
        "\"[a-z ']{0,4}\"".boxed(),
        "\\\\[a-z$ '\"]".boxed(),
        Just("$NAME".to_owned()).boxed(),
        Just("${UNSET:-${EMPTY:-$NAME}}".to_owned()).boxed(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// One word, as in an assignment.
    #[test]
    fn words_mean_what_a_shell_says(pieces in prop::collection::vec(pieces(), 1..5)) {
        let word = pieces.concat();
        let ours = expand(&word).ok().map(|expansion| vec![expansion.text]);
        prop_assert_eq!(ours, shell_fields(&word, false), "{}", word);
    }

    /// Several words, split as an unquoted command line is. An empty quoted word is a field to
    /// a shell and none to a Dockerfile.
    #[test]
    fn fields_are_what_a_shell_says(words in prop::collection::vec(
        prop::collection::vec(pieces(), 1..4).prop_map(|pieces| pieces.concat()), 1..4)) {
        let line = words.join(" ");
        let ours = expand(&line).ok().map(|expansion| expansion.words);
        let theirs = shell_fields(&line, true).map(|mut fields| {
            fields.retain(|field| !field.is_empty());
            fields
        });
        prop_assert_eq!(ours, theirs, "{}", line);
    }

    #[test]
    fn no_text_makes_the_lexer_panic(word in "\\PC*", escape in prop_oneof![Just('\\'), Just('`')]) {
        let _ = Lexer::new(escape).expand(&word, &environment());
    }

    #[test]
    fn no_substitution_makes_the_lexer_panic(word in "[$\\{\\}:#%/?*+\\-\\\\'\"<a-cNAME ]{0,40}") {
        for raw in [false, true] {
            let lexer = Lexer { raw_quotes: raw, raw_escapes: raw, keep_unset: raw, ..Lexer::new('\\') };
            let _ = lexer.expand(&word, &environment());
        }
    }
}
