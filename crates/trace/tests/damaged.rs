//! A compressed trace that was damaged is not taken for a good one.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

mod support;

use std::path::Path;

use weld_trace::{ReadError, Reader};

/// All lines, and whether the writer ended them.
fn lines(file: &Path) -> Result<(String, bool), ReadError> {
    let mut text = String::new();
    let whole = Reader::open(file)?.pieces(|piece| {
        text += &format!("{:?}", piece.lines);
        std::ops::ControlFlow::Continue(())
    })?;
    Ok((text, whole))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_is_another_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl.zst");
    support::eventful(&file).await;
    let good = lines(&file).unwrap();
    assert!(good.1);
    let bytes = std::fs::read(&file).unwrap();
    let mut told = 0;
    for at in (0..bytes.len() * 8).step_by(101) {
        let mut damaged = bytes.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        std::fs::write(&file, damaged).unwrap();
        match lines(&file) {
            Err(_) => told += 1,
            Ok(read) if !read.1 => told += 1,
            // Not all of a frame's head is about what is in it.
            Ok(read) => assert_eq!(read, good, "bit {at}"),
        }
    }
    assert!(told > 50, "{told}");
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    assert!(!lines(&file).unwrap().1, "its end lacks");
}
