//! The stages of a build, what they need of each other, and the order of the conversion.

use std::collections::{BTreeMap, BTreeSet};

use weld_fileset::PatternMatcher;
use weld_llb::{Builder, EnvList, Output, Platform, ProxyEnv, SourceFileId, State, pb};

use super::context::MainContext;
use super::host::Host;
use super::named_context::{self, NamedContext};
use super::outline::Declared;
use super::{Conversion, ConvertError, ImageConfig, PlatformBuild, Request, args};
use crate::error::Error;
use crate::instruction::{Instruction, Kind};
use crate::lint::{Finding, Linter, Warning, check_syntax, checks};
use crate::shell::{Expander, Lexer, NoVariables};
use crate::source::{LineRange, SourceFile};
use crate::stage::{Dockerfile, Stage};
use crate::suggest;

/// The base that is an empty file system.
pub(super) const SCRATCH: &str = "scratch";

/// A stage, or an image that a stage copies or mounts from.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The stage's name for people; `stage-N` if it has none.
    pub(super) label: String,
    /// The base's name, expanded.
    pub(super) base_name: String,
    /// `FROM` as written; empty for what no `FROM` names.
    pub(super) source: String,
    pub(super) lines: LineRange,
    pub(super) comments: Vec<String>,
    /// The stage that this one is based on.
    pub(super) base: Option<usize>,
    /// What the stage is replaced with.
    pub(super) replaced_by: Option<NamedContext>,
    pub(super) commands: Vec<Command>,
    /// What `--platform` says, then what the base has.
    pub(super) platform: Option<Platform>,
    pub(super) no_cache: bool,
    pub(super) progress: Progress,
    pub(super) step: Step,
    /// Which paths of this file system are used: shared with the base.
    pub(super) paths: usize,
    pub(super) state: Option<State>,
    pub(super) image: ImageConfig,
    pub(super) base_image: Option<ImageConfig>,
    /// A directory of the client's that the stage is, to be narrowed to the paths in use.
    pub(super) local: Option<(Output, weld_llb::LocalSource)>,
    /// The `ARG`s so far.
    pub(super) args: Vec<(String, Option<String>)>,
    pub(super) seen: Seen,
    pub(super) declared: Declared,
}

/// How far a stage has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) resolved: bool,
    pub(super) triggers_added: bool,
    pub(super) dispatched: bool,
}

/// The number of the step that is converted, for its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) index: usize,
    pub(super) total: usize,
    /// Whether the instruction is a trigger of the base's.
    pub(super) on_build: bool,
}

/// What a stage has had already, for the linter and for `ENTRYPOINT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) cmd: Option<LineRange>,
    pub(super) entrypoint: Option<LineRange>,
    pub(super) healthcheck: Option<LineRange>,
    pub(super) workdir: bool,
}

/// An instruction and the nodes that it takes files from.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) instruction: Instruction,
    /// For `COPY --from` one, for `RUN` one a mount; `None` for the context or nothing.
    pub(super) sources: Vec<Option<usize>>,
    pub(super) on_build: bool,
}

/// The conversion of a Dockerfile for one platform, as far as it has come.
pub(super) struct Converter<'a> {
    pub(super) host: &'a dyn Host,
    pub(super) request: &'a Request,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) context: &'a MainContext,
    pub(super) ignore: &'a [String],
    /// The ignore file's patterns, if the linter can make something of them.
    pub(super) ignored: Option<PatternMatcher>,
    pub(super) builder: Builder,
    pub(super) file: SourceFileId,
    pub(super) linter: Linter,
    pub(super) target_platform: Platform,
    /// Whether the user named no platform.
    pub(super) implicit_platform: bool,
    pub(super) globals: EnvList,
    pub(super) epoch: Option<i64>,
    pub(super) proxy: Option<ProxyEnv>,
    pub(super) nodes: Vec<Node>,
    /// Nodes of images that no `FROM` names.
    images: BTreeMap<String, usize>,
    pub(super) path_sets: Vec<BTreeSet<String>>,
    pub(super) context_output: Option<Output>,
    pub(super) context_paths: BTreeSet<String>,
}

/// The Dockerfile as what operations come from.
fn add_source_file(builder: &mut Builder, source: &SourceFile) -> SourceFileId {
    builder.add_source_file(pb::SourceInfo {
        filename: source.name().to_owned(),
        data: source.data().to_vec().into(),
        definition: source.definition().cloned(),
        language: "Dockerfile".to_owned(),
    })
}

impl<'a> Converter<'a> {
    pub(super) fn new(conversion: &Conversion<'a>, mut linter: Linter) -> Result<Self, Error> {
        let (request, dockerfile) = (conversion.request, conversion.dockerfile);
        check_syntax(dockerfile, &mut linter);
        let target_platform = conversion
            .platform
            .clone()
            .unwrap_or_else(|| request.build_platform.clone());
        let predefined = args::predefined(request, &target_platform, dockerfile);
        check_default_bases(dockerfile, &predefined, &mut linter);
        let mut globals = predefined;
        let (declared, escape) = (&dockerfile.global_args, dockerfile.escape);
        args::add_globals(&mut globals, declared, &request.build_args, escape)?;
        let epoch = args::epoch(request, &globals)?;
        let ignored = PatternMatcher::new(conversion.ignore).map_err(ConvertError::from)?;
        let mut builder = Builder::new();
        let source = &dockerfile.source;
        let file = add_source_file(&mut builder, source);
        let context_output = conversion.context.add_to(&mut builder, request);
        Ok(Self {
            host: conversion.host,
            request,
            dockerfile,
            context: conversion.context,
            ignore: conversion.ignore,
            // Whether an exception applies cannot be told from the patterns alone.
            ignored: (!conversion.ignore.is_empty() && !ignored.has_exclusions())
                .then_some(ignored),
            builder,
            file,
            linter,
            target_platform,
            implicit_platform: conversion.platform.is_none(),
            globals,
            epoch,
            proxy: args::proxies(&request.build_args),
            nodes: Vec::new(),
            images: BTreeMap::new(),
            path_sets: Vec::new(),
            context_output,
            context_paths: BTreeSet::new(),
        })
    }

    /// The arguments that the build has without being given any.
    pub(super) fn predefined(&self) -> EnvList {
        args::predefined(self.request, &self.target_platform, self.dockerfile)
    }

    /// Makes a node of each `FROM`.
    pub(super) fn collect_stages(&mut self) -> Result<(), Error> {
        let dockerfile = self.dockerfile;
        for stage in &dockerfile.stages {
            let node = self
                .stage_node(stage)
                .map_err(|error| error.at(stage.lines))?;
            self.add_node(node);
        }
        Ok(())
    }

    fn add_node(&mut self, mut node: Node) -> usize {
        node.paths = self.path_sets.len();
        self.path_sets.push(BTreeSet::new());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn stage_node(&mut self, stage: &Stage) -> Result<Node, Error> {
        let base_name = self.expand_base(stage)?;
        let platform = self.expand_platform(stage)?;
        let name = stage.name.clone();
        let replaced_by = name.as_deref().and_then(|name| {
            let platform = platform.as_ref().unwrap_or(&self.target_platform);
            named_context::find(self.request, name, platform)
        });
        let base = self.dockerfile.base_stage(stage, &base_name);
        let base = base.map(|base| base.index);
        let replaced = replaced_by.is_some();
        let steps = stage.instructions.iter().filter(|instruction| {
            matches!(
                instruction.kind,
                Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
            )
        });
        let from = usize::from(base_name != SCRATCH && base.is_none());
        let total = if replaced { 0 } else { from + steps.count() };
        Ok(Node {
            label: name
                .clone()
                .unwrap_or_else(|| format!("stage-{}", stage.index)),
            base_name,
            source: stage.source.clone(),
            lines: stage.lines,
            comments: stage.comments.clone(),
            base: base.filter(|_| !replaced),
            replaced_by,
            platform,
            no_cache: self.request.no_cache.covers(&name.unwrap_or_default()),
            step: Step {
                total,
                ..Step::default()
            },
            ..Node::default()
        })
    }

    fn expand_base(&mut self, stage: &Stage) -> Result<String, Error> {
        let mut expander = Expander::new(self.dockerfile.escape, &self.globals);
        let base = expander.word(&stage.base)?;
        let declared = self.declared();
        for finding in checks::undeclared_in_from(expander.unmatched(), &declared) {
            self.linter.report(finding, stage.lines, &stage.comments);
        }
        if base.is_empty() {
            return Err(ConvertError::BlankBase {
                written: stage.base.clone(),
            }
            .into());
        }
        Ok(base)
    }

    fn expand_platform(&mut self, stage: &Stage) -> Result<Option<Platform>, Error> {
        let Some(written) = &stage.platform else {
            return Ok(None);
        };
        let mut expander = Expander::new(self.dockerfile.escape, &self.globals);
        let text = expander.word(written)?;
        let declared = self.declared();
        let (matched, unmatched) = (expander.matched(), expander.unmatched());
        let suggestion = unmatched
            .iter()
            .find_map(|name| suggest::closest(name, declared.iter().copied()));
        let mut findings = checks::undeclared_in_from(unmatched, &declared);
        let target = self.globals.get("TARGETPLATFORM").unwrap_or_default();
        findings.extend(checks::redundant_platform(
            written, &text, matched, unmatched, target,
        ));
        let written = written.clone();
        let platform = match text.parse::<Platform>() {
            _ if text.is_empty() => Err(ConvertError::BlankPlatform { written }),
            Ok(platform) => Ok(platform),
            Err(source) => Err(ConvertError::Platform { written, source }),
        };
        if let Ok(platform) = &platform {
            findings.extend(checks::constant_platform(
                &text,
                matched,
                unmatched,
                stage.name.as_deref(),
                &platform.os,
                &platform.architecture,
            ));
        }
        // What is found may be why there is no platform.
        for finding in findings {
            self.linter.report(finding, stage.lines, &stage.comments);
        }
        match platform {
            Ok(platform) => Ok(Some(platform)),
            Err(error) => Err(Error::new(error).suggest(suggestion)),
        }
    }

    /// The names that a `FROM` may use.
    fn declared(&self) -> Vec<&'a str> {
        const PREDEFINED: [&str; 11] = [
            "BUILDPLATFORM",
            "BUILDOS",
            "BUILDOSVERSION",
            "BUILDARCH",
            "BUILDVARIANT",
            "TARGETPLATFORM",
            "TARGETOS",
            "TARGETOSVERSION",
            "TARGETARCH",
            "TARGETVARIANT",
            "TARGETSTAGE",
        ];
        let mut names = PREDEFINED.to_vec();
        for instruction in &self.dockerfile.global_args {
            if let Kind::Arg(arg) = &instruction.kind {
                names.extend(arg.definitions.iter().map(|arg| arg.name.as_str()));
            }
        }
        names
    }

    /// The node that is built.
    pub(super) fn target(&self) -> Result<usize, Error> {
        let Some(name) = &self.request.target else {
            return Ok(self.dockerfile.stages.len().saturating_sub(1));
        };
        match self.dockerfile.stage_named(name) {
            Some(stage) => Ok(stage.index),
            None => Err(
                Error::new(ConvertError::UnknownTarget { name: name.clone() })
                    .suggest(self.dockerfile.similar_stage(name)),
            ),
        }
    }

    /// Finds out which nodes the instructions of each stage need.
    pub(super) fn link_stages(&mut self) -> Result<(), Error> {
        let dockerfile = self.dockerfile;
        for stage in &dockerfile.stages {
            let replaced = self
                .nodes
                .get(stage.index)
                .is_some_and(|node| node.replaced_by.is_some());
            if replaced {
                continue;
            }
            let commands = stage
                .instructions
                .iter()
                .map(|instruction| self.command(instruction.clone(), false))
                .collect::<Result<Vec<_>, _>>()?;
            if let Some(node) = self.nodes.get_mut(stage.index) {
                node.commands = commands;
            }
        }
        self.check_cycles()?;
        // The only stage needs no name, except that for BuildKit a mount is a stage too.
        if let [only] = self.nodes.as_mut_slice()
            && only
                .commands
                .iter()
                .all(|command| command.sources.is_empty())
        {
            only.label.clear();
        }
        Ok(())
    }

    /// An instruction with the nodes that it takes files from, which are added if they are images.
    pub(super) fn command(
        &mut self,
        instruction: Instruction,
        on_build: bool,
    ) -> Result<Command, Error> {
        let lines = instruction.lines;
        let mut sources = Vec::new();
        match &instruction.kind {
            Kind::Copy(copy) => {
                if let Some(from) = &copy.from {
                    let source = self.copy_source(from, lines);
                    sources.push(Some(source.map_err(|error| error.at(lines))?));
                }
            }
            Kind::Run(run) => {
                for mount in &run.mounts {
                    let from = mount.from.as_deref();
                    let source = from.map(|from| self.named_node(from, lines));
                    sources.push(source);
                }
            }
            _ => {}
        }
        Ok(Command {
            instruction,
            sources,
            on_build,
        })
    }

    /// A stage by number or name, or an image.
    fn copy_source(&mut self, from: &str, lines: LineRange) -> Result<usize, Error> {
        // Whoever only lists the stages need not know.
        let expansion = Lexer::new(self.dockerfile.escape).expand(from, &NoVariables)?;
        if expansion.text != from {
            let written = from.to_owned();
            return Err(ConvertError::VariableInFrom { written }.into());
        }
        let Ok(index) = from.parse::<usize>() else {
            return Ok(self.named_node(from, lines));
        };
        let stages = self.dockerfile.stages.len();
        if index >= stages {
            return Err(ConvertError::StageIndex { index, stages }.into());
        }
        Ok(index)
    }

    fn named_node(&mut self, name: &str, lines: LineRange) -> usize {
        if let Some(stage) = self.dockerfile.stage_named(name) {
            return stage.index;
        }
        if let Some(&node) = self.images.get(name) {
            return node;
        }
        let node = self.add_node(Node {
            base_name: name.to_owned(),
            lines,
            ..Node::default()
        });
        self.images.insert(name.to_owned(), node);
        node
    }

    /// Whether a node is an image that no `FROM` names.
    pub(super) fn is_image(&self, node: usize) -> bool {
        node >= self.dockerfile.stages.len()
    }

    /// The definition and config of `target`, which needs these nodes.
    pub(super) fn finish(
        mut self,
        target: usize,
        needed: &BTreeSet<usize>,
    ) -> Result<(PlatformBuild, Vec<Warning>), Error> {
        self.linter.verdict()?;
        self.narrow_contexts()?;
        let scanned = self.scanned(target, needed)?;
        let Some(node) = self.nodes.get_mut(target) else {
            return Err(ConvertError::UnknownTarget {
                name: target.to_string(),
            }
            .into());
        };
        let node = std::mem::take(node);
        let mut image = node.image;
        image.config.labels.extend(self.request.labels.clone());
        if !self.implicit_platform {
            impose_platform(&mut image, &self.target_platform);
        }
        let platform = image.platform().normalize();
        image.set_platform(&platform);
        let output = node.state.and_then(|state| state.output);
        let definition = self
            .builder
            .definition(output, &self.target_platform)
            .map_err(ConvertError::from)?;
        let platform = self.target_platform.clone().normalize();
        let build = PlatformBuild {
            id: platform.to_string(),
            platform,
            definition,
            image,
            scanned,
            base_image: node.base_image,
            epoch: self.epoch,
        };
        Ok((build, self.linter.warnings().to_vec()))
    }

    /// Limits the client's directories to the paths that are used.
    fn narrow_contexts(&mut self) -> Result<(), Error> {
        let used = follow_paths(&self.context_paths);
        let (context, output) = (self.context, self.context_output);
        context.narrow(&mut self.builder, output, self.request, self.ignore, used)?;
        for node in &self.nodes {
            if let Some((output, local)) = &node.local {
                let used = self.path_sets.get(node.paths);
                let local = weld_llb::LocalSource {
                    follow_paths: used.map(follow_paths).unwrap_or_default(),
                    ..local.clone()
                };
                self.builder
                    .replace_source(*output, weld_llb::Source::Local(local))
                    .map_err(ConvertError::from)?;
            }
        }
        Ok(())
    }
}

/// The paths to follow; none where all is wanted.
fn follow_paths(paths: &BTreeSet<String>) -> Vec<String> {
    if paths.contains("/") {
        return Vec::new();
    }
    let mut relative: Vec<String> = paths
        .iter()
        .map(|path| weld_llb::path::join(&[".", path.trim_start_matches('/')]))
        .collect();
    relative.sort();
    relative
}

/// The platform that the user named prevails over that of the base, except for details it leaves open.
fn impose_platform(image: &mut ImageConfig, target: &Platform) {
    let same = target.os == image.os && target.architecture == image.architecture;
    image.os.clone_from(&target.os);
    image.architecture.clone_from(&target.architecture);
    if !target.variant.is_empty() || !same {
        image.variant.clone_from(&target.variant);
    }
    if !target.os_version.is_empty() || !same {
        image.os_version.clone_from(&target.os_version);
    }
    if !target.os_features.is_empty() {
        image.os_features.clone_from(&target.os_features);
    }
}

/// `InvalidDefaultArgInFrom`: a base should be an image even if no build arguments are given.
fn check_default_bases(dockerfile: &Dockerfile, predefined: &EnvList, linter: &mut Linter) {
    let mut globals = predefined.clone();
    let (declared, escape) = (&dockerfile.global_args, dockerfile.escape);
    // What cannot be expanded is reported when it is expanded in earnest.
    if args::add_globals(&mut globals, declared, &BTreeMap::new(), escape).is_err() {
        return;
    }
    for stage in &dockerfile.stages {
        let Ok(base) = Expander::new(escape, &globals).word(&stage.base) else {
            return;
        };
        if base.parse::<weld_llb::reference::Reference>().is_err() {
            let finding = Finding::InvalidDefaultArgInFrom {
                base: stage.base.clone(),
            };
            linter.report(finding, stage.lines, &stage.comments);
        }
    }
}
