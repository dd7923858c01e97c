use std::io::Read;

use weld_digest::Digest;
use weld_source::image::{Document, MAX_CONFIG};
use weld_source::oci_layout::{LayoutError, OciLayout, Selector};

use crate::support::{Layout, run};

fn tag(name: &str) -> Selector {
    Selector::Tag(name.to_owned())
}

#[test]
fn an_image_is_found_by_tag_digest_or_for_being_alone() {
    let made = Layout::new(&[1000, 2000]);
    let layout = OciLayout::open(made.path()).unwrap();
    let digest = made.descriptor.digest.clone();
    for selector in [tag("latest"), Selector::Digest(digest), Selector::Only] {
        let served = layout.resolve(&selector).unwrap();
        assert_eq!(served.descriptor, made.descriptor);
        let Document::Manifest(manifest) = served.document else {
            panic!("not a manifest");
        };
        assert_eq!(*manifest, made.manifest);
    }
    let config = layout.bytes(&made.manifest.config, MAX_CONFIG).unwrap();
    assert_eq!(Digest::sha256_of(config), made.manifest.config.digest);
    let mut content = Vec::new();
    layout
        .file(&made.manifest.layers[1])
        .unwrap()
        .read_to_end(&mut content)
        .unwrap();
    assert!(content == made.layers[1]);
}

#[test]
fn layouts_of_skopeo_and_umoci_are_read() {
    let made = Layout::new(&[1000]);
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("copy");
    let (from, copy) = (made.path().display(), to.display());
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci:{from}:latest"),
            &format!("oci:{copy}:docker.io/library/app:v2"),
        ],
    );
    run(
        "umoci",
        &[
            "config",
            "--image",
            &format!("{from}:latest"),
            "--tag",
            "labelled",
            "--config.label",
            "a=b",
        ],
    );
    let layout = OciLayout::open(&to).unwrap();
    assert_eq!(
        layout.resolve(&tag("v2")).unwrap().descriptor.digest,
        made.descriptor.digest
    );
    let layout = OciLayout::open(made.path()).unwrap();
    let labelled = layout.resolve(&tag("labelled")).unwrap();
    assert_ne!(labelled.descriptor.digest, made.descriptor.digest);
    let error = layout.resolve(&Selector::Only).unwrap_err().to_string();
    assert!(
        error.contains("has 2 images (latest, labelled): name one"),
        "{error}"
    );
    let error = layout.resolve(&tag("nope")).unwrap_err().to_string();
    assert!(
        error.contains("has no image \"nope\"; it has latest, labelled"),
        "{error}"
    );
}

#[test]
fn blobs_of_a_store_need_no_index() {
    let made = Layout::new(&[1000]);
    for file in ["index.json", "oci-layout"] {
        std::fs::remove_file(made.path().join(file)).unwrap();
    }
    assert!(matches!(
        OciLayout::open(made.path()),
        Err(LayoutError::NotALayout { .. })
    ));
    let store = OciLayout::of_blobs(made.path()).unwrap();
    let served = store
        .resolve(&Selector::Digest(made.descriptor.digest.clone()))
        .unwrap();
    assert_eq!(served.descriptor, made.descriptor);
}

#[test]
fn damage_is_found_and_named() {
    let made = Layout::new(&[1000]);
    let layout = OciLayout::open(made.path()).unwrap();
    let blob = made.blob(&made.descriptor);
    let mut content = std::fs::read(&blob).unwrap();
    content[20] ^= 1;
    std::fs::write(&blob, &content).unwrap();
    let error = layout.resolve(&tag("latest")).unwrap_err();
    assert!(matches!(error, LayoutError::Damaged { .. }), "{error}");
    std::fs::write(&blob, "short").unwrap();
    let error = layout.resolve(&tag("latest")).unwrap_err().to_string();
    assert!(error.contains("it has 5 bytes instead of"), "{error}");
    std::fs::remove_file(&blob).unwrap();
    let error = layout.resolve(&tag("latest")).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    std::fs::write(made.blob(&made.manifest.layers[0]), "x").unwrap();
    assert!(matches!(
        layout.file(&made.manifest.layers[0]),
        Err(LayoutError::Damaged { .. })
    ));
}

#[test]
fn a_blob_may_not_lead_out_of_the_layout() {
    let made = Layout::new(&[1000]);
    let blob = made.blob(&made.manifest.config);
    let content = std::fs::read(&blob).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), &content).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(outside.path(), &blob).unwrap();
    let layout = OciLayout::open(made.path()).unwrap();
    let error = layout.bytes(&made.manifest.config, MAX_CONFIG).unwrap_err();
    assert!(matches!(error, LayoutError::Read { .. }), "{error}");
}

#[test]
fn what_is_no_layout_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = OciLayout::open(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("is not an OCI image layout: oci-layout: No such file"),
        "{error}"
    );
    std::fs::write(
        empty.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    let error = OciLayout::open(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("version \"2.0.0\" is not supported"),
        "{error}"
    );
    let error = OciLayout::open("/nonexistent").unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent is not an OCI image layout"),
        "{error}"
    );
}
