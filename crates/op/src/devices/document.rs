//! The files that describe devices, in JSON or YAML, as the Container Device Interface has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::DeviceError;

/// The largest file that is read, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;
/// How deep a YAML file may be nested.
const MAX_DEPTH: usize = 32;
/// The versions of the format that are read; later ones may mean something else.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// Devices of one kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    cdi_version: String,
    /// `VENDOR/CLASS`.
    pub(super) kind: String,
    #[serde(default, deserialize_with = "texts")]
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Entry>,
    /// What a step gets with any of them.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(default, deserialize_with = "texts")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a step gets with a device.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    pub(super) intel_rdt: Option<Value>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) net_devices: Vec<Value>,
}

/// A device node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A file or directory of the host's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) kind: String,
}

/// A program that a runtime is to start around a step.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
}

impl Document {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, DeviceError> {
        let invalid = |reason: String| DeviceError::Document {
            path: path.to_owned(),
            reason,
        };
        let failed = |error: std::io::Error| invalid(error.to_string());
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_DOCUMENT {
            return Err(invalid(format!("it has more than {MAX_DOCUMENT} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let value = match is_json {
            true => serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?,
            false => yaml(&text).map_err(invalid)?,
        };
        let document: Self =
            serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        document.check().map_err(invalid)?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        if !VERSIONS.contains(&self.cdi_version.trim_start_matches('v')) {
            return Err(format!("cdiVersion {:?} is not known", self.cdi_version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind {:?} is not VENDOR/CLASS", self.kind));
        }
        match self.devices.iter().find(|device| !is_name(&device.name)) {
            Some(device) => Err(format!("{:?} is no name of a device", device.name)),
            None => Ok(()),
        }
    }
}

/// Whether a text is `VENDOR/CLASS`.
pub(super) fn is_kind(text: &str) -> bool {
    let is_part = |part: &str, others: &[char]| {
        part.starts_with(|first: char| first.is_ascii_alphabetic())
            && part.ends_with(|last: char| last.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || others.contains(&c))
    };
    let parts = text.split_once('/');
    parts.is_some_and(|(vendor, class)| {
        is_part(vendor, &['_', '-', '.']) && is_part(class, &['_', '-'])
    })
}

fn is_name(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(is_end)
        && text.ends_with(is_end)
        && text
            .chars()
            .all(|c| is_end(c) || matches!(c, '_' | '-' | '.' | ':'))
}

/// Texts, and what reads as something else in YAML although a text is meant.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let values = Option::<BTreeMap<String, Value>>::deserialize(from)?;
    let text = |(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Bool(_) | Value::Number(_) => Ok((key, value.to_string())),
        _ => Err(serde::de::Error::custom(format!("{key:?} is no text"))),
    };
    values.unwrap_or_default().into_iter().map(text).collect()
}

/// A YAML document as the JSON that it stands for.
fn yaml(text: &str) -> Result<Value, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match documents.as_slice() {
        [document] => json(document, 0),
        others => Err(format!("it has {} documents instead of one", others.len())),
    }
}

fn json(yaml: &Yaml, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => (*value).into(),
        Yaml::Integer(value) => (*value).into(),
        Yaml::Real(text) => text.clone().into(),
        Yaml::String(text) => text.clone().into(),
        Yaml::Array(items) => {
            let items = items.iter().map(|item| json(item, depth + 1));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Yaml::Hash(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                let key = key.as_str().ok_or("a key is no text")?;
                Ok::<_, String>((key.to_owned(), json(value, depth + 1)?))
            });
            Value::Object(entries.collect::<Result<_, _>>()?)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("it has a value that is none".to_owned()),
    })
}
