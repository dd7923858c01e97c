//! Results that go to a client at the other end of a connection.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use rustix::fs::FileType;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use weld_digest::Digest;
use weld_fileset::{Entry, Timestamp, compare_paths};
use weld_source::local::{ProviderError, Stat, TreeIndex, TreeProvider};

use crate::ExportError;
use crate::local::is_exported;
use crate::tree::Tree;

/// How much of an archive may be between who writes it and who sends it, in bytes.
const PIPE: usize = 1 << 20;

/// What a client takes.
pub type Content = Box<dyn AsyncRead + Send + Unpin>;

/// A client that takes results.
#[async_trait]
pub trait ResultReceiver: Send + Sync + 'static {
    /// Takes files, of all platforms at once, into a directory.
    ///
    /// # Errors
    /// What sending meets.
    async fn tree(&self, files: Arc<dyn TreeProvider>) -> io::Result<()>;

    /// Takes an archive, and what the exporter tells of it. If reading `content` fails, the client
    /// must not take it for complete.
    ///
    /// # Errors
    /// What sending meets.
    async fn file(&self, response: &BTreeMap<String, String>, content: Content) -> io::Result<()>;

    /// Takes the blobs of an image.
    ///
    /// # Errors
    /// What sending meets.
    async fn blobs(&self, blobs: Vec<ResultBlob>) -> io::Result<()>;
}

/// A blob of an image.
#[derive(Clone, Debug)]
pub struct ResultBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length, in bytes.
    pub size: u64,
    /// The file that has it.
    pub path: PathBuf,
}

/// A client as a target.
#[derive(Clone)]
pub struct ClientTarget(Arc<dyn ResultReceiver>);

impl ClientTarget {
    /// Results go to `receiver`.
    pub fn new(receiver: Arc<dyn ResultReceiver>) -> Self {
        Self(receiver)
    }

    pub(crate) fn receiver(&self) -> &Arc<dyn ResultReceiver> {
        &self.0
    }
}

impl PartialEq for ClientTarget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ClientTarget {}

impl std::fmt::Debug for ClientTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTarget")
    }
}

/// For `map_err`: a failure to send.
pub(crate) fn send_error(source: io::Error) -> ExportError {
    ExportError::Client { source }
}

/// Whether an error only says that the other one stopped reading.
fn is_broken_pipe(error: &ExportError) -> bool {
    match error {
        ExportError::Write { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}

/// What became of an archive that one wrote and another sent.
pub(crate) fn judge(
    written: Result<(), ExportError>,
    sent: io::Result<()>,
) -> Result<(), ExportError> {
    match (written, sent) {
        (Ok(()), sent) => sent.map_err(send_error),
        (Err(error), Err(source)) if is_broken_pipe(&error) => Err(send_error(source)),
        // The client is content with less, or with having been told.
        (Err(error), Ok(())) if is_broken_pipe(&error) => Ok(()),
        (Err(error), _) => Err(error),
    }
}

/// A pipe from who writes an archive to who sends it: the file to write to, what comes out, and
/// who is told that all was written.
pub(crate) fn pipe() -> io::Result<(File, Content, oneshot::Sender<()>)> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (out, into) = rustix::pipe::pipe_with(flags)?;
    // A smaller one only costs time.
    let _ = rustix::pipe::fcntl_setpipe_size(&into, PIPE);
    let (complete, is_complete) = oneshot::channel();
    let content = PipeContent {
        pipe: pipe::Receiver::from_owned_fd(out)?,
        is_complete: Some(is_complete),
    };
    Ok((File::from(into), Box::new(content), complete))
}

struct PipeContent {
    pipe: pipe::Receiver,
    is_complete: Option<oneshot::Receiver<()>>,
}

impl AsyncRead for PipeContent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buffer))?;
        if buffer.filled().len() == before
            && buffer.remaining() > 0
            && let Some(is_complete) = &mut self.is_complete
        {
            let complete = ready!(Pin::new(is_complete).poll(cx));
            self.is_complete = None;
            complete.map_err(|_| io::Error::other("the result is incomplete"))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The files of all platforms as one tree.
pub(crate) struct ResultTree {
    trees: Vec<Tree>,
    files: Vec<(Stat, Option<(usize, usize)>)>,
}

impl ResultTree {
    /// The files of `trees`, each in a directory of its own if `split`.
    pub(crate) fn new(trees: Vec<Tree>, split: bool, epoch: Option<Timestamp>) -> Self {
        let mut files = Vec::new();
        for (number, tree) in trees.iter().enumerate() {
            let prefix = if split {
                tree.directory()
            } else {
                PathBuf::new()
            };
            if split {
                files.push((directory(&prefix, epoch), None));
            }
            for (place, entry) in tree.entries.iter().enumerate() {
                if is_exported(entry.metadata.file_type()) {
                    files.push((stat(tree, entry, &prefix), Some((number, place))));
                }
            }
        }
        if trees.len() > 1 {
            files.sort_by(|(one, _), (other, _)| compare_paths(&one.path, &other.path));
            // Platforms that share a directory have it once; nothing else can be shared.
            files.dedup_by(|(one, _), (other, _)| one.path == other.path);
        }
        Self { trees, files }
    }
}

impl TreeProvider for ResultTree {
    fn stats(&self, _known: &TreeIndex) -> Result<Vec<Stat>, ProviderError> {
        Ok(self.files.iter().map(|(stat, _)| stat.clone()).collect())
    }

    fn open(&self, number: usize, _stat: &Stat) -> io::Result<Box<dyn Read + Send>> {
        let found = self.files.get(number).and_then(|(_, place)| {
            let (tree, entry) = (*place)?;
            let tree = self.trees.get(tree)?;
            Some((tree, tree.entries.get(entry)?))
        });
        let (tree, entry) = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(tree.file(entry).map_err(io::Error::other)?))
    }
}

fn directory(path: &Path, epoch: Option<Timestamp>) -> Stat {
    Stat {
        path: path.to_owned(),
        mode: FileType::Directory.as_raw_mode() | 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: epoch.unwrap_or(Timestamp {
            seconds: 0,
            nanoseconds: 0,
        }),
        link_target: None,
        hard_link: None,
        rdev: (0, 0),
        xattrs: Vec::new(),
        change: None,
    }
}

fn stat(tree: &Tree, entry: &Entry, prefix: &Path) -> Stat {
    let metadata = &entry.metadata;
    let kind = metadata.file_type();
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Stat {
        path: prefix.join(&entry.path),
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        size: match kind {
            FileType::RegularFile => metadata.size,
            _ => 0,
        },
        mtime: metadata.mtime,
        link_target: entry.link_target.clone(),
        // Other kinds than files are made anew under each name.
        hard_link: tree
            .first_name(entry)
            .filter(|_| kind == FileType::RegularFile)
            .map(|first| prefix.join(first)),
        rdev: if is_device { metadata.rdev } else { (0, 0) },
        xattrs: entry.xattrs.clone(),
        change: None,
    }
}
