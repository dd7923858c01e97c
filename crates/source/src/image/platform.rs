use std::fmt;

use serde::{Deserialize, Serialize};

/// The platform of an image, as an index states it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system; Windows' images have it.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// What the operating system must have.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// Says which of the platforms of an index serves.
pub trait PlatformMatcher: Send + Sync {
    /// How good an image for `platform` is, 0 the best, or `None` if it does not serve.
    fn rank(&self, platform: &Platform) -> Option<u32>;

    /// What is wanted, for the error that says that it is not there.
    fn describe(&self) -> String;
}

/// Wants what runs on one platform: its own images first, then those of the lesser variants that
/// its processors run too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlatform(Platform);

impl HostPlatform {
    /// Wants what runs on `platform`.
    pub fn new(platform: Platform) -> Self {
        Self(normalized(platform))
    }

    /// Wants what runs here.
    pub fn current() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::new(Platform {
            architecture: architecture.to_owned(),
            os: std::env::consts::OS.to_owned(),
            ..Platform::default()
        })
    }

    /// The platforms that serve, best first.
    fn acceptable(&self) -> Vec<(String, String)> {
        let own = |variants: &[&str]| -> Vec<_> {
            variants
                .iter()
                .map(|variant| (self.0.architecture.clone(), (*variant).to_owned()))
                .collect()
        };
        let variant = self.0.variant.as_str();
        match self.0.architecture.as_str() {
            "amd64" => own(from(&["v4", "v3", "v2", ""], variant)),
            "arm" => own(from(&["v8", "v7", "v6", "v5"], variant)),
            "arm64" => {
                let mut platforms = own(from(&["v9", ""], variant));
                platforms.extend(
                    ["v8", "v7", "v6", "v5"].map(|variant| ("arm".to_owned(), variant.to_owned())),
                );
                platforms
            }
            _ => own(&[variant]),
        }
    }
}

/// The part of `ladder` from `variant` down; an unknown variant stands for itself alone.
fn from<'a>(ladder: &'a [&'a str], variant: &'a str) -> &'a [&'a str] {
    ladder
        .iter()
        .position(|step| *step == variant)
        .map_or(&[], |position| &ladder[position..])
}

impl PlatformMatcher for HostPlatform {
    fn rank(&self, platform: &Platform) -> Option<u32> {
        let platform = normalized(platform.clone());
        if platform.os != self.0.os {
            return None;
        }
        let wanted = self.acceptable();
        let exact =
            platform.architecture == self.0.architecture && platform.variant == self.0.variant;
        if exact {
            return Some(0);
        }
        wanted
            .iter()
            .position(|(architecture, variant)| {
                *architecture == platform.architecture && *variant == platform.variant
            })
            .and_then(|position| u32::try_from(position).ok())
            .map(|position| position + 1)
    }

    fn describe(&self) -> String {
        self.0.to_string()
    }
}

/// The same with the names that Go uses and without the variants that are the default.
fn normalized(mut platform: Platform) -> Platform {
    platform.os = platform.os.to_lowercase();
    if platform.os == "macos" {
        platform.os = "darwin".to_owned();
    }
    let architecture = platform.architecture.to_lowercase();
    let variant = platform.variant.to_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (platform.architecture, platform.variant) = (architecture.to_owned(), variant.to_owned());
    platform
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
            ..Platform::default()
        }
    }

    #[test]
    fn the_own_platform_is_best_and_lesser_variants_serve() {
        for (host, better, worse) in [
            ("linux/amd64", "linux/amd64", "linux/amd64/v2"),
            ("linux/amd64/v3", "linux/amd64/v3", "linux/amd64/v2"),
            ("linux/amd64/v3", "linux/amd64/v2", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7", "linux/arm/v6"),
            ("linux/arm/v7", "linux/arm", "linux/arm/v5"),
            ("linux/arm64", "linux/arm64/v8", "linux/arm/v7"),
            ("linux/arm64/v9", "linux/arm64/v9", "linux/arm64"),
        ] {
            let host = HostPlatform::new(platform(host));
            let better = host.rank(&platform(better)).unwrap();
            let worse = host.rank(&platform(worse)).unwrap_or(u32::MAX);
            assert!(better < worse, "{host:?}: {better} {worse}");
        }
    }

    #[test]
    fn greater_variants_and_other_systems_do_not_serve() {
        for (host, image) in [
            ("linux/amd64", "linux/amd64/v2"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "linux/386"),
            ("linux/riscv64", "linux/amd64"),
            ("linux/amd64", "unknown/unknown"),
        ] {
            assert_eq!(
                HostPlatform::new(platform(host)).rank(&platform(image)),
                None
            );
        }
        assert_eq!(
            HostPlatform::new(platform("linux/x86_64")).rank(&platform("linux/amd64")),
            Some(0)
        );
    }
}
