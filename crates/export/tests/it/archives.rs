use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio_util::sync::CancellationToken;
use weld_digest::Digest;
use weld_export::{ExportError, ExportKind, ExportTarget};

use crate::bed::{Bed, names, one, run, skopeo, text, two};

#[tokio::test]
async fn an_oci_archive_is_what_skopeo_and_umoci_read() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    for compression in ["gzip", "zstd", "uncompressed"] {
        let file = bed.path("image.tar");
        let response = bed
            .export(
                ExportKind::OciArchive,
                ExportTarget::File(file.clone()),
                &[
                    ("name", "example.org/app:1,app"),
                    ("compression", compression),
                ],
                &built,
            )
            .await
            .unwrap();
        assert_eq!(
            response["image.name"],
            "example.org/app:1,docker.io/library/app:latest"
        );
        let archive = format!("oci-archive:{}:1", text(&file));
        let seen = skopeo(&["inspect", &archive]);
        assert_eq!(seen["Digest"], response["containerimage.digest"].as_str());
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(seen["Labels"]["a"], "b");
        let manifest = skopeo(&["inspect", "--raw", &archive]);
        let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap();
        let suffix = match compression {
            "uncompressed" => "tar",
            other => other,
        };
        assert!(media_type.ends_with(suffix), "{media_type}");
        if compression == "zstd" {
            // Debian's umoci does not read it.
            continue;
        }
        let (layout, unpacked) = (bed.path("layout"), bed.path("unpacked"));
        fs::create_dir(&layout).unwrap();
        run("tar", &["-xf", text(&file), "-C", text(&layout)]);
        let image = format!("{}:1", text(&layout));
        run("umoci", &["unpack", "--image", &image, text(&unpacked)]);
        assert_eq!(names(&unpacked.join("rootfs/usr")), ["bin"]);
        assert_eq!(
            names(&unpacked.join("rootfs/app")),
            ["again", "link", "main"]
        );
        for directory in [layout, unpacked] {
            fs::remove_dir_all(directory).unwrap();
        }
    }
}

#[tokio::test]
async fn a_docker_archive_is_what_docker_load_reads() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let file = bed.path("image.tar");
    let response = bed
        .export(
            ExportKind::DockerArchive,
            ExportTarget::File(file.clone()),
            &[("name", "app:1")],
            &built,
        )
        .await
        .unwrap();
    let archive = format!("docker-archive:{}", text(&file));
    let seen = skopeo(&["inspect", &archive]);
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    let listed = run("skopeo", &["list-tags", &archive]);
    assert!(listed.contains("app:1"), "{listed}");
    // The config is the image's ID.
    let config = run("skopeo", &["inspect", "--config", "--raw", &archive]);
    let digest = Digest::sha256_of(&config).to_string();
    assert_eq!(digest, response["containerimage.config.digest"]);
    let copied = format!("oci:{}", text(&bed.path("copied")));
    run("skopeo", &["copy", "--quiet", &archive, &copied]);
}

#[tokio::test]
async fn docker_archives_for_several_platforms_are_refused() {
    let bed = Bed::new();
    let built = two(bed.app(), bed.app());
    let file = bed.path("image.tar");
    let target = ExportTarget::File(file.clone());
    let error = bed
        .export(ExportKind::DockerArchive, target, &[], &built)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("linux/amd64, linux/arm64"),
        "{error}"
    );
    assert!(!file.exists());
}

#[tokio::test]
async fn a_layout_in_a_directory_gathers_images() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let layout = bed.path("layout");
    for name in ["app:1", "app:2", "app:1"] {
        bed.export(
            ExportKind::OciArchive,
            ExportTarget::Directory(layout.clone()),
            &[("name", name), ("tar", "false")],
            &built,
        )
        .await
        .unwrap();
    }
    let tags = run("umoci", &["list", "--layout", text(&layout)]);
    assert_eq!(tags, "2\n1\n");
    for tag in ["1", "2"] {
        skopeo(&["inspect", &format!("oci:{}:{tag}", text(&layout))]);
    }
}

#[tokio::test]
async fn the_same_result_gives_the_same_archive() {
    let bed = Bed::new();
    // Layers large and small, and two that are one blob.
    let mut snapshot = bed.app();
    for name in ["nothing", "nothing else"] {
        snapshot = bed.snapshot(Some(&snapshot), name, |_| {});
    }
    let snapshot = bed.snapshot(Some(&snapshot), "big", |root| {
        fs::write(root.join("big"), noise(20 << 20)).unwrap();
    });
    let built = one(Some(snapshot));
    let export = async |file: &Path| {
        let target = ExportTarget::File(file.to_owned());
        bed.export(ExportKind::OciArchive, target, &[], &built)
            .await
            .unwrap();
    };
    // While the layers are made; of the layers that there are; in one go.
    let (made, copied, pipe) = (bed.path("a.tar"), bed.path("b.tar"), bed.path("pipe"));
    export(&made).await;
    export(&copied).await;
    run("mkfifo", &[text(&pipe)]);
    let reader = {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || fs::read(pipe).unwrap())
    };
    export(&pipe).await;
    let (made, copied) = (fs::read(made).unwrap(), fs::read(copied).unwrap());
    assert!(made == copied, "the second archive differs");
    assert!(made == reader.await.unwrap(), "the piped archive differs");
    let names: Vec<_> = tar::Archive::new(made.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path_bytes().into_owned())
        .collect();
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "a file is there twice");
}

#[tokio::test]
async fn an_existing_archive_keeps_its_place_and_mode() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let (file, link) = (bed.path("real.tar"), bed.path("link.tar"));
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink("real.tar", &link).unwrap();
    bed.export(
        ExportKind::OciArchive,
        ExportTarget::File(link.clone()),
        &[],
        &built,
    )
    .await
    .unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(metadata.len() > 3);
}

#[tokio::test]
async fn an_archive_that_fails_leaves_what_was_there() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    // A file system that is full after half a megabyte.
    let small = bed.path("small");
    fs::create_dir(&small).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=512k", "tmpfs", text(&small)],
    );
    fs::write(small.join("image.tar"), "old").unwrap();
    let big = bed.snapshot(None, "big", |root| {
        fs::write(root.join("big"), noise(4 << 20)).unwrap();
    });
    let target = || ExportTarget::File(small.join("image.tar"));
    let outcomes = [
        bed.export(
            ExportKind::OciArchive,
            target(),
            &[],
            &one(Some(big.clone())),
        )
        .await,
        bed.export(ExportKind::Tar, target(), &[], &one(Some(big)))
            .await,
    ];
    let left = names(&small);
    let content = fs::read(small.join("image.tar")).unwrap();
    let fits = bed
        .export(ExportKind::OciArchive, target(), &[], &built)
        .await;
    run("umount", &[text(&small)]);
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(error.contains("small/image.tar"), "{error}");
    }
    assert_eq!(left, ["image.tar"]);
    assert_eq!(content, b"old");
    fits.unwrap();
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&(state >> 24).to_le_bytes()[..4]);
    }
    bytes
}

#[tokio::test]
async fn a_cancelled_archive_leaves_nothing() {
    let bed = Bed::new();
    let big = bed.snapshot(None, "big", |root| {
        let file = File::create(root.join("big")).unwrap();
        file.set_len(1 << 33).unwrap();
    });
    let out = bed.path("out");
    fs::create_dir(&out).unwrap();
    for kind in [ExportKind::Tar, ExportKind::OciArchive] {
        let cancel = CancellationToken::new();
        let request = crate::bed::request(kind, ExportTarget::File(out.join("image.tar")), &[]);
        let built = one(Some(big.clone()));
        let progress = CancelAfterFirst::of(&cancel);
        let export = bed.exporter.export(
            &request,
            &built,
            std::sync::Arc::new(weld_source::registry::Anonymous),
            &progress,
            &cancel,
        );
        let error = export.await.unwrap_err();
        assert!(matches!(error, ExportError::Cancelled), "{error}");
        assert_eq!(names(&out), [""; 0]);
    }
}

/// Cancels as soon as something was written.
struct CancelAfterFirst(CancellationToken);

impl CancelAfterFirst {
    fn of(token: &CancellationToken) -> weld_source::progress::Progress {
        weld_source::progress::Progress::new(std::sync::Arc::new(Self(token.clone())))
    }
}

impl weld_source::progress::ProgressSink for CancelAfterFirst {
    fn report(&self, status: &weld_source::progress::Status<'_>) {
        if status.current > 0 {
            self.0.cancel();
        }
    }
}
