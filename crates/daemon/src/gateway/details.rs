//! The typed details of errors: what clients show the lines of a Dockerfile from.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use weld_engine::{BuildError, FailedStep, SourceRanges};
use weld_proto::{errdefs, pb};

/// The detail that says which lines of a file an error is about.
const SOURCE: &str = "errdefs.Source";

/// The details of an error, the innermost first.
pub(super) fn of(error: &BuildError) -> Vec<Any> {
    let mut details = match error.innermost() {
        BuildError::Returned(status) => status.details.clone(),
        BuildError::Solve {
            step: Some(step), ..
        } => of_step(step),
        BuildError::Dockerfile(error) => of_dockerfile(error).into_iter().collect(),
        BuildError::FrontendCap(name) => {
            vec![detail("errdefs.FrontendCap", &json!({"name": name}))]
        }
        BuildError::Subrequest(name) => vec![detail("errdefs.Subrequest", &json!({"name": name}))],
        _ => Vec::new(),
    };
    if !matches!(error.innermost(), BuildError::Solve { .. }) {
        details.extend(error.places().iter().map(source));
    }
    let is_source = |detail: &Any| detail.type_url == errdefs::type_url(SOURCE);
    if !details.iter().any(is_source) {
        details.extend(error.asking_line().and_then(of_dockerfile));
    }
    if let Some(messages) = error.forbidden() {
        let messages = messages.iter().map(|message| json!({"message": message}));
        let decision = json!({"action": "DENY", "denyMessages": messages.collect::<Vec<_>>()});
        details.insert(0, detail("policysession.DecisionResponse", &decision));
    }
    if let Some(code) = error.exit_code() {
        details.insert(0, exit(code));
    }
    details.extend(frontends(error));
    details
}

/// How a process ended.
pub(super) fn exit(code: u32) -> Any {
    detail("gatewayapi.ExitMessage", &json!({"Code": code}))
}

/// The operation that failed, with the ids of what it was given and what its mounts or file
/// actions came to.
pub(super) fn solve(step: &FailedStep, inputs: &[String], mounts: &[String]) -> Any {
    let op = pb::Op::decode(step.op.clone()).ok();
    let mut solve = json!({
        "inputIDs": inputs,
        "mountIDs": mounts,
        "op": op.as_ref().map(weld_llb::json::message),
        "description": step.description,
    });
    let file = step.action.map(|index| ("file", json!({"index": index})));
    let cache = step
        .unread_input
        .map(|index| ("cache", json!({"index": index})));
    if let (Some((subject, index)), Some(object)) = (file.or(cache), solve.as_object_mut()) {
        object.insert(subject.to_owned(), index);
    }
    detail("errdefs.Solve", &solve)
}

fn of_step(step: &FailedStep) -> Vec<Any> {
    let vertex = detail(
        "errdefs.Vertex",
        &json!({"digest": step.digest.to_string()}),
    );
    let sources = step.sources.iter().map(source);
    std::iter::once(vertex).chain(sources).collect()
}

fn of_dockerfile(error: &weld_engine::DockerfileError) -> Option<Any> {
    let file = error.file()?;
    let position = |line: u32| pb::Position {
        line: i32::try_from(line).unwrap_or(i32::MAX),
        character: 0,
    };
    // Each line by itself, as those of steps are; in one of them, the characters at fault.
    let lines = error.ranges().iter();
    let lines = lines.flat_map(|lines| lines.start..=lines.end);
    let ranges = lines.map(|line| {
        let at = |column: u32| pb::Position {
            character: i32::try_from(column).unwrap_or(i32::MAX),
            ..position(line)
        };
        let mark = error.marked().filter(|mark| mark.line == line);
        let (start, end) = mark.map_or((0, 0), |mark| {
            let first = mark.column.saturating_sub(1);
            (first, first.saturating_add(mark.width))
        });
        pb::Range {
            start: Some(at(start)),
            end: Some(at(end)),
        }
    });
    Some(source(&SourceRanges {
        info: pb::SourceInfo {
            filename: file.name().to_owned(),
            data: file.data().to_vec().into(),
            definition: file.definition().cloned(),
            language: "Dockerfile".to_owned(),
        },
        ranges: ranges.collect(),
    }))
}

fn source(source: &SourceRanges) -> Any {
    let position = |position: Option<pb::Position>| {
        let position = position.unwrap_or_default();
        json!({"line": position.line, "character": position.character})
    };
    let ranges = source.ranges.iter();
    let ranges =
        ranges.map(|range| json!({"start": position(range.start), "end": position(range.end)}));
    let info = json!({
        "filename": source.info.filename,
        "data": BASE64_STANDARD.encode(&source.info.data),
        "definition": source.info.definition.as_ref().map(definition),
        "language": source.info.language,
    });
    let value = json!({"info": info, "ranges": ranges.collect::<Vec<_>>()});
    detail(SOURCE, &value)
}

/// What a source file was made by.
fn definition(definition: &pb::Definition) -> Value {
    let operations = definition.def.iter();
    let metadata = definition.metadata.iter();
    let metadata = metadata.map(|(digest, metadata)| {
        let metadata = json!({
            "ignore_cache": metadata.ignore_cache,
            "description": metadata.description,
            "caps": metadata.caps,
        });
        (digest.clone(), metadata)
    });
    json!({
        "def": operations.map(|operation| BASE64_STANDARD.encode(operation)).collect::<Vec<_>>(),
        "metadata": metadata.collect::<serde_json::Map<_, _>>(),
    })
}

/// The frontends that an error went through, the innermost first.
fn frontends(error: &BuildError) -> Vec<Any> {
    let mut frontends = Vec::new();
    let mut error = error;
    while let BuildError::Frontend {
        name,
        image,
        source,
        ..
    } = error
    {
        frontends.push(detail(
            "errdefs.Frontend",
            &json!({"name": name, "source": image}),
        ));
        error = source;
    }
    frontends.reverse();
    frontends
}

fn detail(name: &str, value: &Value) -> Any {
    Any {
        type_url: errdefs::type_url(name),
        value: value.to_string().into_bytes(),
    }
}
