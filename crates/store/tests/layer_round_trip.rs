//! Layers as root on a real file system: what is written and applied again is the same tree.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use support::{kept, list, ops, perform};
use weld_store::layer::{
    ApplyOptions, Compression, DiffOptions, DiffSource, LayerError, Whiteouts, Written, open_root,
    unpack, write, write_diff,
};
use weld_store::mount::{MountSpec, Mounted, OverlayUpper};

struct Overlay {
    lower: PathBuf,
    upper: PathBuf,
    mount: Mounted,
}

fn overlay(root: &Path, name: &str, lower: &Path) -> Overlay {
    let upper = OverlayUpper {
        upper: root.join(name),
        work: root.join(format!("{name}.work")),
    };
    fs::create_dir(&upper.upper).unwrap();
    fs::create_dir(&upper.work).unwrap();
    let spec = MountSpec::layered(vec![lower.to_owned()], Some(upper.clone()), false);
    Overlay {
        lower: lower.to_owned(),
        upper: upper.upper,
        mount: Mounted::open(&spec).unwrap(),
    }
}

fn diff_of_layer(overlay: &Overlay, compression: Compression) -> (Vec<u8>, Written) {
    let upper = open_root(&overlay.upper).unwrap();
    let below = open_root(&overlay.lower).unwrap();
    let source = DiffSource::Layer {
        upper: upper.as_fd(),
        below: Some(below.as_fd()),
        userxattr: false,
    };
    write(compression, Vec::new(), |to| {
        write_diff(source, DiffOptions::default(), to)
    })
    .unwrap()
}

fn diff_of_trees(overlay: &Overlay) -> Vec<u8> {
    let lower = open_root(&overlay.lower).unwrap();
    let upper = open_root(&overlay.mount.path().join(".")).unwrap();
    let source = DiffSource::Trees {
        lower: Some(lower.as_fd()),
        upper: upper.as_fd(),
    };
    let written = write(Compression::Uncompressed, Vec::new(), |to| {
        write_diff(source, DiffOptions::default(), to)
    });
    written.unwrap().0
}

fn apply_as_layer(blob: &[u8], to: &Path) {
    let root = open_root(to).unwrap();
    let options = ApplyOptions::new(Whiteouts::Overlay { userxattr: false });
    unpack(blob, root.as_fd(), &options).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_survive_a_layer(before in ops(0..30), after in ops(1..30)) {
        let root = tempfile::tempdir().unwrap();
        let lower = root.path().join("lower");
        fs::create_dir(&lower).unwrap();
        perform(&lower, &before);
        let first = overlay(root.path(), "first", &lower);
        perform(&first.mount.path(), &after);
        let expected = kept(list(&first.mount.path().join(".")));

        let (blob, written) = diff_of_layer(&first, Compression::Gzip(None));
        let second = overlay(root.path(), "second", &lower);
        apply_as_layer(&blob, &second.upper);
        // What is below a mount must not change: it is mounted again.
        let second = remounted(root.path(), second);
        prop_assert_eq!(&kept(list(&second.path().join("."))), &expected);

        // A plain copy of the tree takes the same layer.
        let plain = root.path().join("plain");
        copy(&lower, &plain);
        let target = open_root(&plain).unwrap();
        let unpacked = unpack(&blob[..], target.as_fd(), &ApplyOptions::new(Whiteouts::Remove)).unwrap();
        prop_assert_eq!(&kept(list(&plain)), &expected);
        prop_assert_eq!(unpacked.diff_id, written.diff_id);

        // The comparison of whole trees finds a layer of the same effect.
        let compared = diff_of_trees(&first);
        let plain = root.path().join("plain-too");
        copy(&lower, &plain);
        let target = open_root(&plain).unwrap();
        unpack(&compared[..], target.as_fd(), &ApplyOptions::new(Whiteouts::Remove)).unwrap();
        prop_assert_eq!(&kept(list(&plain)), &expected);
    }
}

fn noise(length: u64) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn remounted(root: &Path, overlay: Overlay) -> Mounted {
    drop(overlay.mount);
    let work = root.join("remounted.work");
    fs::create_dir(&work).unwrap();
    let upper = OverlayUpper {
        upper: overlay.upper,
        work,
    };
    Mounted::open(&MountSpec::layered(vec![overlay.lower], Some(upper), false)).unwrap()
}

#[test]
fn every_compression_holds_the_same_archive_and_is_written_the_same_again() {
    let root = tempfile::tempdir().unwrap();
    let lower = root.path().join("lower");
    fs::create_dir(&lower).unwrap();
    let tree = overlay(root.path(), "upper", &lower);
    // More than is compressed at a time, with and without what cannot be compressed.
    fs::write(tree.mount.path().join("text"), "some text ".repeat(900_000)).unwrap();
    fs::write(tree.mount.path().join("noise"), noise(1_500_000)).unwrap();
    fs::write(
        tree.mount.path().join("words"),
        "other words ".repeat(100_000),
    )
    .unwrap();
    let (plain, expected) = diff_of_layer(&tree, Compression::Uncompressed);
    assert_eq!(expected.size, plain.len() as u64);
    for compression in [
        Compression::Gzip(None),
        Compression::Gzip(Some(1)),
        Compression::Zstd(None),
        Compression::Zstd(Some(1)),
        Compression::Zstd(Some(12)),
    ] {
        let (blob, written) = diff_of_layer(&tree, compression);
        assert_eq!(written, expected);
        assert!(
            blob.len() < 1_500_000 + plain.len() / 20,
            "{compression} {}",
            blob.len()
        );
        let mut read = Vec::new();
        let mut stream = weld_store::layer::decompress(&blob[..]).unwrap();
        std::io::copy(&mut stream, &mut read).unwrap();
        assert!(read == plain, "{compression}");
        assert!(diff_of_layer(&tree, compression).0 == blob, "{compression}");
        if let Compression::Gzip(_) = compression {
            // One member, for readers that know only one.
            let mut first = Vec::new();
            std::io::copy(&mut flate2::bufread::GzDecoder::new(&blob[..]), &mut first).unwrap();
            assert!(first == plain);
        }
    }
}

#[test]
fn a_writer_that_fails_ends_the_layer_with_its_error() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let root = tempfile::tempdir().unwrap();
    let lower = root.path().join("lower");
    fs::create_dir(&lower).unwrap();
    let tree = overlay(root.path(), "upper", &lower);
    fs::write(tree.mount.path().join("noise"), noise(5_000_000)).unwrap();
    let upper = open_root(&tree.upper).unwrap();
    for compression in [
        Compression::Uncompressed,
        Compression::Gzip(Some(1)),
        Compression::Zstd(None),
    ] {
        let source = DiffSource::Layer {
            upper: upper.as_fd(),
            below: None,
            userxattr: false,
        };
        let error = write(compression, Full(1000), |to| {
            write_diff(source, DiffOptions::default(), to)
        })
        .err()
        .unwrap();
        match error {
            LayerError::Write(error) => assert_eq!(error.kind(), std::io::ErrorKind::StorageFull),
            other => panic!("{compression}: {other}"),
        }
    }
}
