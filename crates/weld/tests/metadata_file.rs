//! `--metadata-file`: what buildx writes there, so that scripts find it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use serde_json::{Value, json};
use support::Bed;
use support::kept::Daemon;

const OUTPUT: [&str; 2] = ["--output", "type=oci,dest=out.tar"];

/// What a build with these options writes.
fn written(bed: &Bed, to: &[&str], detail: &str, options: &[&str]) -> Value {
    let variable = [("BUILDX_METADATA_PROVENANCE", detail)];
    let all = [to, &["--metadata-file", "metadata.json"], options].concat();
    bed.build_with(&variable, &all).ok();
    let text = std::fs::read_to_string(bed.path("metadata.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn keys(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(|key| &**key)
        .collect()
}

#[test]
fn how_an_image_was_made_is_written_here_and_by_a_daemon() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    bed.dockerfile("FROM base\nARG A\nRUN true\n");
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let options = [&OUTPUT[..], &["--tag", "app:1", "--build-arg", "A=1"]].concat();
        let written = |detail: &str| written(&bed, &to, detail, &options);
        let min = written("");
        assert_eq!(min["image.name"], "docker.io/library/app:1", "{to:?}");
        assert!(
            min["containerimage.descriptor"]["digest"].is_string(),
            "{min}"
        );
        // It would name a builder of buildx's.
        assert!(min.get("buildx.build.ref").is_none(), "{to:?}");
        let key = "buildx.build.provenance";
        let predicate = &min[key];
        assert_eq!(
            keys(predicate),
            ["buildType", "builder", "invocation", "materials"],
            "{to:?}"
        );
        assert_eq!(
            predicate["buildType"],
            "https://mobyproject.org/buildkit@v1"
        );
        assert_eq!(predicate["builder"], json!({"id": ""}));
        let invocation = &predicate["invocation"];
        assert_eq!(
            invocation["configSource"],
            json!({"entryPoint": "Dockerfile"})
        );
        assert_eq!(invocation["parameters"]["args"]["build-arg:A"], "1");
        assert_eq!(
            keys(&invocation["environment"]),
            ["dockerfileVersion", "platform"]
        );
        assert!(
            predicate["materials"][0]["digest"]["sha256"].is_string(),
            "{predicate}"
        );

        let max = written("max");
        let predicate = &max[key];
        assert_eq!(
            keys(predicate),
            [
                "buildConfig",
                "buildType",
                "builder",
                "invocation",
                "materials",
                "metadata"
            ],
            "{to:?}"
        );
        assert!(predicate["buildConfig"]["llbDefinition"].is_array());
        let metadata = &predicate["metadata"];
        assert_eq!(
            keys(metadata),
            [
                "buildFinishedOn",
                "buildInvocationID",
                "buildStartedOn",
                "completeness",
                "https://mobyproject.org/buildkit@v1#metadata",
                "reproducible"
            ],
            "{to:?}"
        );
        let complete = json!({"environment": true, "materials": false, "parameters": true});
        assert_eq!(metadata["completeness"], complete, "{to:?}");

        for detail in ["disabled", "false"] {
            let none = written(detail);
            assert!(none.get(key).is_none(), "{none}");
            assert!(none["containerimage.digest"].is_string());
        }
    }
}

#[test]
fn each_platform_has_its_own() {
    let bed = Bed::new();
    let daemon = Daemon::start(&bed);
    let own = bed.path("own");
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    for to in [
        ["--root", own.to_str().unwrap()],
        ["--addr", &daemon.address],
    ] {
        let written = written(&bed, &to, "", &[&OUTPUT[..], &platforms].concat());
        for platform in ["linux/amd64", "linux/arm64"] {
            let predicate = &written[&format!("buildx.build.provenance/{platform}")];
            assert_eq!(
                predicate["invocation"]["parameters"]["frontend"], "dockerfile.v0",
                "{written}"
            );
        }
    }
}

/// What was recorded says more than what is attached, and who built.
#[test]
fn what_is_attached_does_not_matter() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let key = "buildx.build.provenance";
    let attached = ["--provenance", "mode=min,builder-id=https://example.com/me"];
    let told = written(&bed, &[], "max", &[&OUTPUT[..], &attached].concat());
    assert_eq!(told[key]["builder"]["id"], "https://example.com/me");
    assert!(told[key]["buildConfig"].is_object(), "{told}");
    let told = written(
        &bed,
        &[],
        "",
        &["--provenance", "false", "--output", "files"],
    );
    assert!(told[key]["invocation"].is_object(), "{told}");
}
