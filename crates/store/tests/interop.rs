//! Other programs read our layers, and we read theirs.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{Op, list, perform};
use weld_digest::Digest;
use weld_store::layer::Compression;
use weld_store::snapshot::{LayerBlob, LayerDescriptor, SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: String::new(),
        mutable: false,
        size: None,
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes an image of layers as an OCI layout with the tag `test`.
fn write_layout(layout: &Path, layers: &[LayerBlob]) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |value: &Value, media_type: &str| {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = Digest::sha256_of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let descriptors: Vec<_> = layers
        .iter()
        .map(|layer| {
            let descriptor = &layer.descriptor;
            let blob = layer.blob.as_ref().unwrap().path();
            fs::copy(blob, blobs.join(descriptor.digest.hex())).unwrap();
            json!({
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            })
        })
        .collect();
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| &layer.descriptor.diff_id)
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(&config, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors,
    });
    let mut manifest = put(&manifest, "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

/// The layers of the image with the tag `test`, and its diff ids.
fn read_layout(layout: &Path) -> Vec<(LayerDescriptor, Vec<u8>)> {
    let json = |digest: &Value| -> Value {
        let hex = digest
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap()
            .to_owned();
        serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let tagged = entries
        .iter()
        .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "test");
    let manifest = json(&tagged.unwrap()["digest"]);
    let config = json(&manifest["config"]["digest"]);
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().zip(diff_ids);
    layers
        .map(|(layer, diff_id)| {
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let bytes = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
            let descriptor = LayerDescriptor {
                diff_id: diff_id.as_str().unwrap().parse().unwrap(),
                media_type: layer["mediaType"].as_str().unwrap().to_owned(),
                digest,
                size: bytes.len() as u64,
                annotations: Default::default(),
            };
            (descriptor, bytes)
        })
        .collect()
}

fn steps() -> [Vec<Op>; 3] {
    let path = |text: &str| Path::new(text).to_owned();
    let long = path(&"deep/".repeat(30)).join("file");
    [
        vec![
            Op::File(path("etc/config"), b"one".to_vec()),
            Op::File(path("etc/gone"), b"two".to_vec()),
            Op::File(long, b"three".to_vec()),
            Op::Directory(path("dir/with/some")),
            Op::File(path("bin/tool"), vec![7; 100_000]),
            Op::Owner(path("bin/tool"), 1000, 100_000),
            Op::Mode(path("bin/tool"), 0o4755),
            Op::Capability(path("bin/tool")),
            Op::HardLink(path("bin/same"), path("bin/tool")),
            Op::Symlink(path("bin/link"), path("../../etc/config")),
            Op::Time(path("etc/config"), 1_500_000_000, 123_456_789),
            Op::Sparse(path("sparse"), 1_000_000, 2_000_000),
        ],
        vec![
            Op::Remove(path("etc/gone")),
            Op::Remove(path("dir")),
            Op::Directory(path("dir/fresh")),
            Op::Device(path("null"), false, 1),
            Op::Fifo(path("pipe")),
            Op::Xattr(path("etc/config"), "user.note".to_owned(), vec![0, 255, 61]),
        ],
        vec![
            Op::Remove(path("bin/link")),
            Op::Directory(path("bin/link")),
        ],
    ]
}

#[test]
fn umoci_and_skopeo_read_our_layers_and_we_read_umocis() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path().join("state"), StoreOptions::default()).unwrap();
    let snapshots = Snapshots::open(&store).unwrap();
    let mut top: Option<SnapshotRef> = None;
    for step in steps() {
        let snapshot = snapshots.create(top.as_ref()).unwrap();
        perform(&snapshot.mount().unwrap().path(), &step);
        top = Some(snapshot.commit(usage()).unwrap());
    }
    let top = top.unwrap();
    let expected = list(&top.mount().unwrap().path().join("."));
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();

    let layers = top.layers(Compression::Gzip(None), false).unwrap();
    write_layout(&root.path().join("layout"), &layers);
    let image = format!("{}:test", path("layout"));
    run("umoci", &["unpack", "--image", &image, &path("bundle")]);
    let rootfs = root.path().join("bundle/rootfs");
    let mut unpacked = list(&rootfs);
    for told in unpacked.values_mut() {
        // What umoci notes for itself.
        if let Some(start) = told.find(" user.rootlesscontainers") {
            told.truncate(start);
        }
    }
    assert_eq!(unpacked, expected);
    let inspected = run("skopeo", &["inspect", &format!("oci:{image}")]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 3);

    // skopeo decompresses and compresses anew what it copies so.
    for compression in ["zstd", "gzip"] {
        let layers = top.layers(compression.parse().unwrap(), true).unwrap();
        let from = format!("layout-{compression}");
        write_layout(&root.path().join(&from), &layers);
        let to = path(&format!("copy-{compression}"));
        let from = format!("oci:{}:test", path(&from));
        run("skopeo", &["copy", &from, &format!("dir:{to}")]);
    }

    // What umoci makes of its changes is what we make of its layer.
    perform(
        &rootfs,
        &[
            Op::Remove("etc/config".into()),
            Op::File("added/by/umoci".into(), b"four".to_vec()),
            // umoci keeps whole seconds.
            Op::Time("added/by/umoci".into(), 1_600_000_000, 0),
            Op::Symlink("added/link".into(), "by".into()),
        ],
    );
    let expected = list(&rootfs);
    run("umoci", &["repack", "--image", &image, &path("bundle")]);
    let mut rebuilt: Option<SnapshotRef> = None;
    for (descriptor, bytes) in read_layout(&root.path().join("layout")) {
        let applied = snapshots.apply(rebuilt.as_ref(), &bytes[..], &descriptor, usage());
        rebuilt = Some(applied.unwrap());
    }
    let rebuilt = list(&rebuilt.unwrap().mount().unwrap().path().join("."));
    let names = |listing: &support::Listing| listing.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&rebuilt), names(&expected));
    for path in ["added/by/umoci", "bin/tool", "sparse", "null"] {
        assert_eq!(
            rebuilt[Path::new(path)],
            expected[Path::new(path)],
            "{path}"
        );
    }
}

#[test]
fn a_layer_written_anew_differs_in_its_times_alone() {
    use std::os::fd::AsFd;
    use weld_store::layer::{self, ApplyOptions, DiffOptions, DiffSource, Whiteouts};
    let root = tempfile::tempdir().unwrap();
    let tree = root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for step in steps() {
        perform(&tree, &step);
    }
    let opened = layer::open_root(&tree).unwrap();
    let source = DiffSource::Trees {
        lower: None,
        upper: opened.as_fd(),
    };
    let epoch = 1_400_000_000;
    let clamp = DiffOptions {
        max_mtime: Some(epoch),
        ..DiffOptions::default()
    };
    let write = |options| {
        layer::write(Compression::Uncompressed, Vec::new(), |to| {
            layer::write_diff(source, options, to)
        })
        .unwrap()
    };
    let (plain, _) = write(DiffOptions::default());
    let (direct, direct_facts) = write(clamp);
    let (anew, facts) = layer::write(Compression::Uncompressed, Vec::new(), |to| {
        layer::rewrite(&plain[..], clamp, to)
    })
    .unwrap();
    assert!(anew == direct && facts == direct_facts);
    let target = root.path().join("target");
    fs::create_dir(&target).unwrap();
    let opened = layer::open_root(&target).unwrap();
    layer::unpack(
        &anew[..],
        opened.as_fd(),
        &ApplyOptions::new(Whiteouts::Remove),
    )
    .unwrap();
    for (path, told) in list(&target) {
        let time: i64 = told
            .split(' ')
            .nth(2)
            .unwrap()
            .split('.')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(time <= epoch, "{}: {told}", path.display());
    }
}
