//! A tree whose content keys are asked for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use weld_digest::Digest;

use super::node::{Kind, Layer, Node, Root};
use super::{KeyError, KeyOptions, select};

/// As many symlinks as BuildKit follows in one path.
const MAX_LINKS: usize = 255;

/// A tree of files and its content keys, as far as they were asked for. Cheap to clone.
#[derive(Clone)]
pub struct KeyTree {
    root: Arc<Node>,
}

impl KeyTree {
    /// The tree of a plain directory.
    pub fn of_directory(directory: OwnedFd) -> Result<Self, KeyError> {
        Self::of_layer(
            Layer::new(Root::Held(Arc::new(directory)), None, false),
            None,
        )
    }

    /// The tree that an overlay's directory makes over another. Keys are kept in the file
    /// `cache`.
    pub(crate) fn layered(
        directory: PathBuf,
        below: Option<&Self>,
        cache: Option<PathBuf>,
        userxattr: bool,
    ) -> Result<Self, KeyError> {
        let root = Root::Path {
            path: directory,
            opened: Mutex::default(),
        };
        Self::of_layer(Layer::new(root, cache, userxattr), below)
    }

    fn of_layer(layer: Layer, below: Option<&Self>) -> Result<Self, KeyError> {
        let below = below.map(|below| below.root.clone());
        Ok(Self {
            root: Node::root(Arc::new(layer), below)?,
        })
    }

    /// The content key of a path. What no file matches has the digest of nothing, unless it is a
    /// plain path: then there is an error.
    pub fn content_key(&self, path: &str, options: &KeyOptions) -> Result<Digest, KeyError> {
        let filtered =
            options.wildcard || !options.include.is_empty() || !options.exclude.is_empty();
        let key = if filtered {
            select::key(self, path, options)
        } else {
            self.key_of_path(path.as_bytes(), options.follow_links)
                .map(Digest::from_sha256)
        };
        self.keep();
        key
    }

    /// What the content key of a path is made of: the first files that `options` select, by their paths below the root, with their
    /// keys; a directory that holds more than there is room for has one key for all that is in it. Returns also whether these are
    /// all.
    pub fn entries(
        &self,
        path: &str,
        options: &KeyOptions,
        limit: usize,
    ) -> Result<(Vec<KeyEntry>, bool), KeyError> {
        let filtered =
            options.wildcard || !options.include.is_empty() || !options.exclude.is_empty();
        let entries = if filtered {
            select::entries(self, path, options, limit)
        } else {
            match self.resolve(path.as_bytes(), options.follow_links)? {
                Some(start) => entries_below(path, start, limit),
                None => Ok((Vec::new(), true)),
            }
        };
        self.keep();
        entries
    }

    /// Keeps what was found.
    fn keep(&self) {
        Node::keep(&self.root);
        Node::close(&self.root);
    }

    pub(super) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    pub(super) fn key_of_path(&self, path: &[u8], follow: bool) -> Result<[u8; 32], KeyError> {
        let node = self.resolve(path, follow)?;
        node.ok_or_else(|| KeyError::NotFound {
            path: path_of(path),
        })?
        .whole()
    }

    /// The file of a path, symlinks on the way resolved within the tree, the last one only if
    /// asked for.
    pub(super) fn resolve(&self, path: &[u8], follow: bool) -> Result<Option<Arc<Node>>, KeyError> {
        let mut ahead: Vec<Vec<u8>> = components(path);
        let mut behind: Vec<Arc<Node>> = vec![self.root.clone()];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                if behind.len() > 1 {
                    behind.pop();
                }
                continue;
            }
            let Some(here) = behind.last() else {
                return Ok(None);
            };
            let Some(next) = here.children()?.get(&name).cloned() else {
                return Ok(None);
            };
            let target = match next.kind() {
                Kind::Symlink(target) if follow || !ahead.is_empty() => target,
                _ => {
                    behind.push(next);
                    continue;
                }
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(KeyError::TooManyLinks {
                    path: path_of(path),
                });
            }
            if target.starts_with(b"/") {
                behind.truncate(1);
            }
            ahead.extend(components(target));
        }
        Ok(behind.pop())
    }
}

/// What sort of thing is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEntryKind {
    /// A regular file, or a special one.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
}

/// What is at a path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEntry {
    /// The path below the root.
    pub path: PathBuf,
    /// What sort of thing it is.
    pub kind: KeyEntryKind,
    /// Its key, of a directory with all that is in it.
    pub key: [u8; 32],
    /// Permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl KeyEntry {
    pub(super) fn new(path: &[u8], node: &Node, key: [u8; 32]) -> Result<Self, KeyError> {
        let file = node.file()?;
        Ok(Self {
            path: path_of(path),
            kind: match node.kind() {
                Kind::File => KeyEntryKind::File,
                Kind::Symlink(_) => KeyEntryKind::Symlink,
                Kind::Directory(_) => KeyEntryKind::Directory,
            },
            key,
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
        })
    }
}

/// Files breadth first, so that where there are too many, what is left has few, high directories.
fn entries_below(
    path: &str,
    start: Arc<Node>,
    limit: usize,
) -> Result<(Vec<KeyEntry>, bool), KeyError> {
    let mut entries = Vec::new();
    let mut whole = true;
    // Nothing is listed any more once one directory did not fit: listing takes its time.
    let mut room = true;
    let path = format!("/{}", path.trim_matches('/'));
    let mut ahead = VecDeque::from([(path.trim_end_matches('/').as_bytes().to_vec(), start)]);
    while let Some((path, node)) = ahead.pop_front() {
        if node.is_directory() && room {
            let children = node.children()?;
            room = entries.len() + ahead.len() + children.len() <= limit;
            if room && !children.is_empty() {
                for (name, child) in children {
                    ahead.push_back(([path.as_slice(), b"/", name].concat(), child.clone()));
                }
                continue;
            }
        }
        whole &= room || !node.is_directory();
        if entries.len() == limit {
            return Ok((entries, false));
        }
        let key = node.whole()?;
        entries.push(KeyEntry::new(&path, &node, key)?);
    }
    Ok((entries, whole))
}

/// A path's components, the first of them last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let components = path.split(|&byte| byte == b'/');
    let mut components: Vec<_> = components
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect();
    components.reverse();
    components
}

fn path_of(path: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(path)).to_owned()
}
