//! No archive makes applying panic or reach outside of the tree that it is applied to.
#![no_main]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use libfuzzer_sys::fuzz_target;
use weld_store::layer::{ApplyOptions, Whiteouts, apply, open_root};

const HEADER: usize = 512;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (mode, mut archive) = input;
    seal(&mut archive);
    let whiteouts = match mode % 3 {
        0 => Whiteouts::Overlay { userxattr: true },
        1 => Whiteouts::Remove,
        _ => Whiteouts::Literal,
    };
    let root = tempfile::tempdir().expect("a directory for the tree");
    let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
    fs::create_dir(&tree).expect("the tree");
    fs::write(&outside, "untouched").expect("a file beside the tree");
    let opened = open_root(&tree).expect("the tree's root");
    if let Err(error) = apply(&archive[..], opened.as_fd(), &ApplyOptions::new(whiteouts)) {
        let _ = error.to_string();
    }
    let names = fs::read_dir(root.path()).expect("the directory").count();
    assert_eq!(names, 2, "something was made outside of the tree");
    let file = fs::metadata(&outside).expect("the file beside the tree");
    assert_eq!((file.len(), file.nlink()), (9, 1), "the file beside the tree was reached");
});

/// Gives each block that could be a header a right checksum, so that what is behind it is reached.
fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(HEADER) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
