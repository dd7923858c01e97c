//! What is wrong is said, with what and where.

use crate::host::{FakeHost, error};

#[test]
fn what_explains_an_error_is_warned_of_with_it() {
    for (dockerfile, message) in [
        (
            "FROM --platform=$TARGETPLATFROM base",
            "empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)",
        ),
        (
            "FROM --platform=linux/${TARGETPLATFROM} base",
            "failed to parse platform linux/${TARGETPLATFROM}: \"\" is an invalid component of \"linux/\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument (did you mean TARGETPLATFORM?)",
        ),
    ] {
        let host = FakeHost::new(dockerfile);
        assert_eq!(host.build(&[]).unwrap_err().message(), message);
        let warnings = host.warnings.lock().unwrap();
        let undeclared =
            "1: FROM argument 'TARGETPLATFROM' is not declared (did you mean TARGETPLATFORM?)";
        assert_eq!(*warnings, [undeclared]);
    }
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (dockerfile, message) in [
        (
            "ARG A\nFROM $A",
            "Dockerfile:2: base name ($A) should not be blank",
        ),
        (
            "FROM UPPER",
            "Dockerfile:1: failed to parse stage name \"UPPER\": invalid image reference \"UPPER\": repository name \"library/UPPER\" must be lowercase",
        ),
        (
            "FROM --platform=$X base",
            "Dockerfile:1: empty platform value from expression $X",
        ),
        (
            "FROM --platform=$TARGETPLATFROM base",
            "Dockerfile:1: empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)",
        ),
        (
            "FROM --platform=a/b/c/d base",
            "Dockerfile:1: failed to parse platform a/b/c/d: platform \"a/b/c/d\": expected os[/architecture[/variant]]",
        ),
        (
            "FROM alpin",
            "Dockerfile:1: alpin: failed to resolve source metadata for docker.io/library/alpin:latest (did you mean alpine?): docker.io/library/alpin:latest: not found",
        ),
        (
            "FROM base AS build\nFROM buildd",
            "Dockerfile:2: buildd: failed to resolve source metadata for docker.io/library/buildd:latest (did you mean build?): docker.io/library/buildd:latest: not found",
        ),
        (
            "FROM base AS build\nFROM scratch\nCOPY --from=biuld /a /",
            "Dockerfile:3: biuld: failed to resolve source metadata for docker.io/library/biuld:latest (did you mean build?): docker.io/library/biuld:latest: not found",
        ),
        (
            "FROM scratch\nCOPY --from=1 /a /",
            "Dockerfile:2: invalid stage index 1: there are 1 stages, counted from 0",
        ),
        (
            "FROM scratch AS unused\nCOPY --from=$x /a /\nFROM scratch",
            "Dockerfile:2: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        (
            "FROM scratch AS a\nCOPY --from=b /a /\nFROM scratch AS b\nFROM a",
            "Dockerfile:2: cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
        ),
        (
            "FROM base AS a\nRUN --mount=from=b,target=/x y\nFROM scratch AS b\nFROM a",
            "Dockerfile:2: cannot mount from stage \"b\" to \"/x\", stage needs to be defined before current command",
        ),
        (
            "FROM base\nRUN --mount=target=/ x",
            "Dockerfile:2: invalid mount target \"/\"",
        ),
        (
            "FROM base\nRUN --mount=type=cache,target=. x",
            "Dockerfile:2: invalid mount target \"/\"",
        ),
        (
            "FROM base\nCOPY https://h/x /",
            "Dockerfile:2: source can't be a URL for COPY: https://h/x",
        ),
        (
            "FROM base\nCOPY https://h/x.git /",
            "Dockerfile:2: source can't be a git ref for COPY: https://h/x.git",
        ),
        (
            "FROM base\nADD --checksum=sha256:0 a /",
            "Dockerfile:2: checksum requires HTTP(S) or Git sources",
        ),
        (
            "FROM base\nADD --checksum=sha256:0 https://h/a https://h/b /",
            "Dockerfile:2: checksum can't be specified for multiple sources",
        ),
        (
            "FROM base\nADD --checksum=sha256:0 https://h/a /",
            "Dockerfile:2: invalid checksum: digest \"sha256:0\": the hash must be 64 lower-case hexadecimal digits",
        ),
        (
            "FROM base\nADD --keep-git-dir=true https://h/a.git?keep-git-dir=false /",
            "Dockerfile:2: inconsistent keep-git-dir configuration",
        ),
        (
            "FROM base\nADD https://h/a.git?nosuch=1 /",
            "Dockerfile:2: git URL \"https://h/a.git?nosuch=1\": unexpected query \"nosuch\"",
        ),
        (
            "FROM base\nCOPY --chmod=888 a /",
            "Dockerfile:2: invalid chmod parameter: '888'. it should be octal string and between 0 and 07777, or a symbolic mode such as u=rwX,go=rX",
        ),
        (
            "FROM base\nSTOPSIGNAL SIGNOPE",
            "Dockerfile:2: invalid signal: SIGNOPE",
        ),
        (
            "FROM base\nEXPOSE x",
            "Dockerfile:2: invalid containerPort: x",
        ),
        (
            "FROM base\nVOLUME [\"$NONE\"]",
            "Dockerfile:2: VOLUME specified can not be an empty string",
        ),
        (
            "FROM base\nRUN x\nWORKDIR ${A:?is needed}",
            "Dockerfile:3: failed to process \"${A:?is needed}\": A: is needed",
        ),
        (
            "ARG SOURCE_DATE_EPOCH=x\nFROM base",
            "Dockerfile: invalid SOURCE_DATE_EPOCH: x: a number of seconds since 1970, up to the year 9999, is needed, or context, or the name of a stage or context",
        ),
    ] {
        assert_eq!(error(dockerfile, &[]).to_string(), message, "{dockerfile}");
    }
    let late = error(
        "FROM base",
        &[("build-arg:SOURCE_DATE_EPOCH", "253402300800")],
    );
    assert!(late.to_string().contains("up to the year 9999"), "{late}");
}

#[test]
fn a_target_that_is_no_stage_gets_a_suggestion() {
    let error = error(
        "FROM base AS build\nFROM base AS test",
        &[("target", "biuld")],
    );
    assert_eq!(
        error.to_string(),
        "Dockerfile: target stage \"biuld\" could not be found (did you mean build?)"
    );
}

#[test]
fn stages_that_need_each_other_are_all_shown() {
    let dockerfile = "FROM base AS a\nCOPY --from=b /x /\nFROM base AS b\nRUN --mount=from=c,target=/m x\nFROM a AS c\nRUN y";
    let error = error(dockerfile, &[]);
    let message = error.to_string();
    assert!(
        message.contains("circular dependency detected on stage: a"),
        "{message}"
    );
    let excerpt = error.excerpt().unwrap();
    for line in ["COPY --from=b", "RUN --mount=from=c", "FROM a AS c"] {
        let marked = excerpt
            .lines()
            .any(|shown| shown.contains(">>>") && shown.contains(line));
        assert!(marked, "{line}\n{excerpt}");
    }
    let caret = "   5 | >>> FROM a AS c\n     |          ^\n";
    assert!(excerpt.contains(caret), "{excerpt}");
    let own = crate::host::error("FROM base AS a\nCOPY --from=a /x /", &[]);
    assert_eq!(
        own.to_string(),
        "Dockerfile:2: circular dependency detected on stage: a"
    );
    let excerpt = own.excerpt().unwrap();
    assert!(
        excerpt.contains(">>> COPY --from=a /x /\n     |                 ^\n"),
        "{excerpt}"
    );
}

#[test]
fn malformed_contexts_are_refused_by_name() {
    let digest = "sha256:cc";
    for (value, reason) in [
        ("nothing", "expected SCHEME:VALUE"),
        ("ftp://x", "expected docker-image://"),
        ("docker-image://UP", "must be lowercase"),
        ("oci-layout://store", "needs a digest"),
        (&format!("oci-layout://store@{digest}"), "64 lower-case"),
        ("input:x", "there is no such input"),
    ] {
        let message = error("FROM base", &[("context:base", value)]).to_string();
        assert!(message.contains(reason), "{value}: {message}");
        assert!(
            message.starts_with("Dockerfile:1: invalid context specifier"),
            "{message}"
        );
    }
}

#[test]
fn a_malformed_image_config_is_refused() {
    let host = crate::host::FakeHost::new("FROM bad").image("docker.io/library/bad:latest", "{");
    let message = host.build(&[]).unwrap_err().to_string();
    assert!(
        message.starts_with("Dockerfile:1: failed to parse the config of image bad"),
        "{message}"
    );
}

#[test]
fn a_malformed_ignore_file_is_refused() {
    let host = crate::host::FakeHost::new("FROM base").file("context", ".dockerignore", "a\n[\n");
    let message = host.build(&[]).unwrap_err().to_string();
    assert!(message.contains("invalid pattern \"[\""), "{message}");
}

#[test]
fn a_trigger_is_refused_where_it_came_in() {
    let host = crate::host::FakeHost::new("FROM base\n\nFROM trigger").image(
        "docker.io/library/trigger:latest",
        r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["NOSUCH x"]},"rootfs":{"type":"layers","diff_ids":["x"]}}"#,
    );
    let message = host.build(&[]).unwrap_err().to_string();
    assert_eq!(message, "Dockerfile:3: unknown instruction: NOSUCH");
}

#[test]
fn what_a_policy_made_no_image_of_is_no_base() {
    let host = crate::host::FakeHost::new("FROM no-image\nCOPY a /\n")
        .image("docker.io/library/no-image:latest", "{}");
    let message = host.build(&[]).unwrap_err().to_string();
    assert!(message.contains("no-image what is no image"), "{message}");
}
