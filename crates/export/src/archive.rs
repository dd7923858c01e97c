//! An image as an archive of an OCI layout, for docker with docker's own table of contents too, or
//! as a layout in a directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use weld_digest::{Digest, Hasher};
use weld_source::image::media_type::OCI_INDEX;
use weld_source::image::{ANNOTATION_REF_NAME, Descriptor, Index};
use weld_source::index_lock::IndexLock;
use weld_source::oci_layout::OciLayout;
use weld_source::set_aside::{make_directory, put_aside};

use crate::ExportError;
use crate::client::ResultBlob;
use crate::destination::Destination;
use crate::error::write_error;
use crate::layout_tar::{LayoutTar, blob_path};
use crate::stream::Stream;
use crate::watch::Watch;

/// What an archive holds.
pub(crate) struct Archive<'a> {
    /// The image's manifest, or its index.
    pub(crate) root: &'a Descriptor,
    /// The image's names with their tags, fully written out.
    pub(crate) names: &'a [ImageName],
    /// The layers of its images, which are the first of an archive.
    pub(crate) layers: &'a [Digest],
    /// All blobs: their files and lengths.
    pub(crate) blobs: BTreeMap<Digest, (PathBuf, u64)>,
    /// What `docker load` needs to be told: the config's digest and the layers'.
    pub(crate) docker: Option<(Digest, Vec<Digest>)>,
}

/// One of an image's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// With registry and tag: `docker.io/library/app:1`.
    pub(crate) full: String,
    /// As people write it: `app:1`.
    pub(crate) familiar: String,
    /// The tag alone: `1`.
    pub(crate) tag: String,
}

/// The annotation by which containerd knows an image's name.
const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";
/// A blob is read in pieces of this many bytes.
const PIECE: usize = 256 << 10;
/// An index of a layout that is larger than this is not one that tools write.
const MAX_INDEX: u64 = 16 << 20;

impl Archive<'_> {
    /// The bytes of all blobs.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.values().map(|(_, size)| size).sum()
    }

    /// All blobs, for a client that takes them.
    pub(crate) fn result_blobs(&self) -> Vec<ResultBlob> {
        let blobs = self.blobs.iter();
        blobs
            .map(|(digest, (path, size))| ResultBlob {
                digest: digest.clone(),
                size: *size,
                path: path.clone(),
            })
            .collect()
    }

    /// Adds to an archive what is not there yet, and ends it: the layers in their order, the other
    /// blobs, the small files. The same image always gives the same bytes.
    pub(crate) fn write_tar(&self, mut tar: LayoutTar<'_>) -> io::Result<()> {
        for digest in self.layers.iter().chain(self.blobs.keys()) {
            if let Some((file, size)) = self.blobs.get(digest) {
                tar.blob(digest, file, *size)?;
            }
        }
        for (name, content) in self.small_files(self.entries())? {
            tar.file(name, &content)?;
        }
        tar.finish()
    }

    /// Writes the layout into a directory, beside the images that are there: blobs first, the
    /// index last, so that a reader never finds an index whose blobs are not there. What is damaged there, or in the way, is replaced,
    /// which is told; what could be of worth is set aside.
    pub(crate) fn write_directory(
        &self,
        directory: &Path,
        watch: &Watch,
    ) -> Result<(), ExportError> {
        fs::create_dir_all(directory).map_err(write_error("create directory", directory))?;
        let mut damaged = Vec::new();
        for (digest, (file, size)) in &self.blobs {
            let path = directory.join(blob_path(digest));
            let found = found(directory, digest, *size, watch);
            if found == Found::Sound {
                continue;
            }
            // Why not may be that nobody wants it any more.
            watch
                .check()
                .map_err(write_error("write", path.as_path()))?;
            match found {
                Found::Damaged => damaged.push(digest.hex()),
                _ => clear_parents(directory, digest, watch)?,
            }
            clear(directory, &path, watch)?;
            let destination = Destination::replacing(&path)?;
            let mut stream = Stream::new(destination.handle(), watch);
            File::open(file)
                .and_then(|file| stream.copy_blob(&file, *size, digest))
                .and_then(|()| stream.flush())
                .map_err(write_error("write", path.as_path()))?;
            destination.publish()?;
        }
        if !damaged.is_empty() {
            watch.warn(&format!(
                "{}: blobs were not what their digests say, and are written anew: {}",
                directory.display(),
                damaged.join(", ")
            ));
        }
        let _lock = IndexLock::take(directory, watch)
            .map_err(write_error("list the image in", directory))?;
        let index = directory.join("index.json");
        let listed = listed(directory, &index, watch)?;
        let mut entries = others(listed, self.names, self.root);
        match self.names {
            // The one without a name, in place of the one before.
            [] => {
                let mut descriptor = self.root.clone();
                let annotations = &mut descriptor.annotations;
                annotations.insert(ANNOTATION_REF_NAME.into(), UNNAMED.into());
                entries.push(descriptor);
            }
            _ => entries.extend(self.entries()),
        }
        let files = self
            .small_files(entries)
            .map_err(write_error("write", index))?;
        for (name, content) in files.into_iter().rev() {
            let path = directory.join(name);
            clear(directory, &path, watch)?;
            let destination = Destination::replacing(&path)?;
            destination
                .handle()
                .write_all(&content)
                .map_err(write_error("write", path))?;
            destination.publish()?;
        }
        Ok(())
    }

    fn small_files(&self, entries: Vec<Descriptor>) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let mut files = vec![("index.json", serde_json::to_vec(&index)?)];
        if let Some((config, layers)) = &self.docker {
            let contents = json!([{
                "Config": blob_path(config),
                "RepoTags": self.names.iter().map(|name| &name.familiar).collect::<Vec<_>>(),
                "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
            }]);
            files.push(("manifest.json", contents.to_string().into_bytes()));
        }
        files.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        Ok(files)
    }

    /// What the layout's index says of the image: once for each name.
    fn entries(&self) -> Vec<Descriptor> {
        let named = |name: &ImageName| {
            let mut descriptor = self.root.clone();
            let annotations = &mut descriptor.annotations;
            annotations.insert(ANNOTATION_IMAGE_NAME.into(), name.full.clone());
            annotations.insert(ANNOTATION_REF_NAME.into(), name.tag.clone());
            descriptor
        };
        match self.names {
            [] => vec![self.root.clone()],
            names => names.iter().map(named).collect(),
        }
    }
}

/// What an image without a name is called in a layout that is a directory, as BuildKit's clients have it.
const UNNAMED: &str = "latest";

/// What a layout has in the place of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The blob.
    Sound,
    /// A file that is another than its name says.
    Damaged,
    /// No file.
    Nothing,
}

/// Looks whether a layout has a blob, and it is what its name says: that takes no longer than to write it anew, as what is written is
/// looked at, too.
fn found(directory: &Path, digest: &Digest, size: u64, watch: &Watch) -> Found {
    let found = OciLayout::of_blobs(directory).and_then(|layout| layout.find_blob(digest));
    let Ok(Some((mut file, length))) = found else {
        return Found::Nothing;
    };
    if length != size {
        return Found::Damaged;
    }
    let mut hasher = Hasher::new(digest.algorithm());
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => {
                return match hasher.finish() == *digest {
                    true => Found::Sound,
                    false => Found::Damaged,
                };
            }
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A medium that cannot read it has lost it.
            Err(_) => return Found::Damaged,
        }
        if watch.check().is_err() {
            return Found::Nothing;
        }
    }
}

/// Sees to it that there is the directory of a blob.
fn clear_parents(directory: &Path, digest: &Digest, watch: &Watch) -> Result<(), ExportError> {
    let blobs = directory.join("blobs");
    let of_algorithm = blobs.join(digest.algorithm().name());
    for path in [blobs, of_algorithm] {
        let aside = make_directory(directory, &path)
            .map_err(write_error("create directory", path.as_path()))?;
        if let Some(aside) = aside {
            watch.warn(&format!(
                "what was at {} was no directory, and is {} now",
                path.display(),
                aside.display()
            ));
        }
    }
    Ok(())
}

/// Makes way for a file: what is there and is none is set aside if it could be of worth, and replaced if not.
fn clear(directory: &Path, path: &Path, watch: &Watch) -> Result<(), ExportError> {
    let is_dir = match fs::symlink_metadata(path) {
        Ok(odd) if !odd.is_file() => odd.is_dir(),
        _ => return Ok(()),
    };
    let becomes_of_it = match is_dir && fs::remove_dir(path).is_err() {
        true => {
            let aside = put_aside(directory, path)
                .map_err(write_error("put a file in the place of", path))?;
            format!("is {} now", aside.display())
        }
        false => "is replaced".to_owned(),
    };
    let path = path.display();
    watch.warn(&format!(
        "what was at {path} was no file, and {becomes_of_it}"
    ));
    Ok(())
}

/// What a layout's index lists. One that is none is set aside.
fn listed(directory: &Path, index: &Path, watch: &Watch) -> Result<Vec<Descriptor>, ExportError> {
    let fail = |error| write_error("add to", index)(error);
    match fs::metadata(index) {
        Ok(metadata) if metadata.len() > MAX_INDEX => {
            return Err(fail(io::Error::other("the index there is too large")));
        }
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(fail(io::Error::other("it is no file: remove it"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    }
    let content = fs::read(index).map_err(fail)?;
    match serde_json::from_slice::<Index>(&content) {
        Ok(index) => Ok(index.manifests),
        Err(reason) => {
            let aside = put_aside(directory, index).map_err(fail)?;
            watch.warn(&format!(
                "{}: its index cannot be read ({reason}), is {} now, and what it listed is lost",
                directory.display(),
                aside.display()
            ));
            Ok(Vec::new())
        }
    }
}

/// The entries of a layout's index that stay when an image of these names comes in.
fn others(mut entries: Vec<Descriptor>, names: &[ImageName], root: &Descriptor) -> Vec<Descriptor> {
    entries.retain(|entry| {
        match (
            entry.annotations.get(ANNOTATION_IMAGE_NAME),
            entry.annotations.get(ANNOTATION_REF_NAME),
        ) {
            (Some(full), _) => names.iter().all(|name| name.full != *full),
            (None, Some(tag)) if names.is_empty() => tag != UNNAMED,
            // Other tools name images by tag alone.
            (None, Some(tag)) => names.iter().all(|name| name.tag != *tag),
            (None, None) => entry.digest != root.digest,
        }
    });
    entries
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use weld_source::progress::Progress;

    use super::*;

    fn watch() -> Watch {
        Watch::start(&Progress::none(), "test", None, &CancellationToken::new())
    }

    fn tar_of(archive: &Archive<'_>) -> io::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new()?;
        archive.write_tar(LayoutTar::begin(Stream::new(file.as_file(), &watch()))?)?;
        fs::read(file.path())
    }

    fn name(tag: &str) -> ImageName {
        ImageName {
            full: format!("docker.io/library/a:{tag}"),
            familiar: format!("a:{tag}"),
            tag: tag.into(),
        }
    }

    fn sample(names: &[ImageName], check: impl FnOnce(&Archive<'_>)) {
        let directory = tempfile::tempdir().unwrap();
        let blobs = [
            b"manifest".to_vec(),
            vec![7; 1000],
            b"config".to_vec(),
            Vec::new(),
            vec![1; 3 << 20],
        ];
        let root = Descriptor::of("type", &blobs[0]);
        let stored = |blob: &Vec<u8>| {
            let digest = Digest::sha256_of(blob);
            let path = directory.path().join(digest.hex());
            fs::write(&path, blob).unwrap();
            (digest, (path, blob.len() as u64))
        };
        let archive = Archive {
            root: &root,
            names,
            layers: &[],
            blobs: blobs.iter().map(stored).collect(),
            docker: Some((
                Digest::sha256_of(b"config"),
                vec![Digest::sha256_of([7; 1000])],
            )),
        };
        check(&archive);
    }

    #[test]
    fn tar_and_directory_hold_the_same_files() {
        sample(&[name("1")], |archive| {
            let (first, second) = (tar_of(archive).unwrap(), tar_of(archive).unwrap());
            assert_eq!(first, second);
            let (unpacked, written) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            tar::Archive::new(first.as_slice())
                .unpack(unpacked.path())
                .unwrap();
            archive.write_directory(written.path(), &watch()).unwrap();
            archive.write_directory(written.path(), &watch()).unwrap();
            let difference = std::process::Command::new("diff")
                .arg("-r")
                .args([unpacked.path(), written.path()])
                .output()
                .unwrap();
            assert!(difference.status.success(), "{difference:?}");
            let index = fs::read_to_string(written.path().join("index.json")).unwrap();
            assert!(
                index.contains(r#""io.containerd.image.name":"docker.io/library/a:1""#),
                "{index}"
            );
        });
    }

    #[test]
    fn a_layout_keeps_its_other_images() {
        let written = tempfile::tempdir().unwrap();
        for tag in ["1", "2", "1"] {
            sample(&[name(tag)], |archive| {
                archive.write_directory(written.path(), &watch()).unwrap();
            });
        }
        let index = fs::read(written.path().join("index.json")).unwrap();
        let index: Index = serde_json::from_slice(&index).unwrap();
        let tags: Vec<_> = index
            .manifests
            .iter()
            .map(|entry| entry.annotations[ANNOTATION_REF_NAME].as_str())
            .collect();
        assert_eq!(tags, ["2", "1"]);
    }

    #[test]
    fn a_blob_that_is_shorter_than_it_should_be_is_an_error() {
        for size in [5000, 50 << 20] {
            sample(&[], |archive| {
                let mut blobs = archive.blobs.clone();
                for (_, stated) in blobs.values_mut() {
                    *stated = size;
                }
                let archive = Archive {
                    root: archive.root,
                    names: archive.names,
                    layers: archive.layers,
                    blobs,
                    docker: None,
                };
                let error = tar_of(&archive).unwrap_err();
                assert!(
                    error.to_string().contains(&format!("of {size} bytes")),
                    "{error}"
                );
            });
        }
    }
}
