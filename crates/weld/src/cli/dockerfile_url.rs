//! `--file URL`: a Dockerfile that whoever builds fetches first, so that proxies and certificates are those of
//! the build.

use std::io::Read;
use std::path::Path;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weld_engine::{
    BuildInput, BuildRequest, Definition, ExportKind, ExportRequest, ExportTarget, HostSession,
};

use super::args::BuildArgs;
use super::context::{ContextError, DOCKERFILE, DOCKERFILE_LIMIT};
use super::place::Worker;
use super::report::Failure;
use super::run;

/// How much of a file is looked at, in bytes.
const HEAD: u64 = 1024;

/// A Dockerfile that is to be fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    url: String,
    directory: TempDir,
}

impl Fetched {
    /// The place of the Dockerfile, if `--file` is a URL; what is wrong with a command is told before anything is
    /// fetched.
    pub(crate) fn of(file: Option<&str>) -> Result<Option<Self>, ContextError> {
        let Some(url) = file.filter(|file| is_url(file)) else {
            return Ok(None);
        };
        let directory = tempfile::Builder::new()
            .prefix("weld-dockerfile-")
            .tempdir()
            .map_err(ContextError::Temporary)?;
        Ok(Some(Self {
            url: url.to_owned(),
            directory,
        }))
    }

    /// The directory that it is in once it is fetched.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Has the worker fetch it.
pub(crate) async fn fetch(
    worker: &Worker,
    args: &BuildArgs,
    dockerfile: &Fetched,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    let url = dockerfile.url.as_str();
    let target = ExportTarget::Directory(dockerfile.directory().to_owned());
    let request = BuildRequest {
        input: BuildInput::Definition {
            definition: Box::new(Definition::of_url(url, DOCKERFILE)?),
            no_cache: false,
        },
        exports: vec![ExportRequest::new(ExportKind::Local, target)],
        cache_imports: Vec::new(),
        cache_exports: Vec::new(),
        entitlements: Vec::new(),
        explain: false,
        provenance: false,
        internal: true,
        session: HostSession::new().into_session(),
    };
    let fetched = run::build(worker, request, &args.progress, cancel).await;
    fetched.map_err(|failure| told_of_option(failure, url))?;
    check(&dockerfile.directory().join(DOCKERFILE), url)
}

/// A failure to fetch it as one of the option: no step of the Dockerfile failed.
fn told_of_option(failure: Failure, url: &str) -> Failure {
    let reason = match &failure {
        Failure::Build { error, .. } if !error.is_cancelled() => error.reason(),
        Failure::Remote { error, .. } if !error.is_cancelled() => error.to_string(),
        _ => return failure,
    };
    let reason = reason.trim_start_matches("failed to load cache key: ");
    // Most name it, without credentials.
    match reason.contains("://") {
        true => Failure::Dockerfile(reason.to_owned()),
        false => Failure::Dockerfile(format!("{url}: {reason}")),
    }
}

fn is_url(file: &str) -> bool {
    let schemes = ["http://", "https://"];
    schemes.iter().any(|scheme| file.starts_with(scheme))
}

/// Whether what came can be a Dockerfile.
fn check(file: &Path, url: &str) -> Result<(), Failure> {
    let unreadable = |error| Failure::file(file, &error);
    let file = std::fs::File::open(file).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > DOCKERFILE_LIMIT {
        return Err(ContextError::LongDockerfile(url.to_owned()).into());
    }
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).map_err(unreadable)?;
    if length <= HEAD && head.trim_ascii().is_empty() {
        return Err(ContextError::EmptyDockerfile(url.to_owned()).into());
    }
    // Such as a page that asks for a password, or that the file's own is linked on.
    let head = head.trim_ascii_start();
    let begins = |text: &[u8]| {
        let start = head.get(..text.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(text))
    };
    if begins(b"<!doctype html") || begins(b"<html") {
        return Err(ContextError::PageForDockerfile(url.to_owned()).into());
    }
    Ok(())
}
