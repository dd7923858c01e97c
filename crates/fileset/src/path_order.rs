//! The order in which a walk yields paths, and the lexical cleaning that patterns go through.

use std::cmp::Ordering;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Compares two slash-separated paths component by component, so that everything beneath a
/// directory comes right after it: `a`, `a/b`, `a.txt`. This is fsutil's and BuildKit's order.
pub fn compare_paths(a: &Path, b: &Path) -> Ordering {
    compare_bytes(a.as_os_str().as_bytes(), b.as_os_str().as_bytes())
}

fn compare_bytes(a: &[u8], b: &[u8]) -> Ordering {
    let differs = a.iter().zip(b).position(|(x, y)| x != y);
    match differs {
        None => a.len().cmp(&b.len()),
        // A slash ends a component, so it sorts before any byte that continues one.
        Some(at) => match (a.get(at), b.get(at)) {
            (Some(b'/'), _) => Ordering::Less,
            (_, Some(b'/')) => Ordering::Greater,
            (x, y) => x.cmp(&y),
        },
    }
}

/// Go's `path.Clean`: single slashes, no `.`, `..` resolved by the text alone; `"."` for nothing.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            component => kept.push(component),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}
