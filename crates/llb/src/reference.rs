//! Image references as docker reads them: `busybox`, `ghcr.io/org/app:1.2`, `app@sha256:…`.
//!
//! The grammar is that of the `distribution/reference` package: an optional registry, a
//! repository path, an optional tag and an optional digest. A name without a registry is one of
//! Docker Hub's, and one without a namespace there is an official image.

use std::fmt;
use std::str::FromStr;

use weld_digest::{Digest, ParseDigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The longest repository path.
const MAX_PATH: usize = 255;
/// The longest tag.
const MAX_TAG: usize = 128;
/// Longer texts are refused before they are looked at.
const MAX_REFERENCE: usize = 4096;

/// A repository: which registry, and which path there. Always in its full form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    domain: String,
    path: String,
}

/// A reference to an image: a repository with a tag, a digest, both or neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// There is nothing.
    #[error("image reference is empty")]
    Empty,
    /// It is far too long.
    #[error("image reference is longer than {MAX_REFERENCE} bytes")]
    TooLong,
    /// It starts with a scheme, such as `https://`.
    #[error("invalid image reference {0:?}: it must not have a scheme such as \"https://\"")]
    Scheme(String),
    /// The registry is no `host[:port]`.
    #[error("invalid image reference {text:?}: {domain:?} is not a registry host")]
    Domain {
        /// The whole text.
        text: String,
        /// The part in question.
        domain: String,
    },
    /// The path has upper-case letters.
    #[error("invalid image reference {text:?}: repository name {path:?} must be lowercase")]
    Uppercase {
        /// The whole text.
        text: String,
        /// The part in question.
        path: String,
    },
    /// A component of the path is not made of `a-z 0-9`, separated by `.`, `_`, `__` or dashes.
    #[error(
        "invalid image reference {text:?}: repository name component {component:?} must be made \
         of a-z and 0-9, separated by single dots, one or two underscores, or dashes"
    )]
    Component {
        /// The whole text.
        text: String,
        /// The part in question.
        component: String,
    },
    /// The path is longer than the specification allows.
    #[error("invalid image reference {0:?}: repository name is longer than {MAX_PATH} bytes")]
    PathTooLong(String),
    /// The name looks like an image ID.
    #[error("invalid image reference {0:?}: 64 hexadecimal digits name no repository")]
    LooksLikeId(String),
    /// The tag is not one.
    #[error(
        "invalid image reference {text:?}: tag {tag:?} must be 1 to {MAX_TAG} letters, digits, \
         dots, dashes or underscores and start with a letter, digit or underscore"
    )]
    Tag {
        /// The whole text.
        text: String,
        /// The part in question.
        tag: String,
    },
    /// The part behind `@` is no digest.
    #[error("invalid image reference {text:?}: {source}")]
    Digest {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        source: ParseDigestError,
    },
}

impl Repository {
    /// The registry as a reference names it, such as `docker.io` or `localhost:5000`. Where its
    /// API is served is the registry client's matter.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The short form that docker shows: `busybox` for `docker.io/library/busybox`.
    pub fn familiar(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.to_string();
        }
        match self.path.strip_prefix(OFFICIAL_NAMESPACE) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The reference to `digest` in this repository.
    pub fn at(&self, digest: Digest) -> Reference {
        Reference {
            repository: self.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self, ParseReferenceError> {
        if name.len() == 64 && name.bytes().all(is_lower_hex) {
            return Err(ParseReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, path) = split_domain(name);
        check_domain(domain, text)?;
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_NAMESPACE}{path}")
        } else {
            path.to_owned()
        };
        check_path(&path, text)?;
        Ok(Self {
            domain: domain.to_owned(),
            path,
        })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

impl FromStr for Repository {
    type Err = ParseReferenceError;

    /// Reads a name without tag and digest.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_whole(text)?;
        Self::parse(text, text)
    }
}

impl Reference {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same with the tag `latest` where there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same, pinned to `digest`; the tag stays as a note.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The short form that docker shows: `busybox:latest`.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.repository.familiar(), Suffix(self))
    }

    /// What the registry's API is asked for: the digest, else the tag, else `latest`.
    pub fn object(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

/// Tag and digest with their separators.
struct Suffix<'a>(&'a Reference);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = &self.0.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.0.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, Suffix(self))
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_whole(text)?;
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|source| ParseReferenceError::Digest {
                        text: text.to_owned(),
                        source,
                    })?;
                (rest, Some(digest))
            }
        };
        // A colon before the last slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                check_tag(tag, text)?;
                (name, Some(tag.to_owned()))
            }
            _ => (rest, None),
        };
        Ok(Self {
            repository: Repository::parse(name, text)?,
            tag,
            digest,
        })
    }
}

fn check_whole(text: &str) -> Result<(), ParseReferenceError> {
    if text.is_empty() {
        return Err(ParseReferenceError::Empty);
    }
    if text.len() > MAX_REFERENCE {
        return Err(ParseReferenceError::TooLong);
    }
    if text.contains("://") {
        return Err(ParseReferenceError::Scheme(text.to_owned()));
    }
    Ok(())
}

/// The registry and the path of a name that may lack the former.
fn split_domain(name: &str) -> (&str, &str) {
    let (domain, path) = match name.split_once('/') {
        Some((domain, path)) if is_domain_like(domain) => (domain, path),
        _ => (DEFAULT_DOMAIN, name),
    };
    if domain == LEGACY_DEFAULT_DOMAIN {
        return (DEFAULT_DOMAIN, path);
    }
    (domain, path)
}

/// Whether docker takes the first component for a registry: it has a dot, a port or capitals, or
/// it is `localhost`.
fn is_domain_like(component: &str) -> bool {
    component.contains(['.', ':'])
        || component == "localhost"
        || component.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn check_domain(domain: &str, text: &str) -> Result<(), ParseReferenceError> {
    let bad = || ParseReferenceError::Domain {
        text: text.to_owned(),
        domain: domain.to_owned(),
    };
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if let Some(port) = port
        && (port.is_empty() || port.parse::<u16>().is_err() || !port.bytes().all(is_digit))
    {
        return Err(bad());
    }
    let valid = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_host_label),
    };
    if valid { Ok(()) } else { Err(bad()) }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn check_path(path: &str, text: &str) -> Result<(), ParseReferenceError> {
    if path.len() > MAX_PATH {
        return Err(ParseReferenceError::PathTooLong(text.to_owned()));
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ParseReferenceError::Uppercase {
            text: text.to_owned(),
            path: path.to_owned(),
        });
    }
    match path.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some(component) => Err(ParseReferenceError::Component {
            text: text.to_owned(),
            component: component.to_owned(),
        }),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && component
            .split(is_alphanumeric)
            .all(|separator| match separator {
                "" | "." | "_" | "__" => true,
                dashes => dashes.bytes().all(|byte| byte == b'-'),
            })
}

fn check_tag(tag: &str, text: &str) -> Result<(), ParseReferenceError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if valid {
        return Ok(());
    }
    Err(ParseReferenceError::Tag {
        text: text.to_owned(),
        tag: tag.to_owned(),
    })
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_get_their_full_and_their_familiar_form() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            (
                "busybox:1.36",
                "docker.io/library/busybox:1.36",
                "busybox:1.36",
            ),
            ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
            (
                "index.docker.io/library/busybox",
                "docker.io/library/busybox",
                "busybox",
            ),
            ("moby/buildkit", "docker.io/moby/buildkit", "moby/buildkit"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/app", "localhost/app", "localhost/app"),
            (
                "localhost:5000/app:x",
                "localhost:5000/app:x",
                "localhost:5000/app:x",
            ),
            (
                "127.0.0.1:5000/a/b/c",
                "127.0.0.1:5000/a/b/c",
                "127.0.0.1:5000/a/b/c",
            ),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("[::1]/app", "[::1]/app", "[::1]/app"),
            (
                "ghcr.io/org/a__b-c.d---e:V_1.0-x",
                "ghcr.io/org/a__b-c.d---e:V_1.0-x",
                "ghcr.io/org/a__b-c.d---e:V_1.0-x",
            ),
            ("Registry/app", "Registry/app", "Registry/app"),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn tag_and_digest_are_told_apart() {
        let reference: Reference = format!("localhost:5000/app:1@{SHA}").parse().unwrap();
        assert_eq!(reference.repository().domain(), "localhost:5000");
        assert_eq!(reference.repository().path(), "app");
        assert_eq!(reference.tag(), Some("1"));
        assert_eq!(reference.digest().unwrap().to_string(), SHA);
        assert_eq!(reference.object(), SHA);
        let plain: Reference = "app".parse().unwrap();
        assert_eq!(plain.object(), "latest");
        assert_eq!(plain.with_default_tag().tag(), Some("latest"));
        let pinned: Reference = format!("app@{SHA}").parse().unwrap();
        assert_eq!(pinned.with_default_tag().tag(), None);
    }

    #[test]
    fn a_bad_reference_is_refused_with_the_part_in_question() {
        for (text, part) in [
            ("", "empty"),
            ("https://docker.io/a", "scheme"),
            ("App", "must be lowercase"),
            ("docker.io/Org/app", "\"Org/app\" must be lowercase"),
            ("a..b", "component \"a..b\""),
            ("a/-b", "component \"-b\""),
            ("a/b_", "component \"b_\""),
            ("a//b", "component \"\""),
            ("a/", "component \"\""),
            ("a___b", "component \"a___b\""),
            ("a b", "component \"a b\""),
            ("a:", "tag \"\""),
            ("a:-x", "tag \"-x\""),
            ("a:x y", "tag \"x y\""),
            (&format!("a:{}", "x".repeat(129)), "1 to 128"),
            ("a@sha256:12", "64 lower-case"),
            ("a@md5:12", "unsupported algorithm"),
            ("host.:5000/a", "\"host.:5000\" is not a registry"),
            ("host:port/a", "\"host:port\" is not a registry"),
            ("host:99999/a", "is not a registry"),
            ("-a.b/c", "is not a registry"),
            ("[::zz]:1/a", "is not a registry"),
            (&"a".repeat(64), "64 hexadecimal digits"),
            (&format!("x.y/{}", "a".repeat(256)), "longer than 255"),
            (&"a".repeat(5000), "longer than 4096"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_full_form_is_a_fixed_point(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
