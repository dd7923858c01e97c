//! What a file operation says: each field of what its key is made of, and nothing else.

use weld_llb::{FileChange, FileOp};
use weld_proto::pb::{self, file_action::Action, user_opt::User};

use super::cache::what_counts;
use crate::recall::Fields;
use crate::recall::said::Said;

/// The fields. All of the message that the key takes are named here, so that one that is added to it cannot be forgotten.
pub(super) fn said(op: &FileOp, inputs: usize) -> Fields {
    let mut said = Said::default();
    let actions = what_counts(op, inputs);
    for (number, (action, defined)) in actions.into_iter().zip(&op.actions).enumerate() {
        let pb::FileAction {
            input,
            secondary_input,
            output,
            action,
        } = action;
        let part = format!("actions[{number}].");
        let mut part = Part {
            name: part,
            said: &mut said,
        };
        part.number("input", input);
        part.number("secondary_input", secondary_input);
        part.number("output", output);
        match action {
            Some(Action::Copy(copy)) => part.copy(copy, &defined.change),
            Some(Action::Mkfile(mkfile)) => part.mkfile(mkfile),
            Some(Action::Mkdir(mkdir)) => part.mkdir(mkdir),
            Some(Action::Rm(rm)) => part.rm(rm),
            Some(Action::Symlink(symlink)) => part.symlink(symlink),
            None => {}
        }
    }
    said.into_fields()
}

/// One action.
struct Part<'s> {
    name: String,
    said: &'s mut Said,
}

impl Part<'_> {
    fn field(&mut self, field: &str, value: &str) {
        let Self { name, said } = self;
        said.field(&format!("{name}{field}"), value);
    }

    fn number(&mut self, field: &str, value: i64) {
        self.field(field, &value.to_string());
    }

    fn flag(&mut self, field: &str, value: bool) {
        let Self { name, said } = self;
        said.flag(&format!("{name}{field}"), value);
    }

    fn list(&mut self, field: &str, values: &[String]) {
        let Self { name, said } = self;
        said.list(&format!("{name}{field}"), values);
    }

    fn copy(&mut self, copy: pb::FileActionCopy, defined: &FileChange) {
        let pb::FileActionCopy {
            src,
            dest,
            owner,
            mode,
            follow_symlink,
            dir_copy_contents,
            attempt_unpack_docker_compatibility,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            timestamp,
            include_patterns,
            exclude_patterns,
            always_replace_existing_dest_paths,
            mode_str,
            required_paths,
        } = copy;
        // Where it is short of its directory, the key has that by way of the input.
        let whole = match defined {
            FileChange::Copy(copy) => &copy.src,
            _ => &src,
        };
        self.field("copy.src", whole);
        self.field("copy.dest", &dest);
        self.owner("copy", owner);
        match (mode_str.is_empty(), mode) {
            (false, _) => self.field("copy.mode", &mode_str),
            (true, -1) => {}
            (true, bits) => self.field("copy.mode", &format!("{bits:04o}")),
        }
        self.flag("copy.follow_symlink", follow_symlink);
        self.flag("copy.dir_copy_contents", dir_copy_contents);
        self.flag("copy.attempt_unpack", attempt_unpack_docker_compatibility);
        self.flag("copy.create_dest_path", create_dest_path);
        self.flag("copy.allow_wildcard", allow_wildcard);
        self.flag("copy.allow_empty_wildcard", allow_empty_wildcard);
        self.time("copy", timestamp);
        self.list("copy.include_patterns", &include_patterns);
        self.list("copy.exclude_patterns", &exclude_patterns);
        self.flag("copy.replace", always_replace_existing_dest_paths);
        self.list("copy.required_paths", &required_paths);
    }

    fn mkfile(&mut self, mkfile: pb::FileActionMkFile) {
        let pb::FileActionMkFile {
            path,
            mode,
            data,
            owner,
            timestamp,
        } = mkfile;
        self.field("mkfile.path", &path);
        self.field("mkfile.mode", &format!("{mode:04o}"));
        match std::str::from_utf8(&data) {
            Ok(text) => self.field("mkfile.data", text),
            Err(_) => {
                let digest = weld_digest::Digest::sha256_of(&data);
                self.field("mkfile.data", &digest.to_string());
            }
        }
        self.owner("mkfile", owner);
        self.time("mkfile", timestamp);
    }

    fn mkdir(&mut self, mkdir: pb::FileActionMkDir) {
        let pb::FileActionMkDir {
            path,
            mode,
            make_parents,
            owner,
            timestamp,
        } = mkdir;
        self.field("mkdir.path", &path);
        self.field("mkdir.mode", &format!("{mode:04o}"));
        self.flag("mkdir.make_parents", make_parents);
        self.owner("mkdir", owner);
        self.time("mkdir", timestamp);
    }

    fn rm(&mut self, rm: pb::FileActionRm) {
        let pb::FileActionRm {
            path,
            allow_not_found,
            allow_wildcard,
        } = rm;
        self.field("rm.path", &path);
        self.flag("rm.allow_not_found", allow_not_found);
        self.flag("rm.allow_wildcard", allow_wildcard);
    }

    fn symlink(&mut self, symlink: pb::FileActionSymlink) {
        let pb::FileActionSymlink {
            oldpath,
            newpath,
            owner,
            timestamp,
        } = symlink;
        self.field("symlink.newpath", &newpath);
        self.field("symlink.oldpath", &oldpath);
        self.owner("symlink", owner);
        self.time("symlink", timestamp);
    }

    fn owner(&mut self, kind: &str, owner: Option<pb::ChownOpt>) {
        let Some(pb::ChownOpt { user, group }) = owner else {
            return;
        };
        if user.is_none() && group.is_none() {
            self.flag(&format!("{kind}.owner"), true);
        }
        for (what, who) in [("user", user), ("group", group)] {
            let name = format!("{kind}.owner.{what}");
            match who.and_then(|who| who.user) {
                None => {}
                Some(User::ById(id)) => self.field(&name, &id.to_string()),
                Some(User::ByName(pb::NamedUserOpt { name: who, input })) => {
                    self.field(&name, &who);
                    self.number(&format!("{name}.input"), input);
                }
            }
        }
    }

    fn time(&mut self, kind: &str, timestamp: i64) {
        if timestamp != -1 {
            self.number(&format!("{kind}.timestamp"), timestamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use weld_llb::{
        CopyAction, CopyMode, FileAction, FileInput, MkdirAction, MkfileAction, Owner, RmAction,
        SymlinkAction, UserRef,
    };

    use super::super::cache::cache_map;
    use super::*;
    use crate::digest::to_solver;
    use crate::recall::{does, told_of};

    /// An operation with an action of each kind.
    fn full() -> FileOp {
        let text = |text: &str| text.to_owned();
        let owner = || {
            Some(Owner {
                user: Some(UserRef::Id(1)),
                group: Some(UserRef::Name {
                    name: text("staff"),
                    input: FileInput::Input(0),
                }),
            })
        };
        let copy = |from, src: &str| {
            FileChange::Copy(CopyAction {
                owner: owner(),
                ..CopyAction::new(FileInput::Input(from), src, "/x/")
            })
        };
        let changes = [
            copy(1, "/a/f"),
            copy(1, "/b/f"),
            copy(0, "/c/f"),
            FileChange::Mkfile(MkfileAction {
                path: text("/file"),
                mode: 0o644,
                data: "one".into(),
                owner: owner(),
                timestamp: None,
            }),
            FileChange::Mkdir(MkdirAction {
                path: text("/dir"),
                mode: 0o755,
                make_parents: false,
                owner: owner(),
                timestamp: None,
            }),
            FileChange::Rm(RmAction {
                path: text("/gone"),
                allow_not_found: false,
                allow_wildcard: false,
            }),
            FileChange::Symlink(SymlinkAction {
                target: text("/to"),
                path: text("/link"),
                owner: owner(),
                timestamp: None,
            }),
        ];
        let actions = changes.into_iter().enumerate();
        let actions = actions.map(|(number, change)| FileAction {
            input: match number {
                0 => FileInput::Input(0),
                number => FileInput::Action(number - 1),
            },
            output: (number == 6).then_some(0),
            change,
        });
        FileOp {
            actions: actions.collect(),
        }
    }

    type Change = Box<dyn Fn(&mut FileChange)>;
    type OwnerChange = (&'static str, fn(&mut Owner));

    macro_rules! change {
        ($kind:path, $action:ident, $apply:expr) => {
            Box::new(|change: &mut FileChange| match change {
                $kind($action) => $apply,
                _ => unreachable!(),
            }) as Change
        };
    }

    /// Changes with what the reason has to name. That none is left out, the compiler tells.
    fn changes_of(change: &FileChange) -> Vec<(&'static str, Change)> {
        use FileChange::{Copy, Mkdir, Mkfile, Rm, Symlink};
        match change {
            Copy(CopyAction {
                from: _,
                src: _,
                dest: _,
                owner: _,
                mode: _,
                follow_symlink: _,
                dir_contents: _,
                attempt_unpack: _,
                create_dest_path: _,
                allow_wildcard: _,
                allow_empty_wildcard: _,
                timestamp: _,
                include_patterns: _,
                exclude_patterns: _,
                always_replace_existing_dest_paths: _,
                required_paths: _,
            }) => vec![
                (
                    "input",
                    change!(Copy, copy, copy.from = FileInput::Input(2)),
                ),
                ("copied path", change!(Copy, copy, copy.src.push('r'))),
                (
                    "copied path",
                    change!(Copy, copy, copy.src.insert_str(0, "/up")),
                ),
                ("destination", change!(Copy, copy, copy.dest.push('r'))),
                (
                    "mode",
                    change!(Copy, copy, copy.mode = Some(CopyMode::Bits(0))),
                ),
                (
                    "mode",
                    change!(
                        Copy,
                        copy,
                        copy.mode = Some(CopyMode::Symbolic("a+x".into()))
                    ),
                ),
                ("symlinks", change!(Copy, copy, copy.follow_symlink = true)),
                (
                    "in a directory",
                    change!(Copy, copy, copy.dir_contents = true),
                ),
                ("archives", change!(Copy, copy, copy.attempt_unpack = true)),
                (
                    "directories of",
                    change!(Copy, copy, copy.create_dest_path = true),
                ),
                (
                    "is a pattern",
                    change!(Copy, copy, copy.allow_wildcard = true),
                ),
                (
                    "match nothing",
                    change!(Copy, copy, copy.allow_empty_wildcard = true),
                ),
                ("time", change!(Copy, copy, copy.timestamp = Some(0))),
                (
                    "included",
                    change!(Copy, copy, copy.include_patterns.push("*".into())),
                ),
                (
                    "excluded",
                    change!(Copy, copy, copy.exclude_patterns.push("*".into())),
                ),
                (
                    "replaced",
                    change!(Copy, copy, copy.always_replace_existing_dest_paths = true),
                ),
                (
                    "have to be",
                    change!(Copy, copy, copy.required_paths.push("r".into())),
                ),
                (
                    "owner was 1, now it is not set",
                    change!(Copy, copy, copy.owner = None),
                ),
                (
                    "owner",
                    change!(
                        Copy,
                        copy,
                        copy.owner = Some(Owner {
                            user: None,
                            group: None
                        })
                    ),
                ),
            ],
            Mkfile(MkfileAction {
                path: _,
                mode: _,
                data: _,
                owner: _,
                timestamp: _,
            }) => vec![
                ("file", change!(Mkfile, file, file.path.push('r'))),
                ("mode", change!(Mkfile, file, file.mode = 0o600)),
                (
                    "content of the file was one, now two",
                    change!(Mkfile, file, file.data = "two".into()),
                ),
                (
                    "content of the file",
                    change!(Mkfile, file, file.data = vec![0xff].into()),
                ),
                ("owner", change!(Mkfile, file, file.owner = None)),
                ("time", change!(Mkfile, file, file.timestamp = Some(1))),
            ],
            Mkdir(MkdirAction {
                path: _,
                mode: _,
                make_parents: _,
                owner: _,
                timestamp: _,
            }) => vec![
                ("directory", change!(Mkdir, dir, dir.path.push('r'))),
                ("mode", change!(Mkdir, dir, dir.mode = 0o700)),
                (
                    "directories above",
                    change!(Mkdir, dir, dir.make_parents = true),
                ),
                ("owner", change!(Mkdir, dir, dir.owner = None)),
                ("time", change!(Mkdir, dir, dir.timestamp = Some(1))),
            ],
            Rm(RmAction {
                path: _,
                allow_not_found: _,
                allow_wildcard: _,
            }) => vec![
                ("removed path", change!(Rm, rm, rm.path.push('r'))),
                ("may lack", change!(Rm, rm, rm.allow_not_found = true)),
                ("is a pattern", change!(Rm, rm, rm.allow_wildcard = true)),
            ],
            Symlink(SymlinkAction {
                target: _,
                path: _,
                owner: _,
                timestamp: _,
            }) => vec![
                (
                    "target of the symlink",
                    change!(Symlink, link, link.target.push('r')),
                ),
                ("symlink", change!(Symlink, link, link.path.push('r'))),
                ("owner", change!(Symlink, link, link.owner = None)),
                ("time", change!(Symlink, link, link.timestamp = Some(1))),
            ],
        }
    }

    fn owner_of(change: &mut FileChange) -> &mut Option<Owner> {
        match change {
            FileChange::Copy(copy) => &mut copy.owner,
            FileChange::Mkfile(mkfile) => &mut mkfile.owner,
            FileChange::Mkdir(mkdir) => &mut mkdir.owner,
            FileChange::Symlink(symlink) => &mut symlink.owner,
            FileChange::Rm(_) => unreachable!(),
        }
    }

    /// What a cache knows of an operation but for the inputs.
    fn key(op: &FileOp) -> weld_store::StepName {
        let found = cache_map(op, 3);
        let mut map = weld_solver::CacheMap::new(to_solver(&found.digest));
        let inputs = found.inputs.into_iter();
        map.inputs = inputs
            .map(|content| weld_solver::InputMap {
                slow_key: content.is_some(),
                selector: content.map(|content| to_solver(&content.selector)),
                preprocess: false,
            })
            .collect();
        does(&map)
    }

    fn check(op: &FileOp, changed: &FileOp, named: &str) {
        assert_ne!(changed, op, "{named:?}");
        let told = told_of(&said(op, 3), &said(changed, 3));
        let context = format!("{named:?}: {told:?}\n{changed:#?}");
        assert_ne!(key(changed), key(op), "{context}");
        assert!(told.join("; ").contains(named), "{context}");
    }

    /// What changes the key is told by its name. All that a file operation says does.
    #[test]
    fn what_is_told_is_what_counts() {
        let op = full();
        let FileAction {
            input: _,
            output: _,
            change: _,
        } = &op.actions[0];
        for at in 0..op.actions.len() {
            for (named, apply) in changes_of(&op.actions[at].change) {
                let mut changed = op.clone();
                apply(&mut changed.actions[at].change);
                check(&op, &changed, named);
            }
            let mut changed = op.clone();
            changed.actions[at].input = FileInput::Input(2);
            check(&op, &changed, "input");
            let mut changed = op.clone();
            changed.actions[at].output = Some(1);
            check(&op, &changed, "output");
            if matches!(op.actions[at].change, FileChange::Rm(_)) {
                continue;
            }
            let changes: [OwnerChange; 5] = [
                ("owner", |owner| owner.user = Some(UserRef::Id(2))),
                ("owner", |owner| owner.user = None),
                ("group", |owner| owner.group = Some(UserRef::Id(2))),
                ("group", |owner| {
                    if let Some(UserRef::Name { name, .. }) = &mut owner.group {
                        name.push('r');
                    }
                }),
                ("input", |owner| {
                    if let Some(UserRef::Name { input, .. }) = &mut owner.group {
                        *input = FileInput::Input(2);
                    }
                }),
            ];
            for (named, apply) in changes {
                let mut changed = op.clone();
                owner_of(&mut changed.actions[at].change)
                    .as_mut()
                    .map(apply)
                    .unwrap();
                check(&op, &changed, named);
            }
        }
        let mut swapped = op.clone();
        swapped.actions.swap(0, 1);
        swapped.actions[0].input = FileInput::Input(0);
        swapped.actions[1].input = FileInput::Action(0);
        check(&op, &swapped, "copied path");
    }
}
