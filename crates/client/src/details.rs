//! The typed details of a daemon's errors: which lines of which file they are about.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tonic::Status;
use weld_engine::SourceRanges;
use weld_proto::{Message, errdefs, google, pb};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    info: Info,
    ranges: Vec<Range>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    filename: String,
    data: String,
    language: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Position {
    line: i32,
    character: i32,
}

/// The sources that an error names, the innermost first.
pub(crate) fn sources(status: &Status) -> Vec<SourceRanges> {
    let wanted = errdefs::type_url("errdefs.Source");
    let Ok(detailed) = google::Status::decode(status.details()) else {
        return Vec::new();
    };
    let details = detailed.details.iter();
    details
        .filter(|detail| detail.type_url == wanted)
        .filter_map(|detail| serde_json::from_slice(&detail.value).ok())
        .filter_map(source)
        .collect()
}

/// How long a detail may be that is told as it is, in bytes.
const MAX_TOLD: usize = 2000;

/// The details that can be read, a line each. Lines of files are shown elsewhere.
pub(crate) fn told(status: &Status) -> Vec<String> {
    let Ok(detailed) = google::Status::decode(status.details()) else {
        return Vec::new();
    };
    let sources = errdefs::type_url("errdefs.Source");
    let details = detailed.details.iter();
    let details = details.filter(|detail| detail.type_url != sources);
    details
        .filter_map(|detail| {
            let text = std::str::from_utf8(&detail.value).ok()?;
            let end = text.floor_char_boundary(MAX_TOLD);
            Some(format!("{}: {}", detail.type_url, &text[..end]))
        })
        .collect()
}

fn source(source: Source) -> Option<SourceRanges> {
    let position = |at: Position| pb::Position {
        line: at.line,
        character: at.character,
    };
    Some(SourceRanges {
        info: pb::SourceInfo {
            filename: source.info.filename,
            data: BASE64_STANDARD.decode(source.info.data).ok()?.into(),
            definition: None,
            language: source.info.language,
        },
        ranges: source
            .ranges
            .into_iter()
            .map(|range| pb::Range {
                start: Some(position(range.start)),
                end: Some(position(range.end)),
            })
            .collect(),
    })
}
