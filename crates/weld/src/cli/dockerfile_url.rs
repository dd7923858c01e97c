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

/// A directory with the Dockerfile, if `--file` is a URL.
pub(crate) async fn fetch(
    worker: &Worker,
    args: &BuildArgs,
    cancel: CancellationToken,
) -> Result<Option<TempDir>, Failure> {
    let Some(url) = args.file.as_deref().filter(|file| is_url(file)) else {
        return Ok(None);
    };
    let directory = tempfile::Builder::new()
        .prefix("weld-dockerfile-")
        .tempdir()
        .map_err(ContextError::Temporary)?;
    let target = ExportTarget::Directory(directory.path().to_owned());
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
    run::build(worker, request, &args.progress, cancel).await?;
    check(&directory.path().join(DOCKERFILE), url)?;
    Ok(Some(directory))
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
    file.take(1024).read_to_end(&mut head).map_err(unreadable)?;
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
