//! `weld solve` and `weld debug`.

use std::io::Read;
use std::path::Path;

use tokio_util::sync::CancellationToken;
use weld_engine::{BuildInput, BuildRequest, Definition, HostSession, LayoutReference};

use super::args::SolveArgs;
use super::build::entitlements;
use super::caches::Caches;
use super::destination::Destination;
use super::metadata::{self, Detail};
use super::place::Worker;
use super::report::Failure;
use super::{offers, outputs, run, streams};

/// How large a definition may be, in bytes.
const DEFINITION_LIMIT: u64 = 1 << 30;

/// Builds a definition.
pub(crate) async fn solve(
    worker: &Worker,
    args: &SolveArgs,
    definition: Definition,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    let mut session = HostSession::new();
    for text in &args.locals {
        let (name, path) = named(text, "--local")?;
        session
            .add_directory(name, Path::new(path))
            .map_err(|error| Failure::usage(error.to_string()))?;
    }
    for text in &args.layouts {
        let (name, path) = named(text, "--oci-layout")?;
        session
            .add_layout(name, Path::new(path), LayoutReference::Any)
            .map_err(|error| Failure::usage(error.to_string()))?;
    }
    offers::add_secrets(&mut session, &args.secrets)?;
    offers::add_ssh(&mut session, &args.ssh)?;
    let exports = outputs::parse(&args.outputs, false, &[])?;
    let caches = Caches::parse(&mut session, &args.caches)?;
    let request = BuildRequest {
        cache_imports: caches.imports.clone(),
        cache_exports: caches.exports.clone(),
        input: BuildInput::Definition {
            definition: Box::new(definition),
            no_cache: args.no_cache,
        },
        exports,
        entitlements: entitlements(&args.allow)?,
        explain: false,
        provenance: false,
        internal: false,
        session: session.into_session(),
    };
    let metadata_file = Destination::new("--metadata-file", args.metadata_file.as_deref())?;
    let response = run::build(worker, request, &args.progress, cancel.clone()).await?;
    caches.list(&response, &cancel)?;
    metadata_file.write(&metadata::encode(&response, Detail::Nothing)?)
}

/// Prints a definition as JSON, an object a line, or as a graph.
pub(crate) fn dump(file: Option<&Path>, dot: bool) -> Result<(), Failure> {
    let definition = Definition::decode(&read(file)?)?;
    let text = if dot {
        definition.to_dot()
    } else {
        definition.to_json_lines()
    };
    streams::write(text.as_bytes())
}

fn named<'a>(text: &'a str, option: &str) -> Result<(&'a str, &'a str), Failure> {
    text.split_once('=')
        .ok_or_else(|| Failure::usage(format!("{option} {text:?}: needs NAME=DIR")))
}

/// Reads a definition from a file, or from standard input, without decoding it.
pub(crate) fn read(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match file {
        Some(path) => {
            let opened = std::fs::File::open(path).map_err(|error| Failure::file(path, &error))?;
            opened
                .take(DEFINITION_LIMIT + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::file(path, &error))?
        }
        None => {
            let stdin = std::io::stdin().lock();
            stdin
                .take(DEFINITION_LIMIT + 1)
                .read_to_end(&mut bytes)
                .map_err(Failure::Stdin)?
        }
    };
    if bytes.len() as u64 > DEFINITION_LIMIT {
        return Err(Failure::usage(format!(
            "the definition is larger than {DEFINITION_LIMIT} bytes"
        )));
    }
    if bytes.is_empty() {
        let place = file.map_or("standard input".into(), |file| file.display().to_string());
        return Err(Failure::usage(format!(
            "{place} is empty: an LLB definition is wanted, such as `weld debug emit-llb` prints"
        )));
    }
    Ok(bytes)
}
