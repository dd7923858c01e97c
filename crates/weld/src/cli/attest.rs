//! `--attest`, `--provenance` and `--sbom`, as docker has them.

use std::collections::BTreeMap;

use weld_engine::PROVENANCE_FIELDS;

use super::args::BuildArgs;
use super::fields::{Fields, truth};
use super::report::{Failure, warn_unknown};

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
            attrs.insert(format!("attest:{kind}"), short(kind, value)?);
        }
    }
    // What SBOMs have besides is their scanner's.
    if let Some(value) = attrs.get("attest:provenance") {
        let fields = Fields::parse(value)
            .map_err(|error| Failure::usage(format!("--provenance {error}")))?;
        for (field, _) in fields.iter() {
            if !PROVENANCE_FIELDS.contains(&field) {
                warn_unknown("--provenance", field, &PROVENANCE_FIELDS);
            }
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
fn short(kind: &str, value: &str) -> Result<String, Failure> {
    match (value, truth(value)) {
        ("", _) | (_, Some(true)) => Ok(String::new()),
        (_, Some(false)) => Ok("disabled=true".to_owned()),
        (fields, None) if fields.contains('=') => Ok(fields.to_owned()),
        _ => Err(Failure::usage(format!(
            "--{kind} {value:?}: must be true, false, or fields (NAME=VALUE,…)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_options_are_truth_values_or_fields() {
        assert_eq!(short("provenance", "true").unwrap(), "");
        assert_eq!(short("provenance", "0").unwrap(), "disabled=true");
        assert_eq!(short("provenance", "mode=max").unwrap(), "mode=max");
        let error = short("provenance", "banana").unwrap_err().to_string();
        assert!(error.contains("must be true, false, or fields"), "{error}");
    }
}
