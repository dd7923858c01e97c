//! The linter: which rule speaks when, and how it is told to be silent.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use weld_dockerfile::lint::{Finding, LintConfig, Linter, Rule, check_syntax, checks};
use weld_dockerfile::{ErrorKind, LineRange, SourceFile, parse};

/// Rule, message and first line of the warnings about `text`.
fn warnings(text: &str) -> Vec<(&'static str, String, u32)> {
    let config = LintConfig::from_dockerfile(text.as_bytes()).unwrap();
    let file = parse(&SourceFile::new("Dockerfile", text.as_bytes())).unwrap();
    let mut linter = Linter::new(config);
    check_syntax(&file, &mut linter);
    linter
        .warnings()
        .iter()
        .map(|w| (w.rule().name(), w.finding.to_string(), w.lines.start))
        .collect()
}

fn one(text: &str) -> (&'static str, String, u32) {
    let mut all = warnings(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn rules_of_the_text() {
    for (text, rule, message, line) in [
        (
            "FROM a AS Build\n",
            "StageNameCasing",
            "Stage name 'Build' should be lowercase",
            1,
        ),
        (
            "FROM a as build\n",
            "FromAsCasing",
            "'as' and 'FROM' keywords' casing do not match",
            1,
        ),
        (
            "FROM a\nRUN x \\\n\n y\n",
            "NoEmptyContinuation",
            "Empty continuation line",
            4,
        ),
        (
            "FROM a\nRUN x\nrun y\n",
            "ConsistentInstructionCasing",
            "Command 'run' should match the case of the command majority (uppercase)",
            3,
        ),
        (
            "from a\nrun x\nCmd y\n",
            "ConsistentInstructionCasing",
            "Command 'Cmd' should match the case of the command majority (lowercase)",
            3,
        ),
        (
            "FROM a AS x\nFROM b AS x\n",
            "DuplicateStageName",
            "Duplicate stage name \"x\", stage names should be unique",
            2,
        ),
        (
            "FROM a AS scratch\n",
            "ReservedStageName",
            "Stage name should not use the same name as reserved stage \"scratch\"",
            1,
        ),
        (
            "FROM a\nMAINTAINER m\n",
            "MaintainerDeprecated",
            "Maintainer instruction is deprecated in favor of using label",
            2,
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n\n# wrong\nARG a=b\nFROM x\n",
            "InvalidDefinitionDescription",
            "Comment for ARG should follow the format: `# a <description>`",
            4,
        ),
        (
            "# check=experimental=all\nFROM x\n# wrong\nARG a=b c\n",
            "InvalidDefinitionDescription",
            "Comment for ARG should follow the format: `# <arg_key> <description>`",
            4,
        ),
        (
            "# check=experimental=all\n# wrong\nFROM x AS y\n",
            "InvalidDefinitionDescription",
            "Comment for FROM should follow the format: `# y <description>`",
            3,
        ),
    ] {
        assert_eq!(one(text), (rule, message.to_owned(), line), "{text}");
    }
}

#[test]
fn what_is_right_is_not_reported() {
    for text in [
        "FROM a AS b\nRUN x\n# comment\nARG c\n",
        "from a as b\nrun x\n",
        // The casing of AS is no matter where FROM's own is wrong; that is another rule's.
        "# check=skip=ConsistentInstructionCasing\nFrom a as b\n",
        "# check=experimental=all\n# a the a\nARG a\n# b the b\nFROM x AS b\n",
    ] {
        assert_eq!(warnings(text), [], "{text}");
    }
}

#[test]
fn rules_can_be_skipped_for_the_file_or_one_instruction() {
    let body = "FROM a AS Build\nMAINTAINER m\n";
    assert_eq!(warnings(body).len(), 2);
    assert_eq!(warnings(&format!("# check=skip=all\n{body}")), []);
    assert_eq!(
        one(&format!(
            "# check=skip=A,StageNameCasing;error=true the rest is a remark\n{body}"
        ))
        .0,
        "MaintainerDeprecated"
    );
    let local =
        "FROM a\n# check=skip=MaintainerDeprecated // for now\nMAINTAINER m\nMAINTAINER n\n";
    assert_eq!(one(local).2, 4);
    let malformed = "FROM a\n# check=nonsense\nMAINTAINER m\n";
    assert_eq!(one(malformed).2, 3);
}

#[test]
fn warnings_can_be_errors() {
    let config = LintConfig::parse("error=true").unwrap();
    let mut linter = Linter::new(config);
    assert!(linter.verdict().is_ok());
    for line in [3, 5] {
        let lines = LineRange::line(line);
        linter.report(Finding::MaintainerDeprecated {}, lines, &[]);
    }
    linter.report(Finding::NoEmptyContinuation {}, LineRange::line(9), &[]);
    let error = linter.verdict().unwrap_err();
    assert_eq!(
        *error.kind(),
        ErrorKind::LintViolations {
            rules: vec![Rule::MaintainerDeprecated, Rule::NoEmptyContinuation]
        }
    );
    assert_eq!(error.ranges().len(), 3);
    assert_eq!(linter.warnings().len(), 3);
}

#[test]
fn wrong_options_are_refused() {
    for (options, wrong) in [
        ("skip", "skip"),
        ("error=maybe", "error=maybe"),
        ("skip=a;stop=b", "stop=b"),
    ] {
        let option = wrong.to_owned();
        assert_eq!(
            LintConfig::parse(options),
            Err(ErrorKind::InvalidCheckOption { option }),
            "{options}"
        );
    }
}

#[test]
fn what_is_asked_of_weldkit_and_not_understood_is_said() {
    let text = "# weld:merge=never\nFROM a\n# weld:merge=never\nRUN a\n# weld:merge=nevr\nRUN b\n\
        # weld:merg=never\nCOPY a b\n# weld:merge=auto\nWORKDIR /c\n# weld:merge=never\nENV a=b\n# a weld: x\nRUN d\n";
    let told: Vec<String> = warnings(text)
        .into_iter()
        .map(|(_, told, _)| told)
        .collect();
    assert_eq!(
        told,
        [
            "Comment 'weld:merge=never' has no effect: it is not above RUN, COPY, ADD or WORKDIR",
            "Comment 'weld:merge=nevr' has no effect: \"nevr\" is unknown (did you mean never?)",
            "Comment 'weld:merg=never' has no effect: \"merg\" is unknown (did you mean merge?)",
            "Comment 'weld:merge=never' has no effect: it is not above RUN, COPY, ADD or WORKDIR",
        ]
    );
}

#[test]
fn every_rule_is_documented() {
    let mut names = BTreeSet::new();
    for rule in Rule::ALL {
        assert!(names.insert(rule.name()));
        assert!(!rule.description().is_empty());
        let documented = rule
            .url()
            .starts_with("https://docs.docker.com/go/dockerfile/rule/");
        assert!(
            documented
                || matches!(
                    rule,
                    Rule::InvalidBaseImagePlatform | Rule::UnknownWeldComment
                ),
            "{rule:?}"
        );
    }
}

#[test]
fn names_that_sound_like_secrets() {
    for name in [
        "password",
        "API_KEY",
        "git_token",
        "AUTH",
        "Secret_x",
        "apikey",
    ] {
        let finding = checks::secret_name("ENV", name).unwrap();
        assert_eq!(
            finding.to_string(),
            format!("Do not use ARG or ENV instructions for sensitive data (ENV {name:?})")
        );
    }
    for name in [
        "PUBLIC_KEY",
        "password_file",
        "AUTH_MODULE_VERSION",
        "passphrase",
        "monkey",
    ] {
        assert_eq!(checks::secret_name("ARG", name), None, "{name}");
    }
}

#[test]
fn variables_that_are_not_defined() {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let environment = vec![("VERSION".to_owned(), "1".to_owned())];
    let unmatched = set(&["VERSON", "declared", "BUILDKIT_SBOM_SCAN_STAGE", "x"]);
    let messages: Vec<String> =
        checks::undefined_variables(&unmatched, &["declared"], &environment)
            .iter()
            .map(ToString::to_string)
            .collect();
    assert_eq!(
        messages,
        [
            "Usage of undefined variable '$VERSON' (did you mean $VERSION?)",
            "Usage of undefined variable '$x'"
        ]
    );
    let messages: Vec<String> = checks::undeclared_in_from(&set(&["TAGG", "b"]), &["TAG", "b"])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        messages,
        ["FROM argument 'TAGG' is not declared (did you mean TAG?)"]
    );
}

#[test]
fn platforms_of_from() {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (none, target) = (set(&[]), set(&["TARGETPLATFORM"]));
    let amd64 = "linux/amd64";
    let redundant = |written: &str, matched: &BTreeSet<String>, unmatched: &BTreeSet<String>| {
        checks::redundant_platform(written, amd64, matched, unmatched, amd64)
    };
    assert!(redundant("$TARGETPLATFORM", &target, &none).is_some());
    assert!(redundant("$TARGETPLATFORM$x", &target, &set(&["x"])).is_none());
    assert!(redundant("$BUILDPLATFORM", &set(&["BUILDPLATFORM"]), &none).is_none());

    let constant =
        |matched, stage| checks::constant_platform(amd64, matched, &none, stage, "linux", "amd64");
    assert!(constant(&none, None).is_some());
    assert!(constant(&none, Some("build_amd64")).is_none());
    assert!(constant(&target, None).is_none());
}
