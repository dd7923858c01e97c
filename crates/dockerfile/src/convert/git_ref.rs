//! Git repositories as contexts and `ADD` sources: `https://host/repo.git#ref:dir`,
//! `git@host:repo.git?branch=main&subdir=dir`, `ssh://…`, `git://…`.

use percent_encoding::percent_decode_str;
use weld_llb::{GitSource, path};

use crate::parse_bool;

/// A git repository, and what of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The remote, without query and fragment.
    pub remote: String,
    /// Host and path, equal for all ways to the same repository.
    pub id: String,
    /// Whether the remote is reached by SSH.
    pub ssh: bool,
    /// The branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// The directory that is checked out; empty for all.
    pub subdir: String,
    /// The commit that the reference must stand for.
    pub checksum: Option<String>,
    /// Whether to keep `.git`.
    pub keep_git_dir: Option<bool>,
    /// Whether to fetch submodules.
    pub submodules: Option<bool>,
    /// Modification times: `checkout` or `commit`.
    pub mtime: Option<String>,
    /// Fetch the commit of `checksum` without resolving the reference.
    pub fetch_by_commit: bool,
    /// Whether the text might as well be a path: `github.com/…`. Only a context may be named so.
    pub like_a_path: bool,
}

/// Why a text that is a git URL is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitRefError {
    /// A parameter has no value.
    #[error("git URL {url:?}: query {name:?} has no value")]
    NoValue {
        /// The URL.
        url: String,
        /// The parameter.
        name: String,
    },
    /// A parameter is given twice.
    #[error("git URL {url:?}: query {name:?} has multiple values")]
    SeveralValues {
        /// The URL.
        url: String,
        /// The parameter.
        name: String,
    },
    /// There is no such parameter.
    #[error("git URL {url:?}: unexpected query {name:?}")]
    Unknown {
        /// The URL.
        url: String,
        /// The parameter.
        name: String,
    },
    /// A parameter's value is malformed.
    #[error("git URL {url:?}: invalid {name} value: {value:?}")]
    BadValue {
        /// The URL.
        url: String,
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// Two parts say different things.
    #[error("git URL {url:?}: {what} conflicts: {first:?} vs {second:?}")]
    Conflict {
        /// The URL.
        url: String,
        /// Of what.
        what: &'static str,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
}

impl GitRef {
    /// The repository that `text` names; `None` if it names something else.
    pub fn parse(text: &str) -> Result<Option<Self>, GitRefError> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some(mut git) = parse_remote(remote) else {
            return Ok(None);
        };
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        git.reference = reference.to_owned();
        git.subdir = relative(subdir);
        git.read_query(text, query)?;
        Ok(Some(git))
    }

    fn read_query(&mut self, url: &str, query: &str) -> Result<(), GitRefError> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                let text = text.replace('+', " ");
                percent_decode_str(&text).decode_utf8_lossy().into_owned()
            };
            let parameter = Parameter {
                url,
                name: decode(name),
                value: decode(value),
            };
            if seen.contains(&parameter.name) {
                return Err(GitRefError::SeveralValues {
                    url: url.to_owned(),
                    name: parameter.name,
                });
            }
            seen.push(parameter.name.clone());
            match parameter.name.as_str() {
                "ref" => parameter.agree("ref", &mut self.reference, parameter.text()?)?,
                "tag" => tag = Some(parameter.text()?),
                "branch" => branch = Some(parameter.text()?),
                "subdir" => parameter.agree("subdir", &mut self.subdir, parameter.text()?)?,
                "checksum" | "commit" => self.checksum = Some(parameter.text()?),
                "keep-git-dir" => self.keep_git_dir = Some(parameter.flag()?),
                "submodules" => self.submodules = Some(parameter.flag()?),
                "fetch-by-commit" => self.fetch_by_commit = parameter.flag()?,
                "mtime" => match parameter.text()? {
                    mtime if mtime == "checkout" || mtime == "commit" => self.mtime = Some(mtime),
                    _ => return Err(parameter.bad()),
                },
                _ => {
                    return Err(GitRefError::Unknown {
                        url: url.to_owned(),
                        name: parameter.name,
                    });
                }
            }
        }
        self.choose(url, tag, branch)
    }

    /// A tag or branch by its full name.
    fn choose(
        &mut self,
        url: &str,
        tag: Option<String>,
        branch: Option<String>,
    ) -> Result<(), GitRefError> {
        let full = |prefix: &str, name: String| {
            if name.starts_with(prefix) {
                name
            } else {
                format!("{prefix}{name}")
            }
        };
        let chosen = match (tag, branch) {
            (None, None) => return Ok(()),
            (Some(first), Some(second)) => {
                return Err(GitRefError::Conflict {
                    url: url.to_owned(),
                    what: "tag and branch",
                    first,
                    second,
                });
            }
            (Some(tag), None) => full("refs/tags/", tag),
            (None, Some(branch)) => full("refs/heads/", branch),
        };
        agree(url, "ref", &mut self.reference, chosen)
    }

    /// The source that checks it out.
    pub fn to_source(&self) -> GitSource {
        GitSource {
            id: self.id.clone(),
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            url: Some(self.remote.clone()),
            keep_git_dir: self.keep_git_dir.unwrap_or(false),
            auth_token_secret: Some("GIT_AUTH_TOKEN".to_owned()),
            auth_header_secret: Some("GIT_AUTH_HEADER".to_owned()),
            mount_ssh_sock: self.ssh.then(|| "default".to_owned()),
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            mtime: self.mtime.clone(),
            fetch_by_commit: self.fetch_by_commit,
            ..GitSource::default()
        }
    }
}

/// One parameter of a query.
struct Parameter<'a> {
    url: &'a str,
    name: String,
    value: String,
}

impl Parameter<'_> {
    fn text(&self) -> Result<String, GitRefError> {
        if self.value.is_empty() {
            return Err(GitRefError::NoValue {
                url: self.url.to_owned(),
                name: self.name.clone(),
            });
        }
        Ok(self.value.clone())
    }

    fn flag(&self) -> Result<bool, GitRefError> {
        if self.value.is_empty() {
            return Ok(true);
        }
        parse_bool(&self.value).ok_or_else(|| self.bad())
    }

    fn bad(&self) -> GitRefError {
        GitRefError::BadValue {
            url: self.url.to_owned(),
            name: self.name.clone(),
            value: self.value.clone(),
        }
    }

    fn agree(&self, what: &'static str, old: &mut String, new: String) -> Result<(), GitRefError> {
        agree(self.url, what, old, new)
    }
}

fn agree(url: &str, what: &'static str, old: &mut String, new: String) -> Result<(), GitRefError> {
    if !old.is_empty() && *old != new {
        return Err(GitRefError::Conflict {
            url: url.to_owned(),
            what,
            first: old.clone(),
            second: new,
        });
    }
    *old = new;
    Ok(())
}

fn relative(subdir: &str) -> String {
    let cleaned = path::join(&["/", subdir]);
    cleaned.trim_start_matches('/').to_owned()
}

/// The remote that a text without query and fragment names.
fn parse_remote(remote: &str) -> Option<GitRef> {
    if let Some(rest) = remote.strip_prefix("github.com/") {
        return Some(GitRef {
            remote: remote.to_owned(),
            id: id("github.com", rest),
            like_a_path: true,
            ..GitRef::default()
        });
    }
    if let Some((scheme, rest)) = remote.split_once("://") {
        return parse_url(remote, scheme, rest);
    }
    let (user, rest) = remote.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_word = |text: &str, also: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    (is_word(user, "-_") && is_word(host, "-.")).then(|| GitRef {
        remote: remote.to_owned(),
        id: id(host, path),
        ssh: true,
        ..GitRef::default()
    })
}

fn parse_url(remote: &str, scheme: &str, rest: &str) -> Option<GitRef> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" if !path.ends_with(".git") => return None,
        "http" | "https" | "git" | "ssh" => {}
        _ => return None,
    }
    Some(GitRef {
        remote: remote.to_owned(),
        id: id(host, path),
        ssh: scheme == "ssh",
        ..GitRef::default()
    })
}

fn id(host: &str, path: &str) -> String {
    format!("{host}{}", path::join(&["/", path]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_other_texts() {
        for (text, remote, id, reference, subdir) in [
            (
                "https://h/o/r.git",
                "https://h/o/r.git",
                "h/o/r.git",
                "",
                "",
            ),
            (
                "https://h/r.git#main:a/../b",
                "https://h/r.git",
                "h/r.git",
                "main",
                "b",
            ),
            (
                "https://u@h/r.git?ref=v1&subdir=d",
                "https://u@h/r.git",
                "h/r.git",
                "v1",
                "d",
            ),
            (
                "https://h/r.git?tag=v1",
                "https://h/r.git",
                "h/r.git",
                "refs/tags/v1",
                "",
            ),
            ("git@h:o/r.git#x", "git@h:o/r.git", "h/o/r.git", "x", ""),
            ("ssh://git@h:22/r", "ssh://git@h:22/r", "h:22/r", "", ""),
            ("git://h/r", "git://h/r", "h/r", "", ""),
        ] {
            let git = GitRef::parse(text).unwrap().unwrap();
            assert_eq!(
                (git.remote.as_str(), git.id.as_str()),
                (remote, id),
                "{text}"
            );
            assert_eq!(
                (git.reference.as_str(), git.subdir.as_str()),
                (reference, subdir),
                "{text}"
            );
        }
        assert!(
            GitRef::parse("github.com/a/b")
                .unwrap()
                .unwrap()
                .like_a_path
        );
        assert!(GitRef::parse("git@h:r").unwrap().unwrap().ssh);
        for text in [
            "./r.git",
            "https://h/file.tar",
            "file.git",
            "a:b",
            "ftp://h/r.git",
            "user@host/x",
        ] {
            assert_eq!(GitRef::parse(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn queries_are_read_or_refused() {
        let git =
            GitRef::parse("https://h/r.git?keep-git-dir&submodules=0&commit=abc&mtime=commit")
                .unwrap()
                .unwrap();
        assert_eq!(
            (git.keep_git_dir, git.submodules),
            (Some(true), Some(false))
        );
        assert_eq!(git.checksum.as_deref(), Some("abc"));
        assert!(git.to_source().skip_submodules);
        for (query, part) in [
            ("ref=", "has no value"),
            ("ref=a&ref=b", "multiple values"),
            ("nosuch=1", "unexpected query"),
            ("keep-git-dir=x", "invalid keep-git-dir"),
            ("mtime=x", "invalid mtime"),
            ("tag=a&branch=b", "conflicts"),
            ("ref=a&tag=b", "ref conflicts"),
        ] {
            let error = GitRef::parse(&format!("https://h/r.git?{query}")).unwrap_err();
            assert!(error.to_string().contains(part), "{query}: {error}");
        }
    }
}
