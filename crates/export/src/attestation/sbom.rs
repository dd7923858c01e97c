//! Lists of what is in an image (SPDX), completed with what the exporter knows: which layer each
//! file is of.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};
use weld_digest::Digest;
use weld_fileset::{Layers, OverlayMarks, WalkOptions, walk};
use weld_store::mount::MountSource;
use weld_store::snapshot::SnapshotRef;

use super::{Loaded, SPDX};

/// The layer that each file of an image is of, by its path without a leading slash.
#[derive(Default)]
pub(crate) struct LayerFiles(HashMap<Vec<u8>, Digest>);

impl LayerFiles {
    /// Finds the layer of each file: the uppermost that has it. `layers` are the image's own, lowest
    /// first, as the tree's snapshots. What cannot be looked at is left out.
    pub(crate) fn of(tree: &SnapshotRef, layers: &[Digest]) -> Self {
        Self::found(tree, layers).unwrap_or_default()
    }

    fn found(tree: &SnapshotRef, layers: &[Digest]) -> Option<Self> {
        let snapshots = tree.layer_snapshots();
        if snapshots.len() != layers.len() {
            return None;
        }
        let mut files = HashMap::new();
        // Later layers are above earlier ones, and replace what these had.
        for (count, digest) in (1..).zip(layers) {
            let snapshot = snapshots.get(count - 1)?;
            let spec = snapshot.mount_spec().ok()?;
            let (stack, marks) = match &spec.source {
                // Beyond the first layer, a directory by itself is a copy of all below it, too.
                MountSource::Bind(_) if count > 1 => return None,
                MountSource::Bind(path) => (vec![path.clone()], OverlayMarks::Trusted),
                MountSource::Overlay(overlay) => {
                    let marks = match overlay.userxattr {
                        true => OverlayMarks::User,
                        false => OverlayMarks::Trusted,
                    };
                    (overlay.lowers.clone(), marks)
                }
            };
            let layers = Layers::open(&stack, marks).ok()?;
            for entry in walk(&layers, Path::new(""), &WalkOptions::default()).ok()? {
                // Only the uppermost directory is this layer's own.
                if entry.layer == 0 && !entry.is_dir() {
                    files.insert(entry.path.as_os_str().as_bytes().to_vec(), digest.clone());
                }
            }
        }
        Some(Self(files))
    }

    fn layer(&self, file: &str) -> Option<&Digest> {
        let file = file.trim_start_matches("./").trim_start_matches('/');
        self.0.get(file.as_bytes())
    }
}

impl Loaded {
    /// Whether [`Loaded::supplement`] may have something to add.
    pub(crate) fn wants_layers(&self) -> bool {
        self.predicate_type == SPDX && self.is_core()
    }

    /// Notes at each file of the list which layer it is of, unless something is noted already.
    /// What is no such list stays as it is.
    pub(crate) fn supplement(&mut self, layers: &LayerFiles) {
        let Ok(Value::Object(mut document)) = serde_json::from_slice(&self.predicate) else {
            return;
        };
        if !document.contains_key("spdxVersion") {
            return;
        }
        let files = document.get_mut("files").and_then(Value::as_array_mut);
        for file in files.into_iter().flatten().filter_map(Value::as_object_mut) {
            if file
                .get("comment")
                .and_then(Value::as_str)
                .is_some_and(|comment| !comment.is_empty())
            {
                continue;
            }
            let name = file.get("fileName").and_then(Value::as_str);
            if let Some(layer) = name.and_then(|name| layers.layer(name)) {
                let comment = format!("layerID: {layer}");
                file.insert("comment".to_owned(), Value::from(comment));
            }
        }
        let info = document
            .entry("creationInfo")
            .or_insert_with(|| json!({}))
            .as_object_mut();
        if let Some(info) = info {
            let creators = info.entry("creators").or_insert_with(|| json!([]));
            if let Some(creators) = creators.as_array_mut() {
                creators.push(Value::from(concat!(
                    "Tool: weld-",
                    env!("CARGO_PKG_VERSION")
                )));
            }
        }
        if let Ok(predicate) = serde_json::to_vec(&document) {
            self.predicate = predicate.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn files_are_said_to_be_of_their_layers() {
        let layer = Digest::sha256_of("layer");
        let layers = LayerFiles([(b"etc/a".to_vec(), layer.clone())].into());
        let predicate = json!({
            "spdxVersion": "SPDX-2.3",
            "files": [
                {"fileName": "/etc/a"},
                {"fileName": "etc/a", "comment": "mine"},
                {"fileName": "/etc/b"},
            ],
        });
        let mut attestation = Loaded {
            path: "sbom.spdx.json".into(),
            predicate_type: SPDX.into(),
            subjects: Vec::new(),
            predicate: Bytes::from(predicate.to_string()),
            sbom_core: Some("sbom".into()),
        };
        assert!(attestation.wants_layers());
        attestation.supplement(&layers);
        let done: Value = serde_json::from_slice(&attestation.predicate).unwrap();
        assert_eq!(done["files"][0]["comment"], format!("layerID: {layer}"));
        assert_eq!(done["files"][1]["comment"], "mine");
        assert!(done["files"][2].get("comment").is_none());
        assert!(
            done["creationInfo"]["creators"][0]
                .as_str()
                .unwrap()
                .starts_with("Tool: weld-")
        );
        // Those on what the result was made of stay.
        attestation.path = "sbom-context.spdx.json".into();
        assert!(!attestation.wants_layers());
    }
}
