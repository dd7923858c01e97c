//! `SOURCE_DATE_EPOCH` that names a source.

use crate::host::{FakeHost, error};

const TIME: i64 = 1_700_000_000;

fn host(dockerfile: &str) -> FakeHost {
    FakeHost::new(dockerfile).time(TIME)
}

#[test]
fn a_build_bears_the_time_of_its_context() {
    let dockerfile = "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV AT=$SOURCE_DATE_EPOCH\nCOPY a /";
    let git = FakeHost::default().time(TIME);
    let git = git.file("git://h/r.git#main", "Dockerfile", dockerfile);
    let epoch = ("build-arg:SOURCE_DATE_EPOCH", "context");
    let result = git.one(&[("context", "https://h/r.git#main"), epoch]);
    assert_eq!(result.epoch, Some(TIME));
    let env = &result.image.config.env;
    assert!(env.contains(&format!("AT={TIME}")), "{env:?}");

    // A directory of the client's has no time.
    let result = host(dockerfile).one(&[epoch]);
    assert_eq!(result.epoch, None);
}

#[test]
fn a_build_bears_the_time_of_a_context_or_a_stage_that_it_names() {
    let stages = "ARG SOURCE_DATE_EPOCH=source\nARG HOST=h\nFROM scratch AS source\nARG NAME=x\n\
        ADD https://$HOST/$NAME /\nFROM scratch\n";
    assert_eq!(host(stages).one(&[]).epoch, Some(TIME));
    let named = [
        ("build-arg:SOURCE_DATE_EPOCH", "other"),
        ("context:other", "https://h/x.tar"),
    ];
    assert_eq!(host("FROM scratch").one(&named).epoch, Some(TIME));
    let number = [("build-arg:SOURCE_DATE_EPOCH", "5")];
    assert_eq!(host(stages).one(&number).epoch, Some(5));
}

#[test]
fn what_is_no_source_is_refused() {
    for (stage, part) in [
        ("FROM base AS s\nADD https://h/x /", "must use FROM scratch"),
        ("FROM scratch AS s", "exactly one remote ADD"),
        ("FROM scratch AS s\nADD x /", "a single HTTP(S) or Git ADD"),
        (
            "FROM scratch AS s\nADD https://h/x /\nADD https://h/y /",
            "exactly one remote ADD",
        ),
        (
            "FROM scratch AS s\nADD https://h/x /\nCOPY y /",
            "does not meet source-only requirements: unsupported COPY instruction",
        ),
    ] {
        let dockerfile = format!("{stage}\nFROM scratch\n");
        let refused = error(&dockerfile, &[("build-arg:SOURCE_DATE_EPOCH", "s")]);
        assert!(refused.to_string().contains(part), "{refused}");
    }
    let unknown = error("FROM scratch", &[("build-arg:SOURCE_DATE_EPOCH", "s")]);
    assert!(unknown.to_string().contains("invalid SOURCE_DATE_EPOCH: s"));
}
