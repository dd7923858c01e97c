//! An image as an archive of an OCI layout, for docker with docker's own table of contents too.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;
use weld_digest::Digest;
use weld_source::image::Descriptor;
use weld_source::image::media_type::OCI_INDEX;

/// What an archive holds.
pub(crate) struct Archive<'a> {
    /// The image's manifest, or its index.
    pub(crate) root: &'a Descriptor,
    /// The image's names with their tags, fully written out.
    pub(crate) names: &'a [ImageName],
    /// All blobs and their lengths.
    pub(crate) blobs: BTreeMap<Digest, u64>,
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

/// Opens a blob for reading.
pub(crate) trait OpenBlob {
    /// The content of `digest`.
    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read>>;
}

const BLOCK: usize = 512;
const COPY_BUFFER: usize = 1 << 20;

impl Archive<'_> {
    /// Writes the archive as tar; the same image always gives the same bytes.
    pub(crate) fn write_tar(&self, out: &mut dyn Write, blobs: &dyn OpenBlob) -> io::Result<()> {
        directory(out, "blobs/")?;
        let mut algorithm = "";
        for (digest, size) in &self.blobs {
            if algorithm != digest.algorithm().name() {
                algorithm = digest.algorithm().name();
                directory(out, &format!("blobs/{algorithm}/"))?;
            }
            let content = blobs.open(digest)?;
            file(out, &blob_path(digest), *size, content)?;
        }
        for (name, content) in self.small_files()? {
            file(
                out,
                name,
                content.len() as u64,
                Box::new(content.as_slice()),
            )?;
        }
        // The end of the archive.
        out.write_all(&[0; 2 * BLOCK])?;
        out.flush()
    }

    /// Writes the layout into a directory: blobs first, the index last, so that a reader never
    /// finds an index whose blobs are not there.
    pub(crate) fn write_directory(&self, directory: &Path, blobs: &dyn OpenBlob) -> io::Result<()> {
        for (digest, size) in &self.blobs {
            let path = directory.join(blob_path(digest));
            if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == *size) {
                continue;
            }
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            replace(&path, &mut *blobs.open(digest)?)?;
        }
        for (name, content) in self.small_files()?.into_iter().rev() {
            replace(&directory.join(name), &mut content.as_slice())?;
        }
        Ok(())
    }

    fn small_files(&self) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = vec![("index.json", self.index()?)];
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

    fn index(&self) -> io::Result<Vec<u8>> {
        let named = |name: &ImageName| {
            let mut descriptor = self.root.clone();
            descriptor
                .annotations
                .insert("io.containerd.image.name".into(), name.full.clone());
            descriptor
                .annotations
                .insert("org.opencontainers.image.ref.name".into(), name.tag.clone());
            descriptor
        };
        let manifests: Vec<Descriptor> = match self.names {
            [] => vec![self.root.clone()],
            names => names.iter().map(named).collect(),
        };
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        Ok(serde_json::to_vec(&index)?)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn header(kind: tar::EntryType, name: &str, mode: u32, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(name)?;
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn directory(out: &mut dyn Write, name: &str) -> io::Result<()> {
    out.write_all(header(tar::EntryType::Directory, name, 0o755, 0)?.as_bytes())
}

fn file(out: &mut dyn Write, name: &str, size: u64, content: Box<dyn Read + '_>) -> io::Result<()> {
    out.write_all(header(tar::EntryType::Regular, name, 0o444, size)?.as_bytes())?;
    let copied = copy(&mut content.take(size), out)?;
    if copied != size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{name} ends after {copied} of {size} bytes"),
        ));
    }
    let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    out.write_all(&[0; BLOCK][..padding])
}

fn copy(content: &mut dyn Read, out: &mut dyn Write) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut copied = 0;
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        out.write_all(&buffer[..count])?;
        copied += count as u64;
    }
}

/// Puts a file in place whole, or not at all.
fn replace(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::File::create(&partial).and_then(|mut file| copy(content, &mut file));
    written
        .and_then(|_| std::fs::rename(&partial, path))
        .inspect_err(|_| {
            // What went wrong is told; what is left of the try is in nobody's way.
            let _ = std::fs::remove_file(&partial);
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Blobs(Vec<Vec<u8>>);

    impl OpenBlob for Blobs {
        fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read>> {
            let blob = self
                .0
                .iter()
                .find(|blob| Digest::sha256_of(blob) == *digest);
            let blob = blob.ok_or(io::ErrorKind::NotFound)?.clone();
            Ok(Box::new(io::Cursor::new(blob)))
        }
    }

    fn sample(check: impl FnOnce(&Archive<'_>, &Blobs)) {
        let blobs = Blobs(vec![
            b"manifest".to_vec(),
            vec![7; 1000],
            b"config".to_vec(),
            Vec::new(),
        ]);
        let root = Descriptor::of("type", &blobs.0[0]);
        let name = ImageName {
            full: "docker.io/library/a:1".into(),
            familiar: "a:1".into(),
            tag: "1".into(),
        };
        let archive = Archive {
            root: &root,
            names: &[name],
            blobs: blobs
                .0
                .iter()
                .map(|blob| (Digest::sha256_of(blob), blob.len() as u64))
                .collect(),
            docker: Some((
                Digest::sha256_of(b"config"),
                vec![Digest::sha256_of([7; 1000])],
            )),
        };
        check(&archive, &blobs);
    }

    #[test]
    fn tar_and_directory_hold_the_same_files() {
        sample(|archive, blobs| {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            archive.write_tar(&mut first, blobs).unwrap();
            archive.write_tar(&mut second, blobs).unwrap();
            assert_eq!(first, second);
            let (unpacked, written) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            tar::Archive::new(first.as_slice())
                .unpack(unpacked.path())
                .unwrap();
            archive.write_directory(written.path(), blobs).unwrap();
            archive.write_directory(written.path(), blobs).unwrap();
            let difference = std::process::Command::new("diff")
                .arg("-r")
                .args([unpacked.path(), written.path()])
                .output()
                .unwrap();
            assert!(difference.status.success(), "{difference:?}");
            let index = std::fs::read_to_string(written.path().join("index.json")).unwrap();
            assert!(
                index.contains(r#""io.containerd.image.name":"docker.io/library/a:1""#),
                "{index}"
            );
        });
    }

    #[test]
    fn a_blob_that_is_shorter_than_it_should_be_is_an_error() {
        sample(|archive, blobs| {
            let longer = archive
                .blobs
                .keys()
                .map(|digest| (digest.clone(), 5000))
                .collect();
            let archive = Archive {
                root: archive.root,
                names: archive.names,
                blobs: longer,
                docker: None,
            };
            let error = archive.write_tar(&mut Vec::new(), blobs).unwrap_err();
            assert!(error.to_string().contains("of 5000 bytes"), "{error}");
        });
    }
}
