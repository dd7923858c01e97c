//! `--attest`, `--provenance` and `--sbom`, as docker has them.

use std::collections::BTreeMap;

use super::args::BuildArgs;
use super::fields::Fields;
use super::report::Failure;

/// The frontend attributes that ask for attestations.
pub(crate) fn attributes(args: &BuildArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut attrs = BTreeMap::new();
    for text in &args.attests {
        let (kind, value) = attest(text)?;
        if attrs.insert(format!("attest:{kind}"), value).is_some() {
            let reason = format!("--attest {text:?}: type={kind} was given before");
            return Err(Failure::usage(reason));
        }
    }
    // The short options override what the long one says.
    for (kind, value) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if let Some(value) = value {
            attrs.insert(format!("attest:{kind}"), short(value));
        }
    }
    Ok(attrs)
}

/// The type of an attestation, and its other fields.
fn attest(text: &str) -> Result<(String, String), Failure> {
    let usage = |reason: String| Failure::usage(format!("--attest {reason}"));
    let fields = Fields::parse(text).map_err(|error| usage(error.to_string()))?;
    let (mut kind, mut rest) = (None, Vec::new());
    for (field, value) in fields.iter() {
        match (field, value) {
            ("type", Some(value)) => kind = Some(value.to_owned()),
            (field, Some(value)) => rest.push(quoted(&format!("{field}={value}"))),
            (field, None) => rest.push(quoted(field)),
        }
    }
    let kind =
        kind.ok_or_else(|| usage(format!("{text:?}: needs type=provenance or type=sbom")))?;
    Ok((kind, rest.join(",")))
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// What a short option says: on, off, or fields.
fn short(value: &str) -> String {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => String::new(),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => "disabled=true".to_owned(),
        fields => fields.to_owned(),
    }
}
