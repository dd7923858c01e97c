//! A trace is handed out in pieces that are parsed beside each other: nothing of it is lost, doubled or out of order.
#![allow(clippy::unwrap_used, reason = "helpers may fail their test")]

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use weld_trace::Reader;

/// Lines of a trace that is read in some twenty blocks, more than are parsed at once; the position of each is its number.
const LINES: u64 = 200_000;
/// The one that is no event.
const BROKEN: u64 = 187_654;

fn write(file: &Path) {
    let mut text = String::new();
    text += "{\"event\":\"trace-start\",\"position\":1,\"time\":1,\"version\":2,\"weld\":\"0\"}\n";
    for number in 2..=LINES {
        // Of many lengths, so that blocks end anywhere in a line.
        let name = "j".repeat(usize::try_from(number % 97).unwrap());
        match number {
            BROKEN => text += "{\"event\":\"job-opened\",\n",
            _ => writeln!(
                text,
                "{{\"event\":\"job-opened\",\"position\":{number},\"time\":{number},\"job\":\"{name}\",\"session\":false}}"
            )
            .unwrap(),
        }
    }
    std::fs::write(file, text).unwrap();
}

#[test]
fn lines_come_in_order_with_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    write(&file);
    let (mut seen, mut pieces) = (0, 0);
    let whole = Reader::open(&file).unwrap().pieces(|piece| {
        pieces += 1;
        for (number, line) in piece.numbered() {
            seen += 1;
            assert_eq!(number, seen);
            match line {
                Ok(line) => assert_eq!(line.position, number),
                Err(error) => assert_eq!(number, BROKEN, "{error}"),
            }
        }
        ControlFlow::Continue(())
    });
    assert!(whole.unwrap());
    assert_eq!(seen, LINES);
    assert!(pieces > 16, "{pieces}");
    let summary = weld_trace::summary(Reader::open(&file).unwrap()).unwrap();
    assert_eq!((summary.malformed, summary.jobs), (1, LINES - 2));
    assert_eq!(summary.first_malformed.map(|(line, _)| line), Some(BROKEN));
}

#[test]
fn who_has_seen_enough_is_given_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    write(&file);
    for enough in [1, 3, 11] {
        let mut pieces = 0;
        let whole = Reader::open(&file).unwrap().pieces(|_| {
            pieces += 1;
            match pieces == enough {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert!(whole.unwrap());
        assert_eq!(pieces, enough);
    }
}

#[test]
fn a_line_that_was_cut_off_far_behind_the_beginning_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace.jsonl");
    write(&file);
    let length = std::fs::metadata(&file).unwrap().len();
    let cut = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    cut.set_len(length - 1).unwrap();
    let mut seen = 0;
    let whole = Reader::open(&file).unwrap().pieces(|piece| {
        seen += piece.lines.len() as u64;
        ControlFlow::Continue(())
    });
    assert!(!whole.unwrap());
    assert_eq!(seen, LINES - 1);
}
