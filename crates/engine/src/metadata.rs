//! What is said of a result, by BuildKit's keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weld_llb::Platform;

use crate::error::BuildError;
use crate::reference::Ref;

/// The config of an image, as JSON.
pub(crate) const IMAGE_CONFIG: &str = "containerimage.config";
/// The config of the image that it started from.
pub(crate) const IMAGE_BASE_CONFIG: &str = "containerimage.base.config";
/// Which file system is for which platform, as JSON.
pub(crate) const PLATFORMS: &str = "refs.platforms";
/// The time that a result is to bear, in seconds since 1970.
pub(crate) const SOURCE_DATE_EPOCH: &str = "source.date.epoch";

/// Metadata by key.
pub(crate) type Metadata = BTreeMap<String, Bytes>;

/// The platform of a file system, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) platform: Platform,
}

#[derive(Default, Serialize, Deserialize)]
struct Listed {
    #[serde(rename = "Platforms", default)]
    platforms: Option<Vec<ListedPlatform>>,
}

#[derive(Serialize, Deserialize)]
struct ListedPlatform {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform")]
    platform: PlatformDocument,
}

/// A platform as in OCI documents.
#[derive(Serialize, Deserialize)]
struct PlatformDocument {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    variant: String,
}

/// The platforms that metadata lists.
pub(crate) fn platforms(metadata: &Metadata) -> Result<Vec<Place>, BuildError> {
    let Some(listed) = metadata.get(PLATFORMS) else {
        return Ok(Vec::new());
    };
    let listed: Option<Listed> =
        serde_json::from_slice(listed).map_err(|error| malformed(PLATFORMS, error))?;
    let places = listed.unwrap_or_default().platforms.unwrap_or_default();
    if places.is_empty() {
        let reason = "invalid empty platforms index for exporter";
        return Err(malformed(PLATFORMS, reason));
    }
    if places.iter().any(|place| place.id.is_empty()) {
        let reason = "invalid empty platform key for exporter";
        return Err(malformed(PLATFORMS, reason));
    }
    let wrong = |place: &&ListedPlatform| {
        place.platform.os.is_empty() || place.platform.architecture.is_empty()
    };
    if let Some(place) = places.iter().find(wrong) {
        let reason = format!("invalid platform value for {:?}", place.id);
        return Err(malformed(PLATFORMS, reason));
    }
    let places = places.into_iter();
    Ok(places
        .map(|place| {
            let mut platform = Platform::new(
                &place.platform.os,
                &place.platform.architecture,
                &place.platform.variant,
            );
            platform.os_version = place.platform.os_version;
            platform.os_features = place.platform.os_features;
            Place {
                id: place.id,
                platform,
            }
        })
        .collect())
}

/// The list of platforms as metadata has it.
pub(crate) fn list_platforms(places: &[Place]) -> Result<Bytes, BuildError> {
    let platforms = places
        .iter()
        .map(|place| ListedPlatform {
            id: place.id.clone(),
            platform: PlatformDocument {
                architecture: place.platform.architecture.clone(),
                os: place.platform.os.clone(),
                os_version: place.platform.os_version.clone(),
                os_features: place.platform.os_features.clone(),
                variant: place.platform.variant.clone(),
            },
        })
        .collect();
    let listed = Listed {
        platforms: Some(platforms),
    };
    let encoded = serde_json::to_vec(&listed).map_err(|error| malformed(PLATFORMS, error))?;
    Ok(Bytes::from(encoded))
}

/// A file system with the name by which metadata knows it, and its platform.
pub(crate) type Placed<'a> = (Option<&'a str>, Platform, Option<&'a Ref>);

/// Each file system of a result with its platform: as listed, or what its name says.
pub(crate) fn places<'a>(
    refs: &[(Option<&'a str>, Option<&'a Ref>)],
    platforms: &'a [Place],
    default: &Platform,
) -> Result<Vec<Placed<'a>>, BuildError> {
    if let [(None, reference)] = refs {
        let platform = platforms.first().map(|place| place.platform.clone());
        let name = platforms.first().map(|place| place.id.as_str());
        return Ok(vec![(
            name,
            platform.unwrap_or_else(|| default.clone()),
            *reference,
        )]);
    }
    if platforms.is_empty() {
        let missing = |name: &Option<&str>| BuildError::Metadata {
            key: PLATFORMS,
            reason: format!(
                "it does not say what platform {:?} is for",
                name.unwrap_or_default()
            ),
        };
        return refs
            .iter()
            .map(|(name, reference)| {
                let text = name.unwrap_or_default();
                let platform: Platform = text.parse().map_err(|_| missing(name))?;
                Ok((*name, platform.normalize(), *reference))
            })
            .collect();
    }
    platforms
        .iter()
        .map(|place| {
            let found = refs
                .iter()
                .find(|(name, _)| *name == Some(place.id.as_str()));
            let (_, reference) = found.ok_or_else(|| BuildError::Metadata {
                key: PLATFORMS,
                reason: format!("there is no result for {:?}", place.id),
            })?;
            Ok((Some(place.id.as_str()), place.platform.clone(), *reference))
        })
        .collect()
}

/// What metadata says of one platform, or of the only one.
pub(crate) fn of_platform<'a>(
    metadata: &'a Metadata,
    key: &str,
    platform: Option<&str>,
) -> Option<&'a Bytes> {
    let own = platform.and_then(|platform| metadata.get(&format!("{key}/{platform}")));
    own.or_else(|| metadata.get(key))
        .filter(|value| !value.is_empty())
}

/// The time that a result is to bear: that of all, or the first that one has.
pub(crate) fn epoch(metadata: &Metadata, key: &'static str) -> Result<Option<i64>, BuildError> {
    let prefix = format!("{key}/");
    let value = metadata.get(key).or_else(|| {
        let of_platforms = metadata.range(prefix.clone()..);
        let mut of_platforms = of_platforms.take_while(|(name, _)| name.starts_with(&prefix));
        of_platforms.next().map(|(_, value)| value)
    });
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value);
    let seconds = text.parse().map_err(|error| malformed(key, error))?;
    Ok(Some(seconds))
}

fn malformed(key: &'static str, reason: impl std::fmt::Display) -> BuildError {
    BuildError::Metadata {
        key,
        reason: reason.to_string(),
    }
}
