//! What stages are based on.

use futures_util::future::try_join_all;
use weld_llb::reference::Reference;
use weld_llb::{Constraints, EnvList, ImageSource, Platform, ResolveMode, Source, State};

use super::host::{Host, ImageRequest};
use super::named_context::{self, Content, LoadedContext, parse_config, pinned};
use super::naming::ranges;
use super::stages::{Converter, Node, SCRATCH};
use super::{ConvertError, HostFailure, ImageConfig, Request};
use crate::error::Error;
use crate::instruction::Kind;
use crate::lint::Finding;
use crate::parse_trigger;
use crate::source::LineRange;
use crate::suggest;

/// A base whose nature is to be found out.
struct Wanted {
    node: usize,
    name: String,
    lines: LineRange,
    platform: Platform,
    replaced_by: Option<named_context::NamedContext>,
    /// `FROM` may take the platform of the image, if the user named none.
    adopts_platform: bool,
}

/// What a base is.
struct Found {
    node: usize,
    platform: Platform,
    base: Base,
}

enum Base {
    Replacement(LoadedContext),
    Context(LoadedContext),
    Image {
        reference: Reference,
        image: Box<ImageConfig>,
    },
}

impl Converter<'_> {
    /// Resolves the bases of all nodes that `target` needs, also by the triggers of its bases.
    pub(super) async fn resolve(&mut self, target: usize) -> Result<(), Error> {
        loop {
            let wanted = self.wanted(target);
            let (host, request) = (self.host, self.request);
            let names = self.stage_names();
            let found = try_join_all(wanted.into_iter().map(|wanted| {
                let names = &names;
                async move {
                    let lines = wanted.lines;
                    let found = find(host, request, wanted, names).await;
                    found.map_err(|error| error.at(lines))
                }
            }))
            .await?;
            for found in found {
                self.settle(found);
            }
            if !self.add_triggers(target)? {
                return Ok(());
            }
            self.check_cycles()?;
        }
    }

    fn stage_names(&self) -> Vec<String> {
        let stages = self.dockerfile.stages.iter();
        stages.filter_map(|stage| stage.name.clone()).collect()
    }

    /// The bases that are needed and not known yet.
    fn wanted(&mut self, target: usize) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for index in self.reachable(target) {
            let is_image = self.is_image(index);
            let Some(node) = self.nodes.get_mut(index) else {
                continue;
            };
            if node.base.is_some() || node.progress.resolved {
                continue;
            }
            node.progress.resolved = true;
            if node.base_name == SCRATCH && node.replaced_by.is_none() {
                node.state = Some(State::scratch());
                node.image = ImageConfig::empty(&self.target_platform);
                node.platform = Some(self.target_platform.clone());
                node.progress.dispatched = is_image;
                continue;
            }
            let platform = node.platform.as_ref().unwrap_or(&self.target_platform);
            wanted.push(Wanted {
                node: index,
                name: node.base_name.clone(),
                lines: node.lines,
                platform: platform.clone(),
                replaced_by: node.replaced_by.clone(),
                adopts_platform: node.platform.is_none() && self.implicit_platform,
            });
        }
        wanted
    }

    fn settle(&mut self, found: Found) {
        let is_image = self.is_image(found.node);
        let Some(slot) = self.nodes.get_mut(found.node) else {
            return;
        };
        let mut node = std::mem::take(slot);
        match found.base {
            Base::Replacement(context) => {
                self.settle_replacement(&mut node, context, found.platform)
            }
            Base::Context(context) => self.settle_context(&mut node, context, found.platform),
            Base::Image { reference, image } => {
                self.settle_image(&mut node, &reference, *image, found.platform);
            }
        }
        node.progress.dispatched |= is_image;
        if let Some(slot) = self.nodes.get_mut(found.node) {
            *slot = node;
        }
    }

    fn add_context(
        &mut self,
        node: &mut Node,
        context: &LoadedContext,
        platform: &Platform,
    ) -> State {
        let output = context.add_to(&mut self.builder, platform);
        if let (Content::Local(local), Some(output)) = (&context.content, output) {
            node.local = Some((output, local.clone()));
        }
        State::new(output)
    }

    /// The stage as a whole is something else: its instructions do not count.
    fn settle_replacement(&mut self, node: &mut Node, context: LoadedContext, platform: Platform) {
        node.state = Some(self.add_context(node, &context, &platform));
        node.progress.dispatched = true;
        node.image.set_platform(&platform);
        node.platform = Some(platform);
        if let Some(mut image) = context.image {
            image.created = None;
            if !image.architecture.is_empty() && !image.os.is_empty() {
                node.platform = Some(image.platform());
            }
            node.image = image;
        }
    }

    fn settle_context(&mut self, node: &mut Node, context: LoadedContext, platform: Platform) {
        let mut state = self.add_context(node, &context, &platform);
        state.platform = Some(platform.clone());
        node.state = Some(state);
        let image = context.image;
        node.image = image.unwrap_or_else(|| ImageConfig::empty(&platform));
        node.base_image = Some(node.image.clone());
        node.image.created = None;
        node.platform = Some(platform);
    }

    fn settle_image(
        &mut self,
        node: &mut Node,
        reference: &Reference,
        mut image: ImageConfig,
        platform: Platform,
    ) {
        node.base_image = Some(image.clone());
        image.created = None;
        node.state = Some(if image.is_scratch() {
            State::scratch()
        } else {
            self.check_platform(node, &image, &platform);
            self.add_image(node, reference, &platform)
        });
        node.image = image;
        node.platform = Some(platform);
    }

    fn add_image(&mut self, node: &mut Node, reference: &Reference, platform: &Platform) -> State {
        let text = format!("FROM {reference}");
        let name = self.next_name(node, &text, Some(platform), &EnvList::new());
        let constraints = Constraints::new()
            .named(name)
            .described("com.docker.dockerfile.v1.command", &node.source)
            .at(self.file, ranges(node.lines))
            .for_platform(Some(platform.clone()));
        let mode = self.request.resolve_mode;
        let source = Source::Image(ImageSource {
            reference: reference.to_string(),
            resolve_mode: (mode != ResolveMode::Default).then_some(mode),
            ..ImageSource::default()
        });
        let mut state = State::new(Some(self.builder.add_source(source, constraints)));
        state.platform = Some(platform.clone());
        state
    }

    fn check_platform(&mut self, node: &Node, image: &ImageConfig, platform: &Platform) {
        if platform.os == image.os && platform.architecture == image.architecture {
            return;
        }
        let finding = Finding::InvalidBaseImagePlatform {
            image: node.base_name.clone(),
            expected: platform.clone().normalize().to_string(),
            actual: image.platform().normalize().to_string(),
        };
        self.linter.report(finding, node.lines, &node.comments);
    }

    /// Puts the triggers of each base in front of its stage; true if they need more nodes.
    fn add_triggers(&mut self, target: usize) -> Result<bool, Error> {
        let mut needs_more = false;
        for index in self.reachable(target) {
            // What is only copied from triggers nothing.
            if self.is_image(index) {
                continue;
            }
            let triggers = self.take_triggers(index);
            if triggers.is_empty() {
                continue;
            }
            let lines = self.nodes.get(index).map(|node| node.lines);
            let lines = lines.unwrap_or_default();
            let mut commands = Vec::with_capacity(triggers.len());
            for trigger in triggers {
                let instruction = parse_trigger(&trigger, lines)?;
                let command = self.command(instruction, true);
                let command = command.map_err(|error| error.at(lines))?;
                needs_more |= command.sources.iter().any(Option::is_some);
                commands.push(command);
            }
            if let Some(node) = self.nodes.get_mut(index) {
                node.step.total += commands.len();
                commands.append(&mut node.commands);
                node.commands = commands;
            }
        }
        Ok(needs_more)
    }

    /// The triggers of an image's config, or of the stage that this one is based on; each is due once.
    fn take_triggers(&mut self, index: usize) -> Vec<String> {
        let Some(node) = self.nodes.get_mut(index) else {
            return Vec::new();
        };
        if node.progress.triggers_added || node.replaced_by.is_some() {
            return Vec::new();
        }
        let Some(base) = node.base else {
            node.progress.triggers_added = node.progress.resolved;
            return std::mem::take(&mut node.image.config.on_build);
        };
        node.progress.triggers_added = true;
        let Some(base) = self.nodes.get(base) else {
            return Vec::new();
        };
        // A stage that was replaced has an image's config instead of instructions.
        if base.replaced_by.is_some() {
            return base.image.config.on_build.clone();
        }
        let commands = base.commands.iter();
        commands
            .filter_map(|command| match &command.instruction.kind {
                Kind::Onbuild(trigger) => Some(trigger.clone()),
                _ => None,
            })
            .collect()
    }
}

async fn find(
    host: &dyn Host,
    request: &Request,
    wanted: Wanted,
    stages: &[String],
) -> Result<Found, Error> {
    let mut platform = wanted.platform.clone();
    if let Some(replacement) = &wanted.replaced_by {
        let context = replacement.load(host, request, &platform).await?;
        return Ok(Found {
            node: wanted.node,
            platform,
            base: Base::Replacement(context),
        });
    }
    if let Some(named) = named_context::find(request, &wanted.name, &platform) {
        let context = named.load(host, request, &platform).await?;
        return Ok(Found {
            node: wanted.node,
            platform,
            base: Base::Context(context),
        });
    }
    let reference: Reference = wanted.name.parse().map_err(|source| {
        Error::new(ConvertError::Reference {
            name: wanted.name.clone(),
            source,
        })
        .suggest(similar(&wanted.name, stages))
    })?;
    let reference = reference.with_default_tag();
    let resolved = host
        .resolve_image_config(ImageRequest {
            reference: &reference.to_string(),
            platform: &platform,
            mode: request.resolve_mode,
            layout: None,
            name: metadata_name(request, &platform, &reference),
        })
        .await
        .map_err(|error| {
            Error::new(ConvertError::ImageConfig {
                image: wanted.name.clone(),
                reference: reference.to_string(),
                source: HostFailure::from(error),
            })
            .suggest(similar(&wanted.name, stages))
        })?;
    if resolved.digest.is_none() {
        let image = wanted.name.clone();
        return Err(ConvertError::NoImage { image }.into());
    }
    let image = parse_config(&wanted.name, &resolved.config)?;
    let reference = pinned(reference, &resolved, &wanted.name)?;
    if wanted.adopts_platform {
        platform = adopted(&image, platform, &request.build_platform);
    }
    Ok(Found {
        node: wanted.node,
        platform,
        base: Base::Image {
            reference,
            image: Box::new(image),
        },
    })
}

fn metadata_name(request: &Request, platform: &Platform, reference: &Reference) -> String {
    let platform = if request.multi_platform {
        format!("{platform} ")
    } else {
        String::new()
    };
    format!("[{platform}internal] load metadata for {reference}")
}

/// Without a word from the user a base for the other platform that can be built for is taken as it is.
fn adopted(image: &ImageConfig, target: Platform, build: &Platform) -> Platform {
    let is = |platform: &Platform| {
        platform.os == image.os && platform.architecture == image.architecture
    };
    if !is(&target) && is(build) {
        return build.clone();
    }
    target
}

/// A stage or a well-known image that is spelt almost like `name`.
fn similar(name: &str, stages: &[String]) -> Option<String> {
    const IMAGES: [&str; 7] = [
        "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
    ];
    let stages = stages.iter().map(String::as_str);
    suggest::closest(name, stages.chain(IMAGES))
}
