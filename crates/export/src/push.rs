//! Pushing an image: its blobs in parallel, then its manifests, what names them last.

use std::sync::Arc;

use futures_util::future::try_join_all;
use weld_source::image::Descriptor;
use weld_source::progress::Progress;
use weld_source::reference::{Reference, Repository};
use weld_source::registry::{BlobUpload, Failure, Registry, RegistryError};
use weld_store::snapshot::LABEL_SOURCE;
use weld_store::{BlobInfo, BlobRef, Store};

use crate::image::Image;
use crate::{ExportError, checked};

/// A push of an image.
pub(crate) struct Push<'a> {
    pub(crate) image: &'a Image,
    pub(crate) store: &'a Store,
    pub(crate) registry: Registry,
    /// Any certificate is taken, or plain HTTP.
    pub(crate) insecure: bool,
    /// No tag is set.
    pub(crate) by_digest: bool,
    pub(crate) progress: &'a Progress,
}

impl Push<'_> {
    /// Pushes under all names.
    pub(crate) async fn run(&self, names: &[Reference]) -> Result<(), ExportError> {
        let mut done: Vec<Repository> = Vec::new();
        for (repository, tags) in by_repository(names) {
            let registry = match self.insecure {
                true => self.registry.trusting(repository.domain()),
                false => self.registry.clone(),
            };
            let named = tags.first().map(ToString::to_string).unwrap_or_default();
            let pushed = self.repository(&registry, &repository, &tags, &done);
            if let Err(source) = pushed.await {
                // What a registry refuses so may be content that is not what its digest says.
                let doubted = match source.failure() {
                    Some(Failure::Status { status, .. }) if status.as_u16() == 400 => {
                        self.image.blobs.keys().cloned().collect()
                    }
                    _ => Vec::new(),
                };
                let error = ExportError::Push {
                    name: named,
                    source: Box::new(source),
                };
                return Err(checked::drop_damaged(self.store, error, doubted).await);
            }
            done.push(repository);
        }
        Ok(())
    }

    async fn repository(
        &self,
        registry: &Registry,
        repository: &Repository,
        names: &[&Reference],
        pushed: &[Repository],
    ) -> Result<(), RegistryError> {
        let uploads = self.uploads(pushed);
        try_join_all(
            uploads
                .iter()
                .map(|upload| registry.push_blob(repository, upload, self.progress)),
        )
        .await?;
        self.note_source(repository);
        let root = &self.image.root.digest;
        let documents = self.image.manifests.iter();
        try_join_all(
            documents
                .filter(|manifest| self.by_digest || manifest.descriptor.digest != *root)
                .map(|manifest| async {
                    let reference = repository.at(manifest.descriptor.digest.clone());
                    registry.push_document(&reference, &manifest.bytes).await
                }),
        )
        .await?;
        let document = match (&self.image.index, self.image.manifests.first()) {
            (Some(index), _) => index,
            (None, Some(manifest)) => &manifest.bytes,
            (None, None) => return Ok(()),
        };
        if self.by_digest {
            registry
                .push_document(&repository.at(root.clone()), document)
                .await?;
            return Ok(());
        }
        for name in names {
            let text = format!("pushing manifest for {name}@{root}");
            let transfer = self.progress.start(text.clone(), text, None);
            registry.push_document(name, document).await?;
            transfer.complete();
        }
        Ok(())
    }

    /// The blobs that a registry keeps: all layers but those that may not be distributed, and
    /// the configs.
    fn uploads(&self, pushed: &[Repository]) -> Vec<BlobUpload> {
        let mut seen = std::collections::HashSet::new();
        let manifests = self.image.manifests.iter();
        let descriptors = manifests.flat_map(|manifest| {
            let layers = manifest.layers.iter();
            layers.chain(std::iter::once(&manifest.config))
        });
        descriptors
            .filter(|descriptor| !descriptor.is_foreign_layer() && seen.insert(&descriptor.digest))
            .filter_map(|descriptor| {
                let blob = self.image.blobs.get(&descriptor.digest)?;
                Some(upload(descriptor, blob, pushed))
            })
            .collect()
    }

    /// Notes where the blobs are that are known to be nowhere yet, for pushes to come.
    fn note_source(&self, repository: &Repository) {
        for blob in self.image.blobs.values() {
            if blob.info().labels.contains_key(LABEL_SOURCE) {
                continue;
            }
            let info = BlobInfo {
                labels: [(LABEL_SOURCE.to_owned(), repository.to_string())].into(),
                ..BlobInfo::default()
            };
            // Nobody waits for it: without the note, the blob is uploaded again some day.
            drop(self.store.blobs().annotate(blob, info));
        }
    }
}

fn upload(descriptor: &Descriptor, blob: &BlobRef, pushed: &[Repository]) -> BlobUpload {
    let source = blob.info().labels.get(LABEL_SOURCE);
    let source = source.and_then(|source| source.parse::<Repository>().ok());
    BlobUpload {
        descriptor: descriptor.clone(),
        content: Arc::new(blob.path()),
        mount_from: pushed.iter().cloned().chain(source).collect(),
    }
}

/// Names by their repositories, in the order in which these first come.
fn by_repository(names: &[Reference]) -> Vec<(Repository, Vec<&Reference>)> {
    let mut groups: Vec<(Repository, Vec<&Reference>)> = Vec::new();
    for name in names {
        match groups
            .iter_mut()
            .find(|(repository, _)| repository == name.repository())
        {
            Some((_, tags)) => tags.push(name),
            None => groups.push((name.repository().clone(), vec![name])),
        }
    }
    groups
}
