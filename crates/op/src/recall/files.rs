//! In what the files differ that a step sees of an input, in words.

use std::collections::BTreeMap;

use super::recipe::{File, Input, Kind};

/// What became of the files that a step sees, as far as it saw them before.
pub(super) fn in_files(before: &Input, now: &Input) -> Vec<String> {
    let sees_the_same = before.seen == now.seen;
    let old: BTreeMap<&str, &File> = files(before).collect();
    let new: BTreeMap<&str, &File> = files(now).collect();
    let mut told = Vec::new();
    // What became of a whole directory, or what a directory came from: nothing is told of what is in there.
    let mut replaced: Vec<&str> = Vec::new();
    for (path, file) in &new {
        match old.get(path) {
            Some(old) if old.key == file.key => {}
            Some(old) => told.push(in_file(old, file)),
            // What it did not see may have been there.
            None if !sees_the_same => {}
            // An empty directory is a file of the list, and any other is what is in it.
            None if file.kind == Kind::Directory && holds(&old, path) => {}
            None if holds(&old, path) => {
                told.push(of_other_kind(path, file.kind, Kind::Directory));
                replaced.push(path);
            }
            None if before.all_files => match above(&old, path) {
                Some(file) if replaced.contains(&file.path.as_str()) => {}
                Some(file) if file.kind == Kind::Directory => {
                    told.push(format!("{path} was added"));
                }
                Some(file) => {
                    told.push(of_other_kind(&file.path, Kind::Directory, file.kind));
                    replaced.push(&file.path);
                }
                None => told.push(format!("{path} was added")),
            },
            None => {}
        }
    }
    if now.all_files && sees_the_same {
        let gone = old.keys().filter(|path| {
            let under = |path: &str| replaced.iter().any(|there| is_within(path, there));
            !new.contains_key(*path) && !holds(&new, path) && !under(path)
        });
        told.extend(gone.map(|path| format!("{path} was removed")));
    }
    told
}

/// The file of the list that is at a place above a path.
fn above<'f>(files: &BTreeMap<&str, &'f File>, path: &str) -> Option<&'f File> {
    let mut ends = path.rmatch_indices('/').map(|(end, _)| end);
    ends.find_map(|end| files.get(path.get(..end)?).copied())
}

fn is_within(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

fn of_other_kind(path: &str, now: Kind, before: Kind) -> String {
    let word = |kind| match kind {
        Kind::File => "a file",
        Kind::Symlink => "a symbolic link",
        Kind::Directory => "a directory",
    };
    format!("{path} is {} now, before {}", word(now), word(before))
}

/// Whether something is in a directory.
fn holds(files: &BTreeMap<&str, &File>, directory: &str) -> bool {
    let inside = format!("{directory}/");
    let mut from = files.range(inside.as_str()..);
    from.next()
        .is_some_and(|(path, _)| path.starts_with(&inside))
}

/// Whether the content changed, too, is not known where something else did.
fn in_file(before: &File, now: &File) -> String {
    let path = &now.path;
    if before.kind != now.kind {
        return of_other_kind(path, now.kind, before.kind);
    }
    if before.mode != now.mode {
        let (before, now) = (before.mode, now.mode);
        return format!("mode of {path} was {before:04o}, now {now:04o}");
    }
    if (before.uid, before.gid) != (now.uid, now.gid) {
        return format!(
            "owner of {path} was {}:{}, now {}:{}",
            before.uid, before.gid, now.uid, now.gid
        );
    }
    format!("content of {path} changed")
}

fn files(input: &Input) -> impl Iterator<Item = (&str, &File)> {
    input.files.iter().map(|file| (file.path.as_str(), file))
}
