//! Archives that mean harm, and those of other programs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use weld_store::layer::{
    ApplyOptions, Entry, EntryKind, LayerError, TarWriter, Whiteouts, open_root, unpack,
};
use weld_store::snapshot::FileTime;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: FileTime {
            seconds: 1_000_000,
            nanoseconds: 5,
        },
        xattrs: Vec::new(),
    }
}

fn dir(path: &str) -> (Entry, &'static [u8]) {
    (entry(path, EntryKind::Directory), b"")
}

fn file(path: &str, content: &'static str) -> (Entry, &'static [u8]) {
    let size = content.len() as u64;
    (entry(path, EntryKind::File { size }), content.as_bytes())
}

fn link(path: &str, target: &str) -> (Entry, &'static [u8]) {
    let target = target.as_bytes().to_vec();
    (entry(path, EntryKind::Symlink { target }), b"")
}

fn hard_link(path: &str, target: &str) -> (Entry, &'static [u8]) {
    let target = target.as_bytes().to_vec();
    (entry(path, EntryKind::HardLink { target }), b"")
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        tar.entry(entry).unwrap();
        tar.write_all(content).unwrap();
    }
    tar.finish().unwrap()
}

const MODES: [Whiteouts; 3] = [
    Whiteouts::Overlay { userxattr: false },
    Whiteouts::Remove,
    Whiteouts::Literal,
];

fn apply(archive: &[u8], root: &Path, whiteouts: Whiteouts) -> Result<(), LayerError> {
    let root = open_root(root).unwrap();
    unpack(archive, root.as_fd(), &ApplyOptions::new(whiteouts)).map(drop)
}

/// Applies in each mode to `root/tree`, which has `root/secret` beside it, and checks that
/// nothing outside was touched.
fn contained(entries: &[(Entry, &[u8])], check: impl Fn(&Path, Result<(), LayerError>)) {
    for mode in MODES {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("secret"), "untouched").unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let result = apply(&archive(entries), &tree, mode);
        assert_eq!(
            fs::read_to_string(root.path().join("secret")).unwrap(),
            "untouched"
        );
        assert_eq!(fs::metadata(root.path().join("secret")).unwrap().nlink(), 1);
        assert_eq!(
            fs::read_dir(root.path().join("outside")).unwrap().count(),
            0
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
        check(&tree, result);
    }
}

fn refused(entries: &[(Entry, &[u8])], words: &str) {
    contained(entries, |_, result| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    });
}

#[test]
fn paths_that_lead_out_are_refused() {
    refused(&[file("../secret", "x")], "leads out of the root");
    refused(&[file("a/../../secret", "x")], "leads out of the root");
    refused(&[file("/../secret", "x")], "leads out of the root");
    refused(
        &[dir("a"), hard_link("a/b", "../secret")],
        "leads out of the root",
    );
    refused(
        &[link("l", "../secret"), hard_link("b", "l/../../secret")],
        "leads out of the root",
    );
    refused(&[hard_link("a", "missing")], "missing");
    refused(&[dir("d"), hard_link("a", "d")], "is a directory");
    refused(&[file("f", ""), file("f/g", "")], "is no directory");
    refused(&[file("./", "x")], "root is a directory");
    refused(
        &[(entry(&"n".repeat(300), EntryKind::Fifo), b"")],
        "more than 255",
    );
    refused(
        &[(entry(&"n/".repeat(3000), EntryKind::Directory), b"")],
        "more than 4096",
    );
}

#[test]
fn absolute_paths_and_symlinks_stay_within() {
    contained(
        &[
            file("/etc/passwd", "x"),
            file("a/./b//c", "y"),
            file("a/b/../d", "z"),
        ],
        |tree, result| {
            result.unwrap();
            assert_eq!(fs::read_to_string(tree.join("etc/passwd")).unwrap(), "x");
            assert_eq!(fs::read_to_string(tree.join("a/b/c")).unwrap(), "y");
            assert_eq!(fs::read_to_string(tree.join("a/d")).unwrap(), "z");
        },
    );
    // A link out, and a file through it: within the root, the link leads to the root's own.
    for target in ["../../outside", "/outside", "../outside", "/../../outside"] {
        contained(&[link("l", target), file("l/file", "x")], |tree, result| {
            result.unwrap();
            assert_eq!(fs::read_to_string(tree.join("outside/file")).unwrap(), "x");
        });
    }
    contained(&[link("l", "/secret"), file("l", "x")], |tree, result| {
        result.unwrap();
        assert!(fs::symlink_metadata(tree.join("l")).unwrap().is_file());
    });
    // A link to a link is a link; a hard link of it is not what it leads to.
    contained(
        &[link("l", "../secret"), hard_link("h", "l")],
        |tree, result| {
            result.unwrap();
            assert!(fs::symlink_metadata(tree.join("h")).unwrap().is_symlink());
        },
    );
    contained(
        &[link("a", "b"), link("b", "a"), file("a/x", "")],
        |_, result| {
            assert!(
                result.unwrap_err().to_string().contains("ymbolic"),
                "too many links"
            );
        },
    );
    // The directory's metadata is not set through a link that took its place.
    contained(&[dir("d"), link("d", "../outside")], |tree, result| {
        result.unwrap();
        assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_symlink());
    });
}

#[test]
fn marks_of_an_overlay_in_an_archive_are_no_marks() {
    let mut marked = entry("d/", EntryKind::Directory);
    marked.xattrs = vec![
        (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        (b"user.kept".to_vec(), b"1".to_vec()),
    ];
    contained(&[(marked, b"")], |tree, result| {
        result.unwrap();
        let mut names = [0; 256];
        let length = rustix::fs::llistxattr(tree.join("d"), &mut names[..]).unwrap();
        assert_eq!(&names[..length], b"user.kept\0");
    });
}

#[test]
fn removals_spare_what_the_layer_itself_has() {
    let entries = [
        dir("d/"),
        file("d/new", "x"),
        file("d/.wh..wh..opq", ""),
        file("d/newer", "y"),
        file(".wh.gone", ""),
        file("both", "z"),
        file(".wh.both", ""),
        file(".wh.again", ""),
        file("again", "w"),
        file(".wh..wh.plnk", ""),
    ];
    let root = tempfile::tempdir().unwrap();
    for name in ["d/old", "gone/deep", "both", "again"] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "old").unwrap();
    }
    apply(&archive(&entries), root.path(), Whiteouts::Remove).unwrap();
    let mut names: Vec<_> = walk(root.path());
    names.sort();
    assert_eq!(names, ["again", "both", "d", "d/new", "d/newer"]);
    assert_eq!(fs::read_to_string(root.path().join("again")).unwrap(), "w");

    let upper = tempfile::tempdir().unwrap();
    apply(
        &archive(&entries),
        upper.path(),
        Whiteouts::Overlay { userxattr: false },
    )
    .unwrap();
    let is_mark = |name: &str| {
        fs::symlink_metadata(upper.path().join(name))
            .unwrap()
            .file_type()
            .is_char_device()
    };
    assert!(is_mark("gone") && !is_mark("both") && !is_mark("again"));

    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        let result = apply(
            &archive(&[dir("d"), file(name, "")]),
            upper.path(),
            Whiteouts::Remove,
        );
        assert!(
            result.unwrap_err().to_string().contains("without a name"),
            "{name}"
        );
    }
    let literal = tempfile::tempdir().unwrap();
    apply(
        &archive(&[file(".wh.x", "")]),
        literal.path(),
        Whiteouts::Literal,
    )
    .unwrap();
    assert!(literal.path().join(".wh.x").exists());
}

fn walk(root: &Path) -> Vec<String> {
    let output = Command::new("find")
        .arg(root)
        .args(["-mindepth", "1", "-printf", "%P\\n"])
        .output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn damage_is_told_with_its_place() {
    let whole = archive(&[file("a", "content"), file("b", "content")]);
    let root = tempfile::tempdir().unwrap();
    let error = |bytes: &[u8]| apply(bytes, root.path(), Whiteouts::Literal).unwrap_err();
    // Headers, content and the PAX records of the time take 3 blocks and a half each.
    assert!(matches!(error(&whole[..700]), LayerError::Truncated { .. }));
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    assert!(matches!(
        error(&damaged),
        LayerError::Malformed { offset: 0, .. }
    ));
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    compressed.write_all(&whole).unwrap();
    let compressed = compressed.finish().unwrap();
    assert!(matches!(
        error(&compressed[..compressed.len() / 2]),
        LayerError::Read(_)
    ));
    let mut damaged = compressed.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    assert!(matches!(error(&damaged), LayerError::Read(_)));
    let zstd = zstd::encode_all(&whole[..], 3).unwrap();
    assert!(matches!(
        error(&zstd[..zstd.len() - 4]),
        LayerError::Read(_)
    ));
    apply(&zstd, root.path(), Whiteouts::Literal).unwrap();
    apply(&compressed, root.path(), Whiteouts::Literal).unwrap();
    // Nothing at all is an archive of nothing.
    apply(b"", root.path(), Whiteouts::Literal).unwrap();
}

/// A tree with what archives can hold.
fn sample(root: &Path) {
    let long = "long".repeat(40);
    fs::create_dir_all(root.join("dir").join(&long)).unwrap();
    fs::write(root.join("dir").join(&long).join("file"), "content").unwrap();
    fs::write(root.join("setuid"), "x").unwrap();
    std::os::unix::fs::chown(root.join("setuid"), Some(1000), Some(3_000_000)).unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    symlink("../".repeat(60), root.join("link")).unwrap();
    fs::hard_link(root.join("setuid"), root.join("same")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for offset in [0, 3 << 20, 7 << 20] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", offset).unwrap();
    }
    sparse.set_len(9 << 20).unwrap();
    fs::write(root.join("ünïcode"), "y").unwrap();
    Command::new("mknod")
        .arg(root.join("null"))
        .args(["c", "1", "3"])
        .status()
        .unwrap();
    Command::new("mkfifo")
        .arg(root.join("pipe"))
        .status()
        .unwrap();
}

fn facts(root: &Path) -> Vec<String> {
    let mut names = walk(root);
    names.sort();
    let told = names.into_iter().map(|name| {
        let path = root.join(&name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            weld_digest::Digest::sha256_of(fs::read(&path).unwrap()).to_string()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            meta.rdev().to_string()
        };
        format!(
            "{name} {:o} {} {} {} {} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            if meta.is_dir() { 0 } else { meta.nlink() }
        )
    });
    told.collect()
}

#[test]
fn archives_of_gnu_tar_and_python_are_read() {
    let source = tempfile::tempdir().unwrap();
    sample(source.path());
    let expected = facts(source.path());
    let archives = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("gnu", &["--format=gnu", "--sparse"][..]),
        ("oldgnu", &["--format=oldgnu", "--sparse"]),
        ("pax", &["--format=posix"]),
        (
            "sparse00",
            &["--format=posix", "--sparse", "--sparse-version=0.0"],
        ),
        (
            "sparse01",
            &["--format=posix", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "sparse10",
            &["--format=posix", "--sparse", "--sparse-version=1.0"],
        ),
        ("gzip", &["--format=gnu", "--gzip"]),
    ] {
        let path = archives.path().join(name);
        let status = Command::new("tar")
            .arg("-cf")
            .arg(&path)
            .args(options)
            .arg("-C")
            .arg(source.path())
            .arg(".")
            .status();
        assert!(status.unwrap().success());
        let root = tempfile::tempdir().unwrap();
        apply(&fs::read(&path).unwrap(), root.path(), Whiteouts::Literal).unwrap();
        assert_eq!(facts(root.path()), expected, "{name}");
        let sparse = fs::metadata(root.path().join("sparse")).unwrap();
        assert!(
            sparse.blocks() * 512 < 1 << 20,
            "{name}: {} blocks",
            sparse.blocks()
        );
    }
    let script = "import sys,tarfile\nfor f in ('GNU','PAX'):\n t=tarfile.open(sys.argv[2]+'/py'+f,'w',format=getattr(tarfile,f+'_FORMAT')); t.add(sys.argv[1],'.'); t.close()";
    let status = Command::new("python3")
        .args(["-c", script])
        .arg(source.path())
        .arg(archives.path())
        .status();
    assert!(status.unwrap().success());
    for name in ["pyGNU", "pyPAX"] {
        let root = tempfile::tempdir().unwrap();
        apply(
            &fs::read(archives.path().join(name)).unwrap(),
            root.path(),
            Whiteouts::Literal,
        )
        .unwrap();
        assert_eq!(facts(root.path()), expected, "{name}");
    }
}

#[test]
fn gnu_tar_and_python_read_our_layers() {
    let source = tempfile::tempdir().unwrap();
    sample(source.path());
    let upper = open_root(source.path()).unwrap();
    let source_of = weld_store::layer::DiffSource::Layer {
        upper: upper.as_fd(),
        below: None,
        userxattr: false,
    };
    for compression in ["uncompressed", "gzip"] {
        let (blob, _) = weld_store::layer::write(compression.parse().unwrap(), Vec::new(), |to| {
            weld_store::layer::write_diff(source_of, Default::default(), to)
        })
        .unwrap();
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), blob).unwrap();
        let root = tempfile::tempdir().unwrap();
        let output = Command::new("tar")
            .arg("-xpf")
            .arg(path.path())
            .arg("-C")
            .arg(root.path())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(facts(root.path()), facts(source.path()));
        let script = "import sys,tarfile\nprint(len(tarfile.open(sys.argv[1]).getmembers()))";
        let output = Command::new("python3")
            .args(["-c", script])
            .arg(path.path())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            facts(source.path()).len().to_string()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_are_refused_or_applied_within(at in 0usize..5000, byte in any::<u8>(), seal in any::<bool>()) {
        let mut bytes = archive(&[
            dir("a/"), file("a/file", "content"), link("a/link", "../../x"), hard_link("a/hard", "a/file"),
            file(".wh.gone", ""), file("a/.wh..wh..opq", ""),
        ]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if seal {
            // A right checksum, so that what is behind it is looked at.
            let start = at / 512 * 512;
            let header = &mut bytes[start..start + 512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let _ = apply(&bytes, &tree, Whiteouts::Overlay { userxattr: false });
        prop_assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
