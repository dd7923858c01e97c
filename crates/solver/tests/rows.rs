//! Holds the table of rows in `docs/solver.md` to the tests.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Families of rows, and how many each has.
const FAMILIES: [(&str, u32); 16] = [
    ("BAS-", 15),
    ("PAR-", 10),
    ("CAN-", 18),
    ("FST-", 21),
    ("SLW-", 13),
    ("SEL-", 5),
    ("MUL-", 7),
    ("IGN-", 10),
    ("MRG-", 17),
    ("SUB-", 9),
    ("EXP-", 20),
    ("CMB-", 9),
    ("SES-", 18),
    ("REL-", 7),
    ("C", 16),
    ("D", 17),
];

/// Every behaviour test, as `module::name`.
fn tests() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour");
    let mut tests = BTreeSet::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let mut is_test = false;
        for line in text.lines() {
            let line = line.strip_prefix("async ").unwrap_or(line);
            if line.starts_with("#[tokio::test") || line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                let name = rest.split('(').next().unwrap();
                tests.insert(format!("{module}::{name}"));
            }
        }
    }
    tests
}

/// The rows of the table, with what stands beside them.
fn table() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/solver.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text
        .split_once("## Rows of the behaviour catalogue")
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut rows = BTreeMap::new();
    for line in section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
    {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (row, what) = (cells.next().unwrap(), cells.next().unwrap());
        let old = rows.insert(row.to_owned(), what.to_owned());
        assert_eq!(old, None, "{row} is there twice");
    }
    rows
}

#[test]
fn every_row_has_a_test_that_exists_or_a_reason() {
    let (tests, table) = (tests(), table());
    assert!(tests.len() > 100, "{}", tests.len());
    let expected: BTreeSet<String> = FAMILIES
        .iter()
        .flat_map(|(family, count)| (1..=*count).map(move |row| format!("{family}{row}")))
        .collect();
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (row, what) in &table {
        assert!(!what.is_empty(), "{row} has nothing");
        for name in what
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains("::"))
        {
            let named = !name.starts_with("Job::");
            assert!(
                !named || tests.contains(name),
                "{row}: there is no test {name}"
            );
        }
    }
}

#[test]
fn every_weakness_that_is_a_behaviour_has_a_test() {
    // What has none is so by construction.
    let without: Vec<_> = table()
        .into_iter()
        .filter(|(row, what)| {
            row.starts_with(['C', 'D']) && !row.contains('-') && !what.contains("::")
        })
        .map(|(row, _)| row)
        .collect();
    assert_eq!(without, ["D4", "D5", "D6", "D7", "D8", "D9"]);
}
