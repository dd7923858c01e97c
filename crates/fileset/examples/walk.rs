//! Walks a directory several times and prints how long it takes: `walk DIR [EXCLUDE…]`.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use weld_fileset::{Layers, Selection, WalkOptions, walk};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("usage: walk DIR [EXCLUDE...]")?;
    let exclude: Vec<String> = arguments.collect();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Layers::single(rustix::fs::open(&dir, flags, Mode::empty())?);
    let selection = Selection::from_patterns(&[], &exclude)?;
    for xattrs in [false, true] {
        let options = WalkOptions {
            selection: selection.clone(),
            xattrs,
        };
        for _ in 0..5 {
            let start = Instant::now();
            let entries = walk(&root, Path::new(""), &options)?;
            println!(
                "{} paths in {:?} (xattrs: {xattrs})",
                entries.len(),
                start.elapsed()
            );
        }
    }
    Ok(())
}
