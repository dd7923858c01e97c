//! Build caches elsewhere: read before a build, written after it.
//!
//! What is read becomes a cache source of the solver, whose results are lazy: their layers are known, and fetched when something reads
//! them. What is written are the chains of keys that lead to a build's results, with the layers of these.

mod absence;
mod export;
mod import;
mod mounts;
mod origin;
mod secrets;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use absence::Absences;
pub(crate) use export::{all, inline};
pub(crate) use import::Imports;
use secrets::ShownAttrs;
pub use secrets::{mask_secrets, without_secrets};
pub use weld_export::cache::is_merged;
use weld_export::cache::{CacheExportOptions, CacheOptionError, merge_into_layout};
pub use weld_export::cache::{Unmerged, ignores_errors};
use weld_op::Tree;
use weld_solver::SolveError;
use weld_source::blob_store::LayoutStore;
use weld_source::image::Descriptor;
use weld_source::index_lock::LockWait;

use crate::error::BuildError;

/// A cache elsewhere that is read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheImport {
    /// Its kind, such as `registry`.
    pub kind: String,
    /// Where it is, by the names of the kind.
    pub attrs: BTreeMap<String, String>,
}

/// A cache elsewhere that is written.
#[derive(Clone, PartialEq, Eq)]
pub struct CacheExport {
    /// Its kind, such as `registry`.
    pub kind: String,
    /// Where it goes and how it is written, by the names of the kind.
    pub attrs: BTreeMap<String, String>,
}

/// Lists a cache that was written into a directory under a tag, merged with the one that is listed there, as `attrs` ask for. Blocks.
///
/// # Errors
/// What reading and writing meet.
pub fn merge_local_cache(
    store: &LayoutStore,
    tag: &str,
    written: Descriptor,
    attrs: &BTreeMap<String, String>,
    wait: &dyn LockWait,
) -> std::io::Result<Vec<Unmerged>> {
    let options = CacheExportOptions::parse("local", attrs).map_err(std::io::Error::other)?;
    merge_into_layout(store, tag, written, options.manifest, wait)
}

/// The frontends' option that lists caches.
const CACHE_IMPORTS: &str = "cache-imports";
/// The same as earlier clients have it: names in registries.
const CACHE_FROM: &str = "cache-from";

/// The caches that a frontend's options name, beside those of its request.
pub(crate) fn of_options(
    opts: &BTreeMap<String, String>,
    request: &[CacheImport],
) -> Result<Vec<CacheImport>, BuildError> {
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(rename = "Type", default)]
        kind: String,
        #[serde(rename = "Attrs", default)]
        attrs: Option<BTreeMap<String, String>>,
    }
    let mut imports = request.to_vec();
    let mut add = |import: CacheImport| {
        if !imports.contains(&import) {
            imports.push(import);
        }
    };
    if let Some(listed) = opts.get(CACHE_IMPORTS).filter(|listed| !listed.is_empty()) {
        let entries: Vec<Entry> =
            serde_json::from_str(listed).map_err(|error| BuildError::Metadata {
                key: CACHE_IMPORTS,
                reason: error.to_string(),
            })?;
        for entry in entries {
            add(CacheImport {
                kind: entry.kind,
                attrs: entry.attrs.unwrap_or_default(),
            });
        }
    }
    let names = opts.get(CACHE_FROM).map(String::as_str).unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        add(CacheImport {
            kind: "registry".to_owned(),
            attrs: [("ref".to_owned(), name.to_owned())].into(),
        });
    }
    Ok(imports)
}

impl fmt::Debug for CacheImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheImport")
            .field("kind", &self.kind)
            .field("attrs", &ShownAttrs(&self.attrs))
            .finish()
    }
}

impl fmt::Debug for CacheExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheExport")
            .field("kind", &self.kind)
            .field("attrs", &ShownAttrs(&self.attrs))
            .finish()
    }
}

/// Why a cache was not written.
#[derive(Debug, thiserror::Error)]
pub enum CacheExportError {
    /// Its attributes cannot be used.
    #[error(transparent)]
    Option(#[from] CacheOptionError),
    /// The chains of keys cannot be had.
    #[error("cannot collect the build's cache keys: {0}")]
    Chains(String),
    /// A layer cannot be made.
    #[error("cannot make a layer for the cache: {0}")]
    Layer(#[from] weld_store::snapshot::SnapshotError),
    /// What a lost layer was made by does not make it again.
    #[error("cannot make anew what the cache needs and nobody has any more: {0}")]
    Anew(Box<SolveError<Tree>>),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] weld_export::cache::CacheWriteError),
    /// The client cannot be asked.
    #[error(transparent)]
    Session(#[from] weld_op::session::SessionError),
    /// Cache mounts that are there cannot be read.
    #[error("cannot add to the cache mounts that are there: {0}")]
    Mounts(String),
    /// The client has no such store.
    #[error("the client offers no content store {0:?}")]
    NoStore(String),
    /// Work on a thread that may block ended early.
    #[error("a task ended early: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_caches_in_both_forms() {
        let opts = [
            (
                CACHE_IMPORTS.to_owned(),
                r#"[{"Type":"registry","Attrs":{"ref":"a"}},{"Type":"local"}]"#.to_owned(),
            ),
            (CACHE_FROM.to_owned(), "a,b".to_owned()),
        ];
        let read = of_options(&opts.into(), &[]).unwrap();
        let kinds: Vec<_> = read.iter().map(|import| import.kind.as_str()).collect();
        assert_eq!(kinds, ["registry", "local", "registry"], "each once");
        assert_eq!(read[2].attrs["ref"], "b");
        let bad = [(CACHE_IMPORTS.to_owned(), "{".to_owned())];
        assert_eq!(without_secrets(&bad.clone().into())[CACHE_IMPORTS], "");
        assert!(of_options(&bad.into(), &[]).is_err());
    }
}
