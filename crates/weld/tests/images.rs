//! Images out and in, seen by other programs: skopeo, umoci, tar, a registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use serde_json::Value;
use support::{Bed, base_layout};
use weld_testbed::Registry;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const DOCKERFILE: &str = r#"FROM base
RUN mkdir /d && echo one > /d/a && ln /d/a /d/b && ln -s a /d/link && chmod 4755 /d/a && touch -d @1000 /d/a
RUN rm /d/b && echo two > /two
LABEL org.example.k="v w"
ENV X=1
WORKDIR /d
EXPOSE 80/tcp
VOLUME /data
USER 1:2
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $X"]
"#;

#[test]
fn a_file_of_the_base_whose_time_changes_alone_is_written_with_the_epoch() {
    let bed = Bed::new();
    let layout = |name: &str| format!("type=oci,tar=false,dest={name}");
    bed.dockerfile("FROM base\nRUN echo content > /file\n");
    bed.build(&["--output", &layout("lower")]).ok();
    let context = |name: &str| format!("{name}=oci-layout://{}", bed.path(name).display());
    bed.dockerfile(
        "FROM lower\nRUN touch -d '2024-05-05 00:00' /file && echo content > /own\n\
         RUN touch -d '2024-05-05 00:00' /own && touch -d '2024-05-06 00:00' /file\n",
    );
    let rewritten = layout("upper") + ",rewrite-timestamp=true";
    let epoch = "SOURCE_DATE_EPOCH=1600000000";
    let arguments = ["--build-arg", epoch, "--build-context", &context("lower")];
    bed.build(&[&arguments[..], &["--output", &rewritten]].concat())
        .ok();
    bed.dockerfile("FROM upper\nRUN stat -c %Y /file /own > /times\n");
    let out = bed.build_files(&["--build-context", &context("upper")]);
    let times = std::fs::read_to_string(out.join("times")).unwrap();
    assert_eq!(times, "1600000000\n1600000000\n");
}

#[test]
fn what_an_output_cannot_do_is_told() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN true\n");
    let output = "type=oci,dest=a.tar,rewrite-timestamp=true";
    let built = bed.build(&["--output", output]).ok();
    let warning = "warning: rewrite-timestamp does nothing without SOURCE_DATE_EPOCH";
    assert!(built.stderr.contains(warning), "{}", built.stderr);
}

#[test]
fn an_image_without_a_name_takes_the_place_of_the_one_before() {
    let bed = Bed::new();
    for version in ["one", "two"] {
        bed.dockerfile(&format!("FROM base\nRUN echo {version} > /version\n"));
        bed.build(&["--output", "type=oci,dest=layout,tar=false"])
            .ok();
        let index = std::fs::read(bed.path("layout/index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let [only] = index["manifests"].as_array().unwrap().as_slice() else {
            panic!("{index}");
        };
        assert_eq!(
            only["annotations"]["org.opencontainers.image.ref.name"],
            "latest"
        );
        bed.tool("skopeo", &["inspect", "oci:layout"]);
        bed.tool("skopeo", &["inspect", "oci:layout:latest"]);
    }
    let layout = bed.path("layout");
    for reference in ["", ":latest"] {
        let before = format!("before=oci-layout://{}{reference}", layout.display());
        bed.dockerfile("FROM before\n");
        let out = bed.build_files(&["--build-context", &before]);
        let version = std::fs::read_to_string(out.join("version")).unwrap();
        assert_eq!(version, "two\n");
    }
}

#[test]
fn an_oci_archive_is_what_skopeo_and_umoci_expect() {
    let bed = Bed::new();
    bed.dockerfile(DOCKERFILE);
    for compression in ["gzip", "zstd", "uncompressed"] {
        let output =
            format!("type=oci,dest=image.tar,compression={compression},force-compression=true");
        bed.build(&["--output", &output, "--tag", "app:1"]).ok();
        let config = json(&bed.tool("skopeo", &["inspect", "--config", "oci-archive:image.tar"]));
        assert_eq!(config["config"]["Labels"]["org.example.k"], "v w");
        assert_eq!(config["config"]["WorkingDir"], "/d");
        assert_eq!(config["config"]["Entrypoint"][1], "-c");
        assert_eq!(config["config"]["User"], "1:2");
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().unwrap().len(),
            4,
            "{config}"
        );
        bed.tool(
            "skopeo",
            &[
                "copy",
                "oci-archive:image.tar",
                &format!("dir:copied-{compression}"),
            ],
        );
    }
    bed.build(&[
        "--output",
        "type=oci,tar=false,dest=layout",
        "--tag",
        "app:1",
    ])
    .ok();
    bed.tool("umoci", &["unpack", "--image", "layout:1", "bundle"]);
    let root = bed.path("bundle/rootfs");
    assert_eq!(
        std::fs::read_to_string(root.join("d/link")).unwrap(),
        "one\n"
    );
    assert!(!root.join("d/b").exists(), "a removed file came back");
    let listing = bed.tool("stat", &["-c", "%a %Y", "bundle/rootfs/d/a"]);
    assert_eq!(listing, "4755 1000\n");
}

#[test]
fn a_docker_archive_names_its_image() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo hi > /hi\n");
    bed.build(&["--output", "type=docker,dest=image.tar", "--tag", "app:2"])
        .ok();
    let config = json(&bed.tool("skopeo", &["inspect", "docker-archive:image.tar"]));
    assert_eq!(config["Layers"].as_array().unwrap().len(), 2);
    let manifest = json(&bed.tool("tar", &["-xOf", "image.tar", "manifest.json"]));
    assert_eq!(manifest[0]["RepoTags"][0], "app:2");
}

#[test]
fn a_pushed_image_is_pulled_again() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "library/base:latest")
        .unwrap();
    let host = registry.host();
    std::fs::write(
        bed.path("weld.toml"),
        format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n[registry.\"{host}\"]\nhttp = true\n"
        ),
    )
    .unwrap();
    let name = format!("{host}/team/app:1");
    bed.dockerfile("FROM docker.io/library/base\nRUN echo pushed > /pushed\n");
    let context = bed.context();
    let context = context.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut all = vec!["--config", "weld.toml", "build", "--progress", "plain"];
        all.extend(arguments);
        all.push(context);
        bed.run(&all).ok()
    };
    run(&["--tag", &name, "--push", "--metadata-file", "metadata.json"]);
    let metadata = json(&std::fs::read_to_string(bed.path("metadata.json")).unwrap());
    let inspected = json(&bed.tool(
        "skopeo",
        &["inspect", "--tls-verify=false", &format!("docker://{name}")],
    ));
    assert_eq!(inspected["Digest"], metadata["containerimage.digest"]);
    assert_eq!(
        metadata["containerimage.descriptor"]["digest"],
        inspected["Digest"]
    );
    // Anew, from the registry alone.
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    bed.dockerfile(&format!("FROM {name}\nRUN cat /pushed > /pulled\n"));
    run(&["--output", "out"]);
    assert_eq!(
        std::fs::read_to_string(bed.path("out/pulled")).unwrap(),
        "pushed\n"
    );
}

#[test]
fn an_image_that_is_had_is_not_fetched_again() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base:latest")
        .unwrap();
    let host = registry.host();
    std::fs::write(
        bed.path("weld.toml"),
        format!("[registry.\"{host}\"]\nhttp = true\n"),
    )
    .unwrap();
    let context = bed.context();
    let context = context.to_str().unwrap();
    let build = |command: &str| {
        bed.dockerfile(&format!("FROM {host}/base\nRUN {command}\n"));
        bed.run(&["--config", "weld.toml", "build", context]).ok();
    };
    let gets = || {
        let log = std::fs::read_to_string(registry.log()).unwrap();
        log.matches("\"GET /v2/base/").count()
    };
    build("true");
    let fetched = gets();
    assert!(fetched >= 3, "manifest, config and layer: {fetched}");
    // What nothing names goes now.
    bed.run(&["prune", "--keep-duration", "1000h"]).ok();
    // Long enough for the collector that runs after the start.
    build("sleep 1");
    assert_eq!(gets(), fetched);
}

#[test]
fn an_image_by_digest_is_known_by_the_names_that_it_was_had_by() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    for name in ["base:latest", "copy:latest"] {
        registry.push_layout(base_layout(), "latest", name).unwrap();
    }
    let host = registry.host();
    let config = format!("[registry.\"{host}\"]\nhttp = true\n");
    std::fs::write(bed.path("weld.toml"), config).unwrap();
    let context = bed.context();
    let context = context.to_str().unwrap();
    let image = format!("docker://{host}/base");
    let digest = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}"];
    let digest = bed.tool("skopeo", &[&digest[..], &[&image]].concat());
    let digest = digest.trim();
    let build = |name: &str| {
        bed.dockerfile(&format!("FROM {host}/{name}@{digest}\nRUN true\n"));
        bed.run(&["--config", "weld.toml", "build", context])
    };
    let asked = |name: &str| {
        let log = std::fs::read_to_string(registry.log()).unwrap();
        log.matches(&format!("/v2/{name}/manifests/")).count()
    };
    build("base").ok();
    // Whoever knows the digest need not be one who may read it, or it is nowhere under that name.
    let parts = [&*format!("{host}/absent@{digest}"), "cannot"];
    build("absent").fails(&parts);
    build("copy").ok();
    assert!(asked("copy") > 0);
    let before = (asked("base"), asked("copy"));
    build("base").ok();
    build("copy").ok();
    assert_eq!((asked("base"), asked("copy")), before);
}

#[test]
fn several_platforms_make_an_index() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY file-$TARGETARCH /file\n");
    bed.file("file-amd64", "a").file("file-arm64", "b");
    bed.build(&[
        "--platform",
        "linux/amd64,linux/arm64",
        "--output",
        "type=oci,dest=image.tar",
    ])
    .ok();
    bed.tool("mkdir", &["layout"]);
    bed.tool("tar", &["-xf", "image.tar", "-C", "layout"]);
    let index = json(&std::fs::read_to_string(bed.path("layout/index.json")).unwrap());
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .replace("sha256:", "");
    let inner =
        json(&std::fs::read_to_string(bed.path(&format!("layout/blobs/sha256/{digest}"))).unwrap());
    let platforms: Vec<_> = inner["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| manifest["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
}

#[test]
fn the_epoch_makes_images_equal_that_were_built_apart() {
    let digest = || {
        let bed = Bed::new();
        bed.file("a", "content")
            .dockerfile("FROM base\nCOPY a /a\nRUN echo b > /b\n");
        bed.build(&[
            "--build-arg",
            "SOURCE_DATE_EPOCH=1000000000",
            "--output",
            "type=oci,dest=image.tar,rewrite-timestamp=true",
            "--iidfile",
            "id",
        ])
        .ok();
        std::fs::read_to_string(bed.path("id")).unwrap()
    };
    assert_eq!(digest(), digest());
}

#[test]
fn files_come_out_as_a_tar_archive_too() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nCOPY a /x/a\n")
        .file("a", "content");
    let ended = bed.build(&["--output", "type=tar,dest=out.tar"]);
    ended.ok();
    assert_eq!(bed.tool("tar", &["-xOf", "out.tar", "x/a"]), "content");
    let streamed = bed
        .command()
        .args(["build", "--progress", "quiet", "-o", "-"])
        .arg(bed.context())
        .output()
        .unwrap();
    assert!(streamed.status.success());
    assert_eq!(streamed.stdout, std::fs::read(bed.path("out.tar")).unwrap());
}
