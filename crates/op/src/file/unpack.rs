//! Unpacking an archive where a copy is told to: what `ADD` does with a local tar file.
//!
//! An archive is a tar file, as it is or compressed with gzip, bzip2, xz or zstd; its content
//! decides, not its name. It goes onto what is there: a directory is merged, anything else is
//! replaced. The place it is unpacked to is the root for its paths and for the links that they go
//! through.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use weld_fileset::{Layers, Timestamp, Xattr};
use weld_store::layer::{Entry, EntryKind, LayerError, TarReader};

use super::actions::{create_symlink, set_owner_at, set_times_at};
use super::archive::decompressed;
use super::content::write_all_at;
use super::copy::Copy;
use super::destination::{
    Destination, NewAttributes, Owner, WriteDir, set_owner, set_times, set_xattrs, set_xattrs_at,
};
use super::resolve::{LastLink, resolve, resolve_in, split_last};
use super::{Context, FileError};

const BUFFER: usize = 64 * 1024;

type Archive = TarReader<BufReader<Box<dyn Read + Send>>>;

/// Unpacks `path` of `source` to the destination of `action` if it is an archive, and says
/// whether it is one.
pub(crate) fn unpack(
    action: &Copy,
    source: &Layers,
    path: &Path,
    destination: &mut Destination,
    owner: Option<Owner>,
    context: &Context<'_>,
) -> Result<bool, FileError> {
    let Some(file) = open(source, path)? else {
        return Ok(false);
    };
    let damaged = |error| FileError::Unpack {
        path: path.to_owned(),
        error,
    };
    let Some((mut archive, first)) = first_entry(file).map_err(damaged)? else {
        return Ok(false);
    };
    let to = resolve(destination.layers(), &action.dest, LastLink::Follow)?;
    let attributes = NewAttributes {
        permissions: 0o755,
        owner,
        timestamp: action.timestamp,
    };
    destination.make_dirs(&to, &attributes)?;
    let mut unpacker = Unpacker {
        archive: path,
        to,
        owner,
        destination,
        dir_times: BTreeMap::new(),
        current: None,
    };
    let mut next = Some(first);
    while let Some(entry) = next {
        context.check()?;
        unpacker.entry(entry, &mut archive, context)?;
        next = archive.next_entry().map_err(damaged)?;
    }
    unpacker.finish()?;
    Ok(true)
}

/// Opens `path` if it is a regular file.
fn open(source: &Layers, path: &Path) -> Result<Option<File>, FileError> {
    let fail = |error| FileError::io("open", path, error);
    let real = resolve(source, path, LastLink::Follow)?;
    let Some((parent, name)) = split_last(&real) else {
        return Ok(None);
    };
    let dir = match source.open_dir(parent) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    match dir.child(name).map_err(fail)? {
        Some(child) if child.metadata.file_type() == FileType::RegularFile => dir
            .open_file(name, child.layer)
            .map(|file| Some(File::from(file)))
            .map_err(fail),
        _ => Ok(None),
    }
}

/// The archive that `file` holds and its first entry; `None` if it does not start like one.
fn first_entry(file: File) -> Result<Option<(Archive, Entry)>, LayerError> {
    let stream = match decompressed(BufReader::with_capacity(BUFFER, file)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(None),
        Err(error) => return Err(LayerError::Read(error)),
    };
    let mut archive = TarReader::new(BufReader::with_capacity(BUFFER, stream));
    match archive.next_entry() {
        Ok(Some(entry)) => Ok(Some((archive, entry))),
        // It could be one, but not with as much memory as we give it.
        Err(LayerError::Read(error)) if error.kind() == ErrorKind::OutOfMemory => {
            Err(LayerError::Read(error))
        }
        Ok(None) | Err(_) => Ok(None),
    }
}

struct Unpacker<'u> {
    archive: &'u Path,
    /// Where to, a real path of the destination.
    to: PathBuf,
    owner: Option<Owner>,
    destination: &'u mut Destination,
    /// Times of directories by their real path, to be set when nothing more comes into them.
    dir_times: BTreeMap<PathBuf, Timestamp>,
    /// The directory that the last entry went into: its path in the archive, its real one, and
    /// the directory itself. Forgotten when a path may mean something else.
    current: Option<(PathBuf, PathBuf, WriteDir)>,
}

/// An entry whose place is known.
struct Place {
    dir: WriteDir,
    /// The real path of the directory.
    parent: PathBuf,
    name: OsString,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Unpacker<'_> {
    fn entry(
        &mut self,
        entry: Entry,
        archive: &mut Archive,
        context: &Context<'_>,
    ) -> Result<(), FileError> {
        let path = self.cleaned(&entry.path, &entry.path)?;
        let Some(place) = self.place(&path)? else {
            return self.root_entry(&entry);
        };
        let target = match &entry.kind {
            EntryKind::HardLink { target } => Some(self.cleaned(target, &entry.path)?),
            _ => None,
        };
        let is_dir = entry.kind == EntryKind::Directory;
        let exists = self.clear(&place, is_dir, target.as_deref() == Some(&*path))?;
        if exists && target.is_some() {
            return Ok(());
        }
        let fail = |error| FileError::io("unpack", &place.path(), error);
        match &entry.kind {
            EntryKind::Directory => self.directory(&entry, &place, exists).map_err(fail),
            EntryKind::File { size } => self.file(&entry, &place, *size, archive, context),
            EntryKind::Symlink { target } => {
                self.current = None;
                let target = PathBuf::from(OsString::from_vec(target.clone()));
                create_symlink(&place.dir, &place.name, &target, None)
                    .and_then(|()| self.finish_by_name(&entry, &place))
                    .map_err(fail)
            }
            EntryKind::HardLink { .. } => {
                self.hard_link(&entry, &place, &target.unwrap_or_default())
            }
            EntryKind::CharDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&entry, &place, FileType::CharacterDevice, device)
                    .map_err(fail)
            }
            EntryKind::BlockDevice { major, minor } => {
                let device = rustix::fs::makedev(*major, *minor);
                self.node(&entry, &place, FileType::BlockDevice, device)
                    .map_err(fail)
            }
            EntryKind::Fifo => self.node(&entry, &place, FileType::Fifo, 0).map_err(fail),
        }
    }

    fn refuse(&self, entry: &[u8], reason: &'static str) -> FileError {
        FileError::ArchiveEntry {
            archive: self.archive.to_owned(),
            entry: PathBuf::from(OsStr::from_bytes(entry)),
            reason,
        }
    }

    /// `path` of an archive relative to where it is unpacked, without `.` and `..`.
    fn cleaned(&self, path: &[u8], entry: &[u8]) -> Result<PathBuf, FileError> {
        let mut cleaned = PathBuf::new();
        for component in Path::new(OsStr::from_bytes(path)).components() {
            match component {
                Component::Normal(name) => cleaned.push(name),
                Component::ParentDir => {
                    if !cleaned.pop() {
                        return Err(self.refuse(entry, "its path leads out of the archive"));
                    }
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(cleaned)
    }

    /// Where the entry `path` goes, after making directories that are missing; `None` for the
    /// root of the archive.
    fn place(&mut self, path: &Path) -> Result<Option<Place>, FileError> {
        let Some((parent, name)) = split_last(path) else {
            return Ok(None);
        };
        if self
            .current
            .as_ref()
            .is_none_or(|(current, ..)| current != parent)
        {
            let real = self.real(parent, LastLink::Follow)?;
            let attributes = NewAttributes {
                permissions: 0o755,
                owner: None,
                timestamp: None,
            };
            self.destination.make_dirs(&real, &attributes)?;
            let dir = self.destination.open(&real);
            let dir = dir.map_err(|error| FileError::io("open", &real, error))?;
            self.current = Some((parent.to_owned(), real, dir));
        }
        Ok(self.current.as_ref().map(|(_, real, dir)| Place {
            dir: dir.clone(),
            parent: real.clone(),
            name: name.to_owned(),
        }))
    }

    fn real(&self, path: &Path, last: LastLink) -> Result<PathBuf, FileError> {
        let root = self.destination.layers().open_dir(&self.to);
        let root = root.map_err(|error| FileError::io("open", &self.to, error))?;
        Ok(self.to.join(resolve_in(&root, path, last)?))
    }

    /// Takes away what is in the way of an entry; says whether the place is taken by what may
    /// stay: a directory for a directory, or the target of a link to itself.
    fn clear(
        &mut self,
        place: &Place,
        is_dir: bool,
        links_to_itself: bool,
    ) -> Result<bool, FileError> {
        let fail = |error| FileError::io("replace", &place.path(), error);
        let Some(child) = place.dir.child(&place.name).map_err(fail)? else {
            return Ok(false);
        };
        if links_to_itself || (is_dir && child.metadata.is_dir()) {
            return Ok(true);
        }
        if child.metadata.is_dir() || child.metadata.file_type() == FileType::Symlink {
            self.current = None;
            let gone = place.path();
            self.dir_times.retain(|path, _| !path.starts_with(&gone));
        }
        place.dir.clear(&place.name, &child).map_err(fail)?;
        Ok(false)
    }

    fn owner_of(&self, entry: &Entry) -> Owner {
        self.owner.unwrap_or(Owner {
            uid: entry.uid,
            gid: entry.gid,
        })
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), FileError> {
        // As docker: the place itself stays as it is.
        if entry.kind == EntryKind::Directory {
            return Ok(());
        }
        Err(self.refuse(&entry.path, "only a directory can be the root"))
    }

    fn directory(&mut self, entry: &Entry, place: &Place, exists: bool) -> Result<(), Errno> {
        let layers = self.destination.layers();
        let dir = if exists {
            place.dir.enter(layers, &place.name)?
        } else {
            self.destination.make_dir(&place.dir, &place.name)?
        };
        set_owner(dir.upper(), self.owner_of(entry))?;
        rustix::fs::fchmod(dir.upper(), Mode::from_raw_mode(entry.mode))?;
        set_xattrs(dir.upper(), xattrs(entry))?;
        self.dir_times.insert(place.path(), time(entry));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        place: &Place,
        size: u64,
        archive: &mut Archive,
        context: &Context<'_>,
    ) -> Result<(), FileError> {
        let path = place.path();
        let fail = |error| FileError::io("unpack", &path, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = place
            .dir
            .create(&place.name, |upper| {
                rustix::fs::openat(upper, &place.name, flags, Mode::from_raw_mode(0o600))
            })
            .map_err(fail)?;
        let mut end = 0;
        archive
            .content(|at, piece| {
                context.check().map_err(Stopped::File)?;
                write_all_at(&file, piece, at).map_err(|error| Stopped::File(fail(error)))?;
                end = at + piece.len() as u64;
                Ok(())
            })
            .map_err(|stopped| match stopped {
                Stopped::File(error) => error,
                Stopped::Archive(error) => FileError::Unpack {
                    path: self.archive.to_owned(),
                    error,
                },
            })?;
        if end < size {
            rustix::fs::ftruncate(&file, size).map_err(fail)?;
        }
        set_owner(file.as_fd(), self.owner_of(entry))
            .and_then(|()| rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)))
            .and_then(|()| set_xattrs(file.as_fd(), xattrs(entry)))
            .and_then(|()| set_times(file.as_fd(), time(entry), time(entry)))
            .map_err(fail)
    }

    fn node(
        &self,
        entry: &Entry,
        place: &Place,
        kind: FileType,
        device: rustix::fs::Dev,
    ) -> Result<(), Errno> {
        if kind == FileType::CharacterDevice && device == 0 {
            // It would be a whiteout of the layer.
            return Err(Errno::PERM);
        }
        let mode = Mode::from_raw_mode(entry.mode);
        place.dir.create(&place.name, |upper| {
            rustix::fs::mknodat(upper, &place.name, kind, mode, device)
        })?;
        self.finish_by_name(entry, place)
    }

    /// Owner, permissions, attributes and times of what was just made and is not open.
    fn finish_by_name(&self, entry: &Entry, place: &Place) -> Result<(), Errno> {
        let Place { dir, name, .. } = place;
        set_owner_at(dir, name, self.owner_of(entry))?;
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(dir.upper(), name, mode, AtFlags::empty())?;
        }
        set_xattrs_at(dir.upper(), name, xattrs(entry))?;
        set_times_at(dir, name, time(entry), time(entry))
    }

    /// Gives a file a further name. A file that this layer does not have is copied into it first;
    /// its metadata stay those of its own entry.
    fn hard_link(&mut self, entry: &Entry, place: &Place, target: &Path) -> Result<(), FileError> {
        let (parent, name) = split_last(target)
            .ok_or_else(|| self.refuse(&entry.path, "it is a link to the root"))?;
        let real = self.real(parent, LastLink::Follow)?;
        let path = real.join(name);
        let fail = |error| FileError::io("link", &path, error);
        let from = self.destination.open(&real).map_err(fail)?;
        let child = from.child(name).map_err(fail)?;
        let child =
            child.ok_or_else(|| self.refuse(&entry.path, "it is a link to what is not there"))?;
        if child.metadata.is_dir() {
            return Err(self.refuse(&entry.path, "it is a link to a directory"));
        }
        from.copy_up(name, &child).map_err(fail)?;
        let linked = place.dir.create(&place.name, |upper| {
            rustix::fs::linkat(from.upper(), name, upper, &place.name, AtFlags::empty())
        });
        linked.map_err(|error| FileError::io("link", &place.path(), error))
    }

    fn finish(&self) -> Result<(), FileError> {
        for (path, time) in self.dir_times.iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            weld_fileset::open_beneath(self.destination.upper(), path, flags)
                .and_then(|dir| set_times(dir.as_fd(), *time, *time))
                .map_err(|error| FileError::io("set times of", path, error))?;
        }
        Ok(())
    }
}

/// Why the content of an entry was not written to its end.
enum Stopped {
    File(FileError),
    Archive(LayerError),
}

impl From<LayerError> for Stopped {
    fn from(error: LayerError) -> Self {
        Self::Archive(error)
    }
}

fn time(entry: &Entry) -> Timestamp {
    Timestamp {
        seconds: entry.mtime.seconds,
        nanoseconds: entry.mtime.nanoseconds,
    }
}

fn xattrs(entry: &Entry) -> Vec<Xattr> {
    entry
        .xattrs
        .iter()
        .map(|(name, value)| (OsString::from_vec(name.clone()), value.clone()))
        .collect()
}
