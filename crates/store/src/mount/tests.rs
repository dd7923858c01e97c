use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use super::*;

fn layers(root: &Path, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|index| {
            let layer = root.join(format!("layer-{index}"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("file-{index}")), index.to_string()).unwrap();
            fs::write(layer.join("top"), index.to_string()).unwrap();
            layer
        })
        .rev()
        .collect()
}

fn upper(root: &Path) -> OverlayUpper {
    let upper = OverlayUpper {
        upper: root.join("upper"),
        work: root.join("work"),
    };
    fs::create_dir(&upper.upper).unwrap();
    fs::create_dir(&upper.work).unwrap();
    upper
}

#[test]
fn overlay_shows_layers_and_collects_changes_without_a_mount_point() {
    let root = tempfile::tempdir().unwrap();
    let upper = upper(root.path());
    let spec = MountSpec::layered(layers(root.path(), 3), Some(upper.clone()), false);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = Mounted::open(&spec).unwrap();
    assert_eq!(fs::read_to_string(mount.path().join("top")).unwrap(), "2");
    assert_eq!(
        fs::read_to_string(mount.path().join("file-0")).unwrap(),
        "0"
    );
    fs::write(mount.path().join("new"), "x").unwrap();
    fs::remove_file(mount.path().join("file-1")).unwrap();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    drop(mount);
    assert_eq!(fs::read_to_string(upper.upper.join("new")).unwrap(), "x");
    let whiteout = rustix::fs::lstat(upper.upper.join("file-1")).unwrap();
    assert_eq!(
        (whiteout.st_mode & libc::S_IFMT, whiteout.st_rdev),
        (libc::S_IFCHR, 0)
    );
}

#[test]
fn read_only_mounts_refuse_writes() {
    let root = tempfile::tempdir().unwrap();
    let lowers = layers(root.path(), 2);
    let upper = upper(root.path());
    for spec in [
        MountSpec::layered(lowers.clone(), None, false),
        MountSpec::layered(lowers[..1].to_vec(), None, false),
        MountSpec::layered(lowers.clone(), Some(upper), false).read_only(),
    ] {
        let mount = Mounted::open(&spec).unwrap();
        let error = fs::write(mount.path().join("new"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{spec:?}");
    }
}

#[test]
fn as_many_layers_as_the_kernel_takes_and_a_clear_error_beyond() {
    let root = tempfile::tempdir().unwrap();
    let lowers = layers(root.path(), MAX_OVERLAY_LOWERS);
    let mount = Mounted::open(&MountSpec::layered(lowers.clone(), None, false)).unwrap();
    assert_eq!(
        fs::read_to_string(mount.path().join("file-0")).unwrap(),
        "0"
    );
    let mut too_many = lowers.clone();
    too_many.push(root.path().to_owned());
    let error = Mounted::open(&MountSpec::layered(too_many, None, false)).unwrap_err();
    assert!(
        matches!(error, MountError::TooManyLayers { count: 501 }),
        "{error}"
    );
}

#[test]
fn long_and_odd_paths_are_mounted() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("x".repeat(200)).join("y:\\,z".repeat(30));
    fs::create_dir_all(&deep).unwrap();
    let upper = upper(&deep);
    let mount = Mounted::open(&MountSpec::layered(layers(&deep, 2), Some(upper), false)).unwrap();
    assert_eq!(fs::read_to_string(mount.path().join("top")).unwrap(), "1");
}

#[test]
fn missing_layer_is_named() {
    let root = tempfile::tempdir().unwrap();
    let mut lowers = layers(root.path(), 2);
    lowers.push(root.path().join("missing"));
    let error = Mounted::open(&MountSpec::layered(lowers, None, false)).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(!error.is_unavailable());
}

#[test]
fn old_kernels_way_gives_the_same_mount() {
    let root = tempfile::tempdir().unwrap();
    let source = OverlaySource {
        lowers: layers(root.path(), legacy::MAX_LOWERS),
        upper: Some(upper(root.path())),
        userxattr: false,
    };
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = Mounted {
        fd: legacy::open(&source, false).unwrap(),
    };
    fs::write(mount.path().join("new"), "x").unwrap();
    assert_eq!(
        fs::read_to_string(mount.path().join("file-0")).unwrap(),
        "0"
    );
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert!(root.path().join("upper/new").exists());
}

#[test]
fn mounting_is_cheap() {
    let root = tempfile::tempdir().unwrap();
    let lowers = layers(root.path(), 10);
    let spec = MountSpec::layered(lowers, None, false);
    let start = Instant::now();
    for _ in 0..100 {
        let mount = Mounted::open(&spec).unwrap();
        assert!(rustix::fs::fstat(mount.as_fd()).is_ok());
    }
    // The figure is about 0.1 ms; the bound only catches a change of kind on a busy machine.
    assert!(
        start.elapsed().as_millis() < 1000,
        "{:?}",
        start.elapsed() / 100
    );
    println!(
        "one mount of 10 layers and its end: {:?}",
        start.elapsed() / 100
    );
}
