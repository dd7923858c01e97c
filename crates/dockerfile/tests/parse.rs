//! What Dockerfiles mean: directives, lines, heredocs, and the fields of every instruction.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use weld_dockerfile::instruction::{
    CommandLine, HealthTest, Instruction, Kind, NetworkMode, RunBody, SecurityMode,
};
use weld_dockerfile::{Dockerfile, LineRange, SourceFile, directive, parse, parse_trigger};

fn read(text: &str) -> Dockerfile {
    parse(&SourceFile::new("Dockerfile", text.as_bytes())).unwrap()
}

/// The instructions of the only stage.
fn instructions(text: &str) -> Vec<Instruction> {
    read(&format!("FROM base\n{text}"))
        .stages
        .remove(0)
        .instructions
}

fn only(text: &str) -> Kind {
    let mut all = instructions(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0).kind
}

#[test]
fn stages_and_global_args() {
    let file = read(
        "ARG version=1 base\n\
         # build compiles\n\
         FROM --platform=$BUILDPLATFORM golang:${version} AS Build\n\
         RUN make\n\
         from scratch\n\
         COPY --from=build /out /\n",
    );
    assert_eq!(file.global_args.len(), 1);
    let [build, last] = file.stages.as_slice() else {
        panic!("{:?}", file.stages)
    };
    assert_eq!(build.name.as_deref(), Some("build"));
    assert_eq!(build.written_name.as_ref().unwrap().name, "Build");
    assert_eq!(build.base, "golang:${version}");
    assert_eq!(build.platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!(build.doc.as_deref(), Some("compiles"));
    assert_eq!(build.lines, LineRange::line(3));
    assert_eq!((last.index, last.name.as_deref()), (1, None));
    assert_eq!(last.keyword, "from");

    assert_eq!(file.stage_named("BUILD").unwrap().index, 0);
    assert_eq!(file.stage_referred("1").unwrap().index, 1);
    assert_eq!(file.base_stage(last, "build").unwrap().index, 0);
    assert!(file.base_stage(build, "build").is_none());
    assert_eq!(file.similar_stage("biuld").as_deref(), Some("build"));
}

#[test]
fn escape_directive_changes_continuation_and_quoting() {
    let file = read("# escape=`\nFROM base\nRUN dir `\n  c:\\\nENV a=x` y\n");
    assert_eq!(file.escape, '`');
    let [run, env] = file.stages[0].instructions.as_slice() else {
        panic!()
    };
    assert_eq!(run.source, "RUN dir   c:\\");
    let Kind::Env(env) = &env.kind else { panic!() };
    assert_eq!(env.pairs[0].value, "x` y");
}

#[test]
fn directives_end_at_the_first_other_line() {
    assert_eq!(read("# hello\n# escape=`\nFROM a\n").escape, '\\');
    assert_eq!(read("\n# escape=`\nFROM a\n").escape, '\\');
    assert_eq!(read("# check=skip=all\n# Escape = `\nFROM a\n").escape, '`');
}

#[test]
fn syntax_is_found_in_every_form() {
    let found = |text: &str| directive::detect_syntax(text.as_bytes());
    for text in [
        "# syntax=a/b:1\nFROM x",
        "#syntax = a/b:1 extra",
        "\u{feff}# syntax=a/b:1",
        "#!/usr/bin/env x\n# syntax=a/b:1",
        "# escape=`\n# SYNTAX=a/b:1\r\n",
        "// syntax=a/b:1\n{}",
        "{\"syntax\": \"a/b:1\"}",
    ] {
        let directive = found(text).unwrap_or_else(|| panic!("{text:?}"));
        assert_eq!(directive.first_word(), "a/b:1", "{text:?}");
    }
    assert_eq!(found("#!/bin/x\n# syntax=y").unwrap().line, 2);
    for text in [
        "FROM x\n# syntax=y",
        "# comment\n# syntax=y",
        "{\"a\": 1}",
        "",
    ] {
        assert_eq!(found(text), None, "{text:?}");
    }
}

#[test]
fn continuation_lines_leave_out_comments_and_blank_lines() {
    let file = read("FROM a\nRUN one \\\n  # not this\n\n  two \\  \n three\n");
    let run = &file.stages[0].instructions[0];
    assert_eq!(run.source, "RUN one   two  three");
    assert_eq!(run.lines, LineRange::new(2, 6));
    assert_eq!(file.empty_continuations, [LineRange::line(6)]);
}

#[test]
fn an_escaped_escape_does_not_continue() {
    let all = instructions("RUN echo \\\\\nRUN b\n");
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].source, "RUN echo \\\\");
}

#[test]
fn byte_order_mark_and_windows_line_endings() {
    let file = read("\u{feff}FROM a\r\nRUN x \\\r\n y\r\nCOPY <<EOF /f\r\nline\r\nEOF\r\n");
    let [run, copy] = file.stages[0].instructions.as_slice() else {
        panic!()
    };
    assert_eq!(run.source, "RUN x  y");
    let Kind::Copy(copy) = &copy.kind else {
        panic!()
    };
    assert_eq!(copy.transfer.inline_files[0].data, "line\r\n");
}

#[test]
fn comments_belong_to_the_next_instruction() {
    let all = instructions("# one\n#two\nRUN a\n# gone\n#\n# three\nRUN b\nRUN c\n");
    let comments: Vec<&[String]> = all.iter().map(|i| i.comments.as_slice()).collect();
    assert_eq!(comments, [&["one", "two"][..], &["three"], &[]]);
}

#[test]
fn a_single_heredoc_is_the_script() {
    let body = |text: &str| {
        let Kind::Run(run) = only(text) else { panic!() };
        run.body()
    };
    assert_eq!(
        body("RUN <<EOF\na\n\tb $X\nEOF\n"),
        RunBody::Shell("a\n\tb $X\n".into())
    );
    assert_eq!(
        body("RUN <<-EOF\n\ta\n\t\tb\n\tEOF\n"),
        RunBody::Shell("a\nb\n".into())
    );
    assert_eq!(
        body("RUN <<'run.py'\n#!/usr/bin/python\nprint()\nrun.py\n"),
        RunBody::Script {
            name: "run.py".into(),
            data: "#!/usr/bin/python\nprint()\n".into()
        }
    );
    assert_eq!(
        body("RUN python <<A && cat <<-B\n1\nA\n\t2\n\tB\n"),
        RunBody::Shell("python <<A && cat <<-B\n1\nA\n\t2\nB".into())
    );
    assert_eq!(
        body("RUN echo \"<<EOF\"\n"),
        RunBody::Shell("echo \"<<EOF\"".into())
    );
    assert_eq!(
        body("RUN [\"cat\", \"<<EOF\"]\n"),
        RunBody::Exec(vec!["cat".into(), "<<EOF".into()])
    );
}

#[test]
fn heredoc_files_of_copy() {
    let Kind::Copy(copy) = only(
        "COPY --chmod=644 <<a.txt <<\"b.txt\" c <<-d /dest/\n\
         $X\na.txt\n$Y\nb.txt\n\t\tz\n\td\n",
    ) else {
        panic!()
    };
    let files: Vec<(&str, &str, bool)> = copy
        .transfer
        .inline_files
        .iter()
        .map(|file| (file.name.as_str(), file.data.as_str(), file.expand))
        .collect();
    assert_eq!(
        files,
        [
            ("a.txt", "$X\n", true),
            ("b.txt", "$Y\n", false),
            ("d", "z\n", true)
        ]
    );
    assert_eq!(copy.transfer.sources, ["c"]);
    assert_eq!(copy.transfer.destination, "/dest/");
}

#[test]
fn heredocs_count_into_the_lines_of_an_instruction() {
    let all = instructions("RUN <<A cat <<B\nA\nb\nB\nRUN x\n");
    assert_eq!(all[0].lines, LineRange::new(2, 5));
    assert_eq!(all[1].lines, LineRange::line(6));
}

#[test]
fn copy_and_add_flags() {
    let Kind::Copy(copy) = only(
        "COPY --from=x --chown=a:b --chmod=u=rwX,go=rX --link --parents=true \
         --exclude=*.o --exclude='a b' s1 s2 d/",
    ) else {
        panic!()
    };
    assert_eq!(copy.from.as_deref(), Some("x"));
    assert!(copy.parents);
    let transfer = copy.transfer;
    assert_eq!(transfer.chown.as_deref(), Some("a:b"));
    assert_eq!(transfer.chmod.as_deref(), Some("u=rwX,go=rX"));
    assert!(transfer.link);
    assert_eq!(transfer.exclude, ["*.o", "a b"]);
    assert_eq!(transfer.sources, ["s1", "s2"]);

    let Kind::Add(add) = only(
        "ADD --checksum=sha256:aa --keep-git-dir=false --unpack --link=false [\"a b\", \"/d\"]",
    ) else {
        panic!()
    };
    assert_eq!(add.checksum.as_deref(), Some("sha256:aa"));
    assert_eq!((add.keep_git_dir, add.unpack), (Some(false), Some(true)));
    assert!(!add.transfer.link);
    assert_eq!(add.transfer.sources, ["a b"]);
}

#[test]
fn flags_end_at_the_first_other_word_or_two_dashes() {
    let Kind::Copy(copy) = only("COPY --link -- --odd /d") else {
        panic!()
    };
    assert_eq!(copy.transfer.sources, ["--odd"]);
    let Kind::Run(run) = only("RUN --network=none ls --color") else {
        panic!()
    };
    assert_eq!(run.command, CommandLine::Shell("ls --color".into()));
    assert_eq!(run.network, NetworkMode::None);
}

#[test]
fn run_flags() {
    let Kind::Run(run) = only(
        "RUN --security=insecure --network=host --device=vendor.com/gpu=all,required \
         --device=name=x x",
    ) else {
        panic!()
    };
    assert_eq!(run.security, SecurityMode::Insecure);
    assert_eq!(run.network, NetworkMode::Host);
    let devices: Vec<(&str, bool)> = run
        .devices
        .iter()
        .map(|device| (device.name.as_str(), device.required))
        .collect();
    assert_eq!(devices, [("vendor.com/gpu=all", true), ("x", false)]);
}

#[test]
fn env_and_label_in_both_forms() {
    let pairs = |text: &str| {
        let (Kind::Env(weld_dockerfile::instruction::Env { pairs })
        | Kind::Label(weld_dockerfile::instruction::Label { pairs })) = only(text)
        else {
            panic!()
        };
        pairs
            .into_iter()
            .map(|pair| (pair.key, pair.value, pair.legacy))
            .collect::<Vec<_>>()
    };
    let pair = |key: &str, value: &str, legacy| (key.to_owned(), value.to_owned(), legacy);
    assert_eq!(
        pairs("ENV a=1 b=\"two words\" c='x y' d=e\\ f"),
        [
            pair("a", "1", false),
            pair("b", "\"two words\"", false),
            pair("c", "'x y'", false),
            pair("d", "e\\ f", false)
        ]
    );
    assert_eq!(
        pairs("ENV key the  rest = all"),
        [pair("key", "the  rest = all", true)]
    );
    assert_eq!(
        pairs("LABEL \"a b\"=c=d e="),
        [pair("\"a b\"", "c=d", false), pair("e", "", false)]
    );
}

#[test]
fn args_have_names_defaults_and_descriptions() {
    let all = instructions("# b the b\nARG a b=\"x y\" c=\n");
    let Kind::Arg(arg) = &all[0].kind else {
        panic!()
    };
    let found: Vec<_> = arg
        .definitions
        .iter()
        .map(|d| (d.name.as_str(), d.default.as_deref(), d.doc.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("a", None, None),
            ("b", Some("\"x y\""), Some("the b")),
            ("c", Some(""), None)
        ]
    );
}

#[test]
fn commands_in_shell_and_exec_form() {
    assert_eq!(
        only("CMD echo \"hi\""),
        Kind::Cmd(CommandLine::Shell("echo \"hi\"".into()))
    );
    assert_eq!(
        only("ENTRYPOINT [\"a\", \"b c\"]"),
        Kind::Entrypoint(CommandLine::Exec(vec!["a".into(), "b c".into()]))
    );
    assert_eq!(only("CMD []"), Kind::Cmd(CommandLine::Exec(vec![])));
    // What is not quite JSON is a command.
    assert_eq!(
        only("CMD ['a', 'b']"),
        Kind::Cmd(CommandLine::Shell("['a', 'b']".into()))
    );
    assert_eq!(
        only("SHELL [\"/bin/bash\", \"-c\"]"),
        Kind::Shell(vec!["/bin/bash".into(), "-c".into()])
    );
}

#[test]
fn healthchecks() {
    let Kind::Healthcheck(check) = only(
        "HEALTHCHECK --interval=5m --timeout=3s --start-period=1m30s --start-interval=500ms \
         --retries=4 CMD curl -f x || exit 1",
    ) else {
        panic!()
    };
    assert_eq!(check.test, HealthTest::Shell("curl -f x || exit 1".into()));
    assert_eq!(check.interval, Some(Duration::from_secs(300)));
    assert_eq!(check.timeout, Some(Duration::from_secs(3)));
    assert_eq!(check.start_period, Some(Duration::from_secs(90)));
    assert_eq!(check.start_interval, Some(Duration::from_millis(500)));
    assert_eq!(check.retries, Some(4));

    let Kind::Healthcheck(check) = only("HEALTHCHECK cmd [\"a\"]") else {
        panic!()
    };
    assert_eq!(check.test, HealthTest::Exec(vec!["a".into()]));
    let Kind::Healthcheck(check) = only("healthcheck none []") else {
        panic!()
    };
    assert_eq!(check.test, HealthTest::None);
}

#[test]
fn the_rest_of_the_instructions() {
    let Kind::Expose(expose) = only("EXPOSE 80/tcp 53/udp $PORTS") else {
        panic!()
    };
    assert_eq!(expose.ports, ["$PORTS", "53/udp", "80/tcp"]);
    assert_eq!(
        only("VOLUME [\"/a b\", \"/c\"]"),
        Kind::Volume(vec!["/a b".into(), "/c".into()])
    );
    assert_eq!(
        only("VOLUME /a  /b"),
        Kind::Volume(vec!["/a".into(), "/b".into()])
    );
    assert_eq!(only("USER a:b"), Kind::User("a:b".into()));
    assert_eq!(only("WORKDIR /a b"), Kind::Workdir("/a b".into()));
    assert_eq!(only("STOPSIGNAL 9"), Kind::StopSignal("9".into()));
    assert_eq!(
        only("maintainer A <a@b>"),
        Kind::Maintainer("A <a@b>".into())
    );
}

#[test]
fn onbuild_keeps_its_trigger_with_heredocs() {
    let Kind::Onbuild(trigger) = only("ONBUILD  RUN <<EOF\na\nEOF\n") else {
        panic!()
    };
    assert_eq!(trigger, "RUN <<EOF\na\nEOF");
    let from = LineRange::line(7);
    let parsed = parse_trigger(&trigger, from).unwrap();
    assert_eq!(parsed.lines, from);
    let Kind::Run(run) = parsed.kind else {
        panic!()
    };
    assert_eq!(run.body(), RunBody::Shell("a\n".into()));

    assert_eq!(
        parse_trigger("RUN a\nRUN b", from).unwrap_err().ranges(),
        [from]
    );
    assert!(parse_trigger("FROM x", from).is_err());
    assert!(parse_trigger("# nothing", from).is_err());
}
