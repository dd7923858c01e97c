//! What people are told about a Dockerfile that is wrong.

#![allow(clippy::unwrap_used)]

use weld_dockerfile::{Error, ErrorKind, LineRange, SourceFile, parse};

fn error(text: &str) -> Error {
    match parse(&SourceFile::new("Dockerfile", text.as_bytes())) {
        Ok(file) => panic!("{file:?}"),
        Err(error) => error,
    }
}

/// The message, and the fragment that the caret is under.
fn told(text: &str) -> (String, String) {
    let error = error(text);
    let mark = error.marked().unwrap();
    let line = text.lines().nth(mark.line as usize - 1).unwrap();
    let fragment = line
        .chars()
        .skip(mark.column as usize - 1)
        .take(mark.width as usize)
        .collect();
    (error.to_string(), fragment)
}

#[test]
fn misspelt_words_get_a_suggestion() {
    for (text, message, fragment) in [
        (
            "FROM a\nCOPPY . .\n",
            "Dockerfile:2: unknown instruction: COPPY (did you mean COPY?)",
            "COPPY",
        ),
        (
            "form a\n",
            "Dockerfile:1: unknown instruction: form (did you mean from?)",
            "form",
        ),
        (
            "FROM a\nCOPY --form=b x y\n",
            "Dockerfile:2: unknown flag: --form (did you mean from?)",
            "--form=b",
        ),
        (
            "FROM a\nRUN --network=nonne x\n",
            "Dockerfile:2: invalid network mode \"nonne\" (did you mean none?)",
            "--network=nonne",
        ),
        (
            "FROM a\nONBUILD RNU x\n",
            "Dockerfile:2: unknown instruction: RNU (did you mean RUN?)",
            "RNU",
        ),
        (
            "FROM a\nFOOBAR\n",
            "Dockerfile:2: unknown instruction: FOOBAR",
            "FOOBAR",
        ),
    ] {
        assert_eq!(told(text), (message.to_owned(), fragment.to_owned()));
    }
}

#[test]
fn the_caret_follows_continuation_lines() {
    let (message, fragment) = told(
        "FROM a\n\n  RUN --mount=type=cache,target=/x \\\n   # c\n   --mounts=y \\\n   true\n",
    );
    assert_eq!(
        message,
        "Dockerfile:5: unknown flag: --mounts (did you mean mount?)"
    );
    assert_eq!(fragment, "--mounts=y");
    let (message, fragment) = told("FROM a\nENV a=b \\\n   한국 \\\n   c=d\n");
    assert_eq!(
        message,
        "Dockerfile:3: Syntax error - can't find = in \"한국\". Must be of the form: name=value"
    );
    assert_eq!(fragment, "한국");
}

#[test]
fn the_excerpt_shows_the_source_with_a_caret() {
    let text = "FROM alpine\nRUN true\n\tCOPY --form=build \\\n  /out /\nCMD x\nUSER y\n";
    assert_eq!(
        error(text).excerpt().unwrap(),
        "Dockerfile:3:7\n\
         --------------------\n\
         \u{20}  2 |     RUN true\n\
         \u{20}  3 | >>> \tCOPY --form=build \\\n\
         \u{20}    |     \t     ^^^^^^^^^^^^\n\
         \u{20}  4 | >>>   /out /\n\
         \u{20}  5 |     CMD x\n\
         --------------------\n"
    );
}

#[test]
fn errors_that_are_about_the_whole_file() {
    assert_eq!(*error("").kind(), ErrorKind::NoInstructions);
    assert_eq!(
        *error("# only\n\n# comments\n").kind(),
        ErrorKind::NoInstructions
    );
    assert_eq!(*error("ARG a=1\n").kind(), ErrorKind::NoStages);
    assert!(matches!(error("RUN a\n").kind(), ErrorKind::NoStage { .. }));
    assert!(error("\r").excerpt().is_some());
    let long = format!("FROM a\nRUN {}\n", "x".repeat(70_000));
    let error_of_long = error(&long);
    assert!(matches!(
        error_of_long.kind(),
        ErrorKind::LineTooLong { .. }
    ));
    assert_eq!(error_of_long.ranges(), [LineRange::line(2)]);
    let large = "#\n".repeat(9 << 20);
    assert!(matches!(
        error(&large).kind(),
        ErrorKind::FileTooLarge { .. }
    ));
}

#[test]
fn bytes_that_are_not_utf8() {
    let file = SourceFile::new("Dockerfile", &b"# caf\xe9\nFROM a\nRUN x\n"[..]);
    assert!(parse(&file).is_ok(), "comments may have any encoding");
    let file = SourceFile::new("Dockerfile", &b"FROM a\nRUN caf\xe9\n"[..]);
    let error = parse(&file).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotUtf8);
    assert_eq!(
        error.marked().map(|mark| (mark.line, mark.column)),
        Some((2, 8))
    );
    assert!(error.excerpt().is_some());
}

#[test]
fn every_instruction_refuses_what_it_cannot_be() {
    for (line, message) in [
        (
            "COPY a",
            "COPY requires at least two arguments, but only 1 was provided. Destination could not be determined",
        ),
        (
            "ADD",
            "ADD requires at least two arguments, but only 0 were provided. Destination could not be determined",
        ),
        (
            "COPY a <<EOF\nEOF",
            "COPY cannot accept a heredoc as a destination",
        ),
        (
            "COPY --link=maybe a b",
            "expecting boolean value for flag --link, not: maybe",
        ),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --chown a b", "missing a value on flag: --chown"),
        (
            "COPY --chown=a --chown=b a b",
            "duplicate flag specified: --chown",
        ),
        (
            "RUN [\"a\", 1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("RUN --security=none x", "security \"none\" is not valid"),
        ("RUN --device=a,name=b x", "device name already set to a"),
        ("RUN --device=a,b=c x", "unexpected key 'b' in 'b=c'"),
        (
            "RUN --mount= x",
            "failed to parse csv mounts: the value is empty",
        ),
        (
            "RUN <<EOF\na",
            "unterminated heredoc: no line with \"EOF\" alone follows",
        ),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        ("ENV a=b =c", "ENV names can not be blank"),
        (
            "LABEL a=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("ARG =x", "ARG names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("FROM a b", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1b",
            "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        ),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        (
            "ONBUILD ONBUILD RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            "ONBUILD maintainer x",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        ("ONBUILD ENV a", "ENV must have two arguments"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        (
            "HEALTHCHECK HTTP x",
            "Unknown type \"HTTP\" in HEALTHCHECK (try CMD)",
        ),
        (
            "HEALTHCHECK --interval=1us CMD x",
            "Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --timeout=5 CMD x",
            "invalid duration \"5\" for --timeout: its unit is missing",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD x",
            "--retries cannot be negative (-1)",
        ),
        (
            "HEALTHCHECK --retries=x CMD x",
            "invalid value \"x\" for --retries: a whole number is needed",
        ),
        (
            "SHELL bash -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("SHELL []", "SHELL requires at least one argument"),
        (
            "VOLUME [\" \"]",
            "VOLUME specified can not be an empty string",
        ),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("USER --x y", "unknown flag: --x"),
    ] {
        let error = error(&format!("FROM a\n{line}\n"));
        assert_eq!(error.kind().to_string(), message, "{line}");
        assert_eq!(error.ranges()[0].start, 2, "{line}");
        assert!(error.excerpt().unwrap().contains('^'), "{line}");
    }
}

#[test]
fn directives_that_are_wrong() {
    assert_eq!(
        error("# escape=x\nFROM a\n").to_string(),
        "Dockerfile:1: invalid escape token 'x' does not match ` or \\"
    );
    assert_eq!(
        error("# syntax=a\n# Syntax=b\nFROM a\n").to_string(),
        "Dockerfile:2: only one syntax parser directive can be used"
    );
}

#[test]
fn a_word_that_cannot_be_expanded_is_pointed_at() {
    let text = "FROM a\nCOPY ok \\\n  ${x:?no x} /d\n";
    let source = SourceFile::new("Dockerfile", text.as_bytes());
    let file = parse(&source).unwrap();
    let mut copy = file.stages[0].instructions[0].clone();
    let variables: Vec<(String, String)> = Vec::new();
    // Words are split at blanks before they are expanded.
    let mut expander = weld_dockerfile::shell::Expander::new(file.escape, &variables);
    let error = copy.expand(&mut expander).unwrap_err().in_file(&source);
    assert_eq!(
        error.to_string(),
        "Dockerfile:3: failed to process \"${x:?no\": syntax error: missing '}'"
    );
    assert_eq!(error.marked().map(|mark| mark.column), Some(3));
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let error = error("FROM a\nX\u{1b}[2J y\n");
    assert_eq!(
        error.to_string(),
        "Dockerfile:2: unknown instruction: X\u{fffd}[2J"
    );
    assert!(!error.excerpt().unwrap().contains('\u{1b}'));
}

#[test]
fn a_line_that_nobody_reads_is_clipped() {
    let text = format!("FROM base\nCOPPY {}\n", "é".repeat(20_000));
    let excerpt = error(&text).excerpt().unwrap();
    assert!(excerpt.contains('…') && excerpt.contains('^'));
    assert!(excerpt.len() < 5000, "{}", excerpt.len());
}
