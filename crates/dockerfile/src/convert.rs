//! From a Dockerfile to LLB.
//!
//! [`build`] reads the Dockerfile through a [`Host`], and converts it once for each target platform. What
//! is asked for comes as a [`Request`], whose options have the names that BuildKit's clients send.

mod args;
mod base;
mod config;
mod context;
mod copy;
mod dispatch;
mod epoch;
mod error;
mod git_ref;
mod go_format;
mod host;
mod image;
mod limits;
mod mounts;
mod named_context;
mod naming;
mod needs;
mod options;
mod outline;
mod run;
mod scanned;
mod stages;
mod syntax_line;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use weld_llb::{Platform, pb};

use crate::directive;
use crate::error::Error;
use crate::lint::{LintConfig, Linter, Warning, check_syntax};
use crate::source::SourceFile;
use crate::stage::Dockerfile;

pub use error::{ConvertError, HostFailure, OptionError};
pub use git_ref::{GitRef, GitRefError};
pub use host::{Host, HostError, ImageRequest, LayoutStore, ReadRequest, ResolvedImage};
pub use image::{HealthConfig, History, ImageConfig, ImageSettings, RootFs};
pub use limits::{Limits, enough_to_start};
pub use options::{NoCache, Request};
pub use outline::{Argument, Grant, Outline};

use context::MainContext;
use stages::Converter;

/// A converted Dockerfile.
#[derive(Clone, Debug)]
pub struct Build {
    /// One result for each target platform, in the order asked for.
    pub results: Vec<PlatformBuild>,
    /// Whether the results belong in an index, even if it is one alone.
    pub multi_platform: bool,
    /// What the linter found; the host has been told.
    pub warnings: Vec<Warning>,
    /// The Dockerfile.
    pub source: SourceFile,
}

/// The conversion for one platform.
#[derive(Clone, Debug)]
pub struct PlatformBuild {
    /// The platform's text form, by which BuildKit names the result.
    pub id: String,
    /// The platform.
    pub platform: Platform,
    /// What builds the file system; without operations it is empty.
    pub definition: pb::Definition,
    /// The image's config; layers and their times are the exporter's matter.
    pub image: ImageConfig,
    /// What is to be scanned with the result where a list of what is in it is wanted, by name: the
    /// context and other stages, as far as the Dockerfile says so.
    pub scanned: BTreeMap<String, pb::Definition>,
    /// The config of the image that the target stage comes from, as it was.
    pub base_image: Option<ImageConfig>,
    /// The time that the result is to bear, seconds since 1970.
    pub epoch: Option<i64>,
}

/// Reads the Dockerfile that `request` is about.
pub async fn read(host: &dyn Host, request: &Request) -> Result<SourceFile, Error> {
    let context = MainContext::open(host, request).await?;
    let files = context.read_dockerfile(host, request).await?;
    syntax_line::check(request, &files.source)?;
    Ok(files.source)
}

/// Reads a Dockerfile and converts it for each platform that `request` asks for.
pub async fn build(host: &dyn Host, request: &Request) -> Result<Build, Error> {
    let opened = Opened::read(host, request).await?;
    let source = opened.dockerfile.source.clone();
    let converted = try_join_all(opened.conversions(host).map(Conversion::run))
        .await
        .map_err(|error| error.in_file(&source))?;
    let (results, warnings): (Vec<_>, Vec<_>) = converted.into_iter().unzip();
    Ok(Build {
        results,
        multi_platform: request.multi_platform,
        warnings: warnings.into_iter().next().unwrap_or_default(),
        source,
    })
}

/// Reads a Dockerfile and tells what the target can be given, on the first of the platforms that `request` asks for.
pub async fn outline(host: &dyn Host, request: &Request) -> Result<Outline, Error> {
    let opened = Opened::read(host, request).await?;
    let source = &opened.dockerfile.source;
    let platform = opened.request.platforms.first().cloned();
    let outline = opened.conversion(host, platform, false).outline().await;
    outline.map_err(|error| error.in_file(source))
}

/// A Dockerfile, with what all conversions of it have in common.
struct Opened<'r> {
    request: Cow<'r, Request>,
    dockerfile: Dockerfile,
    context: MainContext,
    ignore: Vec<String>,
    lint: LintConfig,
}

impl<'r> Opened<'r> {
    async fn read(host: &dyn Host, request: &'r Request) -> Result<Self, Error> {
        let context = MainContext::open(host, request).await?;
        let files = context.read_dockerfile(host, request).await?;
        let source = &files.source;
        syntax_line::check(request, source)?;
        let dockerfile = match crate::parse(source) {
            Ok(dockerfile) => dockerfile,
            Err(error) => {
                lint_before(host, request, source, &error);
                return Err(error);
            }
        };
        let ignore = context.ignore_patterns(host, request, &files).await?;
        let request = epoch::resolved(host, request, &dockerfile, &context)
            .await
            .map_err(|error| error.in_file(source))?;
        Ok(Self {
            lint: lint_config(&request, source)?,
            request,
            dockerfile,
            context,
            ignore,
        })
    }

    /// One for each platform.
    fn conversions<'a>(&'a self, host: &'a dyn Host) -> impl Iterator<Item = Conversion<'a>> {
        let platforms = targets(&self.request).into_iter().enumerate();
        // Platforms differ too little for a second telling of warnings.
        platforms.map(move |(index, platform)| self.conversion(host, platform, index == 0))
    }

    fn conversion<'a>(
        &'a self,
        host: &'a dyn Host,
        platform: Option<Platform>,
        tells_warnings: bool,
    ) -> Conversion<'a> {
        Conversion {
            host,
            request: &self.request,
            dockerfile: &self.dockerfile,
            context: &self.context,
            ignore: &self.ignore,
            lint: &self.lint,
            platform,
            tells_warnings,
        }
    }
}

/// Tells what the linter finds in what stands before an error of syntax.
fn lint_before(host: &dyn Host, request: &Request, source: &SourceFile, error: &Error) {
    let Some(lines) = error.ranges().first() else {
        return;
    };
    let before = source.data().split_inclusive(|byte| *byte == b'\n');
    let before = before.take(lines.start.saturating_sub(1) as usize);
    let before = SourceFile::new(source.name(), before.collect::<Vec<_>>().concat());
    let (Ok(dockerfile), Ok(config)) = (crate::parse(&before), lint_config(request, source)) else {
        return;
    };
    let mut linter = Linter::new(config);
    check_syntax(&dockerfile, &mut linter);
    for warning in linter.warnings() {
        host.warn(warning, source);
    }
}

fn lint_config(request: &Request, source: &SourceFile) -> Result<LintConfig, Error> {
    match &request.lint {
        Some(config) => Ok(config.clone()),
        None => LintConfig::from_dockerfile(source.data())
            .map_err(|kind| Error::new(kind).in_file(source)),
    }
}

/// The target platforms; `None` where the user named none, and the base image may decide.
fn targets(request: &Request) -> Vec<Option<Platform>> {
    if request.platforms.is_empty() {
        return vec![None];
    }
    request.platforms.iter().cloned().map(Some).collect()
}

/// The conversion of a Dockerfile for one platform.
struct Conversion<'a> {
    host: &'a dyn Host,
    request: &'a Request,
    dockerfile: &'a Dockerfile,
    context: &'a MainContext,
    ignore: &'a [String],
    lint: &'a LintConfig,
    platform: Option<Platform>,
    tells_warnings: bool,
}

impl Conversion<'_> {
    async fn run(self) -> Result<(PlatformBuild, Vec<Warning>), Error> {
        let linter = Linter::new(self.lint.clone());
        let mut converter = Converter::new(&self, linter)?;
        let target = self.convert(&mut converter).await;
        if self.tells_warnings {
            for warning in converter.linter.warnings() {
                self.host.warn(warning, &self.dockerfile.source);
            }
        }
        let (target, needed) = target?;
        converter.finish(target, &needed)
    }

    /// The node of the target, and those that it needs, which cannot be told any more once they are
    /// converted.
    async fn convert(
        &self,
        converter: &mut Converter<'_>,
    ) -> Result<(usize, BTreeSet<usize>), Error> {
        converter.collect_stages()?;
        let target = converter.target()?;
        converter.link_stages()?;
        converter.resolve(target).await?;
        let needed = converter.reachable(target);
        converter.dispatch(target)?;
        if self.request.all_stages {
            for stage in 0..self.dockerfile.stages.len() {
                converter.resolve(stage).await?;
                converter.dispatch(stage)?;
            }
        }
        Ok((target, needed))
    }
}

/// The frontend image that a `# syntax=` line asks for, if it is there, with what is behind it.
pub(crate) fn requested_syntax(request: &Request, data: &[u8]) -> Option<(String, Option<u32>)> {
    if request.forwarded {
        return None;
    }
    if let Some(image) = request.build_args.get("BUILDKIT_SYNTAX") {
        return Some((image.clone(), None));
    }
    let directive = directive::detect_syntax(data)?;
    Some((directive.value.trim().to_owned(), Some(directive.line)))
}
