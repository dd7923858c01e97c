use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use time::OffsetDateTime;
use weld_export::{ExportError, ExportKind, ExportTarget};
use weld_store::snapshot::SnapshotRef;

use crate::bed::{Bed, Response, names, note, one, path_of, run, set_note, text, two};

async fn export(bed: &Bed, attrs: &[(&str, &str)], tree: SnapshotRef) -> Response {
    let target = ExportTarget::Directory(bed.path("out"));
    bed.export(ExportKind::Local, target, attrs, &one(Some(tree)))
        .await
}

#[tokio::test]
async fn files_come_with_what_belongs_to_them() {
    let bed = Bed::new();
    let tree = bed.snapshot(Some(&bed.app()), "more", |root| {
        let main = root.join("app/main");
        fs::set_permissions(&main, fs::Permissions::from_mode(0o6755)).unwrap();
        std::os::unix::fs::chown(&main, Some(1234), Some(1234)).unwrap();
        fs::set_permissions(&main, fs::Permissions::from_mode(0o6751)).unwrap();
        set_note(&main, "kept");
        // A change of its own parts the file from its other name in the layer below.
        fs::hard_link(&main, root.join("app/pair")).unwrap();
        run("touch", &["-d", "2001-02-03 04:05:06.789 UTC", text(&main)]);
        run(
            "touch",
            &["-hd", "2002-02-03 UTC", text(&root.join("app/link"))],
        );
        run("mkfifo", &[text(&root.join("fifo"))]);
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"in the middle", 33 << 20).unwrap();
        fs::write(root.join("large"), vec![9; 3 << 20]).unwrap();
        fs::create_dir(root.join("closed")).unwrap();
        fs::write(root.join("closed/inside"), "x").unwrap();
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
        run(
            "touch",
            &["-d", "2003-02-03 UTC", text(&root.join("closed"))],
        );
    });
    // Twice: what is there is replaced.
    for _ in 0..2 {
        export(&bed, &[], tree.clone()).await.unwrap();
    }
    let out = bed.path("out");
    let mounted = tree.mount().unwrap();
    for directory in ["app", "usr", "closed"] {
        run(
            "diff",
            &[
                "-r",
                "--no-dereference",
                text(&path_of(&mounted).join(directory)),
                text(&out.join(directory)),
            ],
        );
    }
    assert_eq!(names(&out), names(&path_of(&mounted)));
    let main = fs::metadata(out.join("app/main")).unwrap();
    assert_eq!(main.mode() & 0o7777, 0o6751);
    assert_eq!(
        (main.mtime(), main.mtime_nsec()),
        (981_173_106, 789_000_000)
    );
    assert_eq!(main.uid(), rustix::process::getuid().as_raw());
    assert_eq!(
        main.ino(),
        fs::metadata(out.join("app/pair")).unwrap().ino()
    );
    assert_eq!(main.nlink(), 2);
    let noted = note(&out.join("app/main"));
    assert_eq!(noted, "kept");
    let link = fs::symlink_metadata(out.join("app/link")).unwrap();
    assert_eq!(link.mtime(), 1_012_694_400);
    let closed = fs::metadata(out.join("closed")).unwrap();
    assert_eq!(
        (closed.mode() & 0o7777, closed.mtime()),
        (0o500, 1_044_230_400)
    );
    let sparse = fs::metadata(out.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 64 << 20);
    assert!(sparse.blocks() * 512 < 2 << 20, "{}", sparse.blocks());
    run(
        "cmp",
        &[
            text(&path_of(&mounted).join("sparse")),
            text(&out.join("sparse")),
        ],
    );
    run(
        "cmp",
        &[
            text(&path_of(&mounted).join("large")),
            text(&out.join("large")),
        ],
    );
    assert!(fs::symlink_metadata(out.join("fifo")).unwrap().mode() & 0o170_000 == 0o010_000);
}

#[tokio::test]
async fn what_is_in_the_way_is_replaced_and_nothing_outside_is_touched() {
    let bed = Bed::new();
    let tree = bed.app();
    let (out, outside) = (bed.path("out"), bed.path("outside"));
    fs::create_dir_all(outside.join("bin")).unwrap();
    fs::write(outside.join("main"), "outside").unwrap();
    fs::create_dir_all(out.join("app/main/deep")).unwrap();
    fs::write(out.join("app/main/deep/file"), "old").unwrap();
    fs::write(out.join("app/own"), "own").unwrap();
    // A directory that is a link to elsewhere, and a file that is one.
    symlink(&outside, out.join("usr")).unwrap();
    symlink(outside.join("main"), out.join("app/again")).unwrap();
    export(&bed, &[], tree).await.unwrap();
    assert_eq!(fs::read_to_string(out.join("app/main")).unwrap(), "main");
    assert_eq!(names(&out.join("app")), ["again", "link", "main", "own"]);
    assert_eq!(names(&out.join("usr")), ["bin"]);
    assert!(!out.join("usr").is_symlink());
    assert_eq!(names(&outside), ["bin", "main"]);
    assert_eq!(names(&outside.join("bin")), [""; 0]);
    assert_eq!(fs::read_to_string(outside.join("main")).unwrap(), "outside");
}

#[tokio::test]
async fn delete_mode_leaves_nothing_else() {
    let bed = Bed::new();
    let (out, outside) = (bed.path("out"), bed.path("outside"));
    fs::create_dir_all(out.join("app/old/deep")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    symlink(&outside, out.join("link")).unwrap();
    export(&bed, &[("mode", "delete")], bed.app())
        .await
        .unwrap();
    assert_eq!(names(&out), ["app", "usr"]);
    assert_eq!(names(&out.join("app")), ["again", "link", "main"]);
    assert_eq!(names(&outside), ["file"]);
    let root = ExportTarget::Directory("/".into());
    let error = bed
        .export(ExportKind::Local, root, &[("mode", "delete")], &one(None))
        .await
        .unwrap_err();
    assert!(matches!(error, ExportError::DeleteRoot(_)), "{error}");
}

#[tokio::test]
async fn platforms_have_directories_of_their_own() {
    let bed = Bed::new();
    let only = |name: &str| {
        bed.snapshot(None, name, |root| {
            fs::write(root.join(name), name).unwrap();
        })
    };
    let target = || ExportTarget::Directory(bed.path("out"));
    let built = two(only("one"), only("two"));
    bed.export(ExportKind::Local, target(), &[], &built)
        .await
        .unwrap();
    assert_eq!(names(&bed.path("out")), ["linux_amd64", "linux_arm64"]);
    assert_eq!(names(&bed.path("out/linux_arm64")), ["two"]);
    let together = [("platform-split", "false"), ("mode", "delete")];
    bed.export(ExportKind::Local, target(), &together, &built)
        .await
        .unwrap();
    assert_eq!(names(&bed.path("out")), ["one", "two"]);
    let same = two(only("one"), only("one"));
    let error = bed
        .export(ExportKind::Local, target(), &together, &same)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot overwrite one from linux/amd64 with linux/arm64 when split option is disabled: use platform-split=true or other names"
    );
}

#[tokio::test]
async fn an_epoch_is_the_time_of_all_files() {
    let bed = Bed::new();
    let mut built = one(Some(bed.app()));
    built.epoch = Some(OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap());
    let target = ExportTarget::Directory(bed.path("out"));
    bed.export(ExportKind::Local, target, &[], &built)
        .await
        .unwrap();
    let found = run(
        "find",
        &[text(&bed.path("out")), "-mindepth", "1", "-printf", "%T@\n"],
    );
    assert_eq!(found.lines().count(), 7, "{found}");
    assert!(
        found.lines().all(|time| time.starts_with("1000000000.000")),
        "{found}"
    );
}

#[tokio::test]
async fn a_full_disk_leaves_no_partial_file() {
    let bed = Bed::new();
    let tree = bed.snapshot(None, "big", |root| {
        fs::write(root.join("big"), vec![1; 4 << 20]).unwrap();
    });
    let out = bed.path("out");
    fs::create_dir(&out).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", "size=512k", "tmpfs", text(&out)],
    );
    let outcome = export(&bed, &[], tree).await;
    let left = names(&out);
    run("umount", &[text(&out)]);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("out/big: No space left"), "{error}");
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn a_destination_that_cannot_be_written_is_told_before_the_build() {
    let bed = Bed::new();
    let file = bed.path("file");
    fs::write(&file, "").unwrap();
    let cases = [
        (
            ExportKind::Local,
            ExportTarget::Directory(file.clone()),
            "file: not a directory",
        ),
        (
            ExportKind::Local,
            ExportTarget::Directory(file.join("x")),
            "file",
        ),
        (
            ExportKind::Local,
            ExportTarget::File(file.clone()),
            "needs a directory",
        ),
        (
            ExportKind::Tar,
            ExportTarget::File(bed.path("no/a.tar")),
            "write to directory",
        ),
        (
            ExportKind::Tar,
            ExportTarget::File(bed.path("")),
            "is a directory",
        ),
        (
            ExportKind::OciArchive,
            ExportTarget::Nowhere,
            "needs a file or standard output",
        ),
    ];
    for (kind, target, part) in cases {
        let request = crate::bed::request(kind, target.clone(), &[]);
        let error = weld_export::Exporter::validate(&request).unwrap_err();
        assert!(error.to_string().contains(part), "{target:?}: {error}");
    }
    assert!(Path::new(&file).exists());
}
