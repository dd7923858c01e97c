//! `# syntax=`: which frontend a Dockerfile asks for.

use weld_llb::reference::Reference;

use super::{ConvertError, Request, requested_syntax};
use crate::error::Error;
use crate::source::{LineRange, SourceFile};

/// The images whose work this crate does.
const BUILT_IN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Accepts the official Dockerfile frontends in any version, and refuses all others.
pub(super) fn check(request: &Request, source: &SourceFile) -> Result<(), Error> {
    let Some((command_line, line)) = requested_syntax(request, source.data()) else {
        return Ok(());
    };
    let image = command_line.split_whitespace().next().unwrap_or_default();
    let image = image.to_owned();
    if is_built_in(&image) {
        return Ok(());
    }
    let error = Error::new(ConvertError::Syntax {
        image: image.clone(),
        command_line,
    });
    Err(match line {
        Some(line) => error
            .at(LineRange::line(line))
            .in_file(source)
            .mark_fragment(&image),
        None => error,
    })
}

fn is_built_in(image: &str) -> bool {
    image.parse::<Reference>().is_ok_and(|reference| {
        let repository = reference.repository();
        repository.domain() == "docker.io" && BUILT_IN.contains(&repository.path())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_frontends_are_built_in() {
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile-upstream:master",
        ] {
            assert!(is_built_in(image), "{image}");
        }
        for image in [
            "example.com/docker/dockerfile",
            "docker/dockerfile2",
            "Nope",
            "",
        ] {
            assert!(!is_built_in(image), "{image}");
        }
    }
}
