//! What BuildKit makes of the same Dockerfiles.
//!
//! `buildkit.json` holds what the frontend of BuildKit v0.32 answered, with the same images and files: the
//! digest and the name of each vertex, the image's config, and the warnings.

use std::collections::BTreeMap;

use serde::Deserialize;
use weld_llb::{Graph, mask_credentials};

use crate::host::FakeHost;

#[derive(Deserialize)]
struct Recording {
    images: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// By `CONTEXT|PATH`.
    files: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    results: Vec<Expected>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Expected {
    /// The platform, or `single`.
    platform: String,
    /// Digest and name of each vertex.
    vertices: Vec<(String, String)>,
    config: serde_json::Value,
}

fn recording() -> Recording {
    serde_json::from_str(include_str!("buildkit.json")).unwrap()
}

fn host(images: &BTreeMap<String, String>, case: &Case) -> FakeHost {
    let mut host = FakeHost::default();
    for (reference, config) in images {
        host = host.image(reference, config);
    }
    for (place, data) in &case.files {
        let (context, path) = place.split_once('|').unwrap();
        host = host.file(context, path, data);
    }
    host
}

fn options(case: &Case) -> Vec<(&str, &str)> {
    let options = case.options.iter();
    options
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// The differences of one case.
fn compare(images: &BTreeMap<String, String>, case: &Case) -> Vec<String> {
    let build = match host(images, case).build(&options(case)) {
        Ok(build) => build,
        Err(error) => return vec![error.to_string()],
    };
    let mut differences = Vec::new();
    for expected in &case.results {
        let result = build
            .results
            .iter()
            .find(|result| expected.platform == "single" || expected.platform == result.id);
        let Some(result) = result else {
            differences.push(format!("no result for {}", expected.platform));
            continue;
        };
        let graph = Graph::from_pb(result.definition.clone()).unwrap();
        let vertices: Vec<(String, String)> = graph
            .vertices()
            .iter()
            .map(|vertex| {
                let name = vertex.description("llb.customname").unwrap_or_default();
                (vertex.digest().to_string(), name.to_owned())
            })
            .collect();
        // BuildKit shows the credentials of URLs here.
        let masked = |name: &String| mask_credentials(name).into_owned();
        let vertices_there = expected.vertices.iter();
        let vertices_there: Vec<_> = vertices_there
            .map(|(digest, name)| (digest.clone(), masked(name)))
            .collect();
        if vertices != vertices_there {
            let shown = crate::show::show(&result.definition).join("\n  ");
            differences.push(format!(
                "vertices:\n  {shown}\nhere: {vertices:#?}\nBuildKit: {vertices_there:#?}"
            ));
        }
        let config = serde_json::to_value(&result.image).unwrap();
        let mut expected = expected.config.clone();
        // Go has two kinds of nothing.
        if expected["rootfs"]["diff_ids"].is_null() {
            expected["rootfs"]["diff_ids"] = serde_json::json!([]);
        }
        let history = expected.get_mut("history");
        let history = history.and_then(|history| history.as_array_mut());
        for entry in history.into_iter().flatten() {
            if let Some(text) = entry["created_by"].as_str() {
                entry["created_by"] = mask_credentials(text).into();
            }
        }
        if config != expected {
            differences.push(format!("config:\n{config:#}\nBuildKit:\n{expected:#}"));
        }
    }
    differences
}

#[test]
fn vertices_names_and_configs_are_those_of_buildkit() {
    let recording = recording();
    let mut differing = 0;
    for case in &recording.cases {
        let differences = compare(&recording.images, case);
        if !differences.is_empty() {
            differing += 1;
            println!("=== {}\n{}", case.name, differences.join("\n"));
        }
    }
    let all = recording.cases.len();
    assert_eq!(differing, 0, "of {all} cases");
}

#[test]
fn warnings_are_those_of_buildkit() {
    let recording = recording();
    let mut differing = Vec::new();
    for case in &recording.cases {
        let host = host(&recording.images, case);
        host.build(&options(case)).unwrap();
        // BuildKit writes `Rule: message (line N)`, and repeats itself for each word.
        let mut expected: Vec<String> = case
            .warnings
            .iter()
            .map(|warning| {
                let (_, message) = warning.split_once(": ").unwrap();
                let (message, line) = message.rsplit_once(" (line ").unwrap();
                format!("{}: {message}", line.trim_end_matches(')'))
            })
            .collect();
        let mut warnings = host.warnings.lock().unwrap().clone();
        expected.sort();
        expected.dedup();
        warnings.sort();
        warnings.dedup();
        if warnings != expected {
            differing.push(format!(
                "{}: {warnings:#?}\nBuildKit: {expected:#?}",
                case.name
            ));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
