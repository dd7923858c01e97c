//! File operations to and from their messages.

use weld_proto::pb::{self, file_action::Action, user_opt::User};

use super::*;

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
