//! Whether a result is for the platforms that were asked for.

use std::collections::BTreeMap;

use weld_llb::Platform;

use crate::error::BuildError;
use crate::metadata;
use crate::result::{FrontendResult, Refs};

/// What does not fit, in words for the one who asked. Nothing for results that are no images, such
/// as the answers to a frontend's sub-requests.
///
/// # Errors
/// If the result's own list of platforms is malformed.
pub(crate) fn mismatches(
    opts: &BTreeMap<String, String>,
    result: &FrontendResult,
    default: &Platform,
) -> Result<Vec<String>, BuildError> {
    let is_map = matches!(&result.refs, Refs::Map(refs) if !refs.is_empty());
    if !is_map && matches!(result.refs, Refs::Single(None) | Refs::Map(_)) {
        return Ok(Vec::new());
    }
    let mut wanted: Vec<Platform> = Vec::new();
    let mut warnings = Vec::new();
    match opts.get("platform") {
        None => wanted.push(default.clone()),
        Some(list) => {
            for text in list.split(',') {
                match text.trim().parse::<Platform>() {
                    Err(error) => warnings.push(format!(
                        "Invalid platform result requested {text:?}: {error}"
                    )),
                    Ok(platform) => {
                        let platform = platform.normalize();
                        if wanted.contains(&platform) {
                            warnings.push(format!("Duplicate platform result requested {text:?}"));
                        }
                        wanted.push(platform);
                    }
                }
            }
        }
    }
    if !warnings.is_empty() {
        return Ok(warnings);
    }
    if !is_map && wanted.len() > 1 {
        let short = "Multiple platforms requested but result is not multi-platform";
        return Ok(vec![short.to_owned()]);
    }
    let got = made(result, default)?;
    let short = match (wanted.as_slice(), got.as_slice()) {
        ([wanted], [got]) if fits(wanted, got) => return Ok(Vec::new()),
        ([wanted], [got]) => {
            format!("Requested platform {wanted} does not match result platform {got}")
        }
        _ if wanted.len() == got.len() && got.iter().all(|got| wanted.contains(got)) => {
            return Ok(Vec::new());
        }
        _ => format!(
            "Requested platforms {} do not match result platforms {}",
            list(&wanted),
            list(&got)
        ),
    };
    Ok(vec![short])
}

/// The platforms that a result says it is for.
fn made(result: &FrontendResult, default: &Platform) -> Result<Vec<Platform>, BuildError> {
    let refs = result.refs.named();
    let listed = metadata::platforms(&result.metadata)?;
    let placed = metadata::places(&refs, &listed, default)?;
    let platforms = placed.into_iter().map(|(_, platform, _)| platform);
    Ok(platforms.map(Platform::normalize).collect())
}

/// A result may name the version of its system where nobody asked for one.
fn fits(wanted: &Platform, got: &Platform) -> bool {
    let mut got = got.clone();
    if wanted.os_version.is_empty() {
        got.os_version.clear();
    }
    *wanted == got
}

fn list(platforms: &[Platform]) -> String {
    let mut names: Vec<_> = platforms.iter().map(Platform::to_string).collect();
    names.sort();
    names.join(",")
}
