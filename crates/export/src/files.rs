//! The files of a result, as they are exported without an image.

use std::collections::HashMap;
use std::path::PathBuf;

use weld_fileset::Timestamp;

use crate::ExportError;
use crate::attestation::Loaded;
use crate::destination::Destination;
use crate::exporter::Built;
use crate::options::{FileOptions, LocalMode};
use crate::stream::Stream;
use crate::tree::{AttestationNames, Tree};
use crate::tree_tar::TreeTar;
use crate::watch::Watch;

/// An export of the files themselves.
pub(crate) struct FilesExport {
    pub(crate) trees: Vec<Tree>,
    pub(crate) split: bool,
    pub(crate) mode: LocalMode,
    pub(crate) epoch: Option<Timestamp>,
}

impl FilesExport {
    pub(crate) fn new(
        built: &Built,
        options: &FileOptions,
        said: &[Vec<Loaded>],
    ) -> Result<Self, ExportError> {
        let of_result = built.epoch.filter(|_| !options.no_epoch);
        let epoch = options.epoch.or(of_result).map(|epoch| Timestamp {
            seconds: epoch.unix_timestamp(),
            nanoseconds: 0,
        });
        let split = options.platform_split.unwrap_or(built.is_multi_platform);
        let naming = AttestationNames {
            prefix: &options.attestation_prefix,
            platform: built.is_multi_platform && !split,
        };
        let trees = built.platforms.iter().zip(said);
        let files = Self {
            trees: trees
                .map(|(platform, said)| {
                    Tree::open(platform, epoch)?.with_attestations(said, naming)
                })
                .collect::<Result<_, _>>()?,
            split,
            mode: options.mode,
            epoch,
        };
        if !files.split {
            files.check_unique()?;
        }
        Ok(files)
    }

    /// Without directories of their own, platforms must not have the same files.
    fn check_unique(&self) -> Result<(), ExportError> {
        if self.trees.len() < 2 {
            return Ok(());
        }
        let mut seen: HashMap<&PathBuf, &str> = HashMap::new();
        for tree in &self.trees {
            for entry in tree.entries.iter().filter(|entry| !entry.is_dir()) {
                if let Some(first) = seen.insert(&entry.path, &tree.platform) {
                    return Err(ExportError::Overwrite {
                        path: entry.path.clone(),
                        first: first.to_owned(),
                        second: tree.platform.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write_tar(
        &self,
        destination: &Destination,
        watch: &Watch,
    ) -> Result<(), ExportError> {
        let stream = Stream::new(destination.handle(), watch);
        let mut tar = TreeTar::new(stream, destination.path());
        for tree in &self.trees {
            match self.split {
                true => tar.add_split(tree, self.epoch)?,
                false => tar.add(tree, b"")?,
            }
        }
        tar.finish()
    }
}
