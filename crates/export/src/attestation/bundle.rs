//! Directories of statements, as scanners leave them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Dir, OFlags};
use serde::Deserialize;
use serde_json::Value;
use weld_store::snapshot::SnapshotRef;

use super::{
    Attestation, AttestationError, Loaded, MAX_STATEMENTS, PROVENANCE_PREFIX, Subject, open_in,
    open_root, read_file,
};

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<StatementSubject>>,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct StatementSubject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: Option<BTreeMap<String, String>>,
}

/// Reads every statement of a bundle, in the order of their names.
pub(super) fn read(
    bundle: &Attestation,
    files: Option<&SnapshotRef>,
) -> Result<Vec<Loaded>, AttestationError> {
    let root = open_root(files, &bundle.path)?;
    let failed = |source: io::Error| AttestationError::Read {
        path: bundle.path.clone(),
        source,
    };
    let directory = open_in(root.as_fd(), &bundle.path, OFlags::DIRECTORY).map_err(failed)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory).map_err(|errno| failed(errno.into()))? {
        let entry = entry.map_err(|errno| failed(errno.into()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        if names.len() == MAX_STATEMENTS {
            return Err(AttestationError::TooMany {
                path: bundle.path.clone(),
            });
        }
        names.push(name);
    }
    names.sort_unstable();
    let read = names.iter().map(|name| {
        let path = weld_llb::path::join(&[&bundle.path, name]);
        let content = read_file(root.as_fd(), &path)?;
        one(bundle, path, &content)
    });
    read.collect()
}

fn one(bundle: &Attestation, path: String, content: &[u8]) -> Result<Loaded, AttestationError> {
    let decode = |source| AttestationError::Decode {
        path: path.clone(),
        source,
    };
    let statement: Statement = serde_json::from_slice(content).map_err(decode)?;
    let required = &bundle.predicate_type;
    if !required.is_empty() && statement.predicate_type != *required {
        return Err(AttestationError::PredicateType {
            found: statement.predicate_type,
            required: required.clone(),
        });
    }
    if statement.predicate_type.starts_with(PROVENANCE_PREFIX) {
        return Err(AttestationError::BundledProvenance);
    }
    let subjects = statement.subject.unwrap_or_default().into_iter();
    let subjects = subjects.map(|subject| {
        let digests = subject.digest.unwrap_or_default().into_iter();
        let digests = digests.map(|(algorithm, hex)| format!("{algorithm}:{hex}").parse());
        Subject::Named {
            name: subject.name,
            // Digests of algorithms that are not known are of no use to anybody here.
            digests: digests.filter_map(Result::ok).collect(),
        }
    });
    let predicate = serde_json::to_vec(&statement.predicate).map_err(decode)?;
    Ok(Loaded {
        predicate_type: statement.predicate_type,
        subjects: subjects.collect(),
        predicate: predicate.into(),
        sbom_core: bundle.sbom_core.clone(),
        path,
    })
}
