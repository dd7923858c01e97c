//! Slash-separated paths by the rules of Go's `path` package, which definitions are written with.

/// The shortest equivalent of `path`: no `.`, no empty and no resolvable `..` elements; `.` if empty.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The parts joined with slashes, empty ones left out, and cleaned; empty if all are.
pub fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        return String::new();
    }
    clean(&parts.join("/"))
}

/// Whether `path` starts at the root.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// The last element of `path`; `.` if it is empty, `/` if it has slashes only.
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// `path` made absolute beneath `parent`. A trailing `/` or `/.` says something of a copy's destination
/// (it is a directory), and `keep_slash` keeps it.
pub fn normalize(parent: &str, path: &str, keep_slash: bool) -> String {
    let mut cleaned = clean(path);
    if !is_absolute(&cleaned) {
        cleaned = join(&["/", parent, &cleaned]);
    }
    if keep_slash {
        if path.ends_with('/') && !cleaned.ends_with('/') {
            cleaned.push('/');
        } else if path.ends_with("/.") {
            if cleaned != "/" {
                cleaned.push('/');
            }
            cleaned.push('.');
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, cleaned) in [
            ("", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("a/../..", ".."),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("./a/./b", "a/b"),
            ("a/..", "."),
            ("..//..", "../.."),
        ] {
            assert_eq!(clean(path), cleaned, "{path:?}");
        }
        assert_eq!(join(&["", ""]), "");
        assert_eq!(join(&["/", "", "a/../b"]), "/b");
        assert_eq!((base(""), base("//"), base("a/b/")), (".", "/", "b"));
    }

    #[test]
    fn a_destination_keeps_its_trailing_slash() {
        for (parent, path, normalized) in [
            ("/", "a/", "/a/"),
            ("/w", "a", "/w/a"),
            ("/w", ".", "/w"),
            ("/w", "./", "/w/"),
            ("/w", "/x/.", "/x/."),
            ("/", "/.", "/."),
            ("/", "/", "/"),
        ] {
            assert_eq!(normalize(parent, path, true), normalized, "{path:?}");
        }
        assert_eq!(normalize("/", "a/", false), "/a");
    }
}
