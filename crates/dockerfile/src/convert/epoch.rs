//! `SOURCE_DATE_EPOCH` that names a source: the result bears the time of that source.

use std::borrow::Cow;

use weld_llb::{EnvList, FileAttributes, Graph, HttpSource, Op, Source};

use super::context::{MainContext, definition_of, input_graph, internal};
use super::copy::{Location, locate, url_filename};
use super::host::Host;
use super::named_context::{self, Content};
use super::{ConvertError, HostFailure, Request, args};
use crate::error::Error;
use crate::instruction::{Add, Instruction, Kind};
use crate::shell::Expander;
use crate::stage::{Dockerfile, Stage};

/// The argument that sets it.
const NAME: &str = "SOURCE_DATE_EPOCH";
/// The value that stands for the main context.
const CONTEXT: &str = "context";

/// The request with a number, or nothing, instead of the name of a source.
pub(super) async fn resolved<'r>(
    host: &dyn Host,
    request: &'r Request,
    dockerfile: &Dockerfile,
    context: &MainContext,
) -> Result<Cow<'r, Request>, Error> {
    let mut globals = args::predefined(request, &request.build_platform, dockerfile);
    let (declared, escape) = (&dockerfile.global_args, dockerfile.escape);
    args::add_globals(&mut globals, declared, &request.build_args, escape)?;
    let value = match request.build_args.get(NAME) {
        Some(value) => value.clone(),
        None => globals.get(NAME).unwrap_or_default().to_owned(),
    };
    if value.is_empty() || value.parse::<i64>().is_ok() {
        return Ok(Cow::Borrowed(request));
    }
    let source = source(host, request, dockerfile, context, (&value, globals)).await?;
    let time = match source {
        Some(source) => time(host, request, source, &value).await?,
        None => None,
    };
    let mut request = request.clone();
    let time = time.map_or_else(String::new, |time| time.to_string());
    request.build_args.insert(NAME.to_owned(), time);
    Ok(Cow::Owned(request))
}

/// The source that a value names; `None` for one that has no time, such as the client's directory.
async fn source(
    host: &dyn Host,
    request: &Request,
    dockerfile: &Dockerfile,
    context: &MainContext,
    (value, globals): (&str, EnvList),
) -> Result<Option<Source>, Error> {
    if value == CONTEXT {
        return Ok(context.remote().and_then(one_source));
    }
    if let Some(named) = named_context::find(request, value, &request.build_platform) {
        let loaded = named.load(host, request, &request.build_platform).await?;
        return Ok(match loaded.content {
            Content::Source(source) => Some(*source),
            Content::Graph(graph) => one_source(&graph),
            Content::Empty | Content::Local(_) => None,
        });
    }
    if let Some(definition) = request.inputs.get(value) {
        return Ok(one_source(&input_graph(value, definition.clone())?));
    }
    let Some(stage) = dockerfile.stage_named(value) else {
        let value = value.to_owned();
        return Err(ConvertError::Epoch { value }.into());
    };
    of_stage(request, dockerfile, stage, globals)
        .map(Some)
        .map_err(|error| error.at(stage.lines))
}

/// The source of a definition that has one.
fn one_source(graph: &Graph) -> Option<Source> {
    let mut sources = graph
        .vertices()
        .iter()
        .filter_map(|vertex| match vertex.op() {
            Op::Source(source) => Some((**source).clone()),
            _ => None,
        });
    sources.next().filter(|_| sources.next().is_none())
}

/// What a stage adds that does nothing else.
fn of_stage(
    request: &Request,
    dockerfile: &Dockerfile,
    stage: &Stage,
    mut globals: EnvList,
) -> Result<Source, Error> {
    let refused = |reason: &str| ConvertError::EpochStage {
        reason: reason.to_owned(),
    };
    globals.unset(NAME);
    let base = Expander::new(dockerfile.escape, &globals).word(&stage.base)?;
    if base != super::stages::SCRATCH {
        return Err(refused("must use FROM scratch").into());
    }
    let mut added = None;
    for instruction in &stage.instructions {
        match &instruction.kind {
            Kind::Arg(_) => {
                let argument = std::slice::from_ref(instruction);
                args::add_globals(
                    &mut globals,
                    argument,
                    &request.build_args,
                    dockerfile.escape,
                )?;
            }
            Kind::Add(_) if added.is_none() => {
                added = Some(of_add(instruction, dockerfile, &globals)?);
            }
            Kind::Add(_) => return Err(refused("must contain exactly one remote ADD").into()),
            _ => {
                let reason = format!(
                    "does not meet source-only requirements: unsupported {} instruction",
                    instruction.kind.name()
                );
                return Err(ConvertError::EpochStage { reason }.into());
            }
        }
    }
    let added = added.ok_or_else(|| refused("must contain exactly one remote ADD"));
    Ok(added?)
}

fn of_add(
    instruction: &Instruction,
    dockerfile: &Dockerfile,
    globals: &EnvList,
) -> Result<Source, Error> {
    let mut expander = Expander::new(dockerfile.escape, globals);
    let mut expanded = instruction.clone();
    expanded.expand(&mut expander)?;
    let Kind::Add(Add {
        transfer,
        checksum,
        keep_git_dir,
        ..
    }) = &expanded.kind
    else {
        let reason = "must contain exactly one remote ADD".to_owned();
        return Err(ConvertError::EpochStage { reason }.into());
    };
    let ([written], []) = (
        transfer.sources.as_slice(),
        transfer.inline_files.as_slice(),
    ) else {
        let reason = "must contain exactly one remote ADD source".to_owned();
        return Err(ConvertError::EpochStage { reason }.into());
    };
    match locate(written)? {
        Location::Git(mut git) => {
            git.keep_git_dir = git.keep_git_dir.or(*keep_git_dir);
            git.checksum = git.checksum.or_else(|| checksum.clone());
            Ok(Source::Git(git.to_source()))
        }
        Location::Url => {
            let checksum = checksum.as_deref().map(str::parse).transpose();
            Ok(Source::Http(HttpSource {
                file: FileAttributes {
                    filename: Some(url_filename(written)),
                    ..FileAttributes::default()
                },
                url: written.clone(),
                checksum: checksum.map_err(ConvertError::from)?,
                ..HttpSource::default()
            }))
        }
        Location::Path => {
            let reason = "source must be a single HTTP(S) or Git ADD".to_owned();
            Err(ConvertError::EpochStage { reason }.into())
        }
    }
}

/// The time of a source, in seconds since 1970.
async fn time(
    host: &dyn Host,
    request: &Request,
    mut source: Source,
    value: &str,
) -> Result<Option<i64>, Error> {
    match &mut source {
        // Its files are of the commit's time then.
        Source::Git(git) => git.mtime = Some("commit".to_owned()),
        Source::Http(_) => {}
        _ => return Ok(None),
    }
    let constraints = internal(format!("resolve {NAME} of {value}"));
    let definition = definition_of(request, source.clone(), constraints)?;
    let time = host.source_time(&definition, &source).await;
    Ok(time.map_err(|error| ConvertError::Read {
        what: format!("{NAME} of {value}"),
        source: HostFailure::from(error),
    })?)
}
