//! The core uses nothing that could make two runs differ, or that could block.

use std::{fs, path::Path};

/// What has no place in the core, with the reason.
const BANNED: [(&str, &str); 12] = [
    ("std::time", "time is an argument"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::thread", "concurrency lives in the driver"),
    ("tokio", "concurrency lives in the driver"),
    ("Mutex", "one core, one owner"),
    ("RwLock", "one core, one owner"),
    ("Atomic", "one core, one owner"),
    ("RandomState", "its order differs from run to run"),
    (
        "std::collections::HashMap",
        "its order differs from run to run",
    ),
    (
        "std::collections::HashSet",
        "its order differs from run to run",
    ),
    ("rand::", "nothing is left to chance"),
];

#[test]
fn the_core_is_deterministic_by_construction() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    let mut files = 0;
    for entry in fs::read_dir(core).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        files += 1;
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (banned, reason) in BANNED {
                assert!(
                    !code.contains(banned),
                    "{}:{}: {banned}: {reason}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
    assert!(files > 10);
}

#[test]
fn modules_are_small() {
    let mut work = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = work.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                work.push(path);
            } else {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(lines <= 700, "{}: {lines} lines", path.display());
            }
        }
    }
}
