//! Statements on results, as they lie beside images and files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers may fail their test"
)]

mod support;

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use support::{Bed, base_layout};
use weld_testbed::Registry;

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn blob(layout: &Path, digest: &Value) -> Value {
    let digest = digest.as_str().unwrap().replace(':', "/");
    json(&layout.join("blobs").join(digest))
}

/// The index of the only image of a layout, and its manifests.
fn manifests(layout: &Path) -> Vec<Value> {
    let root = json(&layout.join("index.json"));
    let index = blob(layout, &root["manifests"][0]["digest"]);
    index["manifests"].as_array().unwrap().clone()
}

/// The first statement on an image of a layout.
fn statement(layout: &Path) -> Value {
    let manifests = manifests(layout);
    let attested = manifests
        .iter()
        .find(|entry| entry["annotations"]["vnd.docker.reference.type"] == "attestation-manifest")
        .unwrap();
    let manifest = blob(layout, &attested["digest"]);
    blob(layout, &manifest["layers"][0]["digest"])
}

const OUTPUT: &str = "type=oci,tar=false,dest=layout";

#[test]
fn provenance_lies_beside_its_image() {
    let bed = Bed::new();
    bed.dockerfile(
        "FROM base\nARG TOKEN\n# from https://user:hunter2@example.com\nRUN --mount=type=secret,id=s echo hi > /hi\n",
    );
    std::fs::write(bed.path("secret"), "the-value-of-the-secret").unwrap();
    bed.build(&[
        "--output",
        OUTPUT,
        "--tag",
        "app:1",
        "--provenance",
        "mode=max,builder-id=https://example.com/me",
        "--secret",
        "id=s,src=secret",
        "--build-arg",
        "TOKEN=https://user:pass@example.com/x",
    ])
    .ok();
    let layout = bed.path("layout");
    let entries = manifests(&layout);
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1]["platform"]["os"], "unknown");
    assert_eq!(
        entries[1]["annotations"]["vnd.docker.reference.digest"],
        entries[0]["digest"]
    );
    let manifest = blob(&layout, &entries[1]["digest"]);
    assert_eq!(manifest["subject"]["digest"], entries[0]["digest"]);
    assert_eq!(manifest["config"]["data"], "e30=");
    let statement = statement(&layout);
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let subject = statement["subject"][0]["name"].as_str().unwrap();
    assert!(
        subject.starts_with("pkg:docker/app@1?platform="),
        "{subject}"
    );
    let predicate = &statement["predicate"];
    assert_eq!(
        predicate["runDetails"]["builder"]["id"],
        "https://example.com/me"
    );
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    assert_eq!(request["secrets"][0]["id"], "s");
    assert_eq!(
        request["args"]["build-arg:TOKEN"],
        "https://xxxxx:xxxxx@example.com/x"
    );
    let material = &predicate["buildDefinition"]["resolvedDependencies"][0];
    assert!(
        material["uri"].as_str().unwrap().starts_with("pkg:oci/"),
        "{material}"
    );
    assert_eq!(material["digest"]["sha256"].as_str().unwrap().len(), 64);
    let metadata = &predicate["runDetails"]["metadata"];
    let layers = metadata["buildkit_metadata"]["layers"].as_object().unwrap();
    assert_eq!(layers.len(), 2, "{layers:?}");
    let source = &metadata["buildkit_metadata"]["source"]["infos"][0];
    assert_eq!(source["filename"], "Dockerfile");
    let text = BASE64_STANDARD.decode(source["data"].as_str().unwrap());
    let text = String::from_utf8(text.unwrap()).unwrap();
    assert!(
        text.contains("\n# from https://xxxxx:xxxxx@example.com\n"),
        "{text}"
    );
    assert!(!statement.to_string().contains("the-value-of-the-secret"));
}

/// The layers of a step are those of the image that is told of, in whatever compressions they were made before.
#[test]
fn provenance_tells_the_layers_of_each_compression() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo one > /one\nRUN echo two > /two\n");
    for compression in ["zstd", "gzip", "uncompressed"] {
        let output = format!("{OUTPUT},compression={compression},force-compression=true");
        bed.build(&["--output", &output, "--provenance", "mode=max"])
            .ok();
        let layout = bed.path("layout");
        let manifest = blob(&layout, &manifests(&layout)[0]["digest"]);
        let image = digests(&manifest["layers"]);
        assert_eq!(image.len(), 3);
        let metadata = &statement(&layout)["predicate"]["runDetails"]["metadata"];
        let steps = metadata["buildkit_metadata"]["layers"].as_object().unwrap();
        let mut chains = steps.values().flat_map(|step| step.as_array().unwrap());
        assert!(
            chains.any(|chain| digests(chain) == image),
            "{compression}: {steps:?}"
        );
        std::fs::remove_dir_all(layout).unwrap();
    }
}

fn digests(descriptors: &Value) -> Vec<String> {
    let descriptors = descriptors.as_array().unwrap().iter();
    descriptors
        .map(|descriptor| descriptor["digest"].to_string())
        .collect()
}

#[test]
fn what_is_left_out_of_minimal_provenance() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nARG A\nRUN echo $A > /a\n");
    let common = ["--output", OUTPUT, "--build-arg", "A=1", "--label", "k=v"];
    let build = |attest: &str| {
        let mut all = vec!["--attest", attest];
        all.extend(common);
        bed.build(&all).ok();
        let statement = statement(&bed.path("layout"));
        std::fs::remove_dir_all(bed.path("layout")).unwrap();
        statement
    };
    let statement = build("type=provenance,mode=min,version=v0.2,reproducible=true");
    assert_eq!(
        statement["predicateType"],
        "https://slsa.dev/provenance/v0.2"
    );
    let predicate = &statement["predicate"];
    let parameters = &predicate["invocation"]["parameters"];
    let args = parameters["args"].as_object().unwrap();
    // What the bed gives each build; neither arguments nor labels.
    assert_eq!(args.keys().collect::<Vec<_>>(), ["context:base"]);
    let base = args["context:base"].as_str().unwrap();
    assert!(base.starts_with("oci-layout://base@sha256:"), "{base}");
    assert!(predicate.get("buildConfig").is_none());
    assert_eq!(predicate["metadata"]["reproducible"], true);
    assert_eq!(predicate["metadata"]["completeness"]["parameters"], false);
    assert_eq!(predicate["materials"].as_array().unwrap().len(), 1);
}

#[test]
fn files_have_their_statements_beside_them() {
    let bed = Bed::new();
    bed.dockerfile("FROM scratch\nCOPY a /a\n").file("a", "a");
    let output = "type=local,dest=out,attestation-prefix=x.";
    let mut all = vec!["--output", output];
    bed.build(&all).ok();
    assert!(!bed.path("out/x.provenance.json").exists());
    all.extend(["--provenance", "mode=min,inline-only=true"]);
    bed.build(&all).ok();
    assert!(!bed.path("out/x.provenance.json").exists());
    bed.build(&["--output", output, "--provenance", "true"])
        .ok();
    let statement = json(&bed.path("out/x.provenance.json"));
    assert_eq!(statement["subject"][0]["name"], "a");
    assert_eq!(std::fs::read_to_string(bed.path("out/a")).unwrap(), "a");
    bed.build(&["--output", "type=tar,dest=out.tar", "--provenance", "true"])
        .ok();
    let names = bed.tool("tar", &["-tf", "out.tar"]);
    assert_eq!(names, "a\nprovenance.json\n");
    bed.build(&["--provenance", "mode=most"])
        .fails(&["must be min or max"]);
    bed.build(&["--attest", "mode=max"]).fails(&["needs type="]);
}

#[test]
fn a_scanner_lists_what_is_in_an_image() {
    let bed = Bed::new();
    let registry = Registry::start().unwrap();
    let host = registry.host();
    std::fs::write(
        bed.path("weld.toml"),
        format!("[registry.\"{host}\"]\nhttp = true\n"),
    )
    .unwrap();
    let name = format!("{host}/scanner:1");
    let scan = "cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<END\n\
        {\"_type\": \"https://in-toto.io/Statement/v0.1\", \"predicateType\": \"https://spdx.dev/Document\",\n\
         \"subject\": [], \"predicate\": {\"spdxVersion\": \"SPDX-2.3\", \"name\": \"$BUILDKIT_SCAN_NAME\",\n\
         \"comment\": \"$(cd ${BUILDKIT_SCAN_SOURCE_EXTRAS:-/none} && echo */*)\",\n\
         \"files\": [{\"fileName\": \"/mine\", \"SPDXID\": \"$(ls $BUILDKIT_SCAN_SOURCE/mine)\"}]}}\nEND\n";
    bed.file("scan.sh", scan);
    bed.dockerfile("FROM base\nCOPY scan.sh /\nENTRYPOINT [\"/bin/sh\", \"/scan.sh\"]\n");
    let config = bed.path("weld.toml");
    let base = format!("base=oci-layout://{}:latest", base_layout().display());
    let context = bed.context();
    let build = |arguments: &[&str]| {
        let mut all = vec![
            "--config",
            config.to_str().unwrap(),
            "build",
            "--progress",
            "plain",
        ];
        all.extend(["--build-context", &base]);
        all.extend(arguments);
        all.push(context.to_str().unwrap());
        bed.run(&all).ok()
    };
    build(&["--push", "--tag", &name]);
    bed.dockerfile("FROM base\nRUN echo mine > /mine\n");
    let sbom = format!("generator={name},NAME=me");
    build(&["--output", OUTPUT, "--sbom", &sbom]);
    let statement = statement(&bed.path("layout"));
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    let predicate = &statement["predicate"];
    assert_eq!(predicate["name"], "me");
    let file = &predicate["files"][0];
    assert_eq!(file["SPDXID"], "/run/src/core/sbom/mine");
    let manifest = blob(
        &bed.path("layout"),
        &manifests(&bed.path("layout"))[0]["digest"],
    );
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    assert_eq!(file["comment"], format!("layerID: {layer}"));
    assert_eq!(predicate["comment"], "", "nothing else is to be scanned");

    // What it was made of is beside it where the Dockerfile says so.
    let dockerfile = "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
        FROM scratch AS made\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY b /b\n\
        FROM base AS unused\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN false\n\
        FROM base\nCOPY --from=made /b /mine\nCOPY a /a\n";
    bed.file("a", "a").file("b", "b").dockerfile(dockerfile);
    for (argument, expected) in [
        ("OTHER=1", "sbom-context/a sbom-context/b sbom-made/b"),
        (
            "BUILDKIT_SBOM_SCAN_STAGE=unused",
            "sbom-context/a sbom-context/b",
        ),
        ("BUILDKIT_SBOM_SCAN_CONTEXT=0", "sbom-made/b"),
    ] {
        // A layout keeps the images that are there already.
        let place = format!("scanned-{}", argument.replace('=', "-"));
        let output = format!("type=oci,tar=false,dest={place}");
        build(&[
            "--output",
            &output,
            "--sbom",
            &sbom,
            "--build-arg",
            argument,
        ]);
        let statement = crate::statement(&bed.path(&place));
        assert_eq!(statement["predicate"]["comment"], expected, "{argument:?}");
    }
}
