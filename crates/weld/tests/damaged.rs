//! Blobs that the disk lost or changed: they are noticed before they go on, and had again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use support::{Bed, base_layout};
use weld_testbed::Registry;

/// The blobs of a bed's store that are larger than documents are, the largest first.
fn layers(bed: &Bed) -> Vec<PathBuf> {
    let blobs = bed.path("state/content/blobs/sha256");
    let blobs = blobs.read_dir().unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = blobs
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()))
        .filter(|(size, _)| *size > 100_000)
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn output(bed: &Bed, kind: &str) -> String {
    format!("type={kind},dest={}", bed.path("out.tar").display())
}

#[test]
fn a_blob_that_the_disk_changed_goes_into_no_archive() {
    // One that is checked beside its copy, and one that is checked behind it.
    for size in ["3m", "200k"] {
        let bed = Bed::new();
        bed.dockerfile(&format!("FROM scratch\nCOPY file /\nLABEL size={size}\n"));
        let tool = format!("head -c {size} /dev/urandom > context/file");
        bed.tool("sh", &["-c", &tool]);
        bed.build(&["--output", &output(&bed, "oci")]).ok();
        std::fs::remove_file(bed.path("out.tar")).unwrap();
        let layer = layers(&bed).remove(0);
        let name = layer.file_name().unwrap().to_str().unwrap().to_owned();
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&layer)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100_000).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 100_000).unwrap();
        for kind in ["oci", "docker"] {
            let told = [
                "is damaged in the store",
                &name,
                "weld store check --repair",
            ];
            bed.build(&["--output", &output(&bed, kind)]).fails(&told);
            assert!(!bed.path("out.tar").exists());
            let names = bed.path("").read_dir().unwrap().map(|entry| entry.unwrap());
            let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
            assert!(
                names
                    .iter()
                    .all(|name| !name.to_string_lossy().contains("partial")),
                "{names:?}"
            );
        }
        let directory = format!("type=oci,tar=false,dest={}", bed.path("layout").display());
        bed.build(&["--output", &directory])
            .fails(&["is damaged in the store"]);
        assert!(!bed.path("layout/index.json").exists());
        bed.run(&["store", "check", "--repair"]);
        bed.build(&["--output", &output(&bed, "oci")]).ok();
        bed.run(&["store", "check"]).ok();
    }
}

#[test]
fn a_base_whose_blob_is_gone_is_fetched_again() {
    let registry = Registry::start().unwrap();
    registry
        .push_layout(base_layout(), "latest", "base")
        .unwrap();
    let bed = Bed::new();
    bed.dockerfile(&format!("FROM {}/base\nRUN echo x > /x\n", registry.host()));
    let to_archive = output(&bed, "oci");
    bed.build(&["--output", &to_archive]).ok();
    let layer = layers(&bed).remove(0);
    let whole = std::fs::read(&layer).unwrap();
    for cut in [false, true] {
        match cut {
            true => std::fs::write(&layer, &whole[..1000]).unwrap(),
            false => std::fs::remove_file(&layer).unwrap(),
        }
        let ended = bed.build(&["--no-cache", "--output", &to_archive]).ok();
        let told = ended.stderr.matches("fetched again").count();
        assert!((1..=2).contains(&told), "{}", ended.stderr);
        assert_eq!(std::fs::read(&layer).unwrap(), whole);
        bed.run(&["store", "check"]).ok();
    }
}

#[test]
fn a_base_that_nobody_has_any_more_is_made_again_of_its_files() {
    let bed = Bed::new();
    bed.dockerfile("FROM base\nRUN echo x > /x\n");
    let to_archive = output(&bed, "oci");
    bed.build(&["--output", &to_archive]).ok();
    std::fs::remove_file(layers(&bed).remove(0)).unwrap();
    let ended = bed.build(&["--no-cache", "--output", &to_archive]).ok();
    assert!(ended.stderr.contains("made anew"), "{}", ended.stderr);
    // It is an image that others can read.
    let image = format!("oci-archive:{}", bed.path("out.tar").display());
    bed.tool("skopeo", &["inspect", &image]);
    let again = bed.build(&["--output", &to_archive]).ok();
    assert!(!again.stderr.contains("made anew"), "{}", again.stderr);
}
