use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use weld_export::ExportRequest;
use weld_op::session::Session;

use crate::cache::{CacheExport, CacheImport};
use crate::definition::Definition;
use crate::provenance::SlsaVersion;

/// One build that a client asks for.
pub struct BuildRequest {
    /// What to build.
    pub input: BuildInput,
    /// What to do with the result; nothing leaves it in the cache.
    pub exports: Vec<ExportRequest>,
    /// Caches elsewhere that are read.
    pub cache_imports: Vec<CacheImport>,
    /// Caches elsewhere that are written.
    pub cache_exports: Vec<CacheExport>,
    /// What steps may do that they must not do by default.
    pub entitlements: Vec<Entitlement>,
    /// Whether to tell beside each step that was not cached why it was not.
    pub explain: bool,
    /// Whether the response is to say how the result was made, whatever is attached to it.
    pub provenance: bool,
    /// Whether it only prepares another build, and belongs into nobody's history.
    pub internal: bool,
    /// What the client offers: directories, secrets, agents, credentials.
    pub session: Arc<dyn Session>,
}

/// What to build.
pub enum BuildInput {
    /// A Dockerfile; attributes by the names that BuildKit's clients use.
    Dockerfile {
        /// The frontend's attributes.
        attrs: BTreeMap<String, String>,
    },
    /// An LLB definition.
    Definition {
        /// The definition.
        definition: Box<Definition>,
        /// Whether no step may use the cache.
        no_cache: bool,
    },
}

/// What a build gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildResponse {
    /// What the exporters tell, by BuildKit's names: `containerimage.digest` and others.
    pub attrs: BTreeMap<String, String>,
    /// What each exporter told, in their order; empty for a build that was done elsewhere.
    pub exports: Vec<BTreeMap<String, String>>,
    /// How each file system of the result was made, if that was asked for.
    pub provenance: Vec<Provenance>,
}

/// How a file system was made: a predicate of SLSA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The platform's name, where the result has one file system for each platform.
    pub platform: Option<String>,
    /// The version of the document.
    pub version: SlsaVersion,
    /// The document, JSON.
    pub document: Bytes,
}

impl BuildResponse {
    /// What docker calls the image's ID: the digest of its config, or of the index of several images.
    pub fn image_id(&self) -> Option<&str> {
        ["containerimage.config.digest", "containerimage.digest"]
            .iter()
            .find_map(|key| self.attrs.get(*key))
            .map(String::as_str)
    }
}

/// Something that steps must not do unless the client allows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// Use the host's network.
    NetworkHost,
    /// Run with all privileges.
    SecurityInsecure,
    /// Use devices of the host: those of a name (see [`weld_op::Devices::find`]), or all.
    Device(Option<String>),
    /// Use the devices of a name, for which the build has another one.
    DeviceAlias {
        /// The build's name.
        alias: String,
        /// The name here.
        device: String,
    },
}

/// An entitlement that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown entitlement {0:?} (known: network.host, security.insecure, device, device=NAME, \
     device=NAME,alias=NAME)"
)]
pub struct ParseEntitlementError(String);

impl FromStr for Entitlement {
    type Err = ParseEntitlementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "network.host" => Ok(Self::NetworkHost),
            "security.insecure" => Ok(Self::SecurityInsecure),
            "device" => Ok(Self::Device(None)),
            _ => {
                let unknown = || ParseEntitlementError(text.to_owned());
                let name = text.strip_prefix("device=").ok_or_else(unknown)?;
                let (device, alias) = match name.split_once(',') {
                    None => (name, None),
                    Some((device, more)) => {
                        let alias = more.strip_prefix("alias=").ok_or_else(unknown)?;
                        (device, Some(alias))
                    }
                };
                match alias {
                    _ if device.is_empty() => Err(unknown()),
                    None => Ok(Self::Device(Some(device.to_owned()))),
                    Some(alias) if alias.is_empty() || alias.contains(',') => Err(unknown()),
                    Some(alias) => Ok(Self::DeviceAlias {
                        alias: alias.to_owned(),
                        device: device.to_owned(),
                    }),
                }
            }
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkHost => f.write_str("network.host"),
            Self::SecurityInsecure => f.write_str("security.insecure"),
            Self::Device(None) => f.write_str("device"),
            Self::Device(Some(name)) => write!(f, "device={name}"),
            Self::DeviceAlias { alias, device } => write!(f, "device={device},alias={alias}"),
        }
    }
}
