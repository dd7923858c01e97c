//! What a request says of the conversion as a whole.

use crate::host::{FakeHost, error};

#[test]
fn official_frontends_are_built_in_and_others_are_refused() {
    FakeHost::new("# syntax=docker/dockerfile:1.7-labs\nFROM scratch").one(&[]);
    let error = error("# escape=\\\n# syntax=example.com/f:1 x\nFROM scratch", &[]);
    assert_eq!(
        error.to_string(),
        "Dockerfile:2: frontend image \"example.com/f:1\" is not supported: only docker/dockerfile and docker/dockerfile-upstream are, which are built in"
    );
    assert!(error.excerpt().unwrap().contains("^^^^^^^^^^^^^^^"));
    let by_option = [("build-arg:BUILDKIT_SYNTAX", "x/y")];
    assert!(FakeHost::new("FROM scratch").build(&by_option).is_err());
}

#[test]
fn a_base_for_another_platform_is_taken_if_no_one_asked_for_one() {
    let arm = r#"{"architecture":"arm64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["x"]}}"#;
    let host = FakeHost::new("FROM arm\nRUN x").image("docker.io/library/arm:latest", arm);
    assert_eq!(host.one(&[]).image.architecture, "arm64");
    let result = host.one(&[("platform", "linux/amd64")]);
    assert_eq!(result.image.architecture, "amd64");
    assert_eq!(result.id, "linux/amd64");
}

#[test]
fn a_resolve_mode_reaches_the_source() {
    let result = FakeHost::new("FROM base\nRUN x").one(&[("image-resolve-mode", "pull")]);
    let shown = crate::show::show(&result.definition);
    assert!(shown[0].ends_with(" image.resolvemode=pull"), "{shown:?}");
}
