//! `COPY` and `ADD`.

use std::path::Path;

use bytes::Bytes;
use weld_digest::Digest;
use weld_llb::{
    CopyAction, CopyMode, FileAttributes, FileChange, HttpSource, MkfileAction, Output, Owner,
    ProgressGroup, Source, State, path,
};

use super::ConvertError;
use super::context::internal;
use super::dispatch::Current;
use super::git_ref::GitRef;
use super::stages::Converter;
use crate::chmod::Chmod;
use crate::error::{Error, ErrorKind};
use crate::instruction::{Add, Copy, Instruction, Transfer};
use crate::lint::Finding;

/// What `COPY` and `ADD` come to.
struct Plan<'a> {
    instruction: &'a Instruction,
    transfer: &'a Transfer,
    /// `ADD` rather than `COPY`.
    add: Option<&'a Add>,
    parents: bool,
    /// Where local paths are copied from.
    from: Option<Output>,
    /// Whether that is the build context, with its ignore file.
    from_context: bool,
    name: String,
    destination: String,
    owner: Option<Owner<Output>>,
    mode: Option<CopyMode>,
}

/// What a source's text means.
pub(super) enum Location {
    Git(Box<GitRef>),
    Url,
    Path,
}

impl Converter<'_> {
    pub(super) fn add(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        add: &Add,
    ) -> Result<(), Error> {
        self.check_checksum(add)?;
        let transfer = &add.transfer;
        let mut plan = self.plan(current, instruction, transfer)?;
        plan.add = Some(add);
        self.transfer(current, plan)?;
        for source in &transfer.sources {
            if matches!(locate(source)?, Location::Path) {
                self.context_paths.insert(path::join(&["/", source]));
            }
        }
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        current: &mut Current,
        instruction: &Instruction,
        copy: &Copy,
        sources: &[Option<usize>],
    ) -> Result<(), Error> {
        let node = sources.first().copied().flatten();
        let mut plan = self.plan(current, instruction, &copy.transfer)?;
        plan.parents = copy.parents;
        if let Some(node) = node {
            plan.from = self.copied_node(current, node, copy)?;
            plan.from_context = false;
        }
        self.transfer(current, plan)?;
        for source in &copy.transfer.sources {
            let used = path::join(&["/", source]);
            match node {
                Some(node) => self.use_path(node, &used),
                None => {
                    self.context_paths.insert(used);
                }
            }
        }
        Ok(())
    }

    fn copied_node(
        &self,
        current: &Current,
        node: usize,
        copy: &Copy,
    ) -> Result<Option<Output>, Error> {
        match self.nodes.get(node) {
            Some(node) if node.progress.dispatched => {
                Ok(node.state.as_ref().and_then(|state| state.output))
            }
            _ => Err(ConvertError::CopyFromLater {
                from: copy.from.clone().unwrap_or_default(),
                stage: current.node.label.clone(),
            }
            .into()),
        }
    }

    fn check_checksum(&self, add: &Add) -> Result<(), Error> {
        if add.checksum.is_none() {
            return Ok(());
        }
        match add.transfer.sources.as_slice() {
            [source] if matches!(locate(source)?, Location::Path) => {
                Err(ConvertError::ChecksumLocal.into())
            }
            [_] => Ok(()),
            _ => Err(ConvertError::ChecksumSources.into()),
        }
    }

    fn plan<'a>(
        &self,
        current: &mut Current,
        instruction: &'a Instruction,
        transfer: &'a Transfer,
    ) -> Result<Plan<'a>, Error> {
        let mode = match transfer.chmod.as_deref() {
            None | Some("") => None,
            Some(chmod) => Some(match Chmod::parse(chmod)? {
                Chmod::Octal(bits) => CopyMode::Bits(bits),
                Chmod::Symbolic(change) => CopyMode::Symbolic(change),
            }),
        };
        let chown = transfer.chown.as_deref().filter(|chown| !chown.is_empty());
        let destination = match transfer.destination.as_str() {
            "" | "." => "./",
            destination => destination,
        };
        Ok(Plan {
            instruction,
            transfer,
            add: None,
            parents: false,
            from: self.context_output,
            from_context: true,
            name: self.step_name(current, instruction),
            destination: path::normalize(&current.state.dir, destination, true),
            // A linked copy names users of the empty file system that it goes to.
            owner: chown.map(|chown| match is_linked(transfer) {
                true => State::scratch().owner(chown),
                false => current.state.owner(chown),
            }),
            mode,
        })
    }

    fn transfer(&mut self, current: &mut Current, plan: Plan<'_>) -> Result<(), Error> {
        let mut changes = Vec::new();
        for source in &plan.transfer.sources {
            let copy = match locate(source)? {
                Location::Git(git) => self.copy_git(&plan, source, &git)?,
                Location::Url => self.copy_url(&plan, source)?,
                Location::Path => self.copy_path(&plan, source),
            };
            changes.push(FileChange::Copy(copy));
        }
        for file in &plan.transfer.inline_files {
            let copy = self.copy_inline(current, &plan, &file.name, &file.data)?;
            changes.push(FileChange::Copy(copy));
        }
        let created_by = history_text(&plan);
        self.apply(current, &plan, changes)?;
        self.record(current, created_by, true);
        Ok(())
    }

    /// Copies onto the stage, or with `--link` into a layer of its own that is laid over the stage.
    fn apply(
        &mut self,
        current: &mut Current,
        plan: &Plan<'_>,
        changes: Vec<FileChange<Output>>,
    ) -> Result<(), Error> {
        let constraints = self
            .constraints(plan.instruction)
            .named(&plan.name)
            .ignoring_cache(current.node.no_cache);
        if !is_linked(plan.transfer) {
            let copied = current
                .state
                .file(&mut self.builder, changes, constraints)
                .map_err(ConvertError::from)?;
            current.state.output = copied.output;
            return Ok(());
        }
        let group = |weak| ProgressGroup {
            id: format!("link:{}", plan.name),
            name: plan.name.clone(),
            weak,
        };
        let copied = State::scratch()
            .file(
                &mut self.builder,
                changes,
                constraints.clone().in_group(group(true)),
            )
            .map_err(ConvertError::from)?;
        let platform = current.node.platform.clone();
        let (_, text) = plan.name.split_once("] ").unwrap_or(("", &plan.name));
        let link = format!("LINK {}", text.trim_start_matches("ONBUILD "));
        let name = self.name(&current.node, &link, platform.as_ref(), &current.state.env);
        let constraints = constraints.in_group(group(false)).named(name);
        let layers = [current.state.output, copied.output];
        current.state.output = self.builder.merge(&layers, constraints);
        Ok(())
    }

    fn copy_action(&self, plan: &Plan<'_>, from: Option<Output>, src: &str) -> CopyAction<Output> {
        CopyAction {
            owner: plan.owner.clone(),
            mode: plan.mode.clone(),
            create_dest_path: true,
            exclude_patterns: plan.transfer.exclude.clone(),
            ..CopyAction::new(State::new(from).file_input(), src, &plan.destination)
        }
    }

    fn copy_path(&mut self, plan: &Plan<'_>, source: &str) -> CopyAction<Output> {
        self.report_ignored(plan, source);
        let mut include_patterns = Vec::new();
        let mut required_paths = Vec::new();
        let mut src = source;
        if plan.parents {
            let (parent, pattern) = source.split_once("/./").unwrap_or(("/", source));
            let pattern = path::join(&["/", pattern]);
            if !has_wildcards(parent) && !has_wildcards(&pattern) {
                required_paths.push(path::join(&["/", parent, &pattern]));
            }
            include_patterns.push(pattern.trim_start_matches('/').to_owned());
            src = parent;
        }
        let unpack = plan.add.is_some_and(|add| add.unpack.unwrap_or(true));
        CopyAction {
            follow_symlink: true,
            dir_contents: true,
            attempt_unpack: unpack,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            include_patterns,
            required_paths,
            ..self.copy_action(plan, plan.from, &path::join(&["/", src]))
        }
    }

    /// `CopyIgnoredFile`: a source that the ignore file leaves out.
    fn report_ignored(&mut self, plan: &Plan<'_>, source: &str) {
        let Some(ignored) = self.ignored.as_ref().filter(|_| plan.from_context) else {
            return;
        };
        let source = path::clean(source);
        let everything = |pattern: &str| matches!(pattern, "*" | "**" | "**/*");
        let is_root = source == "." || source == "/";
        if is_root
            && !ignored
                .patterns()
                .iter()
                .any(|pattern| everything(pattern.text()))
        {
            return;
        }
        if ignored.matches_or_parent_matches(Path::new(&source)) {
            let keyword = if plan.add.is_some() { "Add" } else { "Copy" };
            let finding = Finding::CopyIgnoredFile {
                instruction: keyword.to_owned(),
                file: source,
            };
            let (lines, comments) = (plan.instruction.lines, &plan.instruction.comments);
            self.linter.report(finding, lines, comments);
        }
    }

    fn copy_git(
        &mut self,
        plan: &Plan<'_>,
        url: &str,
        git: &GitRef,
    ) -> Result<CopyAction<Output>, Error> {
        let Some(add) = plan.add else {
            let url = url.to_owned();
            return Err(ConvertError::CopyGit { url }.into());
        };
        let mut git = git.clone();
        if let (Some(flag), Some(url)) = (add.keep_git_dir, git.keep_git_dir)
            && flag != url
        {
            return Err(ConvertError::KeepGitDirConflict.into());
        }
        git.keep_git_dir = git.keep_git_dir.or(add.keep_git_dir);
        if let (Some(flag), Some(url)) = (&add.checksum, &git.checksum)
            && flag != url
        {
            return Err(ConvertError::ChecksumConflict {
                flag: flag.clone(),
                url: url.clone(),
            }
            .into());
        }
        git.checksum = git.checksum.or_else(|| add.checksum.clone());
        let source = Source::Git(git.to_source());
        let constraints = self.constraints(plan.instruction).named(&plan.name);
        let output = self.builder.add_source(source, constraints);
        Ok(self.copy_action(plan, Some(output), "/"))
    }

    fn copy_url(&mut self, plan: &Plan<'_>, url: &str) -> Result<CopyAction<Output>, Error> {
        let Some(add) = plan.add else {
            let url = url.to_owned();
            return Err(ConvertError::CopyUrl { url }.into());
        };
        let checksum = add.checksum.as_deref().map(str::parse::<Digest>);
        let filename = url_filename(url);
        let source = Source::Http(HttpSource {
            url: url.to_owned(),
            checksum: checksum.transpose().map_err(ConvertError::from)?,
            file: FileAttributes {
                filename: Some(filename.clone()),
                ..FileAttributes::default()
            },
            ..HttpSource::default()
        });
        let constraints = self.constraints(plan.instruction).named(&plan.name);
        let output = self.builder.add_source(source, constraints);
        Ok(CopyAction {
            attempt_unpack: add.unpack.unwrap_or(false),
            ..self.copy_action(plan, Some(output), &filename)
        })
    }

    fn copy_inline(
        &mut self,
        current: &Current,
        plan: &Plan<'_>,
        name: &str,
        data: &str,
    ) -> Result<CopyAction<Output>, Error> {
        let mkfile = FileChange::Mkfile(MkfileAction {
            path: name.to_owned(),
            mode: 0o644,
            data: Bytes::copy_from_slice(data.as_bytes()),
            owner: None,
            timestamp: None,
        });
        let constraints =
            internal("preparing inline document").for_platform(current.node.platform.clone());
        let file = State::scratch()
            .file(&mut self.builder, vec![mkfile], constraints)
            .map_err(ConvertError::from)?;
        Ok(self.copy_action(plan, file.output, name))
    }
}

/// Whether the copy goes into a layer of its own. As in BuildKit, one that sets a mode does not.
fn is_linked(transfer: &Transfer) -> bool {
    transfer.link && transfer.chmod.as_ref().is_none_or(String::is_empty)
}

pub(super) fn locate(source: &str) -> Result<Location, ErrorKind> {
    if let Some(git) = GitRef::parse(source).map_err(ConvertError::from)?
        && !git.like_a_path
    {
        return Ok(Location::Git(Box::new(git)));
    }
    if source.starts_with("http://") || source.starts_with("https://") {
        return Ok(Location::Url);
    }
    Ok(Location::Path)
}

/// The last element of a URL's path.
pub(super) fn url_filename(url: &str) -> String {
    let without_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = without_scheme.split_once('/').map_or("", |(_, path)| path);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    match path::base(&decoded) {
        "." | "/" | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

fn has_wildcards(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

fn history_text(plan: &Plan<'_>) -> String {
    let keyword = if plan.add.is_some() { "ADD" } else { "COPY" };
    let mut words = vec![keyword.to_owned()];
    if plan.parents {
        words.push("--parents".to_owned());
    }
    let flag = |name: &str, value: &Option<String>| {
        let value = value.as_deref().filter(|value| !value.is_empty())?;
        Some(format!("--{name}={value}"))
    };
    words.extend(flag("chown", &plan.transfer.chown));
    words.extend(flag("chmod", &plan.transfer.chmod));
    words.extend(plan.transfer.sources.iter().cloned());
    let files = plan.transfer.inline_files.iter();
    words.extend(files.map(|file| format!("<<{}", file.name)));
    words.push(plan.transfer.destination.clone());
    words.push("# buildkit".to_owned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_give_file_names() {
        for (url, name) in [
            ("https://h/a/b.tar.gz?x=/y", "b.tar.gz"),
            ("https://h/a%20b", "a b"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("https://h/a/..", "__unnamed__"),
        ] {
            assert_eq!(url_filename(url), name, "{url}");
        }
    }

    #[test]
    fn wildcards_can_be_escaped() {
        assert!(has_wildcards("a*"));
        assert!(!has_wildcards(r"a\*b"));
    }
}
