//! Changing files.

mod wire;

use bytes::Bytes;

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
