//! Where a build's files come from: the context, the Dockerfile and the named contexts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::dockerfile_url::Fetched;
use super::input::Input;
use tempfile::TempDir;
use weld_engine::{HostSession, LayoutReference, SessionError, unpack_context};

/// How long a Dockerfile may be that is no file here, in bytes.
pub(crate) const DOCKERFILE_LIMIT: u64 = 16 << 20;
/// What such a Dockerfile is called.
pub(crate) const DOCKERFILE: &str = "Dockerfile";

/// Why the files cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("cannot read standard input: {0}")]
    Stdin(std::io::Error),
    #[error("context and Dockerfile cannot both be read from standard input")]
    BothStdin,
    #[error("standard input holds neither a tar archive nor a Dockerfile (it is empty)")]
    EmptyStdin,
    #[error("standard input holds a Dockerfile of more than {DOCKERFILE_LIMIT} bytes")]
    LongStdin,
    #[error("--file {0}: it is longer than {DOCKERFILE_LIMIT} bytes, which no Dockerfile is")]
    LongDockerfile(String),
    #[error("--file {0}: it is empty")]
    EmptyDockerfile(String),
    #[error(
        "--file {0}: that is a web page and no Dockerfile; the address of the file itself is needed"
    )]
    PageForDockerfile(String),
    #[error("cannot keep a temporary file: {0}")]
    Temporary(std::io::Error),
    #[error("cannot unpack the archive on standard input: {0}")]
    Unpack(weld_engine::UnpackError),
    #[error("context {path:?}: {reason}")]
    NoDirectory { path: PathBuf, reason: String },
    #[error("--file {}: there is no such file; it is looked for from the working directory, not from the context", .0.display())]
    NoDockerfile(PathBuf),
    #[error("--file {}: is a directory", .0.display())]
    DockerfileIsDirectory(PathBuf),
    #[error("--file {file}: there is a Dockerfile on standard input, too")]
    TwoDockerfiles { file: String },
    #[error("--file {}: {reason}", path.display())]
    NoPlaceOfDockerfile { path: PathBuf, reason: String },
    #[error("context {0:?}: names nothing behind its scheme")]
    NoPlace(String),
    #[error("--build-context {0:?}: needs NAME=CONTEXT")]
    NamedContext(String),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What was set up for a build; temporary directories live as long as this does.
#[derive(Debug)]
pub(crate) struct Inputs {
    temporary: Vec<TempDir>,
    /// The Dockerfile that is fetched.
    dockerfile: Option<Fetched>,
    streams: bool,
    input: Input,
}

impl Inputs {
    /// Nothing yet. An archive on standard input is unpacked here, or with `streams` handed on as
    /// it comes, which is what serves a builder at the other end of a connection.
    pub(crate) const fn new(streams: bool, input: Input, dockerfile: Option<Fetched>) -> Self {
        Self {
            temporary: Vec::new(),
            dockerfile,
            streams,
            input,
        }
    }

    /// The Dockerfile that is to be fetched before the build, if one is.
    pub(crate) const fn to_fetch(&self) -> Option<&Fetched> {
        self.dockerfile.as_ref()
    }

    /// Offers the main context and the Dockerfile, and tells the frontend where they are.
    pub(crate) fn add_main(
        &mut self,
        session: &mut HostSession,
        attrs: &mut BTreeMap<String, String>,
        context: &str,
        file: Option<&str>,
    ) -> Result<(), ContextError> {
        if context == "-" {
            return self.add_stdin(session, attrs, file);
        }
        if is_remote(context) {
            let place = context
                .split_once("://")
                .map_or(context, |(_, place)| place);
            if place.trim_matches('/').is_empty() {
                return Err(ContextError::NoPlace(context.to_owned()));
            }
            attrs.insert("context".into(), context.to_owned());
            if self.add_fetched(session, attrs)? {
                return Ok(());
            }
            match file {
                Some("-") => {
                    let directory = self.stdin_dockerfile(self.input.clone())?;
                    session.add_directory("dockerfile", &directory)?;
                    attrs.insert("dockerfilekey".into(), "dockerfile".into());
                }
                // As docker has it: what is absolute is here.
                Some(file) if Path::new(file).is_absolute() => {
                    let name = add_dockerfile(session, file)?;
                    attrs.insert("filename".into(), name);
                    attrs.insert("dockerfilekey".into(), "dockerfile".into());
                }
                Some(file) => drop(attrs.insert("filename".into(), file.to_owned())),
                None => {}
            }
            return Ok(());
        }
        let context = Path::new(context);
        directory(context)?;
        session.add_directory("context", context)?;
        if self.add_fetched(session, attrs)? {
            return Ok(());
        }
        match file {
            Some("-") => {
                let directory = self.stdin_dockerfile(self.input.clone())?;
                session.add_directory("dockerfile", &directory)?;
            }
            Some(file) => {
                let name = add_dockerfile(session, file)?;
                attrs.insert("filename".into(), name);
            }
            None => session.add_directory("dockerfile", context)?,
        }
        Ok(())
    }

    /// Offers the Dockerfile that is fetched, if one is.
    fn add_fetched(
        &self,
        session: &mut HostSession,
        attrs: &mut BTreeMap<String, String>,
    ) -> Result<bool, ContextError> {
        let Some(fetched) = &self.dockerfile else {
            return Ok(false);
        };
        session.add_directory("dockerfile", fetched.directory())?;
        attrs.insert("dockerfilekey".into(), "dockerfile".into());
        attrs.insert("filename".into(), DOCKERFILE.into());
        Ok(true)
    }

    fn add_stdin(
        &mut self,
        session: &mut HostSession,
        attrs: &mut BTreeMap<String, String>,
        file: Option<&str>,
    ) -> Result<(), ContextError> {
        if file == Some("-") {
            return Err(ContextError::BothStdin);
        }
        let mut stdin = self.input.clone();
        let mut head = Vec::new();
        stdin
            .by_ref()
            .take(1024)
            .read_to_end(&mut head)
            .map_err(ContextError::Stdin)?;
        if head.is_empty() {
            return Err(ContextError::EmptyStdin);
        }
        let is_archive = weld_engine::is_archive(&head);
        if !is_archive {
            if let Some(file) = file {
                return Err(ContextError::TwoDockerfiles {
                    file: file.to_owned(),
                });
            }
            let whole = head.as_slice().chain(stdin);
            let dockerfile = self.stdin_dockerfile(whole)?;
            let empty = self.temporary()?;
            session.add_directory("context", &empty)?;
            session.add_directory("dockerfile", &dockerfile)?;
            return Ok(());
        }
        let is_fetched = self.add_fetched(session, attrs)?;
        if let Some(file) = file.filter(|_| !is_fetched) {
            attrs.insert("filename".into(), file.to_owned());
        }
        if self.streams {
            let head = std::io::Cursor::new(head);
            let whole = tokio::io::AsyncReadExt::chain(head, tokio::io::stdin());
            attrs.insert("context".into(), session.add_upload(Box::new(whole)));
            return Ok(());
        }
        let whole = head.as_slice().chain(stdin);
        let unpacked = self.temporary()?;
        unpack_context(whole, &unpacked).map_err(ContextError::Unpack)?;
        session.add_directory("context", &unpacked)?;
        if !is_fetched {
            session.add_directory("dockerfile", &unpacked)?;
        }
        Ok(())
    }

    fn stdin_dockerfile(&mut self, input: impl Read) -> Result<PathBuf, ContextError> {
        let mut text = Vec::new();
        input
            .take(DOCKERFILE_LIMIT + 1)
            .read_to_end(&mut text)
            .map_err(ContextError::Stdin)?;
        if text.len() as u64 > DOCKERFILE_LIMIT {
            return Err(ContextError::LongStdin);
        }
        let directory = self.temporary()?;
        std::fs::write(directory.join(DOCKERFILE), text).map_err(ContextError::Temporary)?;
        Ok(directory)
    }

    fn temporary(&mut self) -> Result<PathBuf, ContextError> {
        let directory = tempfile::Builder::new()
            .prefix("weld-context-")
            .tempdir()
            .map_err(ContextError::Temporary)?;
        let path = directory.path().to_owned();
        self.temporary.push(directory);
        Ok(path)
    }
}

/// Offers the directory that a Dockerfile is in; returns the file's name there.
fn add_dockerfile(session: &mut HostSession, file: &str) -> Result<String, ContextError> {
    if Path::new(file).is_dir() {
        return Err(ContextError::DockerfileIsDirectory(file.into()));
    }
    let (parent, name) = split(Path::new(file));
    is_directory(&parent).map_err(|reason| ContextError::NoPlaceOfDockerfile {
        path: file.into(),
        reason: format!("{}: {reason}", parent.display()),
    })?;
    // The frontend also takes a name in small letters.
    let names = [name.clone(), name.to_lowercase()];
    if !names.iter().any(|name| parent.join(name).exists()) {
        return Err(ContextError::NoDockerfile(file.into()));
    }
    session.add_directory("dockerfile", &parent)?;
    Ok(name)
}

/// Offers the named contexts of all `--build-context` options.
pub(crate) fn add_named(
    session: &mut HostSession,
    attrs: &mut BTreeMap<String, String>,
    options: &[String],
) -> Result<(), ContextError> {
    let mut layouts = BTreeSet::new();
    for text in options {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| ContextError::NamedContext(text.clone()))?;
        let value = if let Some(layout) = value.strip_prefix("oci-layout://") {
            let (path, reference) = layout_reference(layout);
            session.add_layout(&layout_id(name, &mut layouts), &path, reference)?
        } else if is_remote(value)
            || value.starts_with("docker-image://")
            || value.starts_with("target:")
        {
            value.to_owned()
        } else {
            let path = Path::new(value);
            directory(path)?;
            session.add_directory(name, path)?;
            format!("local:{name}")
        };
        attrs.insert(format!("context:{}", name.to_lowercase()), value);
    }
    Ok(())
}

/// What a layout is called where it is part of a reference: a context's name may be one itself, with a tag.
fn layout_id(name: &str, known: &mut BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut id: String = name.to_lowercase().chars().map(plain).collect();
    while !known.insert(id.clone()) {
        id.push_str("-1");
    }
    id
}

/// Splits `DIR:TAG`, `DIR@DIGEST` or `DIR`.
fn layout_reference(text: &str) -> (PathBuf, LayoutReference) {
    if let Some((path, digest)) = text.split_once('@') {
        return (path.into(), LayoutReference::Digest(digest.to_owned()));
    }
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !Path::new(text).exists() => {
            (path.into(), LayoutReference::Tag(tag.to_owned()))
        }
        _ => (text.into(), LayoutReference::Only),
    }
}

fn is_remote(context: &str) -> bool {
    [
        "https://",
        "http://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ]
    .iter()
    .any(|prefix| context.starts_with(prefix))
}

fn directory(path: &Path) -> Result<(), ContextError> {
    is_directory(path).map_err(|reason| ContextError::NoDirectory {
        path: path.to_owned(),
        reason,
    })
}

fn is_directory(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err("not a directory".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The directory of a file and its name in it.
fn split(file: &Path) -> (PathBuf, String) {
    let parent = match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = file.file_name().map_or_else(
        || "Dockerfile".into(),
        |name| name.to_string_lossy().into_owned(),
    );
    (parent, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_named_by_tag_by_digest_or_alone() {
        let tag = |tag: &str| LayoutReference::Tag(tag.into());
        for (text, path, reference) in [
            ("./base:1.2", "./base", tag("1.2")),
            ("/a/b", "/a/b", LayoutReference::Only),
            ("/a:b/c", "/a:b/c", LayoutReference::Only),
            (
                "base@sha256:00",
                "base",
                LayoutReference::Digest("sha256:00".into()),
            ),
        ] {
            assert_eq!(layout_reference(text), (path.into(), reference), "{text}");
        }
    }

    #[test]
    fn an_absolute_file_is_here_where_the_context_is_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("other");
        std::fs::write(&file, "FROM scratch\n").unwrap();
        let context = "https://example.com/context.git";
        let add = |file: &str| {
            let mut attrs = BTreeMap::new();
            Inputs::new(false, Input::new(Default::default()), None)
                .add_main(&mut HostSession::new(), &mut attrs, context, Some(file))
                .map(|()| attrs)
        };
        let attrs = add(file.to_str().unwrap()).unwrap();
        assert_eq!(attrs["filename"], "other");
        assert_eq!(attrs["dockerfilekey"], "dockerfile");
        assert_eq!(attrs["context"], context);
        let attrs = add("sub/other").unwrap();
        assert_eq!(attrs["filename"], "sub/other");
        assert!(!attrs.contains_key("dockerfilekey"));
        assert!(add("/nowhere/other").is_err());
    }

    #[test]
    fn a_file_is_split_into_its_place_and_name() {
        assert_eq!(
            split(Path::new("Dockerfile.dev")),
            (".".into(), "Dockerfile.dev".into())
        );
        assert_eq!(split(Path::new("../a/D")), ("../a".into(), "D".into()));
    }
}
