//! What a target can be given.

use weld_dockerfile::convert::{Argument, Grant, Outline};

use crate::host::FakeHost;

/// Arguments as `LINE NAME=VALUE`, with what is said of them.
fn args(outline: &Outline) -> Vec<String> {
    let text = |argument: &Argument| {
        let Argument {
            name,
            value,
            doc,
            lines,
        } = argument;
        let doc = doc.as_ref().map(|doc| format!(": {doc}"));
        format!("{} {name}={value}{}", lines.start, doc.unwrap_or_default())
    };
    outline.args.iter().map(text).collect()
}

fn grants(grants: &[Grant]) -> Vec<String> {
    let text = |grant: &Grant| {
        let required = if grant.required { " required" } else { "" };
        format!("{} {}{required}", grant.lines.start, grant.id)
    };
    grants.iter().map(text).collect()
}

#[test]
fn arguments_are_those_that_matter_to_the_target() {
    let dockerfile = "\
ARG inherited=se
ARG unused=x${inherited}
# suffix ends a name
ARG suffix=${inherited}
FROM ba${suffix} AS first
ARG FOO=1
# BAR is a number
ARG BAR=2
ARG inherited
FROM base${unused} AS second
ARG BAZ
FROM scratch AS third
ARG OF_THIRD=3
ARG FOO=shadowed
# target is what is built
FROM first AS target
ARG secretive
COPY --from=third /x /
FROM second
";
    let host = FakeHost::new(dockerfile);
    let outline = host.outline(&[("target", "target"), ("build-arg:BAR", "678")]);
    let outline = outline.unwrap();
    assert_eq!(outline.name.as_deref(), Some("target"));
    assert_eq!(outline.doc.as_deref(), Some("is what is built"));
    assert_eq!(
        args(&outline),
        [
            "1 inherited=se",
            "4 suffix=se: ends a name",
            "6 FOO=1",
            "8 BAR=678: is a number",
            "13 OF_THIRD=3",
            "17 secretive=",
        ]
    );
    assert_eq!(outline.source.data(), dockerfile.as_bytes());
}

#[test]
fn an_argument_has_its_last_value_and_what_that_is_made_of() {
    let host = FakeHost::new(
        "ARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\n\
         ARG FOO=${FOO}456${BAR}\nFROM scratch\nARG FOO\nARG IN=123\nARG INBAR=${IN}456\n\
         ARG IN=${IN}456${INBAR}\n",
    );
    assert_eq!(
        args(&host.outline(&[]).unwrap()),
        [
            "2 ABC=abc",
            "5 BAR=123abc456",
            "6 FOO=123abc456123abc456",
            "10 INBAR=123456",
            "11 IN=123456123456",
        ]
    );
}

#[test]
fn secrets_and_agents_are_those_that_the_target_mounts() {
    let host = FakeHost::new(
        "FROM base AS first\n\
         RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true\n\
         FROM base AS second\n\
         RUN --mount=type=secret,id=unused --mount=type=ssh,id=two true\n\
         FROM base AS third\n\
         ARG BAR\n\
         RUN --mount=type=secret,id=second${BAR} true\n\
         FROM third AS target\n\
         COPY --from=first /foo /\n\
         RUN --mount=type=ssh,id=three,required true\n",
    );
    let outline = host.outline(&[("build-arg:BAR", "678")]).unwrap();
    assert_eq!(
        grants(&outline.secrets),
        ["2 passwd required", "7 second678"]
    );
    assert_eq!(grants(&outline.agents), ["2 default", "10 three required"]);
}

#[test]
fn what_cannot_be_built_has_no_outline() {
    let host = FakeHost::new("FROM scratch\nCOPY --from=nothing:x /a /\n");
    assert!(host.outline(&[]).is_err());
    let unknown = FakeHost::new("FROM scratch").outline(&[("target", "x")]);
    assert!(unknown.unwrap_err().to_string().contains("target stage"));
}
