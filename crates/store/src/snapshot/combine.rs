//! Snapshots made of snapshots: merges, differences, and combinations of many layers.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::changes::{Change, LayerTimes, Reading, TreeError, layer_changes, tree_changes};
use super::driver::Driver;
use super::farm::{Farm, Links, Removals};
use super::handle::SnapshotRef;
use super::record::Origin;
use super::shared::SharedFiles;
use super::store::{FILES, lock, open};
use super::{MutableSnapshot, SnapshotError, Snapshots};
use crate::object::SnapshotId;
use crate::usage::NewUsage;

/// How many layers are looked at to tell whether a snapshot was made from another. Merges of
/// merges may come to any number.
const MAX_CHAIN: usize = 1 << 16;
/// The directory of a combination of all of a snapshot's layers.
const FLAT: &str = "flat";

impl Snapshots {
    /// The layers of the inputs applied one after another, as LLB's MergeOp has it. Files are
    /// shared with the inputs.
    pub fn merge(
        &self,
        inputs: &[SnapshotRef],
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        for input in inputs {
            input.check_unpacked()?;
        }
        let ids = inputs.iter().map(|input| input.id().0).collect();
        let Some((first, rest)) = inputs.split_first() else {
            let empty = self.create(None)?;
            return empty.commit(usage);
        };
        let layers: Vec<_> = rest.iter().flat_map(SnapshotRef::layer_snapshots).collect();
        if self.is_overlay() && all_simple(&layers)? && !self.collide(&stacked(first, &layers))? {
            let origin = Origin::Merge {
                inputs: ids,
                combined: false,
            };
            return self.publish_virtual(origin, None, usage);
        }
        let snapshot = self.create(Some(first))?;
        self.combine(&snapshot, &layers)?;
        let origin = Origin::Merge {
            inputs: ids,
            combined: true,
        };
        self.publish(snapshot, origin, usage)
    }

    /// What makes `lower` into `upper`, as LLB's DiffOp has it. Without a `lower` that is `upper`
    /// itself; without an `upper`, what removes all of `lower`.
    pub fn diff(
        &self,
        lower: Option<&SnapshotRef>,
        upper: Option<&SnapshotRef>,
        usage: NewUsage,
    ) -> Result<SnapshotRef, SnapshotError> {
        let empty = || self.create(None)?.commit(usage.clone());
        let (lower, upper) = match (lower, upper) {
            (None, None) => return empty(),
            (None, Some(upper)) => return Ok(upper.clone()),
            (Some(lower), Some(upper)) => (lower, upper.clone()),
            (Some(lower), None) => (lower, empty()?),
        };
        let upper = &upper;
        lower.check_unpacked()?;
        upper.check_unpacked()?;
        let (lower_id, upper_id) = (lower.id().0, upper.id().0);
        if let Some(layers) = layers_between(lower, upper, MAX_CHAIN) {
            let layers = only_uppermost(layers);
            let simple = self.is_overlay() && all_simple(&layers)?;
            let origin = Origin::Range {
                lower: lower_id,
                upper: upper_id,
                combined: !simple,
            };
            if simple {
                return self.publish_virtual(origin, None, usage);
            }
            let snapshot = self.allocate(None)?;
            self.combine(&snapshot, &layers)?;
            return self.publish(snapshot, origin, usage);
        }
        let snapshot = self.allocate(None)?;
        let root = open(snapshot.id(), snapshot.files())?;
        let mut farm = Farm::new(
            root,
            Removals::Done,
            self.links(&snapshot, None, &upper.stack().layers)?,
        );
        farm.set_origins(upper.origins()?);
        let (from, to) = (lower.root()?, upper.root()?);
        tree_changes(Some(from.as_fd()), to.as_fd(), |change| farm.change(change))
            .and_then(|()| farm.finish())
            .map_err(SnapshotError::tree(snapshot.id()))?;
        let origin = Origin::Difference {
            lower: lower_id,
            upper: upper_id,
        };
        self.publish(snapshot, origin, usage)
    }

    /// Applies layers to a new snapshot.
    fn combine(
        &self,
        snapshot: &MutableSnapshot,
        layers: &[SnapshotRef],
    ) -> Result<(), SnapshotError> {
        let root = open(snapshot.id(), snapshot.files())?;
        let removals = match self.driver() {
            Driver::Copy => Removals::Done,
            Driver::Overlay { userxattr, .. } => Removals::Marked {
                below: snapshot.parent().map(SnapshotRef::root).transpose()?,
                userxattr: *userxattr,
            },
        };
        let from: Vec<_> = layers.iter().flat_map(SnapshotRef::change_layers).collect();
        let links = self.links(snapshot, snapshot.parent(), &from)?;
        let mut farm = Farm::new(root, removals, links);
        for layer in layers {
            farm.set_origins(layer.change_origins()?);
            layer.changes(|change| farm.change(change))?;
        }
        farm.finish().map_err(SnapshotError::tree(snapshot.id()))
    }

    /// How files of these layers come into a new snapshot over a parent.
    fn links(
        &self,
        snapshot: &MutableSnapshot,
        parent: Option<&SnapshotRef>,
        from: &[SnapshotId],
    ) -> Result<Links, SnapshotError> {
        if !self.is_overlay() {
            return Ok(Links::Never);
        }
        self.share(snapshot)?;
        self.share_layers(from)?;
        let below = match parent {
            Some(parent) => parent.shared_files()?,
            None => SharedFiles::default(),
        };
        Ok(Links::within(below))
    }
}

impl SnapshotRef {
    /// The snapshots whose layers, one after another, make this one: those of a manifest. A layer
    /// that occurs several times is only its uppermost occurrence, which hides the others.
    pub fn layer_snapshots(&self) -> Vec<SnapshotRef> {
        // Depth first, the uppermost first, then turned around.
        let mut found = Vec::new();
        let mut ahead = vec![self.clone()];
        let (mut visited, mut listed) = (HashSet::new(), HashSet::new());
        while let Some(next) = ahead.pop() {
            // Of what was visited before, all layers are found.
            if !visited.insert(next.id()) {
                continue;
            }
            match next.record().origin {
                Origin::Layer { .. } => {
                    ahead.extend(next.parents().iter().cloned());
                    if listed.insert(next.id()) {
                        found.push(next);
                    }
                }
                Origin::Difference { .. } => {
                    if listed.insert(next.id()) {
                        found.push(next);
                    }
                }
                Origin::Merge { .. } => ahead.extend(next.parents().iter().cloned()),
                Origin::Range { .. } => {
                    // Layers without what is below them, which may be visited elsewhere.
                    let layers = next.range_layers(usize::MAX).unwrap_or_default();
                    let new = layers.into_iter().rev();
                    found.extend(new.filter(|layer| listed.insert(layer.id())));
                }
            }
        }
        found.reverse();
        found
    }

    /// All its layers, lowest first, each as often as it occurs: what tells whether one snapshot
    /// was made from another. `None` if there are more than `limit`, as there may be of few merges.
    fn chain(&self, limit: usize) -> Option<Vec<SnapshotRef>> {
        let mut found = Vec::new();
        let mut ahead = vec![self.clone()];
        while let Some(next) = ahead.pop() {
            match next.record().origin {
                Origin::Layer { .. } => {
                    ahead.extend(next.parents().iter().cloned());
                    found.push(next);
                }
                Origin::Difference { .. } => found.push(next),
                Origin::Merge { .. } => ahead.extend(next.parents().iter().cloned()),
                Origin::Range { .. } => {
                    let layers = next.range_layers(limit)?;
                    found.extend(layers.into_iter().rev());
                }
            }
            if found.len() + ahead.len() > limit {
                return None;
            }
        }
        found.reverse();
        Some(found)
    }

    /// The layers of a range, lowest first. Ranges are of chains that were made one from another,
    /// so that this ends.
    fn range_layers(&self, limit: usize) -> Option<Vec<SnapshotRef>> {
        match self.parents() {
            [lower, upper] => layers_between(lower, upper, limit),
            _ => None,
        }
    }

    /// Visits the changes of its layer.
    pub(super) fn changes(
        &self,
        visit: impl FnMut(Change<'_>) -> Result<(), TreeError>,
    ) -> Result<(), SnapshotError> {
        let source = self.change_source()?;
        match &source {
            ChangeSource::Layer { upper, below } => layer_changes(
                upper.as_fd(),
                below.as_ref().map(AsFd::as_fd),
                Reading {
                    userxattr: self.userxattr(),
                    directory_times: false,
                    times: LayerTimes::default(),
                },
                visit,
            ),
            ChangeSource::Trees { lower, upper } => {
                tree_changes(lower.as_ref().map(AsFd::as_fd), upper.as_fd(), visit)
            }
        }
        .map_err(SnapshotError::tree(self.id()))
    }

    pub(super) fn change_source(&self) -> Result<ChangeSource, SnapshotError> {
        let root = |index: usize| self.parents().get(index).map(SnapshotRef::root).transpose();
        if let Origin::Difference { .. } = self.record().origin {
            let upper = match root(1)? {
                Some(upper) => upper,
                None => open(self.id(), &self.files())?,
            };
            return Ok(ChangeSource::Trees {
                lower: root(0)?,
                upper,
            });
        }
        let files = open(self.id(), &self.files())?;
        let below = root(0)?;
        Ok(match self.snapshots().driver() {
            Driver::Overlay { .. } => ChangeSource::Layer {
                upper: files,
                below,
            },
            Driver::Copy => ChangeSource::Trees {
                lower: below,
                upper: files,
            },
        })
    }

    /// The directories, uppermost first, that its files are in.
    fn origins(&self) -> Result<Vec<OwnedFd>, SnapshotError> {
        let lowers = self.lowers()?;
        lowers.iter().map(|path| open(self.id(), path)).collect()
    }

    /// The same for the files of its layer's changes; none where they are found in place.
    fn change_origins(&self) -> Result<Vec<OwnedFd>, SnapshotError> {
        match (self.record().origin, self.parents()) {
            (Origin::Difference { .. }, [_, upper]) => upper.origins(),
            _ => Ok(Vec::new()),
        }
    }

    /// The layers that the files of its changes are in.
    fn change_layers(&self) -> Vec<SnapshotId> {
        let mut layers = vec![self.id()];
        if let (Origin::Difference { .. }, [_, upper]) = (self.record().origin, self.parents()) {
            layers.extend(&upper.stack().layers);
        }
        layers
    }

    /// The directories of a mount, uppermost first, of a snapshot with more layers than a mount
    /// takes: the lower ones combined.
    pub(super) fn flattened(&self, max_lowers: usize) -> Result<Vec<PathBuf>, SnapshotError> {
        let layers = &self.stack().layers;
        let directory = |id| self.snapshots().directory(id);
        // A combination that is already there, of as many as possible.
        let known = layers
            .iter()
            .rposition(|&id| directory(id).join(FLAT).exists());
        if let Some(index) = known
            && layers.len() - index <= max_lowers
        {
            return Ok(self.over_flat(index));
        }
        let index = layers.len() - max_lowers / 2;
        self.flatten(known, index)?;
        Ok(self.over_flat(index))
    }

    fn over_flat(&self, index: usize) -> Vec<PathBuf> {
        let layers = &self.stack().layers;
        let directory = |id| self.snapshots().directory(id);
        let above = layers[index + 1..]
            .iter()
            .rev()
            .map(|&id| directory(id).join(FILES));
        above.chain([directory(layers[index]).join(FLAT)]).collect()
    }

    /// Combines the layers up to one, starting from a combination of fewer.
    fn flatten(&self, known: Option<usize>, index: usize) -> Result<(), SnapshotError> {
        let _turn = lock(&self.0.computing);
        let layers = &self.stack().layers;
        let directory = |id| self.snapshots().directory(id);
        let target = directory(layers[index]).join(FLAT);
        if target.exists() {
            return Ok(());
        }
        let making = directory(self.id()).join("flat.new");
        self.snapshots().take_away(&making);
        std::fs::create_dir(&making).map_err(SnapshotError::file(self.id(), "create", &making))?;
        let fault = || SnapshotError::tree(self.id());
        // Of layers that do not collide.
        let links = Links::within(SharedFiles::default());
        let mut farm = Farm::new(open(self.id(), &making)?, Removals::Done, links);
        let start = match known.filter(|&known| known < index) {
            Some(known) => {
                let flat = open(self.id(), &directory(layers[known]).join(FLAT))?;
                tree_changes(None, flat.as_fd(), |change| farm.change(change)).map_err(fault())?;
                known + 1
            }
            None => 0,
        };
        for &layer in &layers[start..=index] {
            let upper = open(self.id(), &directory(layer).join(FILES))?;
            let below = open(self.id(), &making)?;
            layer_changes(
                upper.as_fd(),
                Some(below.as_fd()),
                Reading {
                    userxattr: self.userxattr(),
                    directory_times: true,
                    times: LayerTimes::default(),
                },
                |change| farm.change(change),
            )
            .map_err(fault())?;
        }
        farm.finish().map_err(fault())?;
        std::fs::rename(&making, &target).map_err(SnapshotError::file(self.id(), "create", &target))
    }
}

/// The trees that a layer's changes are found in.
pub(super) enum ChangeSource {
    Layer {
        upper: OwnedFd,
        below: Option<OwnedFd>,
    },
    Trees {
        lower: Option<OwnedFd>,
        upper: OwnedFd,
    },
}

/// The layers of a mount of others over one.
fn stacked(first: &SnapshotRef, layers: &[SnapshotRef]) -> Vec<SnapshotId> {
    let mut all = first.stack().layers.clone();
    for layer in layers {
        if !all.contains(&layer.id()) {
            all.push(layer.id());
        }
    }
    all
}

/// The layers that were added to `lower` to make `upper`, if it was made so. `None` also if that
/// cannot be told within `limit` layers.
fn layers_between(
    lower: &SnapshotRef,
    upper: &SnapshotRef,
    limit: usize,
) -> Option<Vec<SnapshotRef>> {
    let below = lower.chain(limit)?;
    let mut layers = upper.chain(limit)?;
    layers
        .starts_with(&below)
        .then(|| layers.split_off(below.len()))
}

/// Drops of equal layers all but the uppermost, which hides the others.
fn only_uppermost(mut layers: Vec<SnapshotRef>) -> Vec<SnapshotRef> {
    let mut seen = HashSet::new();
    layers.reverse();
    layers.retain(|layer| seen.insert(layer.id()));
    layers.reverse();
    layers
}

/// Whether layers can be mounted over anything: none removes something, and none of the marks
/// that an overlay leaves on new directories would hide what it was not made over.
fn all_simple(layers: &[SnapshotRef]) -> Result<bool, SnapshotError> {
    for layer in layers {
        if !super::simple::is_simple(layer)? {
            return Ok(false);
        }
    }
    Ok(true)
}
