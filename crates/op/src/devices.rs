//! Devices of the host that steps ask for by name, as the Container Device Interface has them.
//!
//! The files that describe them are read when somebody asks: they are few, and their owner expects
//! a change to be seen. They belong to whoever may configure the machine, and are trusted.

mod document;
mod edits;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weld_llb::CdiDevice;

use document::{Document, Edits, is_kind};

pub(crate) use edits::give;

/// The annotation of the class that a device belongs to.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// The annotation of a device that any build may have.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Where devices are described, and which of them anybody may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Whether there are none.
    pub disabled: bool,
    /// The directories with descriptions; what a later one says goes before what an earlier one
    /// says.
    pub directories: Vec<PathBuf>,
    /// Kinds (`VENDOR/CLASS`) and devices (`VENDOR/CLASS=NAME`) that any build may have.
    pub auto_allowed: Vec<String>,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            disabled: false,
            directories: ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"]
                .map(PathBuf::from)
                .to_vec(),
            auto_allowed: Vec::new(),
        }
    }
}

/// Why a step does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There are none.
    #[error("device {0}: devices are switched off (cdi.disabled)")]
    Disabled(String),
    /// Nothing describes it.
    #[error("required device {name:?} is not registered{}", also(.problems))]
    Unknown {
        /// What the step asks for.
        name: String,
        /// What was wrong with descriptions.
        problems: Vec<String>,
    },
    /// A description cannot be used.
    #[error("device description {path}: {reason}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be given to a step.
    #[error("device {device}: {reason}")]
    Edit {
        /// The device.
        device: String,
        /// Why.
        reason: String,
    },
}

fn also(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("; {problem}"))
        .collect()
}

/// A device that is described.
#[derive(Clone, Debug)]
pub struct Device {
    /// `VENDOR/CLASS=NAME`.
    pub name: String,
    /// Whether any build may have it.
    pub auto_allowed: bool,
    /// What is said of it.
    pub annotations: BTreeMap<String, String>,
    common: Arc<Edits>,
    own: Arc<Edits>,
}

/// The devices that are described at one time.
#[derive(Debug, Default)]
pub struct Devices {
    by_name: BTreeMap<String, Device>,
    problems: Vec<String>,
    disabled: bool,
}

impl DeviceConfig {
    /// Reads what there is. Blocks. A file that cannot be used hides no other.
    pub fn devices(&self) -> Devices {
        let mut devices = Devices {
            disabled: self.disabled,
            ..Devices::default()
        };
        if self.disabled {
            return devices;
        }
        for directory in &self.directories {
            let mut here = BTreeMap::new();
            for path in documents(directory) {
                match Document::read(&path) {
                    Ok(document) => self.add(document, &path, &mut here, &mut devices.problems),
                    Err(error) => devices.problems.push(error.to_string()),
                }
            }
            for (name, (device, _)) in here {
                match device {
                    Some(device) => devices.by_name.insert(name, device),
                    // Nobody can tell which is meant.
                    None => devices.by_name.remove(&name),
                };
            }
        }
        for problem in &devices.problems {
            tracing::debug!("{problem}");
        }
        devices
    }

    fn add(
        &self,
        document: Document,
        path: &Path,
        here: &mut BTreeMap<String, (Option<Device>, PathBuf)>,
        problems: &mut Vec<String>,
    ) {
        let common = Arc::new(document.container_edits);
        for entry in document.devices {
            let name = format!("{}={}", document.kind, entry.name);
            if let Some((device, other)) = here.get_mut(&name) {
                *device = None;
                let (other, path) = (other.display(), path.display());
                problems.push(format!("{name} is described by both {other} and {path}"));
                continue;
            }
            let mut annotations = document.annotations.clone();
            annotations.extend(entry.annotations);
            let is_allowed = |allowed: &String| *allowed == name || *allowed == document.kind;
            let says_so = annotations
                .get(AUTO_ALLOW)
                .is_some_and(|text| is_true(text));
            let device = Device {
                auto_allowed: says_so || self.auto_allowed.iter().any(is_allowed),
                annotations,
                common: Arc::clone(&common),
                own: Arc::new(entry.container_edits),
                name: name.clone(),
            };
            here.insert(name, (Some(device), path.to_owned()));
        }
    }
}

/// As Go reads a text that is to be true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The files of a directory that describe devices, sorted.
fn documents(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file()
        })
        .collect();
    paths.sort();
    paths
}

impl Devices {
    /// All of them, by their names.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.by_name.values()
    }

    /// The devices that a name stands for: `VENDOR/CLASS=NAME`, `VENDOR/CLASS` for the first,
    /// `VENDOR/CLASS=*` for all, or a class that descriptions name. None for an optional one that
    /// there is not.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn find(&self, wanted: &CdiDevice) -> Result<Vec<Device>, DeviceError> {
        let text = wanted.name.as_str();
        let (kind, name) = text.split_once('=').unwrap_or((text, ""));
        let mut of_kind = self.iter().filter(|device| {
            let own = device.name.split_once('=');
            own.is_some_and(|(own, _)| own == kind)
        });
        let mut found: Vec<_> = match name {
            _ if !is_kind(kind) => Vec::new(),
            "" => of_kind.next().cloned().into_iter().collect(),
            "*" => of_kind.cloned().collect(),
            _ => self.by_name.get(text).cloned().into_iter().collect(),
        };
        if found.is_empty() {
            let is_class =
                |device: &&Device| device.annotations.get(CLASS).is_some_and(|c| c == text);
            found.extend(self.iter().filter(is_class).cloned());
        }
        match found.is_empty() && !wanted.optional {
            false => Ok(found),
            true if self.disabled => Err(DeviceError::Disabled(text.to_owned())),
            true => Err(DeviceError::Unknown {
                name: text.to_owned(),
                problems: self.problems.clone(),
            }),
        }
    }

    /// The devices that names stand for, each once.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn find_all(&self, wanted: &[CdiDevice]) -> Result<Vec<Device>, DeviceError> {
        let mut all: Vec<Device> = Vec::new();
        for wanted in wanted {
            for device in self.find(wanted)? {
                if all.iter().all(|other| other.name != device.name) {
                    all.push(device);
                }
            }
        }
        Ok(all)
    }
}
