//! Git repositories as users write them in `ADD` and as contexts.
//!
//! `https://host/repo.git`, `ssh://`, `git://`, `user@host:repo`; what to take of it stands in
//! the fragment `#ref:subdir` or in the query `?ref=…&subdir=…`.

use std::borrow::Cow;

use crate::parse_bool;
use crate::path;

/// A reference to a git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The repository without fragment and query.
    pub remote: String,
    /// The last part of the path without `.git`: the directory that a clone would make.
    pub short_name: String,
    /// A branch, tag or commit.
    pub reference: Option<String>,
    /// The commit that it must be.
    pub checksum: Option<String>,
    /// The directory to take.
    pub subdir: Option<String>,
    /// Whether `.git` stays, if that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, if that is said.
    pub submodules: Option<bool>,
    /// Which times files get, if that is said.
    pub mtime: Option<Mtime>,
    /// The checksum's commit is fetched without a look at the reference.
    pub fetch_by_commit: bool,
    /// The transport is not encrypted.
    pub unencrypted: bool,
    /// It could be a local path, as `github.com/…` without a scheme: taken for a repository in
    /// contexts, never in `ADD`.
    pub looks_local: bool,
}

/// Which times the files of a repository get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtime {
    /// That of the checkout.
    Checkout,
    /// That of the commit.
    Commit,
}

/// What can be wrong with a reference that certainly is one to a git repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GitRefError {
    /// A parameter needs a value.
    #[error("query {key:?} has no value")]
    NoValue {
        /// The parameter.
        key: String,
    },
    /// A parameter is repeated.
    #[error("query {key:?} has multiple values")]
    Repeated {
        /// The parameter.
        key: String,
    },
    /// There is no such parameter.
    #[error("unexpected query {key:?}")]
    Unexpected {
        /// The parameter.
        key: String,
    },
    /// A parameter does not take this value.
    #[error("invalid {key} value: {value:?}")]
    Invalid {
        /// The parameter.
        key: String,
        /// The value.
        value: String,
    },
    /// The reference is said twice, differently.
    #[error("ref conflicts: {first:?} vs {second:?}")]
    RefConflict {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// The directory is said twice, differently.
    #[error("subdir conflicts: {first:?} vs {second:?}")]
    SubdirConflict {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// Both a branch and a tag.
    #[error("branch conflicts with tag")]
    BranchAndTag,
}

impl GitRef {
    /// Reads a reference; none if `text` is something else, such as a path or a file to
    /// download.
    pub fn parse(text: &str) -> Result<Option<Self>, GitRefError> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some(transport) = Transport::of(remote) else {
            return Ok(None);
        };
        let name = remote.rsplit('/').next().unwrap_or(remote);
        let mut found = Self {
            remote: remote.to_owned(),
            short_name: name.strip_suffix(".git").unwrap_or(name).to_owned(),
            unencrypted: transport == Transport::Unencrypted,
            looks_local: transport == Transport::LooksLocal,
            ..Self::default()
        };
        found.fragment(&match transport {
            Transport::Scp => Cow::Borrowed(fragment),
            _ => decode(fragment, false),
        });
        found.query(query)?;
        Ok(Some(found))
    }

    fn fragment(&mut self, fragment: &str) {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let subdir = path::clean(&format!("/{subdir}"));
        self.reference = non_empty(reference);
        self.subdir = non_empty(subdir.trim_start_matches('/'));
    }

    fn query(&mut self, query: &str) -> Result<(), GitRefError> {
        let mut seen = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (key, value) = (decode(key, true), decode(value, true));
            if seen.contains(&key) {
                return Err(GitRefError::Repeated { key: key.into() });
            }
            match key.as_ref() {
                "tag" => tag = Some(required(&key, &value)?),
                "branch" => branch = Some(required(&key, &value)?),
                _ => self.parameter(&key, &value)?,
            }
            seen.push(key);
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err(GitRefError::BranchAndTag),
            (Some(tag), None) => self.refer(&with_prefix("refs/tags/", &tag)),
            (None, Some(branch)) => self.refer(&with_prefix("refs/heads/", &branch)),
            (None, None) => Ok(()),
        }
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), GitRefError> {
        match key {
            "ref" => self.refer(&required(key, value)?)?,
            "subdir" => {
                let subdir = required(key, value)?;
                if let Some(first) = self.subdir.take().filter(|first| *first != subdir) {
                    let second = subdir;
                    return Err(GitRefError::SubdirConflict { first, second });
                }
                self.subdir = Some(subdir);
            }
            "checksum" | "commit" => self.checksum = Some(required(key, value)?),
            "keep-git-dir" => self.keep_git_dir = Some(switch(key, value)?),
            "submodules" => self.submodules = Some(switch(key, value)?),
            "fetch-by-commit" => self.fetch_by_commit = switch(key, value)?,
            "mtime" => {
                self.mtime = Some(match required(key, value)?.as_str() {
                    "checkout" => Mtime::Checkout,
                    "commit" => Mtime::Commit,
                    _ => return Err(invalid(key, value)),
                });
            }
            _ => {
                let key = key.to_owned();
                return Err(GitRefError::Unexpected { key });
            }
        }
        Ok(())
    }

    /// Sets the reference, which must not contradict one that is set.
    fn refer(&mut self, reference: &str) -> Result<(), GitRefError> {
        match &self.reference {
            Some(first) if first != reference => Err(GitRefError::RefConflict {
                first: first.clone(),
                second: reference.to_owned(),
            }),
            _ => {
                self.reference = Some(reference.to_owned());
                Ok(())
            }
        }
    }
}

/// How a repository is reached, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Encrypted,
    Unencrypted,
    Scp,
    LooksLocal,
}

impl Transport {
    /// None if `remote` is no repository. HTTP alone does not make one: the path must end in
    /// `.git`.
    fn of(remote: &str) -> Option<Self> {
        if remote.starts_with("./") || remote.starts_with("../") {
            return None;
        }
        if remote.starts_with("github.com/") {
            return Some(Self::LooksLocal);
        }
        let Some((scheme, rest)) = split_scheme(remote) else {
            return is_scp_style(remote).then_some(Self::Scp);
        };
        let is_repository = rest
            .split_once('/')
            .is_some_and(|(_, path)| path.ends_with(".git"));
        match scheme.to_ascii_lowercase().as_str() {
            "https" if is_repository => Some(Self::Encrypted),
            "http" if is_repository => Some(Self::Unencrypted),
            "ssh" => Some(Self::Encrypted),
            "git" => Some(Self::Unencrypted),
            _ => None,
        }
    }
}

fn split_scheme(remote: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = remote.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    valid.then_some((scheme, rest))
}

/// `user@host:path`.
fn is_scp_style(remote: &str) -> bool {
    let Some((user, rest)) = remote.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    let of = |text: &str, extra: char| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == extra;
        !text.is_empty() && text.chars().all(allowed)
    };
    of(user, '_') && of(host, '.')
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn required(key: &str, value: &str) -> Result<String, GitRefError> {
    non_empty(value).ok_or_else(|| GitRefError::NoValue {
        key: key.to_owned(),
    })
}

/// A parameter that is true when it is merely there.
fn switch(key: &str, value: &str) -> Result<bool, GitRefError> {
    match value {
        "" => Ok(true),
        value => parse_bool(value).ok_or_else(|| invalid(key, value)),
    }
}

fn invalid(key: &str, value: &str) -> GitRefError {
    GitRefError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

fn with_prefix(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

/// Text with `%XX` decoded, in queries `+` as a blank. What does not decode to UTF-8 stays.
fn decode(text: &str, plus_is_blank: bool) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match digits {
            Some(decoded) => {
                bytes.push(decoded);
                after.get(2..).unwrap_or_default()
            }
            None => {
                bytes.push(if *byte == b'+' && plus_is_blank {
                    b' '
                } else {
                    *byte
                });
                after
            }
        };
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}
