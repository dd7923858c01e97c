//! References to git repositories.

#![allow(clippy::unwrap_used)]

use weld_dockerfile::git_ref::{GitRef, GitRefError, Mtime};

fn read(text: &str) -> GitRef {
    GitRef::parse(text)
        .unwrap()
        .unwrap_or_else(|| panic!("{text}"))
}

/// Remote, short name, reference, directory.
fn parts(text: &str) -> (String, String, Option<String>, Option<String>) {
    let found = read(text);
    (
        found.remote,
        found.short_name,
        found.reference,
        found.subdir,
    )
}

#[test]
fn repositories_by_url_and_scp_style() {
    for (text, remote, name, reference, subdir) in [
        (
            "https://h.org/a/b.git",
            "https://h.org/a/b.git",
            "b",
            None,
            None,
        ),
        (
            "https://u:p@h.org/b.git#v1/x:c//d/",
            "https://u:p@h.org/b.git",
            "b",
            Some("v1/x"),
            Some("c/d"),
        ),
        (
            "http://h.org/b.git#:dir",
            "http://h.org/b.git",
            "b",
            None,
            Some("dir"),
        ),
        ("git://h.org/b", "git://h.org/b", "b", None, None),
        (
            "ssh://git@h.org:22/b#main",
            "ssh://git@h.org:22/b",
            "b",
            Some("main"),
            None,
        ),
        (
            "git@h.org:a/b.git?subdir=/s#v1",
            "git@h.org:a/b.git",
            "b",
            Some("v1"),
            Some("/s"),
        ),
        (
            "github.com/a/b?tag=v1",
            "github.com/a/b",
            "b",
            Some("refs/tags/v1"),
            None,
        ),
        (
            "https://h.org/b.git?branch=refs/heads/x",
            "https://h.org/b.git",
            "b",
            Some("refs/heads/x"),
            None,
        ),
        (
            "https://h.org/b.git?ref=a%2Fb+c#a/b%20c",
            "https://h.org/b.git",
            "b",
            Some("a/b c"),
            None,
        ),
        (
            "https://h.org/b.git#x:../../up",
            "https://h.org/b.git",
            "b",
            Some("x"),
            Some("up"),
        ),
    ] {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let expected = (
            remote.to_owned(),
            name.to_owned(),
            owned(reference),
            owned(subdir),
        );
        assert_eq!(parts(text), expected, "{text}");
    }
    assert!(read("git://h.org/b").unencrypted && read("http://h.org/b.git").unencrypted);
    assert!(!read("git@h.org:b").unencrypted);
    assert!(read("github.com/a/b").looks_local && !read("git@h.org:b").looks_local);
}

#[test]
fn everything_else_is_none() {
    for text in [
        "",
        "a",
        "./.git",
        "../a.git",
        "/a/b.git",
        ".git",
        "h.org/a.git",
        "https://h.org/b",
        "https://h.org/b.git/",
        "https://h.org/b.git.tar",
        "https://h.git",
        "ftp://h.org/b.git",
        "a@b",
        "us er@h.org:x",
        "http://h.org/b.git:#x",
    ] {
        assert_eq!(GitRef::parse(text), Ok(None), "{text}");
    }
}

#[test]
fn parameters() {
    let found = read(
        "https://h.org/b.git?keep-git-dir&submodules=false&mtime=commit&commit=abc&fetch-by-commit=1",
    );
    assert_eq!(
        (found.keep_git_dir, found.submodules),
        (Some(true), Some(false))
    );
    assert_eq!(found.mtime, Some(Mtime::Commit));
    assert_eq!(found.checksum.as_deref(), Some("abc"));
    assert!(found.fetch_by_commit);

    for (query, message) in [
        ("ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
        ("subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
        ("tag=a&branch=b", "branch conflicts with tag"),
        ("tag", "query \"tag\" has no value"),
        ("ref=", "query \"ref\" has no value"),
        ("ref=a&ref=a", "query \"ref\" has multiple values"),
        ("x=1", "unexpected query \"x\""),
        ("mtime=now", "invalid mtime value: \"now\""),
        ("submodules=maybe", "invalid submodules value: \"maybe\""),
    ] {
        let error: GitRefError =
            GitRef::parse(&format!("https://h.org/b.git?{query}")).unwrap_err();
        assert_eq!(error.to_string(), message, "{query}");
    }
}
