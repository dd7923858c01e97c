use std::fs;

use weld_digest::Digest;
use weld_export::{ExportKind, ExportTarget};
use weld_testbed::Registry;

use crate::bed::{Bed, Response, one, run, skopeo, two};

async fn push(bed: &Bed, attrs: &[(&str, &str)], built: &weld_export::Built) -> Response {
    let attrs: Vec<_> = attrs.iter().copied().chain([("push", "true")]).collect();
    bed.export(ExportKind::Image, ExportTarget::Nowhere, &attrs, built)
        .await
}

fn inspect(registry: &Registry, name: &str) -> serde_json::Value {
    let name = format!("docker://{}/{name}", registry.host());
    skopeo(&["inspect", "--tls-verify=false", &name])
}

#[tokio::test]
async fn an_image_is_pushed_under_all_its_names() {
    let (bed, registry) = (Bed::new(), Registry::start().unwrap());
    let host = registry.host();
    let names = format!("{host}/app:1,{host}/app:2,{host}/other/app");
    let response = push(&bed, &[("name", &names)], &one(Some(bed.app())))
        .await
        .unwrap();
    for name in ["app:1", "app:2", "other/app:latest"] {
        let seen = inspect(&registry, name);
        assert_eq!(seen["Digest"], response["containerimage.digest"].as_str());
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    }
    let copied = format!("dir:{}", bed.path("copied").display());
    let source = format!("docker://{host}/other/app:latest");
    run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &source,
            &copied,
        ],
    );
}

#[tokio::test]
async fn blobs_are_mounted_from_where_they_are() {
    let (bed, registry) = (Bed::new(), Registry::start().unwrap());
    let app = bed.app();
    for repository in ["first", "second"] {
        let name = format!("{}/{repository}", registry.host());
        push(&bed, &[("name", &name)], &one(Some(app.clone())))
            .await
            .unwrap();
        // What it was pushed to is noted without waiting.
        bed.store.db().flush().unwrap();
    }
    let seen = inspect(&registry, "second");
    let log = fs::read_to_string(registry.log()).unwrap();
    let uploaded = |repository: &str, layer: &str| {
        let start = format!("PUT /v2/{repository}/blobs/uploads/");
        let mut lines = log.lines().filter(|line| line.contains(&start));
        lines.any(|line| line.contains(layer))
    };
    // The config is not looked at: between the pushes nothing holds it, and with it goes what is noted of it.
    let layers = seen["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        let layer = layer.as_str().unwrap().trim_start_matches("sha256:");
        assert!(uploaded("first", layer), "{layer} {log}");
        assert!(!uploaded("second", layer), "{layer} {log}");
    }
    assert!(log.contains("mount=sha256"), "{log}");
}

#[tokio::test]
async fn several_platforms_are_pushed_as_an_index() {
    let (bed, registry) = (Bed::new(), Registry::start().unwrap());
    let other = bed.snapshot(None, "arm", |root| {
        fs::write(root.join("arm"), "arm").unwrap();
    });
    let name = format!("{}/app:1", registry.host());
    let response = push(&bed, &[("name", &name)], &two(bed.app(), other))
        .await
        .unwrap();
    let image = format!("docker://{name}");
    let index = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let digest = format!(
        "docker://{}/app@{}",
        registry.host(),
        response["containerimage.digest"]
    );
    let seen = skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--override-arch",
        "arm64",
        &digest,
    ]);
    assert_eq!(seen["Architecture"], "arm64");
}

#[tokio::test]
async fn a_push_by_digest_sets_no_tag() {
    let (bed, registry) = (Bed::new(), Registry::start().unwrap());
    let name = format!("{}/app", registry.host());
    let attrs = [
        ("name", name.as_str()),
        ("push-by-digest", "true"),
        ("dangling-name-prefix", "d"),
    ];
    let response = push(&bed, &attrs, &one(Some(bed.app()))).await.unwrap();
    let digest = &response["containerimage.digest"];
    assert_eq!(response["image.name"], format!("{name},d@{digest}"));
    let image = format!("docker://{name}@{digest}");
    let raw = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &image],
    );
    assert_eq!(Digest::sha256_of(&raw).to_string(), *digest);
    let tags = registry
        .storage()
        .join("docker/registry/v2/repositories/app/_manifests/tags");
    assert!(!tags.exists());
    let tagged = format!("{name}:1");
    let error = push(
        &bed,
        &[("name", tagged.as_str()), ("push-by-digest", "true")],
        &one(None),
    )
    .await
    .unwrap_err();
    assert!(
        error.to_string().contains("push-by-digest excludes"),
        "{error}"
    );
}

#[tokio::test]
async fn what_goes_wrong_names_the_image() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let error = push(&bed, &[], &built).await.unwrap_err().to_string();
    assert!(error.contains("push needs a name"), "{error}");
    let error = push(&bed, &[("name", "Up/Case")], &built)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("output type=image: name \"Up/Case\""),
        "{error}"
    );
    // Nobody listens there.
    let error = push(&bed, &[("name", "127.0.0.1:1/app")], &built)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("failed to push 127.0.0.1:1/app:latest: "),
        "{error}"
    );
}

#[tokio::test]
async fn an_insecure_push_falls_back_to_plain_http() {
    let (bed, registry) = (Bed::new(), Registry::start().unwrap());
    let name = format!("{}/app", registry.host());
    let attrs = [("name", name.as_str()), ("registry.insecure", "true")];
    push(&bed, &attrs, &one(Some(bed.app()))).await.unwrap();
    inspect(&registry, "app");
}
