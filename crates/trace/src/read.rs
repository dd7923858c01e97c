//! Reading a trace from a file, piece by piece, on as many threads as there are.

use std::{
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use memchr::{memchr, memrchr};

use crate::line::{Line, LineError};

/// Bytes that are read and parsed at once.
const BLOCK: usize = 1 << 20;
/// Blocks that are parsed at once, each by one thread; as many more are read meanwhile.
const BATCH: usize = 8;
/// A line must not be longer.
const LINE_LIMIT: usize = 64 << 20;
/// How a compressed file begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is too long to be one of a trace.
    #[error("{path}: line {line} is longer than {LINE_LIMIT} bytes", path = path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// Number of the line.
        line: u64,
    },
    /// The first line does not begin a trace.
    #[error("{path}: this is not a trace: line 1: {source}", path = path.display())]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: LineError,
    },
    /// There is nothing in it.
    #[error("{}: this is not a trace: it has no whole line", .0.display())]
    Empty(PathBuf),
    /// The trace is of a later version.
    #[error("{path}: version {version} of the format is newer than this program", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
}

/// A trace that can be read from its beginning.
pub struct Reader {
    path: PathBuf,
    input: Box<dyn Read + Send>,
}

/// Some lines of a trace, in order.
pub struct Piece<'a> {
    /// Number of the first line; lines count from 1.
    pub first: u64,
    /// The lines.
    pub lines: Vec<Result<Line<'a>, LineError>>,
}

impl Piece<'_> {
    /// Each line with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Result<Line<'_>, LineError>)> {
        (self.first..).zip(&self.lines)
    }
}

impl Reader {
    /// Opens a file, compressed or not; `-` is standard input.
    ///
    /// # Errors
    /// [`ReadError::File`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File {
            path: path.to_owned(),
            source,
        };
        let mut file: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(failed)?)
        };
        let mut head = Vec::new();
        file.by_ref()
            .take(ZSTD.len() as u64)
            .read_to_end(&mut head)
            .map_err(failed)?;
        let compressed = head == ZSTD;
        let whole = io::Cursor::new(head).chain(file);
        let input: Box<dyn Read + Send> = if compressed {
            Box::new(zstd::stream::read::Decoder::new(whole).map_err(failed)?)
        } else {
            Box::new(whole)
        };
        Ok(Self {
            path: path.to_owned(),
            input,
        })
    }

    /// Hands out one piece after the other until the end, or until `each` breaks. Returns whether the file ends where its writer
    /// ended it; a file that was cut off in the middle of a line, or of a compressed block, does not. Waits for rayon's threads, so it
    /// must not be called by one of them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn pieces(
        self,
        mut each: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<bool, ReadError> {
        let Self { path, input } = self;
        std::thread::scope(|scope| {
            let (blocks, filled) = sync_channel(BATCH);
            let (used, empty) = sync_channel(2 * BATCH);
            scope.spawn(move || read_blocks(input, &blocks, &empty));
            let mut next = 1;
            let mut texts = Vec::with_capacity(BATCH);
            loop {
                let last = loop {
                    match filled.recv() {
                        Ok(Block::Lines(bytes)) => texts.push(bytes),
                        ended => break Some(ended),
                    }
                    if texts.len() == BATCH {
                        break None;
                    }
                };
                if batch(&path, &texts, &mut next, &mut each)?.is_break() {
                    return Ok(true);
                }
                for bytes in texts.drain(..) {
                    // The reader may have ended.
                    let _ = used.try_send(bytes);
                }
                return match last {
                    None => continue,
                    Some(Ok(Block::Long)) => Err(ReadError::Long { path, line: next }),
                    Some(Ok(Block::Failed(source))) => Err(ReadError::File { path, source }),
                    Some(_) if next == 1 => Err(ReadError::Empty(path)),
                    Some(Ok(_)) => Ok(false),
                    Some(Err(_)) => Ok(true),
                };
            }
        })
    }
}

/// Works on some blocks of whole lines, of which the first line has the number `next`, which becomes that behind them.
fn batch(
    path: &Path,
    texts: &[Vec<u8>],
    next: &mut u64,
    each: &mut impl FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ReadError> {
    rayon::in_place_scope(|scope| {
        let parsing = texts.iter().map(|text| {
            let (done, parsed) = sync_channel(1);
            scope.spawn(move |_| {
                // After a break nobody waits for it.
                let _ = done.send(parse(text));
            });
            parsed
        });
        // What is not worked on yet is parsed while the first is.
        let parsing: Vec<_> = parsing.collect();
        for lines in parsing.into_iter().flatten() {
            let first = *next;
            *next += lines.len() as u64;
            let piece = Piece { first, lines };
            if first == 1 {
                check_first(path, &piece)?;
            }
            if each(piece).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn check_first(path: &Path, piece: &Piece<'_>) -> Result<(), ReadError> {
    let path = || path.to_owned();
    match piece.lines.first() {
        Some(Err(source)) => Err(ReadError::NotATrace {
            path: path(),
            source: source.clone(),
        }),
        Some(Ok(line)) => match line.version {
            Some(version) if version > crate::encode::VERSION => Err(ReadError::Version {
                path: path(),
                version,
            }),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

enum Block {
    /// Whole lines.
    Lines(Vec<u8>),
    /// The file ends in the middle of something.
    Cut,
    Long,
    Failed(io::Error),
}

/// Reads blocks of whole lines until the end, or until nobody wants more.
fn read_blocks(
    mut input: Box<dyn Read + Send>,
    blocks: &SyncSender<Block>,
    empty: &Receiver<Vec<u8>>,
) {
    let mut rest = Vec::new();
    loop {
        let mut block = empty.try_recv().unwrap_or_default();
        block.clear();
        block.append(&mut rest);
        let read = input.by_ref().take(BLOCK as u64).read_to_end(&mut block);
        let cut = match &read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            Err(_) => false,
            Ok(0) => !block.is_empty(),
            Ok(_) => false,
        };
        let lines = memrchr(b'\n', &block).map_or(0, |at| at + 1);
        rest = block.split_off(lines);
        let ended = match read {
            _ if rest.len() > LINE_LIMIT => Some(Block::Long),
            _ if cut => Some(Block::Cut),
            Err(error) => Some(Block::Failed(error)),
            Ok(_) => None,
        };
        let last = ended.is_some() || (block.is_empty() && rest.is_empty());
        if !block.is_empty() && blocks.send(Block::Lines(block)).is_err() {
            return;
        }
        if let Some(ended) = ended {
            // Whoever is not there any more needs no answer.
            let _ = blocks.send(ended);
        }
        if last {
            return;
        }
    }
}

fn parse(bytes: &[u8]) -> Vec<Result<Line<'_>, LineError>> {
    let mut lines = Vec::with_capacity(bytes.len() / 200 + 1);
    let mut rest = bytes;
    while let Some(end) = memchr(b'\n', rest) {
        lines.push(Line::parse(&rest[..end]));
        rest = &rest[end + 1..];
    }
    lines
}
