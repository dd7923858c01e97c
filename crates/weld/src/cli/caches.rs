//! `--cache-from` and `--cache-to`: build caches elsewhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weld_engine::{
    BuildResponse, CacheExport, CacheImport, HostSession, LayoutStore, LockWait, Unmerged,
    cache_export_attributes, cache_import_attributes,
};

use super::args::CacheArgs;
use super::fields::{Fields, FieldsError};
use super::report::{Failure, warn_unknown};
use super::{streams, workflow};

/// The key of a response that tells the manifest of a cache.
const MANIFEST: &str = "cache.manifest";
/// The kind of caches that have cache mounts.
const MOUNT: &str = "mount";
/// The field that has a cache merged into what is there.
const MERGE: &str = "merge";
/// The tag under which a directory lists its cache unless told.
const TAG: &str = "latest";

/// Why a cache option cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("{option} {source}")]
    Fields {
        option: &'static str,
        source: FieldsError,
    },
    #[error("{option} {text:?}: needs type=… (registry, local, s3, azblob, gha, mount{more})")]
    NoType {
        option: &'static str,
        text: String,
        more: &'static str,
    },
    #[error("{option} {text:?}: type=local needs {field}=DIR")]
    NoDirectory {
        option: &'static str,
        text: String,
        field: &'static str,
    },
}

/// The caches that a build reads and writes.
#[derive(Default)]
pub(crate) struct Caches {
    pub(crate) imports: Vec<CacheImport>,
    pub(crate) exports: Vec<CacheExport>,
    listed: Vec<Listed>,
}

/// A cache in a directory.
struct Listed {
    /// The position of the export.
    number: usize,
    store: Arc<LayoutStore>,
    /// Under which the directory lists it.
    tag: String,
    /// What was asked for, if it is merged into what is listed.
    merged: Option<Attrs>,
    /// Whether the build is none the worse if it cannot be listed.
    ignores_errors: bool,
}

type Attrs = BTreeMap<String, String>;

impl Caches {
    /// As `--cache-to type=inline`, if that is not there.
    pub(crate) fn add_inline(&mut self) {
        if self.exports.iter().all(|export| export.kind != "inline") {
            self.exports.push(CacheExport {
                kind: "inline".into(),
                attrs: Attrs::new(),
            });
        }
    }

    /// Reads the options; directories are offered by the session.
    pub(crate) fn parse(session: &mut HostSession, args: &CacheArgs) -> Result<Self, Failure> {
        let mut caches = Self::default();
        for text in &args.to {
            let (kind, mut attrs) = fields("--cache-to", text, " or inline")?;
            tell_unknown("--cache-to", &kind, cache_export_attributes(&kind), &attrs);
            if kind == "local" || (kind == MOUNT && attrs.contains_key("dest")) {
                let directory = directory("--cache-to", text, &attrs, "dest")?;
                let store = session.add_blob_store(directory);
                if kind == MOUNT && !attrs.contains_key("digest") {
                    // What is there is added to.
                    let tag = attrs.get("tag").map_or(TAG, String::as_str);
                    if let Ok(Some(listed)) = store.tagged(tag) {
                        attrs.insert("digest".to_owned(), listed.digest.to_string());
                    }
                }
                let merges = weld_engine::is_merged(&kind, &attrs).map_err(usage)?;
                // Done here, with the directory at hand.
                attrs.remove(MERGE);
                caches.listed.push(Listed {
                    number: caches.exports.len(),
                    store,
                    tag: attrs.get("tag").map_or(TAG, String::as_str).to_owned(),
                    merged: merges.then(|| attrs.clone()),
                    ignores_errors: weld_engine::ignores_errors(&attrs),
                });
            }
            if kind == workflow::KIND && !workflow::complete(&mut attrs, &variable) {
                tell_outside("--cache-to");
                continue;
            }
            caches.exports.push(CacheExport { kind, attrs });
        }
        for text in &args.from {
            let (kind, mut attrs) = fields("--cache-from", text, "")?;
            let known = cache_import_attributes(&kind);
            tell_unknown("--cache-from", &kind, known, &attrs);
            if kind == "local" || (kind == MOUNT && attrs.contains_key("src")) {
                let directory = directory("--cache-from", text, &attrs, "src")?.to_owned();
                let store = session.add_blob_store(&directory);
                if !attrs.contains_key("digest") {
                    let tag = attrs.get("tag").map_or(TAG, String::as_str);
                    match store.tagged(tag) {
                        Ok(Some(listed)) => {
                            attrs.insert("digest".to_owned(), listed.digest.to_string());
                        }
                        Ok(None) => {
                            streams::tell(format_args!(
                                "WARNING: {directory} has no build cache {tag:?}: it is not used"
                            ));
                            continue;
                        }
                        Err(error) => {
                            streams::tell(format_args!(
                                "WARNING: build cache {directory}: {error}: it is not used"
                            ));
                            continue;
                        }
                    }
                }
            }
            if kind == workflow::KIND && !workflow::complete(&mut attrs, &variable) {
                tell_outside("--cache-from");
                continue;
            }
            caches.imports.push(CacheImport { kind, attrs });
        }
        Ok(caches)
    }

    /// Lists the caches that were written in their directories.
    pub(crate) fn list(
        &self,
        response: &BuildResponse,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        for listed in &self.listed {
            let Listed {
                store,
                tag,
                ignores_errors,
                ..
            } = listed;
            let own = response.attrs.get(&format!("{MANIFEST}/{}", listed.number));
            // Nothing was written, or nothing could be and that is not to matter.
            let Some(manifest) = own.or_else(|| response.attrs.get(MANIFEST)) else {
                continue;
            };
            let written = serde_json::from_str(manifest).map_err(std::io::Error::from);
            let unmerged = written.and_then(|written| match &listed.merged {
                Some(attrs) => {
                    weld_engine::merge_local_cache(store, tag, written, attrs, &Wait(cancel))
                }
                None => {
                    let aside = store.tag(tag, written, &Wait(cancel))?;
                    Ok(aside.map(Unmerged::Index).into_iter().collect())
                }
            });
            let directory = store.path();
            let warn = |reason: &dyn std::fmt::Display| {
                let directory = directory.display();
                streams::tell(format_args!("WARNING: build cache {directory}: {reason}"));
            };
            match unmerged {
                Ok(unmerged) => unmerged.iter().for_each(|reason| warn(reason)),
                Err(_) if cancel.is_cancelled() => return Err(Failure::Interrupted),
                Err(error) if *ignores_errors => {
                    warn(&format_args!("{error}: it is not written"));
                }
                Err(error) => return Err(Failure::file(directory, &error)),
            }
        }
        Ok(())
    }
}

/// Waits for somebody else who lists a cache in the same directory.
struct Wait<'a>(&'a CancellationToken);

impl LockWait for Wait<'_> {
    fn begins(&self, lock: &Path) {
        streams::tell(format_args!(
            "waiting for {}, which another process has locked",
            lock.display()
        ));
    }

    fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Warns of fields that have no effect: BuildKit passes over them in silence, so none is an error.
fn tell_unknown(option: &str, kind: &str, known: Option<Vec<&str>>, attrs: &Attrs) {
    // What a kind has that is not known here, whoever does the work will say.
    let Some(known) = known else { return };
    for field in attrs
        .keys()
        .filter(|field| !known.contains(&field.as_str()))
    {
        warn_unknown(&format!("{option} type={kind}"), field, &known);
    }
}

/// A command line is the same in a workflow and on a desk, where there is no such cache.
fn tell_outside(option: &str) {
    streams::tell(format_args!(
        "WARNING: {option} type=gha: there is no token or no url, and no job of GitHub Actions around that has them: it is not used"
    ));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("--cache-to: {error}"))
}

fn fields(
    option: &'static str,
    text: &str,
    more: &'static str,
) -> Result<(String, Attrs), CacheError> {
    if !text.contains('=') {
        let attrs = [("ref".to_owned(), text.to_owned())];
        return Ok(("registry".to_owned(), attrs.into()));
    }
    let fields = Fields::parse(text).map_err(|source| CacheError::Fields { option, source })?;
    let mut kind = None;
    let mut attrs = Attrs::new();
    for (key, value) in fields.iter() {
        let value = value.unwrap_or("true").to_owned();
        match key {
            "type" => kind = Some(value),
            _ => drop(attrs.insert(key.to_owned(), value)),
        }
    }
    let kind = kind.ok_or_else(|| CacheError::NoType {
        option,
        text: text.to_owned(),
        more,
    })?;
    Ok((kind, attrs))
}

fn directory<'a>(
    option: &'static str,
    text: &str,
    attrs: &'a Attrs,
    field: &'static str,
) -> Result<&'a str, CacheError> {
    let directory = attrs.get(field).filter(|value| !value.is_empty());
    let directory = directory.ok_or_else(|| CacheError::NoDirectory {
        option,
        text: text.to_owned(),
        field,
    })?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(to: &[&str], from: &[&str]) -> Result<Caches, String> {
        let own = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let args = CacheArgs {
            to: own(to),
            from: own(from),
        };
        Caches::parse(&mut HostSession::new(), &args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_alone_is_in_a_registry() {
        let caches = parse(&["example.com/a"], &["example.com/b:c"]).unwrap();
        assert_eq!(caches.exports[0].kind, "registry");
        assert_eq!(caches.imports[0].attrs["ref"], "example.com/b:c");
    }

    #[test]
    fn a_directory_without_a_cache_is_passed_over() {
        let caches = parse(
            &["type=local,dest=/nowhere,mode=max"],
            &["type=local,src=/nowhere"],
        );
        let caches = caches.unwrap();
        assert!(caches.imports.is_empty());
        assert_eq!(caches.exports[0].attrs["mode"], "max");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (to, part) in [
            ("ref=a", "needs type="),
            ("type=local", "needs dest=DIR"),
            ("type=local,\"dest=a", "no closing quote"),
        ] {
            let error = parse(&[to], &[]).err().unwrap();
            assert!(error.contains(part), "{to}: {error}");
        }
        assert!(
            parse(&[], &["type=local"])
                .err()
                .unwrap()
                .contains("needs src=DIR")
        );
    }
}
