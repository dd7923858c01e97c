//! What a client may ask of the Dockerfile frontend other than to build.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use weld_dockerfile::convert::{
    self, Grant, Host, HostError, ImageRequest, ReadRequest, Request, ResolvedImage,
};
use weld_dockerfile::lint::Warning;
use weld_dockerfile::{LineRange, SourceFile};
use weld_llb::{Source, pb};

use crate::bridge::Bridge;
use crate::dockerfile::options;
use crate::error::{BuildError, dockerfile_reason};
use crate::frontend::FrontendRequest;
use crate::host::DockerfileHost;
use crate::result::FrontendResult;

const DESCRIBE: &str = "frontend.subrequests.describe";
const OUTLINE: &str = "frontend.outline";
const TARGETS: &str = "frontend.targets";
const LINT: &str = "frontend.lint";

/// The version of all requests.
const VERSION: &str = "1.0.0";

/// Answers a request by its name.
pub(crate) async fn answer(
    bridge: &Bridge,
    request: &FrontendRequest,
    name: &str,
) -> Result<FrontendResult, BuildError> {
    match name {
        DESCRIBE => result(&described(), describe_text(), None),
        OUTLINE => outline(bridge, &options(bridge, request)?).await,
        TARGETS => targets(bridge, &options(bridge, request)?).await,
        LINT => lint(bridge, &options(bridge, request)?).await,
        other => Err(BuildError::Subrequest(other.to_owned())),
    }
}

fn result(
    value: &impl Serialize,
    text: String,
    status: Option<bool>,
) -> Result<FrontendResult, BuildError> {
    let encoded = serde_json::to_vec_pretty(value).map_err(|error| BuildError::Metadata {
        key: "result.json",
        reason: error.to_string(),
    })?;
    let mut result = FrontendResult::default();
    let mut say = |key: &str, value: Bytes| result.metadata.insert(key.to_owned(), value);
    say("result.json", Bytes::from(encoded));
    say("result.txt", Bytes::from(text));
    say("version", Bytes::from(VERSION));
    if let Some(clean) = status {
        let code = if clean { "0" } else { "1" };
        say("result.statuscode", Bytes::from(code));
    }
    Ok(result)
}

/// A request that clients may make.
struct Offered {
    name: &'static str,
    description: &'static str,
    /// An option that it heeds, and what that is.
    option: Option<(&'static str, &'static str)>,
    metadata: &'static [&'static str],
}

const REQUESTS: [Offered; 4] = [
    Offered {
        name: OUTLINE,
        description: "List all parameters current build target supports",
        option: Some(("target", "Target build stage")),
        metadata: &["result.json", "result.txt"],
    },
    Offered {
        name: TARGETS,
        description: "List all targets current build supports",
        option: None,
        metadata: &["result.json", "result.txt"],
    },
    Offered {
        name: DESCRIBE,
        description: "List available subrequest types",
        option: None,
        metadata: &["result.json", "result.txt"],
    },
    Offered {
        name: LINT,
        description: "Lint a Dockerfile",
        option: None,
        metadata: &["result.json", "result.txt", "result.statuscode"],
    },
];

fn described() -> serde_json::Value {
    let named = |name: &str, description: &str| json!({"name": name, "description": description});
    let requests = REQUESTS.iter().map(|request| {
        let metadata = request.metadata.iter().map(|name| named(name, ""));
        let options = request.option.iter();
        let options = options.map(|(name, description)| named(name, description));
        json!({
            "name": request.name,
            "version": VERSION,
            "type": "rpc",
            "description": request.description,
            "opts": options.collect::<Vec<_>>(),
            "inputs": null,
            "metadata": metadata.collect::<Vec<_>>(),
            "refs": null,
        })
    });
    requests.collect()
}

fn describe_text() -> String {
    let rows = REQUESTS.iter();
    let rows = rows.map(|request| {
        let name = request.name.strip_prefix("frontend.");
        [name.unwrap_or(request.name), VERSION, request.description]
    });
    let head = [["NAME", "VERSION", "DESCRIPTION"]];
    table(&head.into_iter().chain(rows).collect::<Vec<_>>(), 1)
}

/// Rows of text in columns, so many blanks apart.
fn table<const N: usize>(rows: &[[&str; N]], gap: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + gap
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // What is last needs no more blanks. A text has room for more.
            let _ = match column + 1 == N {
                true => writeln!(text, "{cell}"),
                false => write!(text, "{cell:<width$}"),
            };
        }
    }
    text
}

#[derive(Serialize)]
struct OutlineAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgumentAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<GrantAnswer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<GrantAnswer>,
    sources: Vec<String>,
}

#[derive(Serialize)]
struct ArgumentAnswer {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: serde_json::Value,
}

#[derive(Serialize)]
struct GrantAnswer {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: serde_json::Value,
}

async fn outline(bridge: &Bridge, request: &Request) -> Result<FrontendResult, BuildError> {
    let host = DockerfileHost { bridge };
    let outline = convert::outline(&host, request).await?;
    let grant = |grant: Grant| GrantAnswer {
        name: grant.id,
        required: grant.required,
        location: location(&[grant.lines]),
    };
    let arguments = outline.args.into_iter();
    let arguments = arguments.map(|argument| ArgumentAnswer {
        name: argument.name,
        description: argument.doc.unwrap_or_default(),
        value: argument.value,
        location: location(&[argument.lines]),
    });
    let answer = OutlineAnswer {
        name: outline.name,
        description: outline.doc,
        args: arguments.collect(),
        secrets: outline.secrets.into_iter().map(grant).collect(),
        ssh: outline.agents.into_iter().map(grant).collect(),
        sources: vec![encode(outline.source.data())],
    };
    result(&answer, answer.text(), None)
}

impl OutlineAnswer {
    /// The tables that have rows, with an empty line after each.
    fn text(&self) -> String {
        let mut tables = Vec::new();
        if self.name.is_some() || self.description.is_some() {
            let name = self.name.as_deref().unwrap_or("(default)");
            let mut rows = vec![["TARGET:", name]];
            rows.extend(self.description.iter().map(|text| ["DESCRIPTION:", text]));
            tables.push(table(&rows, 1));
        }
        if !self.args.is_empty() {
            let rows = self.args.iter();
            let rows = rows.map(|arg| [arg.name.as_str(), &arg.value, &arg.description]);
            let head = [["BUILD ARG", "VALUE", "DESCRIPTION"]];
            tables.push(table(&head.into_iter().chain(rows).collect::<Vec<_>>(), 3));
        }
        for (kind, grants) in [("SECRET", &self.secrets), ("SSH", &self.ssh)] {
            if grants.is_empty() {
                continue;
            }
            let required = |grant: &GrantAnswer| if grant.required { "true" } else { "" };
            let rows = grants.iter();
            let rows = rows.map(|grant| [grant.name.as_str(), required(grant)]);
            let head = [[kind, "REQUIRED"]];
            tables.push(table(&head.into_iter().chain(rows).collect::<Vec<_>>(), 3));
        }
        tables.iter().map(|table| format!("{table}\n")).collect()
    }
}

#[derive(Serialize)]
struct Targets {
    targets: Vec<Target>,
    sources: Vec<String>,
}

#[derive(Serialize)]
struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    platform: String,
    location: serde_json::Value,
}

/// Lines as clients read them; `file` is an index, left out if 0.
fn location(lines: &[LineRange]) -> serde_json::Value {
    let ranges = lines.iter();
    let ranges =
        ranges.map(|lines| json!({"start": {"line": lines.start}, "end": {"line": lines.end}}));
    json!({"ranges": ranges.collect::<Vec<_>>()})
}

fn encode(data: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(data)
}

async fn targets(bridge: &Bridge, request: &Request) -> Result<FrontendResult, BuildError> {
    let host = DockerfileHost { bridge };
    let source = convert::read(&host, request).await?;
    let dockerfile = weld_dockerfile::parse(&source)?;
    let last = dockerfile.stages.len().saturating_sub(1);
    let targets = dockerfile.stages.iter().map(|stage| Target {
        name: stage.name.clone().unwrap_or_default(),
        default: stage.index == last,
        description: stage.doc.clone().unwrap_or_default(),
        base: stage.base.clone(),
        platform: stage.platform.clone().unwrap_or_default(),
        location: location(&[stage.lines]),
    });
    let list = Targets {
        targets: targets.collect(),
        sources: vec![encode(source.data())],
    };
    let name = |target: &Target| match (target.name.as_str(), target.default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    };
    let names: Vec<_> = list.targets.iter().map(name).collect();
    let rows = names.iter().zip(&list.targets);
    let rows = rows.map(|(name, target)| [name.as_str(), target.description.as_str()]);
    let head = [["TARGET", "DESCRIPTION"]];
    let text = table(&head.into_iter().chain(rows).collect::<Vec<_>>(), 1);
    result(&list, text, None)
}

/// Keeps what the linter finds instead of telling it at once.
struct LintHost<'a> {
    inner: DockerfileHost<'a>,
    warnings: Mutex<Vec<Warning>>,
}

#[async_trait]
impl Host for LintHost<'_> {
    async fn resolve_image_config(
        &self,
        request: ImageRequest<'_>,
    ) -> Result<ResolvedImage, HostError> {
        self.inner.resolve_image_config(request).await
    }

    async fn read_files(&self, request: ReadRequest<'_>) -> Result<Vec<Option<Bytes>>, HostError> {
        self.inner.read_files(request).await
    }

    async fn source_time(
        &self,
        definition: &pb::Definition,
        source: &Source,
    ) -> Result<Option<i64>, HostError> {
        self.inner.source_time(definition, source).await
    }

    fn warn(&self, warning: &Warning, _source: &SourceFile) {
        let warnings = self.warnings.lock();
        warnings
            .unwrap_or_else(PoisonError::into_inner)
            .push(warning.clone());
    }
}

async fn lint(bridge: &Bridge, request: &Request) -> Result<FrontendResult, BuildError> {
    let host = LintHost {
        inner: DockerfileHost { bridge },
        warnings: Mutex::default(),
    };
    let request = Request {
        all_stages: true,
        ..request.clone()
    };
    let source = convert::read(&host, &request).await?;
    let error = convert::build(&host, &request).await.err();
    let warnings = host.warnings.into_inner();
    let mut warnings = warnings.unwrap_or_else(PoisonError::into_inner);
    // Some are found when the whole file was read.
    warnings.sort_by_key(|warning| warning.lines.start);
    let mut text = String::new();
    for warning in &warnings {
        write_warning(&mut text, warning, &source);
    }
    let warnings: Vec<_> = warnings.iter().map(warning_json).collect();
    let mut results = json!({
        "warnings": if warnings.is_empty() { serde_json::Value::Null } else { warnings.into() },
        "sources": [{
            "filename": source.name(),
            "data": encode(source.data()),
            "language": "Dockerfile",
        }],
    });
    if let (Some(error), Some(object)) = (&error, results.as_object_mut()) {
        let message = dockerfile_reason(error);
        let value = json!({"message": message, "location": location(error.ranges())});
        object.insert("buildError".to_owned(), value);
    }
    let clean = error.is_none() && text.is_empty();
    result(&results, text, Some(clean))
}

fn warning_json(warning: &Warning) -> serde_json::Value {
    json!({
        "ruleName": warning.rule().name(),
        "description": warning.rule().description(),
        "url": warning.rule().url(),
        "detail": warning.finding.to_string(),
        "location": location(&[warning.lines]),
    })
}

fn write_warning(text: &mut String, warning: &Warning, source: &SourceFile) {
    let rule = warning.rule();
    let url = match rule.url() {
        "" => String::new(),
        url => format!(" - {url}"),
    };
    let excerpt = source.excerpt(&[warning.lines], None).unwrap_or_default();
    // A text has room for more.
    let _ = write!(
        text,
        "\nWARNING: {}{url}\n{}\n{excerpt}",
        rule.name(),
        warning.finding
    );
}
