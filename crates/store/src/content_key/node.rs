//! The files of a tree, found in the directories of its layers as they are asked for.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use weld_digest::{Digest, Hasher};

use super::cache::{KeyMap, Keys};
use super::header::{digest_at, finish};
use super::{KeyError, cache};
use crate::snapshot::node::{
    Node as File, names, opaque_attribute, open_directory_at, read_link_at, xattr_at,
};

/// The directory of one layer.
pub(super) struct Layer {
    root: Root,
    /// Where its keys are kept.
    pub(super) cache: Option<PathBuf>,
    /// Its keys as they were kept.
    kept: KeyMap,
    userxattr: bool,
    /// Whether there are keys that are not kept.
    changed: AtomicBool,
}

/// A directory by its descriptor, or by its path: many layers are known at once, but few in use.
pub(super) enum Root {
    Held(Arc<OwnedFd>),
    Path {
        path: PathBuf,
        opened: Mutex<Option<Arc<OwnedFd>>>,
    },
}

impl Layer {
    pub(super) fn new(root: Root, cache: Option<PathBuf>, userxattr: bool) -> Self {
        Self {
            root,
            kept: cache.as_deref().map(cache::load).unwrap_or_default(),
            cache,
            userxattr,
            changed: AtomicBool::new(false),
        }
    }

    fn root(&self) -> io::Result<Arc<OwnedFd>> {
        let (path, opened) = match &self.root {
            Root::Held(root) => return Ok(root.clone()),
            Root::Path { path, opened } => (path, opened),
        };
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = &*opened {
            return Ok(root.clone());
        }
        let root = Arc::new(open_directory_at(rustix::fs::CWD, path.as_os_str())?);
        *opened = Some(root.clone());
        Ok(root)
    }

    fn close(&self) {
        if let Root::Path { opened, .. } = &self.root {
            opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// A file of a tree.
pub(super) struct Node {
    layer: Arc<Layer>,
    /// Its path from the root, in the layer as in the tree.
    path: Vec<u8>,
    kind: Kind,
    /// Its key, of a directory without what is in it.
    own: OnceLock<[u8; 32]>,
}

pub(super) enum Kind {
    File,
    Symlink(Vec<u8>),
    Directory(Directory),
}

pub(super) struct Directory {
    /// The directory of this path in the layers below, which is seen through this one.
    below: Option<Arc<Node>>,
    children: OnceLock<Children>,
    /// Its key with all that is in it.
    whole: OnceLock<[u8; 32]>,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // There may be too many layers for recursion.
        let mut next = self.below.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = match &mut node.kind {
                Kind::Directory(directory) => directory.below.take(),
                _ => None,
            };
        }
    }
}

/// The files of a directory by name.
pub(super) type Children = BTreeMap<Vec<u8>, Arc<Node>>;

impl Node {
    /// The root of a layer over the root of those below.
    pub(super) fn root(layer: Arc<Layer>, below: Option<Arc<Node>>) -> Result<Arc<Self>, KeyError> {
        Self::directory(layer, Vec::new(), below)
    }

    fn directory(
        layer: Arc<Layer>,
        path: Vec<u8>,
        below: Option<Arc<Node>>,
    ) -> Result<Arc<Self>, KeyError> {
        let below = below.filter(|below| matches!(below.kind, Kind::Directory(_)));
        let kind = Kind::Directory(Directory {
            below,
            children: OnceLock::new(),
            whole: OnceLock::new(),
        });
        Ok(Self::new(layer, path, kind))
    }

    fn new(layer: Arc<Layer>, path: Vec<u8>, kind: Kind) -> Arc<Self> {
        let kept = layer.kept.get(&path).copied().unwrap_or_default();
        let node = Self {
            layer,
            path,
            kind,
            own: OnceLock::new(),
        };
        if let Some(own) = kept.own {
            let _ = node.own.set(own);
        }
        if let (Kind::Directory(directory), Some(whole)) = (&node.kind, kept.whole) {
            let _ = directory.whole.set(whole);
        }
        Arc::new(node)
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    fn fault(&self, action: &'static str) -> impl FnOnce(io::Error) -> KeyError + use<> {
        let path = PathBuf::from(OsStr::from_bytes(&self.path));
        move |source| KeyError::File {
            action,
            path,
            source,
        }
    }

    /// The files of a directory; of anything else none.
    pub(super) fn children(&self) -> Result<&Children, KeyError> {
        static NONE: Children = Children::new();
        let Kind::Directory(directory) = &self.kind else {
            return Ok(&NONE);
        };
        if let Some(children) = directory.children.get() {
            return Ok(children);
        }
        // The directories below it are listed before it, without recursion.
        let mut chain = vec![self];
        while let Some(Kind::Directory(last)) = chain.last().map(|node| &node.kind)
            && last.children.get().is_none()
            && let Some(below) = &last.below
        {
            chain.push(below);
        }
        for node in chain.into_iter().rev() {
            if let Kind::Directory(directory) = &node.kind
                && directory.children.get().is_none()
            {
                let children = node.list(directory)?;
                let _ = directory.children.set(children);
            }
        }
        Ok(directory.children.get().unwrap_or(&NONE))
    }

    fn list(&self, directory: &Directory) -> Result<Children, KeyError> {
        let opened = self.open()?;
        let opaque = xattr_at(
            &opened,
            OsStr::new("."),
            opaque_attribute(self.layer.userxattr),
        )
        .map_err(self.fault("read"))?
        .is_some_and(|value| value == b"y");
        let below = match &directory.below {
            Some(below) if !opaque => match &below.kind {
                Kind::Directory(below) => below.children.get(),
                _ => None,
            },
            _ => None,
        };
        let mut children = below.cloned().unwrap_or_default();
        for name in names(&opened).map_err(self.fault("list"))? {
            self.child(&opened, name, &mut children)?;
        }
        Ok(children)
    }

    fn child(
        &self,
        opened: &OwnedFd,
        name: OsString,
        children: &mut Children,
    ) -> Result<(), KeyError> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let file = File::at(opened, &name).map_err(self.fault("read a file of"))?;
        let below = children.remove(name.as_bytes());
        if file.is_whiteout() {
            return Ok(());
        }
        let layer = self.layer.clone();
        let node = if file.is_directory() {
            Self::directory(layer, path, below)?
        } else if file.is_symlink() {
            let target = read_link_at(opened, &name).map_err(self.fault("read a link of"))?;
            Self::new(layer, path, Kind::Symlink(target))
        } else {
            Self::new(layer, path, Kind::File)
        };
        children.insert(name.into_vec_bytes(), node);
        Ok(())
    }

    fn open(&self) -> Result<OwnedFd, KeyError> {
        self.open_at(&self.path)
    }

    fn open_at(&self, path: &[u8]) -> Result<OwnedFd, KeyError> {
        let root = self.layer.root().map_err(self.fault("open the layer of"))?;
        if path.is_empty() {
            return open_directory_at(&root, OsStr::new(".")).map_err(self.fault("open"));
        }
        rustix::fs::openat2(
            &root,
            OsStr::from_bytes(path),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(|errno| self.fault("open")(errno.into()))
    }

    /// The directory that it is in, and its name there.
    fn place(&self) -> Result<(OwnedFd, &OsStr), KeyError> {
        let (parent, name) = match self.path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.path[..slash], &self.path[slash + 1..]),
            None => (&[][..], self.path.as_slice()),
        };
        let name = if name.is_empty() { b"." } else { name };
        Ok((self.open_at(parent)?, OsStr::from_bytes(name)))
    }

    /// What the file is, without its content.
    pub(super) fn file(&self) -> Result<File, KeyError> {
        let (parent, name) = self.place()?;
        File::at(parent.as_fd(), name).map_err(self.fault("look at"))
    }

    /// The key of the file, or of the directory without what is in it.
    pub(super) fn own(&self) -> Result<[u8; 32], KeyError> {
        if let Some(own) = self.own.get() {
            return Ok(*own);
        }
        let (parent, name) = self.place()?;
        let own = digest_at(parent.as_fd(), name);
        let own = own.map_err(self.fault("digest"))?;
        self.layer.changed.store(true, Ordering::Relaxed);
        Ok(*self.own.get_or_init(|| own))
    }

    /// The key of the file, or of the directory with all that is in it.
    pub(super) fn whole(self: &Arc<Self>) -> Result<[u8; 32], KeyError> {
        let Kind::Directory(directory) = &self.kind else {
            return self.own();
        };
        if let Some(whole) = directory.whole.get() {
            return Ok(*whole);
        }
        let levels = self.levels()?;
        levels
            .iter()
            .flatten()
            .collect::<Vec<_>>()
            .par_iter()
            .try_for_each(|node| node.own().map(drop))?;
        for level in levels.iter().rev() {
            level.par_iter().try_for_each(|node| node.combine())?;
        }
        Ok(directory.whole.get().copied().unwrap_or_default())
    }

    /// The directory and all that is below it and whose keys are not known, by depth.
    fn levels(self: &Arc<Self>) -> Result<Vec<Vec<Arc<Self>>>, KeyError> {
        let mut levels = Vec::new();
        let mut level = vec![self.clone()];
        while !level.is_empty() {
            let next = level
                .par_iter()
                .map(|node| {
                    Ok(node
                        .children()?
                        .values()
                        .filter(|node| !node.is_known())
                        .cloned())
                })
                .collect::<Result<Vec<_>, KeyError>>()?;
            let next = next.into_iter().flatten().collect();
            levels.push(std::mem::replace(&mut level, next));
        }
        Ok(levels)
    }

    fn is_known(&self) -> bool {
        match &self.kind {
            Kind::Directory(directory) => directory.whole.get().is_some(),
            _ => self.own.get().is_some(),
        }
    }

    /// Makes a directory's key of the keys in it, which are known.
    fn combine(&self) -> Result<(), KeyError> {
        let Kind::Directory(directory) = &self.kind else {
            return Ok(());
        };
        let mut hasher = Hasher::sha256();
        hasher.update(&[0]);
        feed(&mut hasher, self.own()?);
        for (name, child) in self.children()? {
            hasher.update(&[0]);
            hasher.update(name);
            let key = match &child.kind {
                Kind::Directory(child) => child.whole.get().copied().unwrap_or_default(),
                _ => child.own()?,
            };
            feed(&mut hasher, key);
        }
        let _ = directory.whole.set(finish(hasher));
        self.layer.changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the directories of the layers of a tree. `root` is its root.
    pub(super) fn close(root: &Arc<Self>) {
        let mut next = Some(root);
        while let Some(node) = next {
            node.layer.close();
            next = match &node.kind {
                Kind::Directory(directory) => directory.below.as_ref(),
                _ => None,
            };
        }
    }

    /// Keeps the keys that were found of a layer. `root` is its root.
    pub(super) fn keep(root: &Arc<Self>) {
        let layer = &root.layer;
        let Some(path) = &layer.cache else {
            return;
        };
        if !layer.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut keys = layer.kept.clone();
        let mut ahead = vec![root.clone()];
        while let Some(node) = ahead.pop() {
            if !Arc::ptr_eq(&node.layer, layer) {
                continue;
            }
            let mut known = Keys {
                own: node.own.get().copied(),
                whole: None,
            };
            if let Kind::Directory(directory) = &node.kind {
                known.whole = directory.whole.get().copied();
                if let Some(children) = directory.children.get() {
                    ahead.extend(children.values().cloned());
                }
            }
            if known != Keys::default() {
                keys.insert(node.path.clone(), known);
            }
        }
        if let Err(error) = cache::save(path, &keys) {
            tracing::debug!(path = %path.display(), %error, "content keys are not kept");
        }
    }
}

/// Feeds a key as the text that BuildKit feeds.
pub(super) fn feed(hasher: &mut Hasher, key: [u8; 32]) {
    hasher.update(Digest::from_sha256(key).to_string().as_bytes());
}

trait IntoVecBytes {
    fn into_vec_bytes(self) -> Vec<u8>;
}

impl IntoVecBytes for OsString {
    fn into_vec_bytes(self) -> Vec<u8> {
        std::os::unix::ffi::OsStringExt::into_vec(self)
    }
}
