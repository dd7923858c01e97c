//! Which attestations a client asks for, by the frontend attributes of BuildKit's clients.

use std::collections::BTreeMap;

use crate::provenance::{Mode, ProvenanceOptions, SlsaVersion};
use crate::sbom::SbomOptions;

/// The attestations that are to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttestOptions {
    /// A list of what is in the result.
    pub sbom: Option<SbomOptions>,
    /// How the result was made.
    pub provenance: Option<ProvenanceOptions>,
    /// Whether scans are made anew, as the whole build is.
    pub no_cache: bool,
}

/// Why attestations cannot be asked for like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestOptionError {
    /// There is no such attestation.
    #[error("unknown attestation type {0:?}")]
    Kind(String),
    /// A value is none.
    #[error("failed to parse {kind}: {field}={value:?}: {expected}")]
    Value {
        /// The attestation.
        kind: &'static str,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
}

const SBOM: &str = "sbom";
const PROVENANCE: &str = "provenance";
/// What lists what is in a result unless another one is named: docker's.
const DEFAULT_SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// The fields of provenance.
pub const PROVENANCE_FIELDS: [&str; 9] = [
    "mode",
    "version",
    "reproducible",
    "complete-materials",
    "inline-only",
    "builder-id",
    "filename",
    "capture-usage",
    "disabled",
];

impl AttestOptions {
    /// What is told of how a result was made where that is not attached to it: all, and by whom if the
    /// client says so.
    pub fn recorded_provenance(&self) -> ProvenanceOptions {
        let asked = self.provenance.as_ref();
        ProvenanceOptions {
            builder_id: asked
                .map(|asked| asked.builder_id.clone())
                .unwrap_or_default(),
            ..ProvenanceOptions::default()
        }
    }

    /// Reads a frontend's attributes.
    ///
    /// # Errors
    /// [`AttestOptionError`] for what is not known.
    pub fn from_attrs(attrs: &BTreeMap<String, String>) -> Result<Self, AttestOptionError> {
        let mut options = Self {
            no_cache: attrs.get("no-cache").is_some_and(String::is_empty),
            ..Self::default()
        };
        // The second form is for clients that only know build arguments; both may be there.
        let named = attrs.iter().filter_map(|(key, value)| {
            let name = key
                .strip_prefix("attest:")
                .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"))?;
            Some((name.to_lowercase(), value))
        });
        for (name, value) in named {
            let fields = fields(value);
            let disabled =
                fields
                    .iter()
                    .any(|(field, value)| match (field.as_str(), value.as_str()) {
                        // As a whole: `attest:provenance=false`.
                        ("false", "") => true,
                        ("disabled", value) => is_true(value) == Some(true),
                        _ => false,
                    });
            match name.as_str() {
                SBOM if disabled => options.sbom = None,
                PROVENANCE if disabled => options.provenance = None,
                SBOM => options.sbom = Some(sbom(fields)?),
                PROVENANCE => options.provenance = Some(provenance(fields)?),
                _ => return Err(AttestOptionError::Kind(name)),
            }
        }
        Ok(options)
    }
}

/// The fields of a value: comma-separated, quoted as in CSV.
fn fields(value: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let (mut field, mut quoted) = (String::new(), false);
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            character => field.push(character),
        }
    }
    fields.push(field);
    let fields = fields.into_iter().filter(|field| !field.is_empty());
    fields
        .map(|field| match field.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (field, String::new()),
        })
        .collect()
}

/// As Go's `strconv.ParseBool`.
fn is_true(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn bad(
    kind: &'static str,
    (field, value): (String, String),
    expected: &'static str,
) -> AttestOptionError {
    AttestOptionError::Value {
        kind,
        field,
        value,
        expected,
    }
}

fn sbom(fields: Vec<(String, String)>) -> Result<SbomOptions, AttestOptionError> {
    let mut options = SbomOptions {
        scanner: DEFAULT_SCANNER.to_owned(),
        parameters: BTreeMap::new(),
    };
    for (field, value) in fields {
        match field.as_str() {
            "generator" if value.is_empty() => {
                return Err(bad(SBOM, (field, value), "sbom generator cannot be empty"));
            }
            "generator" => options.scanner = value,
            // What a client says who switches it on without more.
            "true" | "type" | "disabled" => {}
            _ => drop(options.parameters.insert(field, value)),
        }
    }
    Ok(options)
}

fn provenance(fields: Vec<(String, String)>) -> Result<ProvenanceOptions, AttestOptionError> {
    let mut options = ProvenanceOptions::default();
    let flag = |field: String, value: String| match is_true(&value) {
        Some(on) => Ok(on),
        None => Err(bad(PROVENANCE, (field, value), "must be true or false")),
    };
    for (field, value) in fields {
        match field.as_str() {
            "mode" => {
                options.mode = match value.as_str() {
                    "min" => Mode::Min,
                    "max" | "full" => Mode::Max,
                    _ => return Err(bad(PROVENANCE, (field, value), "must be min or max")),
                }
            }
            "version" => {
                options.version = match value.as_str() {
                    "v1" => SlsaVersion::V1,
                    "v0.2" => SlsaVersion::V02,
                    _ => {
                        let expected = "invalid provenance SLSA version; known are v1 and v0.2";
                        return Err(bad(PROVENANCE, (field, value), expected));
                    }
                }
            }
            "reproducible" => options.reproducible = flag(field, value)?,
            "complete-materials" => options.complete_materials = flag(field, value)?,
            "inline-only" => options.inline_only = is_true(&value) == Some(true),
            "builder-id" => options.builder_id = value,
            "filename" if value.is_empty() || value.contains(['/', '\0']) => {
                return Err(bad(
                    PROVENANCE,
                    (field, value),
                    "must be the name of a file",
                ));
            }
            "filename" => options.filename = value,
            // Samples of what steps used are not taken; other fields are for other versions.
            _ => {}
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<AttestOptions, String> {
        let attrs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        AttestOptions::from_attrs(&attrs).map_err(|error| error.to_string())
    }

    #[test]
    fn provenance_is_as_clients_say() {
        let of = |value: &str| {
            parse(&[("attest:provenance", value)])
                .unwrap()
                .provenance
                .unwrap()
        };
        assert_eq!(of(""), ProvenanceOptions::default());
        let buildx = of("mode=min,inline-only=true,builder-id=http://x/1");
        assert_eq!(buildx.mode, Mode::Min);
        assert!(buildx.inline_only);
        assert_eq!(buildx.builder_id, "http://x/1");
        assert_eq!(of("mode=full").mode, Mode::Max);
        assert_eq!(of("version=v0.2").version, SlsaVersion::V02);
        assert_eq!(of("filename=p.json").filename, "p.json");
        let by_argument = parse(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "mode=min")]);
        assert_eq!(by_argument.unwrap().provenance.unwrap().mode, Mode::Min);
        for off in ["false", "disabled=true"] {
            assert_eq!(
                parse(&[("attest:provenance", off)]).unwrap().provenance,
                None
            );
        }
    }

    #[test]
    fn a_scanner_gets_the_fields_that_are_its_own() {
        let sbom = parse(&[("attest:sbom", r#"generator=example.com/scan,"EXTRA=a,b""#)]);
        let sbom = sbom.unwrap().sbom.unwrap();
        assert_eq!(sbom.scanner, "example.com/scan");
        assert_eq!(sbom.parameters["EXTRA"], "a,b");
        let default = parse(&[("attest:sbom", "")]).unwrap().sbom.unwrap();
        assert_eq!(default.scanner, DEFAULT_SCANNER);
    }

    #[test]
    fn what_is_not_known_is_told() {
        for (key, value, part) in [
            ("attest:signature", "", "unknown attestation type"),
            ("attest:provenance", "mode=most", "must be min or max"),
            (
                "attest:provenance",
                "version=v2",
                "invalid provenance SLSA version",
            ),
            (
                "attest:provenance",
                "reproducible=maybe",
                "must be true or false",
            ),
            ("attest:provenance", "filename=../x", "the name of a file"),
            ("attest:sbom", "generator=", "cannot be empty"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err();
            assert!(error.contains(part), "{key}={value}: {error}");
        }
    }
}
