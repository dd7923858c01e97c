//! How a file operation is cached: by what it does, and by the content of what it reads.
//!
//! An input that is only copied from, or only has names looked up, takes part with the content of
//! the paths in question. The digest of the operation then holds only the last component of a
//! copied path, so that the same files found elsewhere give the same result. An input that is
//! changed is part of the result as a whole, so it takes part with its own key alone.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weld_digest::{Digest, FieldHasher};
use weld_fileset::has_wildcards;
use weld_llb::{CopyAction, FileChange, FileInput, FileOp, Owner, UserRef};
use weld_proto::pb::{self, file_action::Action};

/// How a file operation is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCacheMap {
    /// What the operation does, without its inputs.
    pub digest: Digest,
    /// By input: what of its content counts; `None` if only its own key does.
    pub inputs: Vec<Option<InputContent>>,
}

/// What of the content of an input counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputContent {
    /// Tells inputs apart of which other paths are used.
    pub selector: Digest,
    /// The paths, sorted; their content keys in this order make up the input's key.
    pub paths: Vec<ContentPath>,
}

/// A path, or a pattern for some, whose content counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentPath {
    /// The path.
    pub path: String,
    /// It is a pattern.
    pub wildcard: bool,
    /// A symbolic link at its end is followed.
    pub follow_links: bool,
    /// Beneath it, only what matches one of these counts.
    pub include_patterns: Vec<String>,
    /// Beneath it, what matches does not count.
    pub exclude_patterns: Vec<String>,
    /// Paths that must be among what counts.
    pub required_paths: Vec<String>,
}

impl ContentPath {
    fn is_plain(&self) -> bool {
        !self.wildcard && self.include_patterns.is_empty() && self.exclude_patterns.is_empty()
    }
}

/// How `op`, which has `inputs` inputs, is cached.
pub fn cache_map(op: &FileOp, inputs: usize) -> FileCacheMap {
    let contents = contents(op, inputs);
    FileCacheMap {
        digest: digest(op, inputs, &contents),
        inputs: contents,
    }
}

fn contents(op: &FileOp, inputs: usize) -> Vec<Option<InputContent>> {
    let mut read: BTreeMap<usize, Vec<ContentPath>> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for action in &op.actions {
        if let FileInput::Input(input) = action.input {
            changed.insert(input);
        }
        read_by(&action.change, &mut read);
    }
    let contents = (0..inputs).map(|input| {
        let paths = read.remove(&input).filter(|_| !changed.contains(&input))?;
        Some(InputContent {
            selector: selector(&paths),
            paths: without_covered(paths),
        })
    });
    contents.collect()
}

fn read_by(change: &FileChange, read: &mut BTreeMap<usize, Vec<ContentPath>>) {
    let owner = match change {
        FileChange::Copy(copy) => {
            if let FileInput::Input(input) = copy.from {
                read.entry(input).or_default().push(content_of(copy));
            }
            &copy.owner
        }
        FileChange::Mkfile(mkfile) => &mkfile.owner,
        FileChange::Mkdir(mkdir) => &mkdir.owner,
        FileChange::Symlink(symlink) => &symlink.owner,
        FileChange::Rm(_) => return,
    };
    let Some(Owner { user, group }) = owner else {
        return;
    };
    for (name, path) in [(user, "/etc/passwd"), (group, "/etc/group")] {
        if let Some(UserRef::Name {
            input: FileInput::Input(input),
            ..
        }) = name
        {
            read.entry(*input).or_default().push(ContentPath {
                path: path.to_owned(),
                follow_links: true,
                ..ContentPath::default()
            });
        }
    }
}

fn content_of(copy: &CopyAction) -> ContentPath {
    ContentPath {
        path: copy.src.clone(),
        wildcard: copy.allow_wildcard && has_wildcards(&copy.src),
        follow_links: copy.follow_symlink,
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        required_paths: copy.required_paths.clone(),
    }
}

fn digest(op: &FileOp, inputs: usize, contents: &[Option<InputContent>]) -> Digest {
    let actions = counted(op, inputs, contents);
    let hasher = FieldHasher::new("weld.op.file.v1").number(actions.len() as u64);
    let all = actions.iter().map(Message::encode_to_vec);
    all.fold(hasher, |hasher, action| hasher.bytes(&action))
        .finish()
}

/// The actions without what is in the keys of the inputs: in which directory a copied path is.
pub(super) fn what_counts(op: &FileOp, inputs: usize) -> Vec<pb::FileAction> {
    counted(op, inputs, &contents(op, inputs))
}

fn counted(op: &FileOp, inputs: usize, contents: &[Option<InputContent>]) -> Vec<pb::FileAction> {
    let mut actions = op.to_pb(inputs).actions;
    for (action, encoded) in op.actions.iter().zip(&mut actions) {
        if let (FileChange::Copy(copy), Some(Action::Copy(encoded))) =
            (&action.change, &mut encoded.action)
            && let FileInput::Input(input) = copy.from
            && let Some(content) = contents.get(input).and_then(Option::as_ref)
            && let Some(src) = content.source_of(copy)
        {
            encoded.src = src;
        }
    }
    actions
}

impl InputContent {
    /// A copied path without its directory; `None` where the content of just that path is not in the key. Of several paths it says
    /// which one it is, since the key has them in their order.
    fn source_of(&self, copy: &CopyAction) -> Option<String> {
        let path = content_of(copy);
        let place = self.paths.iter().position(|other| *other == path)?;
        let name = last_component(&copy.src);
        Some(match self.paths.len() {
            1 => name.to_owned(),
            _ => format!("{place}:{name}"),
        })
    }
}

/// As Go's `path.Base`.
fn last_component(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

fn selector(paths: &[ContentPath]) -> Digest {
    let mut paths: Vec<&str> = paths.iter().map(|path| path.path.as_str()).collect();
    paths.sort_unstable();
    FieldHasher::new("weld.op.file.selector.v1")
        .texts(&paths)
        .finish()
}

/// Leaves out plain paths that another plain one covers, and sorts the rest.
fn without_covered(paths: Vec<ContentPath>) -> Vec<ContentPath> {
    let (plain, mut kept): (Vec<_>, Vec<_>) = paths.into_iter().partition(ContentPath::is_plain);
    for follow_links in [false, true] {
        let same = plain
            .iter()
            .filter(|path| path.follow_links == follow_links);
        let texts: BTreeSet<&str> = same.map(|path| path.path.as_str()).collect();
        kept.extend(
            texts
                .iter()
                .filter(|path| !is_covered(path, &texts))
                .map(|path| ContentPath {
                    path: (*path).to_owned(),
                    follow_links,
                    ..ContentPath::default()
                }),
        );
    }
    kept.sort_by(|a, b| a.path.cmp(&b.path));
    kept
}

/// Is a directory above `path` among `all`?
fn is_covered(path: &str, all: &BTreeSet<&str>) -> bool {
    path.match_indices('/').map(|(at, _)| at).any(|at| {
        let (without, with) = (&path[..at], &path[..=at]);
        with != path && (all.contains(with) || all.contains(without))
    })
}
