//! The content keys of snapshots.

use weld_digest::Digest;

use super::SnapshotError;
use super::driver::Driver;
use super::handle::SnapshotRef;
use super::store::{FILES, lock, open};
use crate::content_key::{KeyEntry, KeyError, KeyOptions, KeyTree};
use crate::object::SnapshotId;

/// The file of a layer's keys, beside its files.
pub(super) const KEYS: &str = "keys";

impl SnapshotRef {
    /// The content key of what `options` select at a path.
    pub fn content_key(&self, path: &str, options: &KeyOptions) -> Result<Digest, SnapshotError> {
        self.key_tree()?
            .content_key(path, options)
            .map_err(|source| self.key_error(source))
    }

    /// What the content key of a path is made of: see [`KeyTree::entries`].
    pub fn content_entries(
        &self,
        path: &str,
        options: &KeyOptions,
        limit: usize,
    ) -> Result<(Vec<KeyEntry>, bool), SnapshotError> {
        self.key_tree()?
            .entries(path, options, limit)
            .map_err(|source| self.key_error(source))
    }

    /// Its tree, whose content keys are found as they are asked for.
    pub fn key_tree(&self) -> Result<KeyTree, SnapshotError> {
        if let Some(tree) = self.0.keys.get() {
            return Ok(tree.clone());
        }
        self.check_unpacked()?;
        if let Driver::Copy = self.snapshots().driver() {
            let tree = self.layered(self.id(), None)?;
            return Ok(self.0.keys.get_or_init(|| tree).clone());
        }
        // Parents that this one only adds a layer to share their trees with it; they come first,
        // without recursion.
        let mut chain = vec![self.clone()];
        while let Some(next) = chain.last().and_then(SnapshotRef::continued) {
            if next.0.keys.get().is_some() {
                break;
            }
            chain.push(next);
        }
        for snapshot in chain.iter().rev() {
            snapshot.build_keys()?;
        }
        match self.0.keys.get() {
            Some(tree) => Ok(tree.clone()),
            None => self.layered(self.id(), None),
        }
    }

    /// The snapshot whose layers are all of its own but the uppermost ones.
    fn continued(&self) -> Option<SnapshotRef> {
        let parent = self.parents().first()?;
        let below = &parent.stack().layers;
        (!below.is_empty() && self.stack().layers.starts_with(below)).then(|| parent.clone())
    }

    fn build_keys(&self) -> Result<(), SnapshotError> {
        if self.0.keys.get().is_some() {
            return Ok(());
        }
        let _turn = lock(&self.0.computing);
        let below = self.continued();
        let skipped = below.as_ref().map_or(0, |below| below.stack().layers.len());
        let mut tree = below.and_then(|below| below.0.keys.get().cloned());
        for &layer in &self.stack().layers[skipped..] {
            tree = Some(self.layered(layer, tree.as_ref())?);
        }
        let tree = match tree {
            Some(tree) => tree,
            None => KeyTree::of_directory(open(self.id(), self.snapshots().empty())?)
                .map_err(|source| self.key_error(source))?,
        };
        let _ = self.0.keys.set(tree);
        Ok(())
    }

    /// The tree of a layer's directory over another.
    fn layered(
        &self,
        layer: SnapshotId,
        below: Option<&KeyTree>,
    ) -> Result<KeyTree, SnapshotError> {
        let directory = self.snapshots().directory(layer);
        // In another place than its own, a layer's directories have other keys.
        let cache = (layer == self.id()).then(|| directory.join(KEYS));
        KeyTree::layered(directory.join(FILES), below, cache, self.userxattr())
            .map_err(|source| self.key_error(source))
    }

    fn key_error(&self, source: KeyError) -> SnapshotError {
        SnapshotError::Key {
            id: self.id(),
            source,
        }
    }
}
