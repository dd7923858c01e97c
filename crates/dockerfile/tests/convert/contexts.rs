//! Where the Dockerfile and the files come from.

use weld_dockerfile::convert::Request;
use weld_llb::{Builder, Constraints, ImageSource, Platform, Source};

use crate::host::FakeHost;
use crate::show::{names, show};

const DIGEST: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

#[test]
fn a_dockerfile_may_be_called_otherwise_and_have_its_own_ignore_file() {
    let host = FakeHost::default()
        .file("dockerfile", "sub/my.df", "FROM scratch\nCOPY . /")
        .file("dockerfile", "sub/my.df.dockerignore", "x")
        .file("context", ".dockerignore", "y");
    let result = host.one(&[("filename", "sub/my.df")]);
    let shown = show(&result.definition);
    assert_eq!(
        shown[0],
        "0 local://context local.excludepatterns=[\"x\"] local.sharedkeyhint=context"
    );
    assert_eq!(
        *host.read.lock().unwrap(),
        ["dockerfile: sub/my.df,sub/my.df.dockerignore"]
    );
    let host = FakeHost::default().file("dockerfile", "dockerfile", "FROM scratch");
    host.one(&[]);
    let error = FakeHost::default()
        .build(&[("filename", "x")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "failed to read dockerfile: x: no such file in the context"
    );
}

#[test]
fn a_git_repository_is_a_context() {
    let host =
        FakeHost::default().file("git://h/r.git#main", "Dockerfile", "FROM scratch\nCOPY a /");
    let options = [
        ("context", "https://h/r.git#main"),
        ("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1"),
    ];
    assert_eq!(
        show(&host.one(&options).definition),
        [
            "0 git://h/r.git#main git.fullurl=https://h/r.git git.keepgitdir=true",
            "1 on scratch copy 0:/a / local",
        ]
    );
    let host = host.file(
        "git://github.com/o/r",
        "Dockerfile",
        "FROM scratch\nCOPY a /",
    );
    let shown = show(
        &host
            .one(&[("context", "github.com/o/r"), ("contextsubdir", "d")])
            .definition,
    );
    assert_eq!(
        shown,
        [
            "0 git://github.com/o/r git.fullurl=https://github.com/o/r",
            "1 on scratch copy 0:/d / no-dest-path",
            "2 on scratch copy 1:/a / local",
        ]
    );
}

#[test]
fn a_url_is_an_archive_or_the_dockerfile() {
    let url = "https://h/x";
    let host = FakeHost::default().file(url, "context", "FROM scratch\nCOPY context /");
    assert_eq!(
        show(&host.one(&[("context", url)]).definition),
        [
            "0 https://h/x http.filename=context",
            "1 on scratch copy 0:/context / local"
        ]
    );
    let host = FakeHost::default()
        .file(url, "context", &b"\x1f\x8b\x08..."[..])
        .file(url, "Dockerfile", "FROM scratch\nCOPY a /");
    assert_eq!(
        show(&host.one(&[("context", url)]).definition),
        [
            "0 https://h/x http.filename=context",
            "1 on scratch copy 0:/context / unpack no-dest-path",
            "2 on scratch copy 1:/a / local",
        ]
    );
}

#[test]
fn named_contexts_stand_for_images_and_stages() {
    let dockerfile =
        "FROM base AS b\nRUN x\nFROM alpine\nCOPY --from=b /a /\nCOPY --from=files /f /\n";
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["E=1"],"WorkingDir":"/i"},"rootfs":{"type":"layers","diff_ids":["x"]}}"#;
    let host = FakeHost::new(dockerfile)
        .image("example.com/i:1", config)
        .file("dir", ".dockerignore", "z");
    let result = host.one(&[
        ("context:alpine", "docker-image://example.com/i:1"),
        ("context:b", "https://h/r.git"),
        ("context:files", "local:dir"),
    ]);
    assert_eq!(
        show(&result.definition),
        [
            "0 docker-image://example.com/i:1@sha256:AA",
            "1 git://h/r.git git.fullurl=https://h/r.git",
            "2 on 0 copy 1:/a / local",
            "3 local://dir local.excludepatterns=[\"z\"] local.followpaths=[\"f\"] local.sharedkeyhint=context:files-",
            "4 on 2 copy 3:/f / local",
        ]
    );
    assert_eq!(
        names(&result.definition)[0],
        "[context alpine] example.com/i:1"
    );
    assert_eq!(result.image.config.working_dir, "/i");
    assert_eq!(result.image.config.env[0], "E=1");
}

#[test]
fn an_oci_layout_is_a_base() {
    let config = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["x"]}}"#;
    let host = FakeHost::new("FROM base\nRUN x").image("store", config);
    let value = format!("oci-layout://store:tag@{DIGEST}");
    let shown = show(
        &host
            .one(&[("context:base::linux/amd64", &value)])
            .definition,
    );
    assert_eq!(
        shown[0],
        format!(
            "0 oci-layout://docker.io/library/base@{DIGEST} oci.session=session oci.store=store"
        )
    );
}

#[test]
fn a_definition_is_a_context() {
    let platform = Platform::new("linux", "amd64", "");
    let mut builder = Builder::new();
    let source = Source::Image(ImageSource {
        reference: "docker.io/library/other:1".to_owned(),
        ..ImageSource::default()
    });
    let output = builder.add_source(source, Constraints::new());
    let definition = builder.definition(Some(output), &platform).unwrap();
    let mut request = Request::new("s", platform);
    request.add_context("docker.io/library/base:latest", "input:i");
    request.inputs.insert("i".to_owned(), definition);
    request
        .input_configs
        .insert("i".to_owned(), br#"{"config":{"Env":["I=1"]}}"#.to_vec());
    let build = FakeHost::new("FROM base\nRUN x").run(&request).unwrap();
    let result = &build.results[0];
    assert_eq!(
        show(&result.definition)[0],
        "0 docker-image://docker.io/library/other:1"
    );
    assert_eq!(result.image.config.env[0], "I=1");
}

#[test]
fn an_image_without_layers_is_an_empty_file_system() {
    let host = FakeHost::new("FROM none\nCOPY a /").image(
        "docker.io/library/none:latest",
        r#"{"architecture":"amd64","os":"linux","config":{"Env":["N=1"]},"rootfs":{"type":"layers"}}"#,
    );
    let result = host.one(&[]);
    assert!(show(&result.definition)[1].starts_with("1 on scratch copy"));
    assert_eq!(result.image.config.env[0], "N=1");
}
