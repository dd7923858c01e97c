use super::url::{GitUrl, GitUrlError};

/// A remote with what is wanted of it, as Dockerfiles and command lines write it:
/// `https://host/repo.git#ref:dir` or `https://host/repo.git?ref=…&subdir=…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitReference {
    /// The remote.
    pub url: GitUrl,
    /// The name of the repository, such as `buildkit`.
    pub short_name: String,
    /// The branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// The directory that is wanted; empty for all.
    pub subdir: String,
    /// The commit that the reference must stand for, or the beginning of its name.
    pub checksum: Option<String>,
    /// Whether to keep the `.git` directory, if stated.
    pub keep_git_dir: Option<bool>,
    /// Whether to check submodules out, if stated.
    pub submodules: Option<bool>,
    /// Where the files' times come from (`checkout`, `commit`), if stated.
    pub mtime: Option<String>,
    /// Whether to fetch the checksum's commit without asking what the reference stands for.
    pub fetch_by_commit: bool,
    /// Whether it could be a directory as well: `github.com/org/repo`.
    pub indistinguishable_from_local: bool,
    /// Whether the connection is not encrypted.
    pub is_unencrypted: bool,
}

/// Why a text is no reference to a repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseGitReferenceError {
    /// The URL is none.
    #[error(transparent)]
    Url(#[from] GitUrlError),
    /// It is a local path.
    #[error("it is a local path, not a git URL")]
    Local,
    /// An HTTP URL does not end in `.git`, so that it is a file's.
    #[error("an http(s) URL of a git repository must end in \".git\"")]
    NotGit,
    /// A query key is not known.
    #[error("unexpected query key {0:?} in the git URL")]
    UnknownKey(String),
    /// A query key has no value.
    #[error("query key {0:?} in the git URL has no value")]
    NoValue(String),
    /// A query key is there twice.
    #[error("query key {0:?} in the git URL has multiple values")]
    Repeated(String),
    /// A query key has a bad value.
    #[error("invalid value {value:?} of query key {key:?} in the git URL: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Two parts contradict each other.
    #[error("conflicting {what} in the git URL: {first:?} and {second:?}")]
    Conflict {
        /// What is stated twice.
        what: &'static str,
        /// Once.
        first: String,
        /// And again.
        second: String,
    },
    /// The reference would be taken for an option of git's.
    #[error("invalid git reference {0:?}")]
    Reference(String),
}

impl GitReference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`ParseGitReferenceError`]. [`Url`](ParseGitReferenceError::Url),
    /// [`Local`](ParseGitReferenceError::Local) and [`NotGit`](ParseGitReferenceError::NotGit)
    /// mean that the text is something else.
    pub fn parse(text: &str) -> Result<Self, ParseGitReferenceError> {
        if text.starts_with("./") || text.starts_with("../") {
            return Err(ParseGitReferenceError::Local);
        }
        let indistinguishable_from_local = text.starts_with("github.com/");
        let url = if indistinguishable_from_local {
            GitUrl::parse(&format!("https://{text}"))?
        } else {
            GitUrl::parse(text)?
        };
        let is_http = matches!(url.scheme(), "http" | "https");
        if is_http && !indistinguishable_from_local && !url.path().ends_with(".git") {
            return Err(ParseGitReferenceError::NotGit);
        }
        let last = url.path().rsplit('/').next().unwrap_or_default();
        let mut reference = Self {
            short_name: last.strip_suffix(".git").unwrap_or(last).to_owned(),
            reference: String::new(),
            subdir: String::new(),
            checksum: None,
            keep_git_dir: None,
            submodules: None,
            mtime: None,
            fetch_by_commit: false,
            indistinguishable_from_local,
            is_unencrypted: matches!(url.scheme(), "http" | "git"),
            url,
        };
        reference.take_fragment();
        reference.take_query()?;
        if reference.reference.starts_with('-') {
            return Err(ParseGitReferenceError::Reference(reference.reference));
        }
        Ok(reference)
    }

    fn take_fragment(&mut self) {
        if let Some(fragment) = &self.url.fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            self.reference = reference.to_owned();
            self.subdir = rooted(subdir);
        }
    }

    fn take_query(&mut self) -> Result<(), ParseGitReferenceError> {
        let query = std::mem::take(&mut self.url.query);
        let mut seen: Vec<&str> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for (key, value) in &query {
            if seen.contains(&key.as_str()) {
                return Err(ParseGitReferenceError::Repeated(key.clone()));
            }
            seen.push(key);
            let is_switch = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !is_switch {
                return Err(ParseGitReferenceError::NoValue(key.clone()));
            }
            match key.as_str() {
                "ref" => set(&mut self.reference, value, "ref")?,
                "subdir" => set(&mut self.subdir, &rooted(value), "subdir")?,
                "tag" => tag = Some(full(value, "refs/tags/")),
                "branch" => branch = Some(full(value, "refs/heads/")),
                "checksum" | "commit" => match &self.checksum {
                    Some(first) if first != value => {
                        return Err(conflict("checksum", first, value));
                    }
                    _ => self.checksum = Some(value.clone()),
                },
                "keep-git-dir" => self.keep_git_dir = Some(switch(key, value)?),
                "submodules" => self.submodules = Some(switch(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = switch(key, value)?,
                "mtime" => {
                    if !matches!(value.as_str(), "checkout" | "commit") {
                        return Err(ParseGitReferenceError::Value {
                            key: key.clone(),
                            value: value.clone(),
                            expected: "\"checkout\" or \"commit\"",
                        });
                    }
                    self.mtime = Some(value.clone());
                }
                _ => return Err(ParseGitReferenceError::UnknownKey(key.clone())),
            }
        }
        if let (Some(tag), Some(branch)) = (&tag, &branch) {
            return Err(conflict("ref", tag, branch));
        }
        match tag.or(branch) {
            Some(name) => set(&mut self.reference, &name, "ref"),
            None => Ok(()),
        }
    }
}

/// A path in the repository without what would lead out of it.
fn rooted(path: &str) -> String {
    let clean = weld_fileset::clean(&format!("/{path}"));
    clean.trim_start_matches('/').to_owned()
}

fn full(name: &str, prefix: &str) -> String {
    match name.starts_with(prefix) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

fn set(slot: &mut String, value: &str, what: &'static str) -> Result<(), ParseGitReferenceError> {
    if !slot.is_empty() && slot != value {
        return Err(conflict(what, slot, value));
    }
    value.clone_into(slot);
    Ok(())
}

fn conflict(what: &'static str, first: &str, second: &str) -> ParseGitReferenceError {
    ParseGitReferenceError::Conflict {
        what,
        first: first.to_owned(),
        second: second.to_owned(),
    }
}

/// A truth value as Go reads it; nothing is true.
fn switch(key: &str, value: &str) -> Result<bool, ParseGitReferenceError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ParseGitReferenceError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: "true or false",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_and_queries_say_what_is_wanted() {
        for (text, reference, subdir) in [
            ("https://h/r.git", "", ""),
            ("https://h/r.git#v1", "v1", ""),
            ("https://h/r.git#v1:a/../b/", "v1", "b"),
            ("https://h/r.git#:../../x", "", "x"),
            ("git@h:r.git#feature/x:sub", "feature/x", "sub"),
            ("git@h:r?branch=b&subdir=s", "refs/heads/b", "s"),
            ("https://h/r.git?tag=v1", "refs/tags/v1", ""),
            ("https://h/r.git?tag=refs/tags/v1", "refs/tags/v1", ""),
            ("https://h/r.git?ref=x&subdir=/a/b#x:a/b", "x", "a/b"),
            ("ssh://git@h/r#x", "x", ""),
            ("github.com/org/repo#x", "x", ""),
        ] {
            let parsed = GitReference::parse(text).unwrap();
            assert_eq!(
                (parsed.reference.as_str(), parsed.subdir.as_str()),
                (reference, subdir),
                "{text}"
            );
        }
        let full = GitReference::parse(
            "http://h/a/b.git?checksum=abc&keep-git-dir&submodules=false&mtime=commit&fetch-by-commit=1",
        )
        .unwrap();
        assert_eq!(full.short_name, "b");
        assert_eq!(full.checksum.as_deref(), Some("abc"));
        assert_eq!(
            (full.keep_git_dir, full.submodules),
            (Some(true), Some(false))
        );
        assert_eq!(full.mtime.as_deref(), Some("commit"));
        assert!(full.fetch_by_commit && full.is_unencrypted);
        assert!(
            GitReference::parse("github.com/org/repo")
                .unwrap()
                .indistinguishable_from_local
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("https://h/file.tar", "end in \".git\""),
            ("./x", "local path"),
            ("https://h/r.git?what=x", "unexpected query key \"what\""),
            (
                "https://h/r.git?ref=",
                "\"ref\" in the git URL has no value",
            ),
            ("https://h/r.git?ref=a&ref=b", "multiple values"),
            (
                "https://h/r.git?ref=a#b",
                "conflicting ref in the git URL: \"b\" and \"a\"",
            ),
            ("https://h/r.git?tag=a&branch=b", "conflicting ref"),
            ("https://h/r.git?subdir=a#:b", "conflicting subdir"),
            ("https://h/r.git?submodules=maybe", "expected true or false"),
            (
                "https://h/r.git?mtime=now",
                "expected \"checkout\" or \"commit\"",
            ),
            ("https://h/r.git#--upload-pack=x", "invalid git reference"),
        ] {
            let error = GitReference::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
