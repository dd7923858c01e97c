use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weld_digest::Digest;
use weld_llb::{BlobSource, FileAttributes, Source};
use weld_testbed::Registry;

use crate::world::World;

/// A layout with an image whose configuration is the blob of the tests.
fn layout(directory: &Path) -> (std::path::PathBuf, Digest, Vec<u8>) {
    let layout = directory.join("layout");
    let busybox = weld_testbed::static_busybox().unwrap();
    weld_testbed::write_base_image(&layout, &busybox).unwrap();
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let config = blobs
        .map(|blob| std::fs::read(blob.unwrap().path()).unwrap())
        .find(|blob| blob.starts_with(b"{") && blob.windows(8).any(|part| part == b"diff_ids"))
        .unwrap();
    (layout, Digest::sha256_of(&config), config)
}

fn wanted(name: &str, digest: &Digest) -> BlobSource {
    BlobSource {
        reference: format!("{name}@{digest}"),
        ..BlobSource::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_a_registry_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (layout, digest, content) = layout(dir.path());
    let registry = Registry::start().unwrap();
    registry.push_layout(&layout, "latest", "base:1").unwrap();
    let world = World::open(dir.path());
    let mut blob = wanted(&format!("{}/base", registry.host()), &digest);
    let tree = world.solve(Source::ImageBlob(blob.clone())).await.unwrap();
    let mounted = tree.mount().unwrap();
    let path = mounted.path().join(digest.hex());
    assert_eq!(std::fs::read(&path).unwrap(), content);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o600, 0));

    blob.file = FileAttributes {
        filename: Some("a/../name".into()),
        mode: Some(0o755),
        uid: Some(7),
        gid: Some(8),
    };
    let named = world.solve(Source::ImageBlob(blob.clone())).await.unwrap();
    assert_ne!(named, tree);
    let mounted = named.mount().unwrap();
    let meta = std::fs::metadata(mounted.path().join("name")).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o755, 7, 8)
    );
    // The digest says all: the registry is not asked again.
    drop(registry);
    assert_eq!(world.solve(Source::ImageBlob(blob)).await.unwrap(), named);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_a_layout_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let (layout, digest, content) = layout(dir.path());
    let mut world = World::open(dir.path());
    world.layouts.insert("base".into(), layout.clone());
    let mut blob = wanted("example.org/base", &digest);
    blob.store = Some("base".into());
    let tree = world
        .solve(Source::OciLayoutBlob(blob.clone()))
        .await
        .unwrap();
    let mounted = tree.mount().unwrap();
    let path = mounted.path().join(digest.hex());
    assert_eq!(std::fs::read(path).unwrap(), content);

    let damaged = Digest::sha256_of("what it should be");
    std::fs::write(
        layout.join("blobs/sha256").join(damaged.hex()),
        "what it is",
    )
    .unwrap();
    blob.reference = format!("example.org/base@{damaged}");
    let error = world
        .solve(Source::OciLayoutBlob(blob.clone()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    blob.store = Some("other".into());
    let error = world.solve(Source::OciLayoutBlob(blob)).await.unwrap_err();
    assert!(error.to_string().contains("\"other\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start().unwrap();
    let world = World::open(dir.path());
    let missing = Digest::sha256_of("nobody has this");
    let host = registry.host();
    let blob = wanted(&format!("{host}/base"), &missing);
    let error = world.solve(Source::ImageBlob(blob)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("not found") && text.contains(&missing.hex()),
        "{text}"
    );
    let blob = BlobSource {
        reference: format!("{host}/base:1"),
        ..BlobSource::default()
    };
    let error = world.solve(Source::ImageBlob(blob)).await.unwrap_err();
    assert!(error.to_string().contains("has no digest"), "{error}");
}
