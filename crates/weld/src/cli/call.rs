//! `--call` and `--check`: what a frontend says of a Dockerfile, without building it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use weld_engine::{BuildInput, BuildRequest, SourceRanges};

use super::args::BuildArgs;
use super::place::Worker;
use super::report::Failure;
use super::{fields, run, streams};

/// What to ask for instead of a build, and how to show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The request's name, without what all begin with.
    method: String,
    json: bool,
    /// Whether to succeed whatever was found.
    ignore_status: bool,
}

/// The request that finds mistakes.
const LINT: &str = "lint";

impl Call {
    /// What the options ask for; `None` for a build.
    pub(crate) fn of(args: &BuildArgs) -> Result<Option<Self>, Failure> {
        if args.check {
            return Self::parse("check");
        }
        Self::parse(&args.call)
    }

    fn parse(text: &str) -> Result<Option<Self>, Failure> {
        let usage = |reason: &str| Failure::usage(format!("--call {text:?}: {reason}"));
        let columns = fields::split(text).ok_or_else(|| usage("a quote is not closed"))?;
        let (mut method, mut json, mut ignore_status) = (None, false, false);
        for column in &columns {
            match column.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "" | "text")) => json = false,
                Some(("format", _)) => return Err(usage("format must be text or json")),
                Some(("ignorestatus", "true" | "1" | "t")) => ignore_status = true,
                Some(("ignorestatus", "false" | "0" | "f")) => ignore_status = false,
                Some(("ignorestatus", _)) => {
                    return Err(usage("ignorestatus must be true or false"));
                }
                Some(_) => return Err(usage("known fields are format and ignorestatus")),
                None if method.is_some() => return Err(usage("one method can be called")),
                None => method = Some(column.as_str()),
            }
        }
        let method = match method {
            None | Some("" | "build") if columns.len() > 1 => {
                return Err(usage("a build has no fields"));
            }
            None | Some("" | "build") => return Ok(None),
            Some("check") => LINT,
            Some(other) => other,
        };
        Ok(Some(Self {
            method: method.to_owned(),
            json,
            ignore_status,
        }))
    }

    /// Asks, and prints the answer on standard output.
    pub(crate) async fn run(
        &self,
        worker: &Worker,
        mut request: BuildRequest,
        args: &BuildArgs,
        cancel: CancellationToken,
    ) -> Result<(), Failure> {
        if let BuildInput::Dockerfile { attrs } = &mut request.input {
            let name = format!("frontend.{}", self.method);
            attrs.insert("requestid".to_owned(), name);
            let caps = "moby.buildkit.frontend.subrequests";
            attrs.insert("frontend.caps".to_owned(), caps.to_owned());
        }
        let answer = run::ask(worker, request, &args.progress, cancel).await?;
        let said = |key: &str| answer.get(key).map(Bytes::as_ref).unwrap_or_default();
        match (self.json, self.method.as_str()) {
            (true, _) => streams::write(&[said("result.json"), b"\n"].concat())?,
            (false, LINT) => show_findings(said("result.json"), said("result.txt"))?,
            (false, _) => streams::write(said("result.txt"))?,
        }
        match std::str::from_utf8(said("result.statuscode")) {
            Ok("" | "0") => Ok(()),
            _ if self.ignore_status => Ok(()),
            Ok(code) => Err(Failure::Found(code.parse().unwrap_or(1))),
            Err(_) => Err(Failure::Found(1)),
        }
    }
}

/// What the linter answers, as far as more than its text is shown.
#[derive(Deserialize)]
struct Findings {
    warnings: Option<Vec<serde_json::Value>>,
    sources: Option<Vec<Source>>,
    #[serde(rename = "buildError")]
    error: Option<BuildError>,
}

#[derive(Deserialize)]
struct Source {
    filename: String,
    /// In base 64.
    data: String,
}

#[derive(Deserialize)]
struct BuildError {
    message: String,
    #[serde(default)]
    location: Location,
}

#[derive(Default, Deserialize)]
struct Location {
    #[serde(default)]
    ranges: Vec<Lines>,
}

#[derive(Deserialize)]
struct Lines {
    start: Position,
    end: Position,
}

#[derive(Deserialize)]
struct Position {
    #[serde(default)]
    line: i32,
}

fn show_findings(json: &[u8], text: &[u8]) -> Result<(), Failure> {
    let findings: Findings = serde_json::from_slice(json)
        .map_err(|error| Failure::Answer(format!("what it found: {error}")))?;
    let mut shown = match findings.warnings.as_ref().map_or(0, Vec::len) {
        0 if findings.error.is_some() => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    shown.push_str(&String::from_utf8_lossy(text));
    if let Some(error) = &findings.error {
        let source = findings.sources.iter().flatten().next();
        let excerpt = source.and_then(|source| excerpt(source, &error.location));
        // A text has room for more.
        let _ = writeln!(shown, "\nERROR: {}", error.message);
        shown.push_str(&excerpt.unwrap_or_default());
    }
    streams::write(shown.as_bytes())
}

fn excerpt(source: &Source, location: &Location) -> Option<String> {
    let data = base64::prelude::BASE64_STANDARD.decode(&source.data).ok()?;
    let lines = location.ranges.iter();
    let lines: BTreeMap<i32, i32> = lines
        .map(|lines| (lines.start.line, lines.end.line))
        .collect();
    SourceRanges::of_lines(&source.filename, data, &lines).excerpt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Call>, String> {
        Call::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn calls_are_as_docker_has_them() {
        assert_eq!(parse("build").unwrap(), None);
        assert_eq!(parse("").unwrap(), None);
        let check = parse("check,format=json,ignorestatus=true")
            .unwrap()
            .unwrap();
        assert_eq!(check.method, "lint");
        assert!(check.json && check.ignore_status);
        assert_eq!(parse("outline").unwrap().unwrap().method, "outline");
        for (text, part) in [
            ("check,outline", "one method"),
            ("check,format=xml", "text or json"),
            ("check,ignorestatus=maybe", "true or false"),
            ("check,depth=1", "known fields"),
            ("build,format=json", "a build has no fields"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
