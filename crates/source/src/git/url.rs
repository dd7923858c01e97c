use std::fmt;

use ::url::Url;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::secret::Secret;

/// The protocols that a remote may have.
const SCHEMES: [&str; 4] = ["http", "https", "ssh", "git"];

/// The URL of a git remote, in parts: `https://host/path`, `ssh://git@host/path` or
/// `git@host:path`. A fragment and a query are not part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct GitUrl {
    scheme: String,
    host: String,
    path: String,
    /// What git is given: with a user for SSH, with no password ever.
    remote: String,
    /// The `Authorization` that user and password in an HTTP URL stand for.
    authorization: Option<Secret>,
}

/// Why a text is no git URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// It has a scheme that is none of git's, or that is not allowed.
    #[error("git URL has protocol {0:?}; allowed are http, https, ssh and git")]
    Scheme(String),
    /// It is neither a URL nor of the form `user@host:path`.
    #[error("it is not a git URL")]
    NotAUrl,
    /// It is malformed.
    #[error("malformed git URL: {0}")]
    Malformed(String),
}

impl GitUrl {
    /// Whether a text is meant as a URL of git's, so that it should be parsed as one.
    pub fn is_meant(text: &str) -> bool {
        match scheme_of(text) {
            Some(scheme) => SCHEMES.contains(&scheme.as_str()),
            None => split_scp(text).is_some(),
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`GitUrlError`].
    pub fn parse(text: &str) -> Result<Self, GitUrlError> {
        Self::parse_with(text, false)
    }

    /// Reads a URL; `file:` is allowed on wish.
    pub(super) fn parse_with(text: &str, allow_file: bool) -> Result<Self, GitUrlError> {
        if text.chars().any(char::is_control) {
            return Err(GitUrlError::Malformed(
                "it has control characters".to_owned(),
            ));
        }
        match scheme_of(text) {
            Some(scheme) if SCHEMES.contains(&scheme.as_str()) => Self::of_url(text),
            Some(scheme) if scheme == "file" && allow_file => Self::of_url(text),
            Some(scheme) => Err(GitUrlError::Scheme(scheme)),
            None => Self::of_scp(text),
        }
    }

    fn of_url(text: &str) -> Result<Self, GitUrlError> {
        let mut url =
            Url::parse(text).map_err(|error| GitUrlError::Malformed(error.to_string()))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // `ssh -oProxyCommand=…` was once a way in.
        if host.starts_with('-') || (host.is_empty() && url.scheme() != "file") {
            return Err(GitUrlError::Malformed(format!("{host:?} is not a host")));
        }
        let authorization = basic(&url);
        url.set_query(None);
        url.set_fragment(None);
        // These fail where there can be none.
        let _ = url.set_password(None);
        if url.scheme() != "ssh" {
            let _ = url.set_username("");
        }
        Ok(Self {
            scheme: url.scheme().to_owned(),
            host,
            path: decode(url.path()),
            remote: url.to_string(),
            authorization,
        })
    }

    fn of_scp(text: &str) -> Result<Self, GitUrlError> {
        let remote = text.split(['#', '?']).next().unwrap_or_default();
        let (user, host, path) = split_scp(remote).ok_or(GitUrlError::NotAUrl)?;
        Ok(Self {
            scheme: "ssh".to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            remote: format!("{user}@{host}:{path}"),
            authorization: None,
        })
    }

    /// The protocol.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host, with a port if one is stated.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path at the host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The remote as git is given it and as it may be shown: without a password.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// The `Authorization` header that user and password in the URL stand for.
    pub fn authorization(&self) -> Option<&Secret> {
        self.authorization.as_ref()
    }

    /// Host and path without a scheme, as LLB identifies a repository.
    pub fn identifier(&self) -> String {
        format!("{}/{}", self.host, self.path.trim_start_matches('/'))
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.remote)
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitUrl({:?})", self.remote)
    }
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

fn basic(url: &Url) -> Option<Secret> {
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let (user, password) = (decode(url.username()), decode(url.password().unwrap_or("")));
    if user.is_empty() && password.is_empty() {
        return None;
    }
    let pair = STANDARD.encode(format!("{user}:{password}"));
    Some(Secret::new(format!("Basic {pair}")))
}

/// The scheme of `scheme://…`, in lower case.
fn scheme_of(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

/// User, host and path of `user@host:path`.
fn split_scp(text: &str) -> Option<(&str, &str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let is_user = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let valid = !user.is_empty()
        && !user.starts_with('-')
        && user.bytes().all(is_user)
        && !host.is_empty()
        && !host.starts_with('-')
        && host.bytes().all(is_host);
    valid.then_some((user, host, path))
}

/// A text of git's without the credentials of URLs in it.
pub(super) fn scrub(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find("://") {
        let (before, after) = rest.split_at(position + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '\'' | '"' | '?' | '#'))
            .unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        out.push_str(match authority.rsplit_once('@') {
            Some((_, host)) => host,
            None => authority,
        });
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_lose_their_credentials() {
        for (text, scheme, host, path, remote) in [
            (
                "https://github.com/moby/buildkit.git",
                "https",
                "github.com",
                "/moby/buildkit.git",
                "https://github.com/moby/buildkit.git",
            ),
            (
                "HTTPS://user:pa%40ss@h:8443/r.git?ref=x#y:z",
                "https",
                "h:8443",
                "/r.git",
                "https://h:8443/r.git",
            ),
            (
                "ssh://git:pw@host:2222/r",
                "ssh",
                "host:2222",
                "/r",
                "ssh://git@host:2222/r",
            ),
            ("git://h/r", "git", "h", "/r", "git://h/r"),
            (
                "git@github.com:moby/buildkit.git#v1",
                "ssh",
                "github.com",
                "moby/buildkit.git",
                "git@github.com:moby/buildkit.git",
            ),
        ] {
            let url = GitUrl::parse(text).unwrap();
            assert_eq!(
                (url.scheme(), url.host(), url.path(), url.remote()),
                (scheme, host, path, remote)
            );
            assert!(GitUrl::is_meant(text), "{text}");
            assert!(!format!("{url:?} {url}").contains("pa"), "{url:?}");
        }
        let url = GitUrl::parse("https://user:pa%40ss@h/r").unwrap();
        assert_eq!(
            url.authorization().unwrap().expose(),
            "Basic dXNlcjpwYUBzcw=="
        );
        assert_eq!(url.identifier(), "h/r");
    }

    #[test]
    fn what_git_must_not_be_given_is_refused() {
        for (text, part) in [
            ("file:///etc", "protocol \"file\""),
            ("ext::sh -c id", "not a git URL"),
            ("ext://x", "protocol \"ext\""),
            ("./dir", "not a git URL"),
            ("-oProxyCommand=x", "not a git URL"),
            ("ssh://-oProxyCommand=x/y", "is not a host"),
            ("git@-oProxyCommand=x:y", "not a git URL"),
            ("-x@h:y", "not a git URL"),
            ("https:///x\n", "control"),
            ("github.com/a/b", "not a git URL"),
        ] {
            let error = GitUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn texts_are_scrubbed() {
        assert_eq!(
            scrub("fatal: 'https://u:p@h/x' and ssh://git@h2/y, a@b, http://t@h3"),
            "fatal: 'https://h/x' and ssh://h2/y, a@b, http://h3"
        );
        assert_eq!(scrub("no URL://"), "no URL://");
        assert_eq!(scrub("https://a:b@c@d/e"), "https://d/e");
    }
}
