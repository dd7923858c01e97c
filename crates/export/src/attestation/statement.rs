//! The in-toto statement around a predicate.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::IgnoredAny;
use weld_digest::Digest;

use super::{AttestationError, Loaded, Subject};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// One thing that a statement is about.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StatedSubject {
    name: String,
    digest: BTreeMap<&'static str, String>,
}

impl StatedSubject {
    pub(crate) fn new(name: impl Into<String>, digests: &[Digest]) -> Self {
        let digests = digests.iter();
        Self {
            name: name.into(),
            digest: digests
                .map(|digest| (digest.algorithm().name(), digest.hex()))
                .collect(),
        }
    }

    fn named(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            digest: self.digest.clone(),
        }
    }
}

#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    #[serde(rename = "predicateType")]
    predicate_type: &'a str,
    subject: Vec<StatedSubject>,
}

/// The statement of an attestation, as JSON; `results` is what the result itself is called.
pub(crate) fn statement(
    attestation: &Loaded,
    results: &[StatedSubject],
) -> Result<Vec<u8>, AttestationError> {
    let own = [Subject::Result {
        name: String::new(),
    }];
    let subjects = match attestation.subjects.as_slice() {
        [] => own.as_slice(),
        subjects => subjects,
    };
    let header = Header {
        kind: STATEMENT,
        predicate_type: &attestation.predicate_type,
        subject: subjects
            .iter()
            .flat_map(|subject| stated(subject, results))
            .collect(),
    };
    let predicate: &[u8] = match attestation.predicate.as_ref() {
        [] => b"null",
        predicate => predicate,
    };
    serde_json::from_slice::<IgnoredAny>(predicate).map_err(|source| AttestationError::Decode {
        path: attestation.path.clone(),
        source,
    })?;
    let mut statement = serde_json::to_vec(&header).map_err(AttestationError::Encode)?;
    // The predicate goes in as it is: it may be large, and what it says stays as it was said.
    statement.pop();
    statement.extend_from_slice(b",\"predicate\":");
    statement.extend_from_slice(predicate);
    statement.push(b'}');
    Ok(statement)
}

fn stated(subject: &Subject, results: &[StatedSubject]) -> Vec<StatedSubject> {
    match subject {
        Subject::Result { name } => results
            .iter()
            .flat_map(|result| {
                let also = (!name.is_empty()).then(|| result.named(name));
                std::iter::once(result.clone()).chain(also)
            })
            .collect(),
        Subject::Named { name, digests } => {
            let name = if name.is_empty() { "_" } else { name };
            vec![StatedSubject::new(name, digests)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn loaded(subjects: Vec<Subject>, predicate: &'static str) -> Loaded {
        Loaded {
            path: "a.json".into(),
            predicate_type: "https://example.com/p".into(),
            subjects,
            predicate: Bytes::from_static(predicate.as_bytes()),
            sbom_core: None,
        }
    }

    #[test]
    fn the_result_is_the_subject_unless_another_is_named() {
        let digest = Digest::sha256_of("image");
        let results = [StatedSubject::new(
            "pkg:docker/a@1",
            std::slice::from_ref(&digest),
        )];
        let parse = |subjects| -> serde_json::Value {
            let bytes = statement(&loaded(subjects, r#"{"x": 1}"#), &results).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        let plain = parse(Vec::new());
        assert_eq!(plain["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(plain["predicate"]["x"], 1);
        assert_eq!(plain["subject"][0]["name"], "pkg:docker/a@1");
        assert_eq!(plain["subject"][0]["digest"]["sha256"], digest.hex());
        let named = parse(vec![
            Subject::Result {
                name: "mine".into(),
            },
            Subject::Named {
                name: String::new(),
                digests: vec![Digest::sha256_of("other")],
            },
        ]);
        let names: Vec<_> = named["subject"]
            .as_array()
            .unwrap()
            .iter()
            .map(|subject| subject["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["pkg:docker/a@1", "mine", "_"]);
    }

    #[test]
    fn an_empty_predicate_is_null_and_a_damaged_one_an_error() {
        let empty = statement(&loaded(Vec::new(), ""), &[]).unwrap();
        assert!(
            String::from_utf8(empty)
                .unwrap()
                .contains("\"predicate\":null")
        );
        let error = statement(&loaded(Vec::new(), "{\"a\": "), &[]).unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
    }
}
