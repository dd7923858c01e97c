use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use weld_digest::Hasher;
use weld_export::{Destination, ExportError, ExportKind, ExportRequest, ExportTarget};
use weld_fileset::{SelectionOptions, open_beneath};
use weld_proto::session::BytesMessage;
use weld_session::transfer::RemoteTree;
use weld_source::local::{
    DirTarget, HostDir, ProviderError, Stat, SyncError, TreeIndex, TreeProvider, TreeTarget, sync,
};
use weld_source::progress::Progress;

use crate::ClientError;

/// How many pieces of a file may wait to be written.
const QUEUE: usize = 8;

/// Where the results of a build go, in the order of its request.
#[derive(Debug, Default)]
pub struct Targets(Vec<Target>);

#[derive(Debug)]
enum Target {
    /// Nothing comes.
    None,
    /// Files, into a directory.
    Directory { path: PathBuf, delete: bool },
    /// An archive.
    File {
        kind: ExportKind,
        target: ExportTarget,
    },
}

/// Why files were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    #[error("exporter {0} not found")]
    Unknown(usize),
    #[error("cannot use {path}: {source}", path = .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("mode=delete needs a daemon that sends the files of all platforms at once")]
    Partial,
    #[error(transparent)]
    Sync(#[from] SyncError),
    #[error("cannot list what is there: {0}")]
    List(String),
}

impl Targets {
    /// Where `exports` say.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`] for what a daemon cannot send.
    pub fn new(exports: &[ExportRequest]) -> Result<Self, ClientError> {
        exports
            .iter()
            .map(|export| match (&export.target, export.kind) {
                (ExportTarget::Nowhere, _) => Ok(Target::None),
                (ExportTarget::Directory(path), ExportKind::Local) => Ok(Target::Directory {
                    path: path.clone(),
                    delete: export
                        .attrs
                        .get("mode")
                        .is_some_and(|mode| mode == "delete"),
                }),
                (ExportTarget::Directory(_), _) => Err(ClientError::Unsupported(
                    "an image layout in a directory (tar=false): write an archive, or build \
                     without a daemon",
                )),
                (ExportTarget::Client(_), _) => {
                    Err(ClientError::Unsupported("results for another client"))
                }
                (ExportTarget::File(_) | ExportTarget::Stdout, kind) => Ok(Target::File {
                    kind,
                    target: export.target.clone(),
                }),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn is_directory(&self, number: usize) -> Result<bool, Status> {
        match self.0.get(number) {
            Some(Target::Directory { .. }) => Ok(true),
            Some(Target::File { .. }) => Ok(false),
            Some(Target::None) | None => {
                Err(Status::not_found(TakeError::Unknown(number).to_string()))
            }
        }
    }

    pub(super) async fn take_tree(
        &self,
        number: usize,
        tree: RemoteTree,
        is_whole: bool,
    ) -> Result<(), TakeError> {
        let Some(Target::Directory { path, delete }) = self.0.get(number) else {
            return Err(TakeError::Unknown(number));
        };
        if *delete && !is_whole {
            return Err(TakeError::Partial);
        }
        let unusable = |source| TakeError::Directory {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let target = Arc::new(Merged::open(path).map_err(unusable)?);
        let tree = Arc::new(Own::new(tree));
        let previous = Arc::new(TreeIndex::empty());
        let synced = sync(tree, Arc::clone(&target), previous, &Progress::none()).await?;
        if *delete {
            let path = path.clone();
            let deleted = tokio::task::spawn_blocking(move || {
                delete_others(&path, &synced.index, &target.inner)
            });
            deleted
                .await
                .map_err(|error| TakeError::List(error.to_string()))??;
        }
        Ok(())
    }

    pub(super) async fn take_file(
        &self,
        number: usize,
        mut content: Streaming<BytesMessage>,
    ) -> Result<(), Status> {
        let Some(Target::File { kind, target }) = self.0.get(number) else {
            return Err(Status::not_found(TakeError::Unknown(number).to_string()));
        };
        let (kind, target) = (*kind, target.clone());
        let (pieces, mut queue) = mpsc::channel::<Option<Bytes>>(QUEUE);
        let writing = tokio::task::spawn_blocking(move || {
            let destination = Destination::open(kind, &target)?;
            let write_error = |source| ExportError::Write {
                action: "write",
                path: destination.path().to_owned(),
                source,
            };
            loop {
                match queue.blocking_recv() {
                    Some(Some(piece)) => {
                        destination
                            .handle()
                            .write_all(&piece)
                            .map_err(write_error)?;
                    }
                    Some(None) => return destination.publish(),
                    // It is not whole: what was written goes.
                    None => return Err(ExportError::Cancelled),
                }
            }
        });
        let reading = async move {
            while let Some(message) = content.message().await? {
                if pieces.send(Some(message.data)).await.is_err() {
                    // Why is what writing tells.
                    return Ok(());
                }
            }
            drop(pieces.send(None).await);
            Ok::<_, Status>(())
        };
        let (read, written) = tokio::join!(reading, writing);
        read?;
        let written = written.map_err(|error| Status::internal(error.to_string()))?;
        written.map_err(|error| Status::internal(error.to_string()))
    }
}

/// Files that belong to whoever takes them, as BuildKit's clients have it.
struct Own {
    inner: RemoteTree,
    uid: u32,
    gid: u32,
}

impl Own {
    fn new(inner: RemoteTree) -> Self {
        Self {
            inner,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

impl TreeProvider for Own {
    fn stats(&self, known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        let mut stats = self.inner.stats(known)?;
        for stat in &mut stats {
            (stat.uid, stat.gid) = (self.uid, self.gid);
            if self.uid != 0 {
                let own = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b"user.");
                stat.xattrs.retain(|(name, _)| own(name));
            }
        }
        Ok(stats)
    }

    fn announce(&self, wanted: &[usize]) {
        self.inner.announce(wanted);
    }

    fn open(&self, number: usize, stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        self.inner.open(number, stat)
    }

    fn finish(&self) -> Result<(), ProviderError> {
        self.inner.finish()
    }

    fn cancel(&self) {
        self.inner.cancel();
    }

    fn parallel(&self) -> usize {
        self.inner.parallel()
    }
}

/// A directory that may have something already: what has the name of something that comes goes.
struct Merged {
    root: OwnedFd,
    inner: DirTarget,
}

impl Merged {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            inner: DirTarget::at(root.try_clone()?),
            root,
        })
    }

    /// Makes room for a path: removes what is there, unless it is of a kind that stays.
    fn clear(&self, stat: &Stat, stays: impl FnOnce(FileType) -> bool) -> io::Result<()> {
        let parent = stat.path.parent().unwrap_or(Path::new(""));
        let Some(name) = stat.path.file_name() else {
            return Ok(());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = open_beneath(self.root.as_fd(), parent, flags)?;
        let there = match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => FileType::from_raw_mode(there.st_mode),
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if stays(there) {
            return Ok(());
        }
        match there {
            FileType::Directory => {
                let parent = format!("/proc/self/fd/{}", parent.as_raw_fd());
                fs::remove_dir_all(Path::new(&parent).join(name))
            }
            _ => Ok(rustix::fs::unlinkat(&parent, name, AtFlags::empty())?),
        }
    }
}

impl TreeTarget for Merged {
    fn begin(&self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, stat: &Stat) -> io::Result<()> {
        self.inner.remove(stat)
    }

    fn hasher(&self, stat: &Stat) -> Hasher {
        self.inner.hasher(stat)
    }

    fn make_dir(&self, stat: &Stat) -> io::Result<()> {
        self.clear(stat, |there| there == FileType::Directory)?;
        self.inner.make_dir(stat)
    }

    fn make_file(&self, stat: &Stat, content: &mut dyn Read) -> io::Result<()> {
        // A file is replaced by the target itself.
        self.clear(stat, |there| there != FileType::Directory)?;
        self.inner.make_file(stat, content)
    }

    fn make_node(&self, stat: &Stat) -> io::Result<()> {
        self.clear(stat, |there| there != FileType::Directory)?;
        self.inner.make_node(stat)
    }

    fn hard_link(&self, stat: &Stat, first: &Path) -> io::Result<()> {
        self.clear(stat, |there| there != FileType::Directory)?;
        self.inner.hard_link(stat, first)
    }

    fn set_metadata(&self, stat: &Stat) -> io::Result<()> {
        self.inner.set_metadata(stat)
    }
}

/// Deletes what is in a directory and not in the tree that came.
fn delete_others(path: &Path, index: &TreeIndex, target: &DirTarget) -> Result<(), TakeError> {
    if fs::canonicalize(path).is_ok_and(|real| real.parent().is_none()) {
        return Err(TakeError::List("mode=delete is refused for /".to_owned()));
    }
    let listed = HostDir::open(path, SelectionOptions::default())
        .map_err(|error| TakeError::List(error.to_string()))?
        .stats(&TreeIndex::empty())
        .map_err(|error| TakeError::List(error.to_string()))?;
    let wanted: HashSet<&Path> = index
        .entries()
        .iter()
        .map(|entry| entry.stat.path.as_path())
        .collect();
    for stat in listed.iter().rev() {
        if !wanted.contains(stat.path.as_path()) {
            target.remove(stat).map_err(|source| TakeError::Directory {
                path: path.join(&stat.path),
                source,
            })?;
        }
    }
    Ok(())
}
