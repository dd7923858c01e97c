//! Properties that hold for any file.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use weld_dockerfile::ignore::IgnoreError;
use weld_dockerfile::instruction::{Instruction, Kind};
use weld_dockerfile::lint::{LintConfig, Linter, check_syntax};
use weld_dockerfile::shell::Expander;
use weld_dockerfile::{Dockerfile, LineRange, SourceFile, directive, ignore, parse, parse_trigger};

fn source(text: &str) -> SourceFile {
    SourceFile::new("Dockerfile", text.as_bytes())
}

/// Everything that is done with a file before it is converted.
fn use_all(data: &[u8]) {
    let _ = directive::detect_syntax(data);
    let config = LintConfig::from_dockerfile(data).unwrap_or_default();
    let file = match parse(&SourceFile::new("Dockerfile", data)) {
        Ok(file) => file,
        Err(error) => {
            let _ = (error.to_string(), error.excerpt());
            return;
        }
    };
    check_syntax(&file, &mut Linter::new(config));
    let variables = vec![("A".to_owned(), "b c".to_owned())];
    let mut expander = Expander::new(file.escape, &variables);
    let all = file.stages.iter().flat_map(|stage| &stage.instructions);
    for mut instruction in all.cloned() {
        if let Err(error) = instruction.expand(&mut expander) {
            let _ = error.in_file(&file.source).excerpt();
        }
        match &instruction.kind {
            Kind::Run(run) => {
                let _ = run.body();
                for mount in &run.mounts {
                    let _ = mount.resolve(&mut expander);
                }
            }
            Kind::Onbuild(trigger) => {
                let _ = parse_trigger(trigger, instruction.lines);
            }
            _ => {}
        }
    }
}

/// The file again from its instructions, one line for each, and bodies of heredocs.
fn format(file: &Dockerfile) -> String {
    let mut text = String::new();
    if file.escape != '\\' {
        text.push_str("# escape=`\n");
    }
    for arg in &file.global_args {
        format_instruction(&arg.comments, &arg.source, &mut text);
    }
    for stage in &file.stages {
        format_instruction(&stage.comments, &stage.source, &mut text);
        for instruction in &stage.instructions {
            format_instruction(&instruction.comments, &instruction.source, &mut text);
            format_bodies(instruction, &mut text);
        }
    }
    text
}

fn format_instruction(comments: &[String], line: &str, text: &mut String) {
    for comment in comments {
        text.push_str(&format!("# {comment}\n"));
    }
    text.push_str(line);
    text.push('\n');
}

fn format_bodies(instruction: &Instruction, text: &mut String) {
    match &instruction.kind {
        Kind::Run(run) => {
            for heredoc in &run.heredocs {
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
                text.push('\n');
            }
        }
        Kind::Onbuild(trigger) => {
            if let Some((_, bodies)) = trigger.split_once('\n') {
                text.push_str(bodies);
                text.push('\n');
            }
        }
        _ => {}
    }
}

/// The file without what formatting changes: lines, and its own text.
fn without_lines(file: &Dockerfile) -> String {
    let mut file = file.clone();
    let nowhere = LineRange::line(0);
    file.source = source("");
    file.empty_continuations.clear();
    for arg in &mut file.global_args {
        arg.lines = nowhere;
    }
    for stage in &mut file.stages {
        stage.lines = nowhere;
        for instruction in &mut stage.instructions {
            instruction.lines = nowhere;
        }
    }
    // Marks are within and not public: they count for nothing here.
    let text = format!("{file:?}");
    let mut parts = text.split("mark: Mark {");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |whole, part| {
        whole + part.split_once('}').map_or("", |(_, rest)| rest)
    })
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/.]{1,5}",
        "\"[a-z ]{0,4}\"",
        "'[a-z $]{0,4}'",
        "[a-z]{1,3}=[a-z]{0,3}",
        "\\$\\{[A-C]:-[a-z]{0,2}\\}",
        Just("[\"a\", \"b c\"]".to_owned()),
        Just("a\\ b".to_owned()),
        Just("한국".to_owned()),
    ]
}

fn instruction() -> impl Strategy<Value = String> {
    let keyword = prop_oneof![
        Just("RUN"),
        Just("COPY x"),
        Just("COPY --from=a --link x"),
        Just("ADD --chmod=644 x"),
        Just("ENV"),
        Just("LABEL k=v"),
        Just("ARG"),
        Just("CMD"),
        Just("ENTRYPOINT"),
        Just("RUN --mount=type=cache,target=/x --network=none"),
        Just("EXPOSE"),
        Just("WORKDIR"),
        Just("VOLUME"),
        Just("HEALTHCHECK --retries=2 CMD"),
        Just("ONBUILD RUN"),
        Just("STOPSIGNAL"),
        Just("RUN <<EOF cat"),
    ];
    let gap = prop_oneof![
        4 => Just(" "),
        1 => Just(" \\\n  "),
        1 => Just(" \\\n# comment\n"),
        1 => Just("\t"),
    ];
    let words = prop::collection::vec((gap, word()), 0..4);
    (keyword, words, "[a-z \t\n]{0,10}").prop_map(|(keyword, words, body)| {
        let mut text = keyword.to_owned();
        for (gap, word) in words {
            text.push_str(gap);
            text.push_str(&word);
        }
        if keyword.contains("<<") {
            text.push_str(&format!("\n{body}\nEOF"));
        }
        text
    })
}

fn dockerfile() -> impl Strategy<Value = String> {
    let comment = prop_oneof![Just(""), Just("# note\n"), Just("\n"), Just("#\n")];
    let lines = prop::collection::vec((comment, instruction()), 0..6);
    ("(ARG [a-z]=[a-z]\n)?", lines).prop_map(|(arg, lines)| {
        let mut text = format!("{arg}FROM base AS x\n");
        for (comment, line) in lines {
            text.push_str(comment);
            text.push_str(&line);
            text.push('\n');
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        use_all(&data);
    }

    #[test]
    fn no_text_panics(text in "(FROM|RUN|COPY|ONBUILD|ENV|#|[ \t\n\\\\\"'`$<>{}\\[\\],=:-]|--|<<|EOF|\\PC){0,60}") {
        use_all(text.as_bytes());
        use_all(format!("FROM a\n{text}").as_bytes());
    }

    #[test]
    fn no_dockerfile_panics(text in dockerfile(), cut in any::<prop::sample::Index>()) {
        use_all(text.as_bytes());
        let at = cut.index(text.len());
        use_all(&text.as_bytes()[..at]);
    }

    /// A file written anew from what was understood is understood the same.
    #[test]
    fn formatting_is_stable(text in dockerfile()) {
        let Ok(file) = parse(&source(&text)) else { return Ok(()) };
        let formatted = format(&file);
        let again = parse(&source(&formatted)).map_err(|error| {
            TestCaseError::fail(format!("{error}\n{formatted}"))
        })?;
        prop_assert_eq!(without_lines(&file), without_lines(&again));
        prop_assert_eq!(&formatted, &format(&again));
    }

    /// Every range lies in the file, in order, without overlap.
    #[test]
    fn lines_are_those_of_the_file(text in dockerfile()) {
        let Ok(file) = parse(&source(&text)) else { return Ok(()) };
        let mut last = 0;
        let stages = file.stages.iter().flat_map(|stage| {
            std::iter::once(stage.lines).chain(stage.instructions.iter().map(|i| i.lines))
        });
        for lines in file.global_args.iter().map(|arg| arg.lines).chain(stages) {
            prop_assert!(last < lines.start && lines.start <= lines.end);
            last = lines.end;
        }
        let count = text.lines().count();
        prop_assert!(usize::try_from(last).unwrap() <= count);
    }

    /// Exclamation marks only where they mean something: elsewhere cleaning can bring them to
    /// the front, as it does in Docker.
    #[test]
    fn ignore_files_never_panic_and_are_clean(
        lines in prop::collection::vec("(! ?)?[a-c#/. *\\\\\t]{0,12}", 0..6)
    ) {
        let text = lines.join("\n");
        let patterns = match ignore::parse(text.as_bytes()) {
            Ok(patterns) => patterns,
            Err(error) => {
                prop_assert!(matches!(error, IgnoreError::Pattern { .. }), "{error}");
                return Ok(());
            }
        };
        for pattern in &patterns {
            let path = pattern.strip_prefix('!').unwrap_or(pattern);
            prop_assert!(!path.contains("//"), "{pattern}");
            prop_assert!(path.len() < 2 || !path.ends_with('/'), "{pattern}");
            prop_assert!(path.len() < 2 || !path.starts_with('/'), "{pattern}");
            // A clean path has `..` only in front.
            let parts: Vec<&str> = path.split('/').collect();
            let ups = parts.iter().take_while(|part| **part == "..").count();
            prop_assert!(!parts[ups..].contains(&".."), "{pattern}");
            prop_assert!(parts == ["."] || !parts.contains(&"."), "{pattern}");
        }
        // What is clean stays as it is, unless it would mean something else at a line's
        // beginning or has lost the slash between itself and a blank.
        let again: Vec<String> = patterns
            .iter()
            .filter(|pattern| {
                let path = pattern.strip_prefix('!').unwrap_or(pattern);
                path.trim() == path && !path.starts_with(['#', '!'])
            })
            .cloned()
            .collect();
        prop_assert_eq!(ignore::parse(again.join("\n").as_bytes()).unwrap(), again);
    }
}
