//! The image's config.

use crate::host::FakeHost;

#[test]
fn instructions_make_the_config() {
    let result = FakeHost::new(concat!(
        "FROM base\n",
        "MAINTAINER me\n",
        "LABEL a=\"b c\" d=e\n",
        "ENV X=1 BASE=2\n",
        "EXPOSE 80 53/udp 90-91\n",
        "VOLUME /v /x\n",
        "VOLUME [\"/a b\"]\n",
        "USER u\n",
        "WORKDIR /w\n",
        "STOPSIGNAL SIGINT\n",
        "SHELL [\"/bin/x\", \"-c\"]\n",
        "ENTRYPOINT run \"it\"\n",
        "CMD [\"a\", \"b\\\"\"]\n",
        "HEALTHCHECK --interval=5s --retries=3 CMD check\n",
        "ONBUILD RUN later\n",
    ))
    .one(&[("label:l", "m")]);
    let json = serde_json::to_value(&result.image).unwrap();
    assert_eq!(
        json["config"],
        serde_json::json!({
            "User": "u",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}},
            "Env": ["PATH=/bin", "BASE=2", "X=1"],
            "Entrypoint": ["/bin/x", "-c", "run \"it\""],
            "Cmd": ["a", "b\""],
            "Volumes": {"/v": {}, "/x": {}, "/a b": {}},
            "WorkingDir": "/w",
            "Labels": {"a": "b c", "d": "e", "l": "m"},
            "StopSignal": "SIGINT",
            "ArgsEscaped": true,
            "Healthcheck": {"Test": ["CMD-SHELL", "check"], "Interval": 5_000_000_000_i64, "Retries": 3},
            "OnBuild": ["RUN later"],
            "Shell": ["/bin/x", "-c"],
        })
    );
    assert_eq!(result.image.author, "me");
    let history: Vec<_> = result
        .image
        .history
        .iter()
        .map(|step| (step.created_by.as_str(), step.empty_layer))
        .collect();
    assert_eq!(
        history,
        [
            ("base", false),
            ("MAINTAINER me", true),
            ("LABEL a=b c d=e", true),
            ("ENV X=1 BASE=2", true),
            ("EXPOSE [53/udp 80/tcp 90/tcp 91/tcp]", true),
            ("VOLUME [/v /x]", true),
            ("VOLUME [/a b]", true),
            ("USER u", true),
            ("WORKDIR /w", false),
            ("STOPSIGNAL SIGINT", true),
            ("SHELL [/bin/x -c]", true),
            ("ENTRYPOINT [\"/bin/x\" \"-c\" \"run \\\"it\\\"\"]", true),
            ("CMD [\"a\" \"b\\\"\"]", true),
            (
                "HEALTHCHECK {Test:[CMD-SHELL check] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}",
                true
            ),
        ]
    );
}

#[test]
fn a_program_of_its_own_drops_the_arguments_of_the_base() {
    let image = FakeHost::new("FROM base\nENTRYPOINT [\"e\"]")
        .one(&[])
        .image;
    assert!(image.config.cmd.is_empty());
    let image = FakeHost::new("FROM base\nCMD [\"c\"]\nENTRYPOINT [\"e\"]")
        .one(&[])
        .image;
    assert_eq!(image.config.cmd, ["c"]);
}

#[test]
fn copies_and_runs_are_in_the_history_with_layers() {
    let result = FakeHost::new(
        "FROM scratch\nARG A=1\nCOPY --chown=1 --from=base a <<x /\nX\nx\nADD b c /d/",
    )
    .one(&[]);
    let history: Vec<_> = result
        .image
        .history
        .iter()
        .map(|step| step.created_by.as_str())
        .collect();
    assert_eq!(
        history,
        [
            "ARG A=1",
            "COPY --chown=1 a <<x / # buildkit",
            "ADD b c /d/ # buildkit"
        ]
    );
    assert_eq!(result.image.history[1].comment, "buildkit.dockerfile.v0");
    assert_eq!(result.image.config.working_dir, "/");
    assert_eq!(
        result.image.config.env,
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    );
}

#[test]
fn an_epoch_dates_the_history() {
    for (dockerfile, options) in [
        (
            "FROM base\nWORKDIR /w",
            vec![("build-arg:SOURCE_DATE_EPOCH", "86400")],
        ),
        ("ARG SOURCE_DATE_EPOCH=86400\nFROM base\nWORKDIR /w", vec![]),
    ] {
        let result = FakeHost::new(dockerfile).one(&options);
        assert_eq!(result.epoch, Some(86400));
        let last = result.image.history.last().unwrap();
        assert_eq!(last.created.as_deref(), Some("1970-01-02T00:00:00Z"));
        assert_eq!(result.image.history[0].created, None);
        let shown = crate::show::show(&result.definition);
        assert_eq!(shown[1], "1 on 0 mkdir /w 755 parents at 86400000000000");
    }
}

#[test]
fn each_platform_has_its_definition_and_config() {
    let config = |architecture: &str| {
        format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["x"]}}}}"#
        )
    };
    let host = FakeHost::new(
        "FROM --platform=$BUILDPLATFORM base AS b\nARG TARGETARCH\nRUN cc $TARGETARCH\nFROM arm\nCOPY --from=b / /\n",
    )
    .image("docker.io/library/arm:latest", &config("arm64"));
    let build = host
        .build(&[("platform", "linux/amd64,linux/arm64")])
        .unwrap();
    assert!(build.multi_platform);
    let ids: Vec<_> = build
        .results
        .iter()
        .map(|result| result.id.as_str())
        .collect();
    assert_eq!(ids, ["linux/amd64", "linux/arm64"]);
    let arm = &build.results[1];
    assert_eq!(arm.image.architecture, "arm64");
    let names = crate::show::names(&arm.definition);
    assert!(
        names.contains(&"[linux/amd64->arm64 b 2/2] RUN cc arm64".to_owned()),
        "{names:?}"
    );
    let mut resolved = host.resolved.lock().unwrap().clone();
    resolved.sort();
    assert_eq!(
        resolved,
        [
            "docker.io/library/arm:latest linux/amd64",
            "docker.io/library/arm:latest linux/arm64",
            "docker.io/library/base:latest linux/amd64",
            "docker.io/library/base:latest linux/amd64",
        ]
    );
    // The image for amd64 is one for arm64: told once, by the first platform.
    let warnings = host.warnings.lock().unwrap();
    assert_eq!(
        *warnings,
        [
            "4: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
        ]
    );
}

#[test]
fn warnings_are_told_and_may_fail_the_build() {
    let host =
        FakeHost::new("FROM base\nWORKDIR rel\nENV SECRET_KEY=1\nRUN x\nCMD a\nCMD b\nCOPY $y /");
    host.one(&[]);
    assert_eq!(
        *host.warnings.lock().unwrap(),
        [
            "2: Relative workdir \"rel\" can have unexpected results if the base image changes",
            "3: Do not use ARG or ENV instructions for sensitive data (ENV \"SECRET_KEY\")",
            "5: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "5: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            "6: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "7: Usage of undefined variable '$y'",
        ]
    );
    let host = FakeHost::new("# check=error=true\nFROM base\nWORKDIR rel\n");
    let error = host.build(&[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "Dockerfile:3: lint violation found for rules: WorkdirRelativePath"
    );
    assert_eq!(host.warnings.lock().unwrap().len(), 1);
}

#[test]
fn an_ignored_source_is_reported() {
    let host = FakeHost::new("FROM scratch\nCOPY a b /\nADD sub/x /\n").file(
        "context",
        ".dockerignore",
        "# c\na\nsub\n",
    );
    let result = host.one(&[]);
    assert_eq!(
        *host.warnings.lock().unwrap(),
        [
            "2: Attempting to Copy file \"a\" that is excluded by .dockerignore",
            "3: Attempting to Add file \"sub/x\" that is excluded by .dockerignore",
        ]
    );
    assert_eq!(
        crate::show::show(&result.definition)[0],
        "0 local://context local.excludepatterns=[\"a\",\"sub\"] local.followpaths=[\"a\",\"b\",\"sub/x\"] local.sharedkeyhint=context"
    );
}

#[test]
fn what_is_scanned_with_the_result_is_what_arguments_name() {
    let scanned = |globals: &str, options: &[(&str, &str)]| {
        let dockerfile = format!(
            "{globals}FROM scratch AS first\nARG BUILDKIT_SBOM_SCAN_STAGE\nCOPY a /a\n\
             FROM base\nCOPY --from=first /a /a\n\
             FROM first AS unused\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY b /b\n\
             FROM scratch\nCOPY --from=first /a /a\nCOPY --from=1 /a /b\n"
        );
        let built = FakeHost::new(&dockerfile).one(options);
        built.scanned.into_keys().collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    assert_eq!(scanned("", &[]), none);
    let stage = "ARG BUILDKIT_SBOM_SCAN_STAGE=true\n";
    assert_eq!(scanned(stage, &[]), ["first", "stage-1"]);
    let named = "ARG BUILDKIT_SBOM_SCAN_STAGE=other,first\n";
    assert_eq!(scanned(named, &[]), ["first"]);
    let context = "ARG BUILDKIT_SBOM_SCAN_CONTEXT=1\n";
    assert_eq!(scanned(context, &[]), ["context"]);
    let off = [("build-arg:BUILDKIT_SBOM_SCAN_CONTEXT", "false")];
    assert_eq!(scanned(context, &off), none);
    let on = [("build-arg:BUILDKIT_SBOM_SCAN_STAGE", "stage-1")];
    assert_eq!(
        scanned("", &on),
        none,
        "the second stage has no such argument"
    );
    let on = [("build-arg:BUILDKIT_SBOM_SCAN_STAGE", "1")];
    assert_eq!(scanned("", &on), ["first"]);
}
