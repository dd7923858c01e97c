use std::fs;

use base64::Engine as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use weld_export::{ExportKind, ExportTarget};
use weld_store::snapshot::SnapshotRef;

use crate::bed::{Bed, one, run, skopeo, text, two};

/// Exports into a layout and reads the document of a digest there.
struct Layout {
    bed: Bed,
}

impl Layout {
    async fn export(
        &self,
        attrs: &[(&str, &str)],
        built: &weld_export::Built,
    ) -> (std::collections::BTreeMap<String, String>, Value) {
        let attrs: Vec<_> = attrs.iter().copied().chain([("tar", "false")]).collect();
        let target = ExportTarget::Directory(self.bed.path("layout"));
        let response = self
            .bed
            .export(ExportKind::OciArchive, target, &attrs, built)
            .await
            .unwrap();
        let root = self.document(&json!(response["containerimage.digest"]));
        (response, root)
    }

    fn document(&self, digest: &Value) -> Value {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = self.bed.path("layout/blobs/sha256").join(hex);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// What `tar` lists of a layer of a manifest.
    fn listing(&self, manifest: &Value, layer: usize) -> String {
        let digest = manifest["layers"][layer]["digest"].as_str().unwrap();
        let hex = digest.strip_prefix("sha256:").unwrap();
        let path = self.bed.path("layout/blobs/sha256").join(hex);
        run("tar", &["--utc", "--full-time", "-tvzf", text(&path)])
    }
}

fn layout() -> (Layout, SnapshotRef) {
    let bed = Bed::new();
    let app = bed.app();
    (Layout { bed }, app)
}

fn at(second: i64) -> Option<OffsetDateTime> {
    Some(OffsetDateTime::from_unix_timestamp(second).unwrap())
}

#[tokio::test]
async fn the_config_names_layers_and_their_history() {
    let (layout, app) = layout();
    let (response, manifest) = layout.export(&[], &one(Some(app))).await;
    let config = layout.document(&manifest["config"]["digest"]);
    assert_eq!(
        manifest["config"]["digest"],
        response["containerimage.config.digest"].as_str()
    );
    assert_eq!(config["config"]["Cmd"], json!(["/app/main"]));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
    let history = config["history"].as_array().unwrap();
    assert_eq!(history.len(), 3);
    assert!(history.iter().all(|entry| entry["created"].is_string()));
    assert_eq!(config["created"], history[2]["created"]);
}

#[tokio::test]
async fn the_response_has_buildkits_descriptor() {
    let (layout, app) = layout();
    let (response, _) = layout.export(&[], &one(Some(app))).await;
    let descriptor = base64::prelude::BASE64_STANDARD
        .decode(&response["containerimage.descriptor"])
        .unwrap();
    let descriptor: Value = serde_json::from_slice(&descriptor).unwrap();
    assert_eq!(
        descriptor["digest"],
        response["containerimage.digest"].as_str()
    );
    assert_eq!(
        descriptor["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
    assert_eq!(
        descriptor["platform"],
        json!({"architecture": "amd64", "os": "linux"})
    );
    assert!(descriptor["annotations"]["org.opencontainers.image.created"].is_string());
}

#[tokio::test]
async fn several_platforms_have_an_index() {
    let (layout, app) = layout();
    let other = layout.bed.snapshot(None, "base", |root| {
        fs::write(root.join("arm"), "arm").unwrap();
    });
    let built = two(app, other);
    let attrs = [
        ("annotation-index.a", "1"),
        ("annotation[linux/arm64].b", "2"),
        ("annotation-manifest-descriptor.c", "3"),
        ("name", "app:1"),
    ];
    let (response, index) = layout.export(&attrs, &built).await;
    assert!(!response.contains_key("containerimage.config.digest"));
    assert_eq!(index["annotations"], json!({"a": "1"}));
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests[0]["platform"]["architecture"], "amd64");
    assert_eq!(manifests[1]["platform"]["architecture"], "arm64");
    assert_eq!(manifests[1]["annotations"], json!({"c": "3"}));
    let manifest = layout.document(&manifests[1]["digest"]);
    assert_eq!(manifest["annotations"], json!({"b": "2"}));
    let first = layout.document(&manifests[0]["digest"]);
    assert!(first.get("annotations").is_none());
    let image = format!("oci:{}:1", text(&layout.bed.path("layout")));
    let seen = skopeo(&["inspect", "--override-arch", "arm64", &image]);
    assert_eq!(seen["Architecture"], "arm64");
}

#[tokio::test]
async fn annotations_for_an_index_that_is_not_there_are_refused() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let attrs = [("annotation-index.a", "1")];
    let export = bed.export(ExportKind::Image, ExportTarget::Nowhere, &attrs, &built);
    let error = export.await.unwrap_err();
    assert!(error.to_string().contains("has no index"), "{error}");
}

#[tokio::test]
async fn annotations_for_platforms_that_were_not_built_are_passed_over() {
    let (layout, app) = layout();
    let built = one(Some(app));
    let attrs = [("annotation[linux/arm64].a", "1"), ("annotation.b", "2")];
    let (_, manifest) = layout.export(&attrs, &built).await;
    assert_eq!(manifest["annotations"], json!({"b": "2"}));
}

#[tokio::test]
async fn nothing_at_all_is_an_image_too() {
    let (layout, _) = layout();
    let mut built = one(None);
    built.platforms[0].config = None;
    let (_, manifest) = layout.export(&[], &built).await;
    assert_eq!(manifest["layers"], json!([]));
    let config = layout.document(&manifest["config"]["digest"]);
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(config["config"]["WorkingDir"], "/");
}

#[tokio::test]
async fn dockers_media_types_are_written_when_asked_for() {
    let (layout, app) = layout();
    let built = one(Some(app));
    let (_, manifest) = layout.export(&[("oci-mediatypes", "false")], &built).await;
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
}

#[tokio::test]
async fn an_epoch_makes_separate_builds_one_image() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let (layout, app) = layout();
        let mut built = one(Some(app));
        built.epoch = at(1_000_000_000);
        let (response, manifest) = layout
            .export(&[("rewrite-timestamp", "true")], &built)
            .await;
        let config = layout.document(&manifest["config"]["digest"]);
        assert_eq!(config["created"], "2001-09-09T01:46:40Z");
        assert_eq!(
            manifest["layers"][1]["annotations"]["buildkit/rewritten-timestamp"],
            "1000000000"
        );
        let listing = layout.listing(&manifest, 1);
        assert!(listing.contains("app/main"), "{listing}");
        assert!(
            listing
                .lines()
                .all(|line| line.contains("2001-09-09") || line.contains("1970-01-01")),
            "{listing}"
        );
        digests.push(response["containerimage.digest"].clone());
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn the_base_image_keeps_its_times() {
    let (layout, app) = layout();
    let mut built = one(Some(app));
    let (_, plain) = layout.export(&[], &built).await;
    let config = layout.document(&plain["config"]["digest"]);
    let base = json!({"rootfs": {"type": "layers", "diff_ids": [config["rootfs"]["diff_ids"][0]]}});
    built.platforms[0].base_config = Some(base.to_string().into_bytes());
    let attrs = [
        ("rewrite-timestamp", "true"),
        ("source-date-epoch", "1000000000"),
    ];
    let (_, rewritten) = layout.export(&attrs, &built).await;
    assert_eq!(rewritten["layers"][0], plain["layers"][0]);
    assert_ne!(rewritten["layers"][1], plain["layers"][1]);
}

#[tokio::test]
async fn a_bad_config_is_told_with_its_platform() {
    let bed = Bed::new();
    let mut built = one(None);
    built.platforms[0].config = Some(b"{}".to_vec());
    let error = bed
        .export(ExportKind::Image, ExportTarget::Nowhere, &[], &built)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "linux/amd64: invalid image config for export: missing os"
    );
}
