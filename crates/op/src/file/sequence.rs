//! The actions of a file operation, one after the other, from snapshots to snapshots.
//!
//! Each action changes a mutable snapshot: that of the action before it where nothing else uses
//! that one's result, or else a new one on top of what it changes. What is used more than once, or
//! is an output, is committed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use weld_fileset::{Layers, OverlayMarks, Timestamp};
use weld_llb::{
    CopyAction, CopyMode, FileAction, FileChange, FileInput, FileOp, Owner as OwnerRef, UserRef,
};
use weld_store::mount::{MountSource, MountSpec};
use weld_store::snapshot::{MutableSnapshot, SnapshotError, SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType};

use super::{
    Context, Copy, Destination, FileError, Identity, MakeDir, MakeFile, MakeSymlink, ModeChange,
    Owner, OwnerOption, Remove, Sharing, Source,
};

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum SequenceError {
    /// An action failed.
    #[error("{error}")]
    Action {
        /// Which one, by its index.
        action: usize,
        /// Why.
        error: FileError,
    },
    /// A snapshot could not be used or made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A directory of a snapshot could not be opened.
    #[error("cannot open {path:?}, a snapshot's directory: {error}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: Errno,
    },
    /// The operation names an input or an action that there is not.
    #[error("file action {action} uses an input that there is not")]
    BadInput {
        /// The action's index.
        action: usize,
    },
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedSequence {
    /// Why.
    pub error: SequenceError,
    /// What each action came to, for whoever looks into the failure: the last one as far as it got.
    /// `None` for those that a later action went on with, and for what cannot be kept.
    pub results: Vec<Option<SnapshotRef>>,
}

impl FailedSequence {
    /// The action that failed, if it was one.
    pub fn action(&self) -> Option<usize> {
        match self.error {
            SequenceError::Action { action, .. } | SequenceError::BadInput { action } => {
                Some(action)
            }
            SequenceError::Snapshot(_) | SequenceError::Open { .. } => None,
        }
    }

    /// Whether it was cancelled, not failed.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self.error,
            SequenceError::Action {
                error: FileError::Cancelled,
                ..
            }
        )
    }
}

/// What a file operation works with.
#[derive(Clone, Copy)]
pub struct Workshop<'w> {
    /// Where snapshots are made.
    pub snapshots: &'w Snapshots,
    /// What becomes of the usage records of the new ones.
    pub usage: &'w NewUsage,
    /// What surrounds each action.
    pub context: Context<'w>,
    /// Is told of names of users and groups that are not found; they stand for root.
    pub unknown_owner: &'w dyn Fn(&str),
    /// Is told of each directory that is written into.
    pub writes_into: &'w dyn Fn(&Path),
}

/// Runs `op` on `inputs`, where `None` is the tree without files, and returns its outputs.
pub fn run(
    op: &FileOp,
    inputs: &[Option<SnapshotRef>],
    workshop: Workshop<'_>,
) -> Result<Vec<SnapshotRef>, Box<FailedSequence>> {
    let mut sequence = Sequence {
        actions: &op.actions,
        inputs,
        workshop,
        uses: uses(&op.actions),
        results: Vec::with_capacity(op.actions.len()),
        failed: None,
    };
    for action in 0..op.actions.len() {
        match sequence.run(action) {
            Ok(result) => sequence.results.push(result),
            Err(error) => return Err(sequence.fail(error)),
        }
    }
    let outputs = sequence.outputs(op.outputs());
    outputs.map_err(|error| sequence.fail(error))
}

/// How often the result of each action is used: as an output, by later actions that are needed,
/// and not at all if it is 0.
fn uses(actions: &[FileAction]) -> Vec<usize> {
    let mut uses = vec![0; actions.len()];
    for (index, action) in actions.iter().enumerate().rev() {
        if let Some(count) = uses.get_mut(index) {
            // An output is kept whatever else is made of it.
            *count += usize::from(action.output.is_some()) * 2;
            if *count == 0 {
                continue;
            }
        }
        for used in used_by(action) {
            if let Some(count) = uses.get_mut(used) {
                *count += 1;
            }
        }
    }
    uses
}

/// The earlier actions that an action builds on; one twice if it is both changed and copied from.
/// A name that is looked up in what is changed needs nothing of its own.
fn used_by(action: &FileAction) -> Vec<usize> {
    let mut used = Vec::new();
    let own = index_of(&action.input);
    used.extend(own);
    if let FileChange::Copy(copy) = &action.change {
        used.extend(index_of(&copy.from));
    }
    let names: BTreeSet<usize> = owner_of(&action.change)
        .into_iter()
        .flat_map(|owner| [&owner.user, &owner.group])
        .filter_map(|user| match user {
            Some(UserRef::Name { input, .. }) => index_of(input),
            _ => None,
        })
        .filter(|name| Some(*name) != own)
        .collect();
    used.extend(names);
    used
}

fn index_of(input: &FileInput) -> Option<usize> {
    match input {
        FileInput::Action(action) => Some(*action),
        FileInput::Empty | FileInput::Input(_) => None,
    }
}

fn owner_of(change: &FileChange) -> Option<&OwnerRef> {
    match change {
        FileChange::Copy(copy) => copy.owner.as_ref(),
        FileChange::Mkfile(mkfile) => mkfile.owner.as_ref(),
        FileChange::Mkdir(mkdir) => mkdir.owner.as_ref(),
        FileChange::Symlink(symlink) => symlink.owner.as_ref(),
        FileChange::Rm(_) => None,
    }
}

/// A tree that is being changed.
struct Working {
    snapshot: MutableSnapshot,
    destination: Destination,
}

/// What is left of an action.
enum Done {
    /// Nobody needs it.
    Unneeded,
    /// The one action that uses it goes on with it.
    Working(Box<Working>),
    /// An action went on with it.
    Taken,
    Committed(SnapshotRef),
}

struct Sequence<'s> {
    actions: &'s [FileAction],
    inputs: &'s [Option<SnapshotRef>],
    workshop: Workshop<'s>,
    uses: Vec<usize>,
    results: Vec<Done>,
    /// What the action that failed had made by then.
    failed: Option<MutableSnapshot>,
}

impl Sequence<'_> {
    fn run(&mut self, index: usize) -> Result<Done, SequenceError> {
        let (Some(action), Some(uses)) = (self.actions.get(index), self.uses.get(index).copied())
        else {
            return Ok(Done::Unneeded);
        };
        if uses == 0 {
            return Ok(Done::Unneeded);
        }
        let mut working = self.take(index, &action.input)?;
        if let Err(error) = self.apply(index, action, &mut working) {
            self.failed = Some(working.snapshot);
            return Err(error);
        }
        if uses == 1 && self.is_gone_on_with(index) {
            return Ok(Done::Working(working));
        }
        let snapshot = working.snapshot.commit(self.workshop.usage.clone())?;
        Ok(Done::Committed(snapshot))
    }

    /// Does the one user of an action change its result further?
    fn is_gone_on_with(&self, index: usize) -> bool {
        let later = self.actions.iter().zip(&self.uses).skip(index + 1);
        later
            .filter(|(_, uses)| **uses > 0)
            .any(|(action, _)| index_of(&action.input) == Some(index))
    }

    /// The tree that an action changes.
    fn take(&mut self, index: usize, input: &FileInput) -> Result<Box<Working>, SequenceError> {
        let bad = || SequenceError::BadInput { action: index };
        let parent = match input {
            FileInput::Empty => None,
            FileInput::Input(input) => self.inputs.get(*input).ok_or_else(bad)?.clone(),
            FileInput::Action(earlier) => {
                let slot = self.results.get_mut(*earlier).ok_or_else(bad)?;
                match std::mem::replace(slot, Done::Taken) {
                    Done::Working(working) => return Ok(working),
                    Done::Committed(snapshot) => {
                        *slot = Done::Committed(snapshot.clone());
                        Some(snapshot)
                    }
                    Done::Unneeded | Done::Taken => return Err(bad()),
                }
            }
        };
        let snapshot = self.workshop.snapshots.create(parent.as_ref())?;
        (self.workshop.writes_into)(snapshot.files());
        let destination = Destination::new(layers_of(&snapshot.mount_spec()?)?);
        Ok(Box::new(Working {
            snapshot,
            destination,
        }))
    }

    /// What an action reads.
    fn read(&self, index: usize, input: &FileInput) -> Result<MountSpec, SequenceError> {
        let bad = || SequenceError::BadInput { action: index };
        let snapshot = match input {
            FileInput::Empty => None,
            FileInput::Input(input) => self.inputs.get(*input).ok_or_else(bad)?.as_ref(),
            FileInput::Action(earlier) => match self.results.get(*earlier).ok_or_else(bad)? {
                Done::Committed(snapshot) => Some(snapshot),
                Done::Unneeded | Done::Working(_) | Done::Taken => return Err(bad()),
            },
        };
        match snapshot {
            Some(snapshot) => Ok(snapshot.mount_spec()?),
            None => Ok(self.workshop.snapshots.mount_nothing()),
        }
    }

    fn apply(
        &self,
        index: usize,
        action: &FileAction,
        working: &mut Working,
    ) -> Result<(), SequenceError> {
        let Working {
            snapshot,
            destination,
        } = working;
        let owner = match owner_of(&action.change) {
            Some(owner) => Some(self.owner(index, action, owner, destination)?),
            None => None,
        };
        let result = match &action.change {
            FileChange::Copy(copy) => {
                let from = self.read(index, &copy.from)?;
                let layers = layers_of(&from)?;
                let snapshots = self.workshop.snapshots;
                let sharing = Sharing::new(snapshots, &from, snapshot, &snapshot.mount_spec()?);
                copy_action(copy).and_then(|action| {
                    let source = Source {
                        layers: &layers,
                        // Where each snapshot has all files, what is copied on has no links.
                        immutable: snapshots.is_overlay(),
                        sharing: Some(&sharing),
                    };
                    action.run(source, destination, owner, &self.workshop.context)
                })
            }
            FileChange::Mkfile(mkfile) => MakeFile {
                path: mkfile.path.clone(),
                mode: mkfile.mode,
                data: mkfile.data.clone(),
                timestamp: mkfile.timestamp.map(Timestamp::from_unix_nanos),
            }
            .run(destination, owner),
            FileChange::Mkdir(mkdir) => MakeDir {
                path: mkdir.path.clone(),
                mode: mkdir.mode,
                make_parents: mkdir.make_parents,
                timestamp: mkdir.timestamp.map(Timestamp::from_unix_nanos),
            }
            .run(destination, owner),
            FileChange::Symlink(symlink) => MakeSymlink {
                target: symlink.target.clone(),
                path: symlink.path.clone(),
                timestamp: symlink.timestamp.map(Timestamp::from_unix_nanos),
            }
            .run(destination, owner),
            FileChange::Rm(rm) => Remove {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }
            .run(destination),
        };
        result.map_err(|error| SequenceError::Action {
            action: index,
            error,
        })
    }

    fn owner(
        &self,
        index: usize,
        action: &FileAction,
        owner: &OwnerRef,
        destination: &Destination,
    ) -> Result<Owner, SequenceError> {
        let tree = |user: &Option<UserRef>| match user {
            Some(
                UserRef::Name {
                    input: FileInput::Empty,
                    ..
                }
                | UserRef::Id(_),
            )
            | None => Ok(None),
            // The tree that is changed, as it is now.
            Some(UserRef::Name { input, .. }) if *input == action.input => {
                Ok(Some(destination.layers().clone()))
            }
            Some(UserRef::Name { input, .. }) => self
                .read(index, input)
                .and_then(|spec| layers_of(&spec))
                .map(Some),
        };
        let (user_tree, group_tree) = (tree(&owner.user)?, tree(&owner.group)?);
        let option = OwnerOption {
            user: owner
                .user
                .as_ref()
                .map(|user| identity(user, user_tree.as_ref())),
            group: owner
                .group
                .as_ref()
                .map(|group| identity(group, group_tree.as_ref())),
        };
        option
            .look_up(self.workshop.unknown_owner)
            .map_err(|error| SequenceError::Action {
                action: index,
                error,
            })
    }

    /// The failure, with what there is to look into.
    fn fail(self, error: SequenceError) -> Box<FailedSequence> {
        let mut failure = Box::new(FailedSequence {
            error,
            results: Vec::new(),
        });
        if failure.is_cancelled() {
            return failure;
        }
        let usage = NewUsage {
            record_type: RecordType::Internal,
            description: format!("failed: {}", self.workshop.usage.description),
            ..self.workshop.usage.clone()
        };
        // What cannot be kept is only missed there.
        let keep = |snapshot: MutableSnapshot| snapshot.commit(usage.clone()).ok();
        let results = self.results.into_iter().map(|done| match done {
            Done::Committed(snapshot) => Some(snapshot),
            Done::Working(working) => keep(working.snapshot),
            Done::Unneeded | Done::Taken => None,
        });
        failure.results = results.collect();
        failure.results.extend(self.failed.map(keep));
        failure.results.resize(self.actions.len(), None);
        failure
    }

    fn outputs(&self, count: usize) -> Result<Vec<SnapshotRef>, SequenceError> {
        let mut outputs = Vec::with_capacity(count);
        for output in 0..count {
            let index = self
                .actions
                .iter()
                .position(|action| action.output == Some(output));
            let slot = index.and_then(|index| self.results.get(index));
            match slot {
                Some(Done::Committed(snapshot)) => outputs.push(snapshot.clone()),
                _ => {
                    return Err(SequenceError::BadInput {
                        action: index.unwrap_or(output),
                    });
                }
            }
        }
        Ok(outputs)
    }
}

fn identity<'i>(user: &'i UserRef, tree: Option<&'i Layers>) -> Identity<'i> {
    match user {
        UserRef::Id(id) => Identity::Id(*id),
        UserRef::Name { name, .. } => Identity::Name { name, tree },
    }
}

fn copy_action(copy: &CopyAction) -> Result<Copy, FileError> {
    Ok(Copy {
        src: copy.src.clone(),
        dest: copy.dest.clone(),
        mode: match &copy.mode {
            None => ModeChange::Keep,
            Some(CopyMode::Bits(bits)) => ModeChange::Set(*bits),
            Some(CopyMode::Symbolic(text)) => ModeChange::parse(text)?,
        },
        follow_symlink: copy.follow_symlink,
        dir_copy_contents: copy.dir_contents,
        attempt_unpack: copy.attempt_unpack,
        create_dest_path: copy.create_dest_path,
        allow_wildcard: copy.allow_wildcard,
        allow_empty_wildcard: copy.allow_empty_wildcard,
        timestamp: copy.timestamp.map(Timestamp::from_unix_nanos),
        include_patterns: copy.include_patterns.clone(),
        exclude_patterns: copy.exclude_patterns.clone(),
        required_paths: copy.required_paths.clone(),
        always_replace_existing: copy.always_replace_existing_dest_paths,
    })
}

/// The directories of a mount, which need not be mounted to be worked on.
fn layers_of(spec: &MountSpec) -> Result<Layers, SequenceError> {
    let open = |paths: Vec<&PathBuf>, marks| {
        Layers::open(paths, marks).map_err(|(path, error)| SequenceError::Open { path, error })
    };
    match &spec.source {
        MountSource::Bind(path) => {
            let layers = open(vec![path], OverlayMarks::Trusted)?;
            Ok(layers)
        }
        MountSource::Overlay(overlay) => {
            let marks = if overlay.userxattr {
                OverlayMarks::User
            } else {
                OverlayMarks::Trusted
            };
            let upper = overlay.upper.as_ref().map(|upper| &upper.upper);
            open(upper.into_iter().chain(&overlay.lowers).collect(), marks)
        }
    }
}
