use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use time::OffsetDateTime;
use weld_export::{Destination, ExportKind, ExportTarget};

use crate::bed::{Bed, names, note, one, path_of, run, set_note, text, two};

#[tokio::test]
async fn a_tar_archive_is_what_gnu_tar_unpacks() {
    let bed = Bed::new();
    let app = bed.snapshot(Some(&bed.app()), "owner", |root| {
        std::os::unix::fs::chown(root.join("app/main"), Some(1234), Some(70_000)).unwrap();
        set_note(&root.join("app/main"), "kept");
        // A change of its own parts the file from its other name in the layer below.
        fs::hard_link(root.join("app/main"), root.join("app/pair")).unwrap();
        run("mknod", &[text(&root.join("device")), "c", "1", "3"]);
        let long = "d".repeat(120);
        fs::create_dir(root.join(&long)).unwrap();
        fs::write(root.join(&long).join("ä"), "long").unwrap();
        fs::write(root.join("large"), vec![7; 5 << 20]).unwrap();
    });
    let (file, again, unpacked) = (bed.path("a.tar"), bed.path("b.tar"), bed.path("unpacked"));
    for file in [&file, &again] {
        let target = ExportTarget::File(file.clone());
        bed.export(ExportKind::Tar, target, &[], &one(Some(app.clone())))
            .await
            .unwrap();
    }
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
    fs::create_dir(&unpacked).unwrap();
    run(
        "tar",
        &["--xattrs", "-xpf", text(&file), "-C", text(&unpacked)],
    );
    let mounted = app.mount().unwrap();
    run(
        "diff",
        &[
            "-r",
            "--no-dereference",
            text(&path_of(&mounted).join("app")),
            text(&unpacked.join("app")),
        ],
    );
    let metadata = fs::metadata(unpacked.join("app/main")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 70_000));
    assert_eq!(metadata.nlink(), 2);
    let noted = note(&unpacked.join("app/main"));
    assert_eq!(noted, "kept");
    assert_eq!(fs::metadata(unpacked.join("large")).unwrap().len(), 5 << 20);
    assert_eq!(names(&unpacked.join("d".repeat(120))), ["ä"]);
    assert_eq!(fs::metadata(unpacked.join("device")).unwrap().rdev(), 0x103);
    assert!(!unpacked.join("usr/gone").exists());
}

#[tokio::test]
async fn platforms_have_directories_in_a_tar_archive() {
    let bed = Bed::new();
    let mut built = two(bed.app(), bed.app());
    built.epoch = Some(OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap());
    let file = bed.path("a.tar");
    let target = ExportTarget::File(file.clone());
    bed.export(ExportKind::Tar, target, &[], &built)
        .await
        .unwrap();
    let listing = run("tar", &["--utc", "--full-time", "-tvf", text(&file)]);
    for name in [
        "linux_amd64/usr/bin/tool",
        "linux_arm64/app/main link to linux_arm64/app/again",
    ] {
        let found = listing.lines().any(|line| line.ends_with(name));
        assert!(found, "{name}: {listing}");
    }
    assert!(
        listing
            .lines()
            .all(|line| line.contains("2001-09-09 01:46:40")),
        "{listing}"
    );
}

#[tokio::test]
async fn an_archive_can_go_to_a_pipe() {
    let bed = Bed::new();
    let built = one(Some(bed.app()));
    let pipe = bed.path("pipe");
    run("mkfifo", &[text(&pipe)]);
    let reader = {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || fs::read(pipe).unwrap())
    };
    let target = ExportTarget::File(pipe.clone());
    bed.export(ExportKind::Tar, target, &[], &built)
        .await
        .unwrap();
    let file = bed.path("a.tar");
    let target = ExportTarget::File(file.clone());
    bed.export(ExportKind::Tar, target, &[], &built)
        .await
        .unwrap();
    assert_eq!(reader.await.unwrap(), fs::read(file).unwrap());
}

#[test]
fn a_file_is_seen_when_it_is_whole_and_not_before() {
    // What a killed process wrote so far is gone with it.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.tar");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let target = ExportTarget::File(file.clone());
    let seen = || {
        let names = fs::read_dir(directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        (
            names.collect::<Vec<_>>(),
            fs::read_to_string(&file).unwrap(),
        )
    };
    let destination = Destination::open(ExportKind::Tar, &target).unwrap();
    destination.handle().write_all(b"new").unwrap();
    assert_eq!(seen(), (vec!["out.tar".into()], "old".to_owned()));
    destination.publish().unwrap();
    assert_eq!(seen(), (vec!["out.tar".into()], "new".to_owned()));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
}
