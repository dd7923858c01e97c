//! Arguments: those that every build has, those before the first `FROM`, and what they mean for a build.

use std::collections::BTreeMap;

use weld_llb::{EnvList, Platform, ProxyEnv};

use super::{ConvertError, Request};
use crate::error::Error;
use crate::instruction::{Instruction, Kind};
use crate::shell::{Environment, Expander};
use crate::stage::Dockerfile;

/// Whether the main context is to be scanned with the result.
pub(super) const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Whether a stage is to be scanned with the result.
pub(super) const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// Arguments that are never in a step's environment.
pub(super) const BUILDER_ARGS: [&str; 2] = [SCAN_CONTEXT, SCAN_STAGE];

impl Environment for EnvList {
    fn get(&self, name: &str) -> Option<&str> {
        EnvList::get(self, name)
    }

    fn names(&self) -> Vec<&str> {
        self.iter().map(|(name, _)| name).collect()
    }
}

/// The arguments that every build has.
pub(super) fn predefined(request: &Request, target: &Platform, dockerfile: &Dockerfile) -> EnvList {
    let build = &request.build_platform;
    let last = dockerfile.stages.last();
    let stage = request.target.clone();
    let stage = stage.or_else(|| last.and_then(|stage| stage.name.clone()));
    let stage = stage.unwrap_or_else(|| "default".to_owned());
    let args = [
        ("BUILDPLATFORM", build.short()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage),
    ];
    args.into_iter()
        .map(|(name, value)| {
            let value = request.build_args.get(name).cloned().unwrap_or(value);
            (name, value)
        })
        .collect()
}

/// Adds the `ARG`s before the first `FROM`, with the values of `build_args`.
pub(super) fn add_globals(
    globals: &mut EnvList,
    instructions: &[Instruction],
    build_args: &BTreeMap<String, String>,
    escape: char,
) -> Result<(), Error> {
    for instruction in instructions {
        let Kind::Arg(arg) = &instruction.kind else {
            continue;
        };
        for definition in &arg.definitions {
            let value = match (build_args.get(&definition.name), &definition.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => {
                    let mut expander = Expander::new(escape, &*globals);
                    let value = expander.word(default);
                    Some(value.map_err(|error| Error::new(error).at(instruction.lines))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.set(&definition.name, value);
            }
        }
    }
    Ok(())
}

/// The time that the result is to bear: `SOURCE_DATE_EPOCH` of the build arguments, or of a global `ARG`.
pub(super) fn epoch(request: &Request, globals: &EnvList) -> Result<Option<i64>, ConvertError> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let value = match request.build_args.get(NAME) {
        Some(value) => value.as_str(),
        None => globals.get(NAME).unwrap_or_default(),
    };
    if value.is_empty() {
        return Ok(None);
    }
    match value.parse() {
        Ok(seconds) if EPOCHS.contains(&seconds) => Ok(Some(seconds)),
        _ => Err(ConvertError::Epoch {
            value: value.to_owned(),
        }),
    }
}

/// What can be written with four digits of a year, as configs of images have it: the years 0 to 9999.
const EPOCHS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// The proxies that build arguments name, in any case.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Option<ProxyEnv> {
    let mut proxies = ProxyEnv::default();
    let mut any = false;
    for (name, value) in build_args {
        let proxy = match name.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxies.http_proxy,
            "https_proxy" => &mut proxies.https_proxy,
            "ftp_proxy" => &mut proxies.ftp_proxy,
            "no_proxy" => &mut proxies.no_proxy,
            "all_proxy" => &mut proxies.all_proxy,
            _ => continue,
        };
        proxy.clone_from(value);
        any = true;
    }
    any.then_some(proxies)
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(epoch: Option<i64>) -> Option<i64> {
    epoch.map(|seconds| seconds.saturating_mul(1_000_000_000))
}

/// RFC 3339, as image configs have it.
pub(super) fn rfc3339(epoch: i64) -> Option<String> {
    let time = time::OffsetDateTime::from_unix_timestamp(epoch).ok()?;
    time.format(&time::format_description::well_known::Rfc3339)
        .ok()
}
