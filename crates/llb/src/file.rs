//! Changing files.

use bytes::Bytes;
use weld_proto::pb::{self, file_action::Action, user_opt::User};

/// Changes files, one action after the other.
///
/// `I` names an input, as in [`ExecOp`](crate::ExecOp).
#[derive(Clone, Debug, PartialEq)]
pub struct FileOp<I = usize> {
    /// The actions.
    pub actions: Vec<FileAction<I>>,
}

/// A file system that an action works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileInput<I = usize> {
    /// An empty one.
    Empty,
    /// An input.
    Input(I),
    /// What an earlier action of this operation left, by its index.
    Action(usize),
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct FileAction<I = usize> {
    /// What is changed.
    pub input: FileInput<I>,
    /// The output that it becomes.
    pub output: Option<usize>,
    /// The change.
    pub change: FileChange<I>,
}

/// The kinds of changes.
#[derive(Clone, Debug, PartialEq)]
pub enum FileChange<I = usize> {
    /// Copies files.
    Copy(CopyAction<I>),
    /// Writes a file.
    Mkfile(MkfileAction<I>),
    /// Makes a directory.
    Mkdir(MkdirAction<I>),
    /// Removes a path.
    Rm(RmAction),
    /// Makes a symbolic link.
    Symlink(SymlinkAction<I>),
}

/// Copies files.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyAction<I = usize> {
    /// What is copied from.
    pub from: FileInput<I>,
    /// The path to copy.
    pub src: String,
    /// Where to; a trailing slash says that it is a directory.
    pub dest: String,
    /// The owner to set; that of the source if absent.
    pub owner: Option<Owner<I>>,
    /// The permission bits to set; those of the source if absent.
    pub mode: Option<CopyMode>,
    /// Resolve symbolic links in `src`.
    pub follow_symlink: bool,
    /// Of a directory, copy what is in it.
    pub dir_contents: bool,
    /// Unpack the source if it is an archive.
    pub attempt_unpack: bool,
    /// Make the directories of `dest`.
    pub create_dest_path: bool,
    /// `src` is a pattern.
    pub allow_wildcard: bool,
    /// The pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// The modification time to set, nanoseconds since 1970; that of the source if absent.
    pub timestamp: Option<i64>,
    /// Copy only what matches, if not empty.
    pub include_patterns: Vec<String>,
    /// Leave out what matches.
    pub exclude_patterns: Vec<String>,
    /// Replace an existing path of another type.
    pub always_replace_existing_dest_paths: bool,
    /// Paths that the copy must include, where there are include patterns.
    pub required_paths: Vec<String>,
}

/// The permission bits of copied files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// These.
    Bits(u32),
    /// A change in the symbolic form of `chmod`.
    Symbolic(String),
}

/// Writes a file.
#[derive(Clone, Debug, PartialEq)]
pub struct MkfileAction<I = usize> {
    /// The file.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub data: Bytes,
    /// Its owner.
    pub owner: Option<Owner<I>>,
    /// Its modification time, nanoseconds since 1970; now if absent.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct MkdirAction<I = usize> {
    /// The directory.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Make those above it too.
    pub make_parents: bool,
    /// Its owner.
    pub owner: Option<Owner<I>>,
    /// Its modification time, nanoseconds since 1970; now if absent.
    pub timestamp: Option<i64>,
}

/// Removes a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RmAction {
    /// What to remove.
    pub path: String,
    /// It may lack.
    pub allow_not_found: bool,
    /// `path` is a pattern.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Clone, Debug, PartialEq)]
pub struct SymlinkAction<I = usize> {
    /// What the link says.
    pub target: String,
    /// The link.
    pub path: String,
    /// Its owner.
    pub owner: Option<Owner<I>>,
    /// Its modification time, nanoseconds since 1970; now if absent.
    pub timestamp: Option<i64>,
}

/// An owner and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner<I = usize> {
    /// The owner.
    pub user: Option<UserRef<I>>,
    /// The group.
    pub group: Option<UserRef<I>>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserRef<I = usize> {
    /// By number.
    Id(u32),
    /// By a name of the `passwd` or `group` file in a file system.
    Name {
        /// The name.
        name: String,
        /// Where the file is.
        input: FileInput<I>,
    },
}

/// Why a file operation is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// There are no actions.
    #[error("file operation has no actions")]
    NoActions,
    /// An action is of no known kind.
    #[error("file action {action}: unknown kind")]
    UnknownAction {
        /// The action's index.
        action: usize,
    },
    /// An input index is neither an input nor an earlier action.
    #[error(
        "file action {action}: input {input} is neither one of {inputs} inputs nor an earlier action"
    )]
    BadInput {
        /// The action's index.
        action: usize,
        /// The input's index.
        input: i64,
        /// How many inputs there are.
        inputs: usize,
    },
    /// The output indexes of the actions are not 0, 1, … each once.
    #[error("file action {action}: output {output} is taken or leaves a gap")]
    BadOutput {
        /// The action's index.
        action: usize,
        /// The output's index.
        output: i64,
    },
    /// No action has an output.
    #[error("file operation has no output")]
    NoOutput,
    /// A path is empty.
    #[error("file action {action}: {what} is empty")]
    EmptyPath {
        /// The action's index.
        action: usize,
        /// Which path.
        what: &'static str,
    },
    /// A mode has bits that no file has.
    #[error("file action {action}: mode {mode} is out of range")]
    BadMode {
        /// The action's index.
        action: usize,
        /// The mode.
        mode: i32,
    },
}

impl<I> FileOp<I> {
    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.actions
            .iter()
            .filter_map(|action| Some(action.output? + 1))
            .max()
            .unwrap_or(0)
    }

    /// The operation with its inputs replaced, asked for in the order of the actions.
    pub fn map_inputs<J, E>(
        &self,
        map: &mut impl FnMut(&I) -> Result<J, E>,
    ) -> Result<FileOp<J>, E> {
        Ok(FileOp {
            actions: self
                .actions
                .iter()
                .map(|action| {
                    Ok(FileAction {
                        input: action.input.map(map)?,
                        output: action.output,
                        change: action.change.map_inputs(map)?,
                    })
                })
                .collect::<Result<_, E>>()?,
        })
    }
}

impl<I> FileInput<I> {
    fn map<J, E>(&self, map: &mut impl FnMut(&I) -> Result<J, E>) -> Result<FileInput<J>, E> {
        Ok(match self {
            Self::Empty => FileInput::Empty,
            Self::Input(input) => FileInput::Input(map(input)?),
            Self::Action(action) => FileInput::Action(*action),
        })
    }
}

impl<I> Owner<I> {
    fn map<J, E>(&self, map: &mut impl FnMut(&I) -> Result<J, E>) -> Result<Owner<J>, E> {
        let mut user_ref = |user: &Option<UserRef<I>>| match user {
            None => Ok(None),
            Some(UserRef::Id(id)) => Ok(Some(UserRef::Id(*id))),
            Some(UserRef::Name { name, input }) => Ok(Some(UserRef::Name {
                name: name.clone(),
                input: input.map(map)?,
            })),
        };
        Ok(Owner {
            user: user_ref(&self.user)?,
            group: user_ref(&self.group)?,
        })
    }
}

fn map_owner<I, J, E>(
    owner: &Option<Owner<I>>,
    map: &mut impl FnMut(&I) -> Result<J, E>,
) -> Result<Option<Owner<J>>, E> {
    owner.as_ref().map(|owner| owner.map(map)).transpose()
}

impl<I> FileChange<I> {
    fn map_inputs<J, E>(
        &self,
        map: &mut impl FnMut(&I) -> Result<J, E>,
    ) -> Result<FileChange<J>, E> {
        Ok(match self {
            Self::Copy(copy) => FileChange::Copy(CopyAction {
                from: copy.from.map(map)?,
                owner: map_owner(&copy.owner, map)?,
                src: copy.src.clone(),
                dest: copy.dest.clone(),
                mode: copy.mode.clone(),
                follow_symlink: copy.follow_symlink,
                dir_contents: copy.dir_contents,
                attempt_unpack: copy.attempt_unpack,
                create_dest_path: copy.create_dest_path,
                allow_wildcard: copy.allow_wildcard,
                allow_empty_wildcard: copy.allow_empty_wildcard,
                timestamp: copy.timestamp,
                include_patterns: copy.include_patterns.clone(),
                exclude_patterns: copy.exclude_patterns.clone(),
                always_replace_existing_dest_paths: copy.always_replace_existing_dest_paths,
                required_paths: copy.required_paths.clone(),
            }),
            Self::Mkfile(mkfile) => FileChange::Mkfile(MkfileAction {
                path: mkfile.path.clone(),
                mode: mkfile.mode,
                data: mkfile.data.clone(),
                owner: map_owner(&mkfile.owner, map)?,
                timestamp: mkfile.timestamp,
            }),
            Self::Mkdir(mkdir) => FileChange::Mkdir(MkdirAction {
                path: mkdir.path.clone(),
                mode: mkdir.mode,
                make_parents: mkdir.make_parents,
                owner: map_owner(&mkdir.owner, map)?,
                timestamp: mkdir.timestamp,
            }),
            Self::Rm(rm) => FileChange::Rm(rm.clone()),
            Self::Symlink(symlink) => FileChange::Symlink(SymlinkAction {
                target: symlink.target.clone(),
                path: symlink.path.clone(),
                owner: map_owner(&symlink.owner, map)?,
                timestamp: symlink.timestamp,
            }),
        })
    }
}

impl<I> CopyAction<I> {
    /// Copies `src` of `from` to `dest`, with every option off.
    pub fn new(from: FileInput<I>, src: impl Into<String>, dest: impl Into<String>) -> Self {
        Self {
            from,
            src: src.into(),
            dest: dest.into(),
            owner: None,
            mode: None,
            follow_symlink: false,
            dir_contents: false,
            attempt_unpack: false,
            create_dest_path: false,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            timestamp: None,
            include_patterns: Vec::new(),
            exclude_patterns: Vec::new(),
            always_replace_existing_dest_paths: false,
            required_paths: Vec::new(),
        }
    }
}

/// What the indexes of one action may be.
struct Scope {
    action: usize,
    inputs: usize,
}

impl Scope {
    fn input(&self, index: i64) -> Result<FileInput, FileError> {
        if index == pb::EMPTY_INPUT {
            return Ok(FileInput::Empty);
        }
        match usize::try_from(index) {
            Ok(index) if index < self.inputs => Ok(FileInput::Input(index)),
            Ok(index) if index - self.inputs < self.action => {
                Ok(FileInput::Action(index - self.inputs))
            }
            _ => Err(FileError::BadInput {
                action: self.action,
                input: index,
                inputs: self.inputs,
            }),
        }
    }

    fn output(&self, index: i64) -> Result<Option<usize>, FileError> {
        match usize::try_from(index) {
            Ok(index) => Ok(Some(index)),
            Err(_) if index == pb::SKIP_OUTPUT => Ok(None),
            Err(_) => Err(FileError::BadOutput {
                action: self.action,
                output: index,
            }),
        }
    }

    fn mode(&self, mode: i32) -> Result<u32, FileError> {
        u32::try_from(mode)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or(FileError::BadMode {
                action: self.action,
                mode,
            })
    }

    fn path(&self, path: String, what: &'static str) -> Result<String, FileError> {
        if path.is_empty() {
            return Err(FileError::EmptyPath {
                action: self.action,
                what,
            });
        }
        Ok(path)
    }

    fn owner(&self, owner: Option<pb::ChownOpt>) -> Result<Option<Owner>, FileError> {
        let Some(owner) = owner else {
            return Ok(None);
        };
        Ok(Some(Owner {
            user: self.user(owner.user)?,
            group: self.user(owner.group)?,
        }))
    }

    fn user(&self, user: Option<pb::UserOpt>) -> Result<Option<UserRef>, FileError> {
        Ok(match user.and_then(|user| user.user) {
            None => None,
            Some(User::ById(id)) => Some(UserRef::Id(id)),
            Some(User::ByName(named)) => Some(UserRef::Name {
                name: named.name,
                input: self.input(named.input)?,
            }),
        })
    }

    fn change(&self, action: Action, secondary: i64) -> Result<FileChange, FileError> {
        Ok(match action {
            Action::Copy(copy) => FileChange::Copy(self.copy(copy, secondary)?),
            Action::Mkfile(mkfile) => FileChange::Mkfile(MkfileAction {
                path: self.path(mkfile.path, "the file's path")?,
                mode: self.mode(mkfile.mode)?,
                data: mkfile.data,
                owner: self.owner(mkfile.owner)?,
                timestamp: time(mkfile.timestamp),
            }),
            Action::Mkdir(mkdir) => FileChange::Mkdir(MkdirAction {
                path: self.path(mkdir.path, "the directory's path")?,
                mode: self.mode(mkdir.mode)?,
                make_parents: mkdir.make_parents,
                owner: self.owner(mkdir.owner)?,
                timestamp: time(mkdir.timestamp),
            }),
            Action::Rm(rm) => FileChange::Rm(RmAction {
                path: self.path(rm.path, "the path to remove")?,
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
            Action::Symlink(symlink) => FileChange::Symlink(SymlinkAction {
                target: self.path(symlink.oldpath, "the link's target")?,
                path: self.path(symlink.newpath, "the link's path")?,
                owner: self.owner(symlink.owner)?,
                timestamp: time(symlink.timestamp),
            }),
        })
    }

    fn copy(&self, copy: pb::FileActionCopy, secondary: i64) -> Result<CopyAction, FileError> {
        let mode = if !copy.mode_str.is_empty() {
            Some(CopyMode::Symbolic(copy.mode_str))
        } else if copy.mode == -1 {
            None
        } else {
            Some(CopyMode::Bits(self.mode(copy.mode)?))
        };
        Ok(CopyAction {
            from: self.input(secondary)?,
            src: self.path(copy.src, "the path to copy")?,
            dest: self.path(copy.dest, "the copy's destination")?,
            owner: self.owner(copy.owner)?,
            mode,
            follow_symlink: copy.follow_symlink,
            dir_contents: copy.dir_copy_contents,
            attempt_unpack: copy.attempt_unpack_docker_compatibility,
            create_dest_path: copy.create_dest_path,
            allow_wildcard: copy.allow_wildcard,
            allow_empty_wildcard: copy.allow_empty_wildcard,
            timestamp: time(copy.timestamp),
            include_patterns: copy.include_patterns,
            exclude_patterns: copy.exclude_patterns,
            always_replace_existing_dest_paths: copy.always_replace_existing_dest_paths,
            required_paths: copy.required_paths,
        })
    }
}

fn time(timestamp: i64) -> Option<i64> {
    (timestamp != -1).then_some(timestamp)
}

impl FileOp {
    /// The operation of that message, which has `inputs` inputs.
    pub fn from_pb(op: pb::FileOp, inputs: usize) -> Result<Self, FileError> {
        if op.actions.is_empty() {
            return Err(FileError::NoActions);
        }
        let mut taken = vec![false; op.actions.len()];
        let mut actions = Vec::with_capacity(op.actions.len());
        for (index, action) in op.actions.into_iter().enumerate() {
            let scope = Scope {
                action: index,
                inputs,
            };
            let change = action
                .action
                .ok_or(FileError::UnknownAction { action: index })?;
            let output = scope.output(action.output)?;
            if let Some(output) = output {
                match taken.get_mut(output) {
                    Some(slot) if !*slot => *slot = true,
                    _ => {
                        return Err(FileError::BadOutput {
                            action: index,
                            output: action.output,
                        });
                    }
                }
            }
            actions.push(FileAction {
                input: scope.input(action.input)?,
                output,
                change: scope.change(change, action.secondary_input)?,
            });
        }
        if !taken.contains(&true) {
            return Err(FileError::NoOutput);
        }
        Ok(Self { actions })
    }

    /// The message of the operation, which has `inputs` inputs.
    pub fn to_pb(&self, inputs: usize) -> pb::FileOp {
        pb::FileOp {
            actions: self
                .actions
                .iter()
                .map(|action| {
                    let secondary = match &action.change {
                        FileChange::Copy(copy) => &copy.from,
                        _ => &FileInput::Empty,
                    };
                    pb::FileAction {
                        input: action.input.to_pb(inputs),
                        secondary_input: secondary.to_pb(inputs),
                        output: crate::exec::index_to_pb(action.output),
                        action: Some(action.change.to_pb(inputs)),
                    }
                })
                .collect(),
        }
    }
}

impl FileInput {
    fn to_pb(&self, inputs: usize) -> i64 {
        crate::exec::index_to_pb(match self {
            Self::Empty => None,
            Self::Input(input) => Some(*input),
            Self::Action(action) => Some(inputs.saturating_add(*action)),
        })
    }
}

fn owner_to_pb(owner: &Option<Owner>, inputs: usize) -> Option<pb::ChownOpt> {
    let user = |user: &Option<UserRef>| {
        user.as_ref().map(|user| pb::UserOpt {
            user: Some(match user {
                UserRef::Id(id) => User::ById(*id),
                UserRef::Name { name, input } => User::ByName(pb::NamedUserOpt {
                    name: name.clone(),
                    input: input.to_pb(inputs),
                }),
            }),
        })
    };
    owner.as_ref().map(|owner| pb::ChownOpt {
        user: user(&owner.user),
        group: user(&owner.group),
    })
}

fn mode_to_pb(mode: u32) -> i32 {
    i32::try_from(mode).unwrap_or(i32::MAX)
}

impl FileChange {
    fn to_pb(&self, inputs: usize) -> Action {
        match self {
            Self::Copy(copy) => Action::Copy(copy.to_pb(inputs)),
            Self::Mkfile(mkfile) => Action::Mkfile(pb::FileActionMkFile {
                path: mkfile.path.clone(),
                mode: mode_to_pb(mkfile.mode),
                data: mkfile.data.clone(),
                owner: owner_to_pb(&mkfile.owner, inputs),
                timestamp: mkfile.timestamp.unwrap_or(-1),
            }),
            Self::Mkdir(mkdir) => Action::Mkdir(pb::FileActionMkDir {
                path: mkdir.path.clone(),
                mode: mode_to_pb(mkdir.mode),
                make_parents: mkdir.make_parents,
                owner: owner_to_pb(&mkdir.owner, inputs),
                timestamp: mkdir.timestamp.unwrap_or(-1),
            }),
            Self::Rm(rm) => Action::Rm(pb::FileActionRm {
                path: rm.path.clone(),
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
            Self::Symlink(symlink) => Action::Symlink(pb::FileActionSymlink {
                oldpath: symlink.target.clone(),
                newpath: symlink.path.clone(),
                owner: owner_to_pb(&symlink.owner, inputs),
                timestamp: symlink.timestamp.unwrap_or(-1),
            }),
        }
    }
}

impl CopyAction {
    fn to_pb(&self, inputs: usize) -> pb::FileActionCopy {
        let (mode, mode_str) = match &self.mode {
            None => (-1, String::new()),
            Some(CopyMode::Bits(bits)) => (mode_to_pb(*bits), String::new()),
            Some(CopyMode::Symbolic(change)) => (0, change.clone()),
        };
        pb::FileActionCopy {
            src: self.src.clone(),
            dest: self.dest.clone(),
            owner: owner_to_pb(&self.owner, inputs),
            mode,
            follow_symlink: self.follow_symlink,
            dir_copy_contents: self.dir_contents,
            attempt_unpack_docker_compatibility: self.attempt_unpack,
            create_dest_path: self.create_dest_path,
            allow_wildcard: self.allow_wildcard,
            allow_empty_wildcard: self.allow_empty_wildcard,
            timestamp: self.timestamp.unwrap_or(-1),
            include_patterns: self.include_patterns.clone(),
            exclude_patterns: self.exclude_patterns.clone(),
            always_replace_existing_dest_paths: self.always_replace_existing_dest_paths,
            mode_str,
            required_paths: self.required_paths.clone(),
        }
    }
}
