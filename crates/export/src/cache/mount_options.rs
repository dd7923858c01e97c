//! Cache mounts elsewhere (`type=mount`), by their attributes.

use weld_digest::Digest;
use weld_source::reference::Reference;

use super::options::{CacheOptionError, Reader};

/// Most ids of one cache.
const MAX_IDS: usize = 64;

/// Where cache mounts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountPlace {
    /// Under a name in a registry.
    Registry {
        /// The name.
        reference: Reference,
        /// Any certificate is taken, or plain HTTP.
        insecure: bool,
    },
    /// In a client's store of blobs.
    Store {
        /// The store's id.
        id: String,
        /// The manifest that is there.
        digest: Option<Digest>,
    },
}

/// Which cache mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSelection {
    /// Their ids, as Dockerfiles and definitions have them; none for all that are there.
    pub ids: Vec<String>,
    /// The most bytes of their content, before compression.
    pub max_size: Option<u64>,
}

impl MountSelection {
    /// Whether a mount of an operation is meant. A Dockerfile's ids follow a namespace and a slash, and the namespace is
    /// empty unless `BUILDKIT_CACHE_MOUNT_NS` says otherwise.
    pub fn means(&self, id: &str) -> bool {
        let same = |wanted: &String| id == wanted || id.strip_prefix('/') == Some(wanted);
        self.ids.is_empty() || self.ids.iter().any(same)
    }
}

/// Cache mounts to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountExport {
    /// Where to.
    pub place: MountPlace,
    /// Which.
    pub selection: MountSelection,
}

impl MountExport {
    pub(super) fn parse(reader: &Reader<'_>) -> Result<Self, CacheOptionError> {
        let selection = selection(reader)?;
        if selection.ids.is_empty() {
            return Err(reader.missing("id"));
        }
        let place = place(reader, "dest")?;
        Ok(Self { place, selection })
    }
}

/// Where cache mounts are read, and which.
pub(super) fn origin(
    reader: &Reader<'_>,
) -> Result<(MountPlace, MountSelection), CacheOptionError> {
    Ok((place(reader, "src")?, selection(reader)?))
}

fn selection(reader: &Reader<'_>) -> Result<MountSelection, CacheOptionError> {
    let ids: Vec<String> = match reader.get("id") {
        None => Vec::new(),
        Some(ids) => ids.split(';').map(str::to_owned).collect(),
    };
    if ids.len() > MAX_IDS || ids.iter().any(String::is_empty) {
        return Err(reader.bad("id", "must be up to 64 ids, separated by ';'"));
    }
    let max_size = match reader.get("max-size") {
        None => None,
        Some(text) => Some(bytes(text).ok_or_else(|| {
            reader.bad(
                "max-size",
                "must be bytes, or a number with a unit such as 500MB",
            )
        })?),
    };
    Ok(MountSelection { ids, max_size })
}

fn place(reader: &Reader<'_>, directory: &'static str) -> Result<MountPlace, CacheOptionError> {
    let given = |attribute| {
        reader
            .get(attribute)
            .filter(|value: &&str| !value.is_empty())
    };
    match (given("ref"), given(directory)) {
        (Some(_), Some(_)) => Err(reader.bad("ref", "does not go with a directory")),
        (Some(name), None) => Ok(MountPlace::Registry {
            reference: name.parse::<Reference>()?.with_default_tag(),
            insecure: reader.flag("registry.insecure")?.unwrap_or(false),
        }),
        (None, Some(path)) => Ok(MountPlace::Store {
            id: super::options::store_id(path),
            digest: match given("digest") {
                None => None,
                Some(digest) => Some(
                    digest
                        .parse()
                        .map_err(|_| reader.bad("digest", "must be a digest"))?,
                ),
            },
        }),
        (None, None) => Err(reader.missing("ref")),
    }
}

/// A number of bytes, with a unit of powers of 1024 as `--disk-limit` has them.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = lower.get(digits.len()..)?;
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit);
    let power = ["", "k", "m", "g", "t"]
        .iter()
        .position(|known| *known == unit)?;
    let factor = 1024_u64.checked_pow(u32::try_from(power).ok()?)?;
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfiles_ids_are_those_that_a_user_wrote() {
        let selection = MountSelection {
            ids: vec!["pip".to_owned(), "/root/.cache".to_owned()],
            max_size: None,
        };
        assert!(selection.means("/pip") && selection.means("pip"));
        assert!(selection.means("//root/.cache"));
        assert!(!selection.means("other/pip") && !selection.means("/pi"));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("1000"), Some(1000));
        assert_eq!(bytes("2MB"), Some(2 << 20));
        assert_eq!(bytes("3GiB"), Some(3 << 30));
        assert_eq!(bytes("1m"), Some(1 << 20));
        for text in ["", "MB", "-1", "1.5GB", "1XB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
