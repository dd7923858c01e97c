use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weld_proto::pb;

/// An OCI platform. Its text form is `os[(version[+feature]…)]/architecture[/variant]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// The version of the operating system, on Windows.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Required features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlatformError {
    /// A part has characters that no platform has.
    #[error(
        "{part:?} is an invalid component of {text:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    BadPart {
        /// The whole text.
        text: String,
        /// The part.
        part: String,
    },
    /// A text of one part is neither an operating system nor an architecture.
    #[error("platform {0:?}: unknown operating system or architecture")]
    Unknown(String),
    /// There are more than three parts.
    #[error("platform {0:?}: expected os[/architecture[/variant]]")]
    TooManyParts(String),
    /// An escape in the operating system's version or features is malformed.
    #[error("platform {0:?}: malformed %-escape")]
    BadEscape(String),
}

const KNOWN_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const KNOWN_ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// A platform of these parts.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        }
    }

    /// The platform of this machine, normalised.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture, "").normalize()
    }

    /// The canonical form: `aarch64` becomes `arm64`, `arm` gets its default variant `v7`, …
    #[must_use]
    pub fn normalize(mut self) -> Self {
        self.os = normalize_system(&self.os);
        (self.architecture, self.variant) =
            normalize_architecture(&self.architecture, &self.variant);
        self.os_features.sort();
        self.os_features.dedup();
        self
    }

    /// `os/architecture[/variant]`, without version and features.
    pub fn short(&self) -> String {
        if self.os.is_empty() {
            return "unknown".to_owned();
        }
        crate::path::join(&[&self.os, &self.architecture, &self.variant])
    }

    /// What this platform can run, the best first: itself, then older variants of its architecture, then
    /// the 32-bit architecture that it includes.
    pub fn matcher(&self) -> PlatformMatcher {
        PlatformMatcher {
            accepted: compatible(self.clone().normalize()),
        }
    }

    fn with_architecture(&self, architecture: &str, variant: String) -> Self {
        Self {
            architecture: architecture.to_owned(),
            variant,
            ..self.clone()
        }
        .normalize()
    }
}

/// Ranks platforms by how well they suit one that runs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformMatcher {
    accepted: Vec<Platform>,
}

impl PlatformMatcher {
    /// Whether `platform` can be run.
    pub fn matches(&self, platform: &Platform) -> bool {
        self.rank(platform).is_some()
    }

    /// How well `platform` suits: the least is the best.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = platform.clone().normalize();
        self.accepted.iter().position(|accepted| {
            accepted.os == platform.os
                && accepted.architecture == platform.architecture
                && accepted.variant == platform.variant
                && version_suits(accepted, &platform)
                && platform.os_features.iter().all(|feature| {
                    accepted.os_features.contains(feature) || is_win32k(accepted, feature)
                })
        })
    }

    /// The index of the platform that suits best; of equals, the one with most features, then the first.
    pub fn best<'a>(&self, platforms: impl IntoIterator<Item = &'a Platform>) -> Option<usize> {
        platforms
            .into_iter()
            .enumerate()
            .filter_map(|(index, platform)| {
                let features = platform.os_features.len();
                Some((self.rank(platform)?, usize::MAX - features, index))
            })
            .min()
            .map(|(_, _, index)| index)
    }
}

/// The build number decides on Windows: equal, where both are given.
fn version_suits(accepted: &Platform, platform: &Platform) -> bool {
    if accepted.os != "windows" || accepted.os_version.is_empty() || platform.os_version.is_empty()
    {
        return true;
    }
    let build = |version: &str| version.split('.').take(3).collect::<Vec<_>>().join(".");
    build(&accepted.os_version) == build(&platform.os_version)
}

/// `win32k` says that the full Windows is needed, which older images do not ask for; it never decides.
fn is_win32k(accepted: &Platform, feature: &str) -> bool {
    accepted.os == "windows" && feature == "win32k"
}

fn compatible(platform: Platform) -> Vec<Platform> {
    let number = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
    match platform.architecture.as_str() {
        "amd64" => {
            let newest = number(&platform.variant).unwrap_or(1);
            let older = (1..newest.min(16))
                .rev()
                .map(|version| format!("v{version}"));
            let mut accepted = vec![platform.clone()];
            accepted.extend(older.map(|variant| platform.with_architecture("amd64", variant)));
            accepted.push(platform.with_architecture("386", String::new()));
            accepted
        }
        "arm" => {
            let newest = number(&platform.variant).unwrap_or(5);
            let older = (5..newest.min(16))
                .rev()
                .map(|version| format!("v{version}"));
            let mut accepted = vec![platform.clone()];
            accepted.extend(older.map(|variant| platform.with_architecture("arm", variant)));
            accepted
        }
        "arm64" => compatible_arm64(&platform),
        _ => vec![platform],
    }
}

/// 64-bit variants up to this one, then those of 32 bits. Version 9.x includes 8.(x+5), at most 8.9.
fn compatible_arm64(platform: &Platform) -> Vec<Platform> {
    let variant = match platform.variant.as_str() {
        "" => "v8",
        variant => variant,
    };
    let (major, minor) = variant
        .trim_start_matches('v')
        .split_once('.')
        .unwrap_or_else(|| (variant.trim_start_matches('v'), "0"));
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return vec![platform.clone()];
    };
    let steps: &[(u32, u32)] = match (major, minor) {
        (8, 0..=9) => &[(8, minor)],
        (9, 0..=7) => &[(9, minor), (8, (minor + 5).min(9))],
        _ => return vec![platform.clone()],
    };
    let mut accepted = Vec::new();
    for &(major, newest) in steps {
        accepted.extend((0..=newest).rev().map(|minor| {
            let variant = match minor {
                0 => format!("v{major}"),
                minor => format!("v{major}.{minor}"),
            };
            platform.with_architecture("arm64", variant)
        }));
    }
    accepted.extend(compatible(
        platform.with_architecture("arm", "v8".to_owned()),
    ));
    accepted
}

fn normalize_system(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "" => std::env::consts::OS.to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalize_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (system, rest) = parts.split_first().unwrap_or((&"", &[]));
        for part in rest {
            check_part(text, part, ".")?;
        }
        let mut platform = parse_system(text, system)?;
        match *rest {
            [] if KNOWN_SYSTEMS.contains(&platform.os.as_str()) => {
                platform.architecture = Self::host().architecture;
            }
            [] => {
                let (architecture, variant) = normalize_architecture(system, "");
                if !KNOWN_ARCHITECTURES.contains(&architecture.as_str()) {
                    return Err(ParsePlatformError::Unknown(text.to_owned()));
                }
                platform.os = std::env::consts::OS.to_owned();
                (platform.architecture, platform.variant) = (architecture, variant);
                platform.drop_default_arm_variant();
            }
            [architecture] => {
                (platform.architecture, platform.variant) =
                    normalize_architecture(architecture, "");
                platform.drop_default_arm_variant();
            }
            [architecture, variant] => {
                (platform.architecture, platform.variant) =
                    normalize_architecture(architecture, variant);
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    platform.variant = "v8".to_owned();
                }
            }
            _ => return Err(ParsePlatformError::TooManyParts(text.to_owned())),
        }
        Ok(platform)
    }
}

impl Platform {
    fn drop_default_arm_variant(&mut self) {
        if self.architecture == "arm" && self.variant == "v7" {
            self.variant.clear();
        }
    }
}

fn check_part(text: &str, part: &str, also: &str) -> Result<(), ParsePlatformError> {
    // `.` and `..` would vanish, or take their neighbour with them, where the text form is cleaned as a path.
    let valid = !matches!(part, "" | "." | "..")
        && part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-' || also.contains(c));
    if valid {
        return Ok(());
    }
    Err(ParsePlatformError::BadPart {
        text: text.to_owned(),
        part: part.to_owned(),
    })
}

/// `os`, `os(version)`, `os(version+feature+…)` or `os(+feature…)`.
fn parse_system(text: &str, part: &str) -> Result<Platform, ParsePlatformError> {
    let (name, options) = match part.split_once('(') {
        None => (part, ""),
        Some((name, options)) => {
            let options = options
                .strip_suffix(')')
                .ok_or_else(|| ParsePlatformError::BadPart {
                    text: text.to_owned(),
                    part: part.to_owned(),
                })?;
            (name, options)
        }
    };
    check_part(text, name, "")?;
    let mut fields = options.split('+');
    let version = fields.next().unwrap_or_default();
    if !version.is_empty() {
        check_part(text, version, ".%")?;
    }
    let mut platform = Platform {
        os: normalize_system(name),
        os_version: unescape(text, version)?,
        ..Platform::default()
    };
    for feature in fields {
        check_part(text, feature, ".%")?;
        platform.os_features.push(unescape(text, feature)?);
    }
    Ok(platform)
}

fn unescape(text: &str, part: &str) -> Result<String, ParsePlatformError> {
    let bad = || ParsePlatformError::BadEscape(text.to_owned());
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (hex, tail) = rest.split_at_checked(2).ok_or_else(bad)?;
        let hex = std::str::from_utf8(hex).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| bad())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn escape(option: &str) -> String {
    let mut escaped = String::with_capacity(option.len());
    for c in option.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            '+' => escaped.push_str("%2B"),
            '(' => escaped.push_str("%28"),
            ')' => escaped.push_str("%29"),
            '/' => escaped.push_str("%2F"),
            c => escaped.push(c),
        }
    }
    escaped
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        let mut features: Vec<&str> = self.os_features.iter().map(String::as_str).collect();
        features.retain(|feature| !feature.is_empty());
        features.sort_unstable();
        features.dedup();
        if self.os_version.is_empty() && features.is_empty() {
            return f.write_str(&self.short());
        }
        let mut system = format!("{}({}", self.os, escape(&self.os_version));
        for feature in features {
            system.push('+');
            system.push_str(&escape(feature));
        }
        system.push(')');
        f.write_str(&crate::path::join(&[
            &system,
            &self.architecture,
            &self.variant,
        ]))
    }
}

impl From<pb::Platform> for Platform {
    fn from(platform: pb::Platform) -> Self {
        Self {
            architecture: platform.architecture,
            os: platform.os,
            os_version: platform.os_version,
            os_features: platform.os_features,
            variant: platform.variant,
        }
    }
}

impl From<Platform> for pb::Platform {
    fn from(platform: Platform) -> Self {
        Self {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            os_version: platform.os_version,
            os_features: platform.os_features,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn texts_parse_to_canonical_names() {
        for (text, os, architecture, variant) in [
            ("linux/amd64", "linux", "amd64", ""),
            ("linux/x86_64", "linux", "amd64", ""),
            ("linux/arm64/v8", "linux", "arm64", "v8"),
            ("linux/aarch64", "linux", "arm64", ""),
            ("linux/arm", "linux", "arm", ""),
            ("linux/arm/v7", "linux", "arm", "v7"),
            ("linux/armel", "linux", "arm", "v6"),
            ("macOS/arm64", "darwin", "arm64", ""),
            ("arm64", std::env::consts::OS, "arm64", ""),
            ("linux/amd64/v1", "linux", "amd64", ""),
            ("linux/amd64/v3", "linux", "amd64", "v3"),
        ] {
            assert_eq!(
                parse(text),
                Platform::new(os, architecture, variant),
                "{text}"
            );
        }
        let windows = parse("windows(10.0.17763+win32k)/amd64");
        assert_eq!(windows.os_version, "10.0.17763");
        assert_eq!(windows.os_features, ["win32k"]);
        assert_eq!(windows.to_string(), "windows(10.0.17763+win32k)/amd64");
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for (text, part) in [
            ("", "an invalid component"),
            ("linux/", "an invalid component"),
            ("linux/a*", "an invalid component"),
            ("linux/..", "an invalid component"),
            ("linux/arm/.", "an invalid component"),
            ("nosuch", "unknown operating system"),
            ("a/b/c/d", "expected os"),
            ("windows(10", "an invalid component"),
            ("windows(1%2)/amd64", "malformed %-escape"),
        ] {
            let error = text.parse::<Platform>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn older_variants_suit_and_the_nearest_is_best() {
        let arm = parse("linux/arm/v7").matcher();
        assert!(arm.matches(&parse("linux/arm/v6")));
        assert!(!arm.matches(&parse("linux/arm/v8")));
        let arm64 = parse("linux/arm64").matcher();
        assert!(arm64.matches(&parse("linux/arm64/v8")));
        assert!(arm64.matches(&parse("linux/arm/v7")));
        assert!(!arm64.matches(&parse("linux/arm64/v9")));
        let nine = parse("linux/arm64/v9.1").matcher();
        assert!(nine.matches(&parse("linux/arm64/v8.6")));
        assert!(!nine.matches(&parse("linux/arm64/v8.7")));
        let amd64 = parse("linux/amd64/v3").matcher();
        let offered = [
            "linux/386",
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v4",
        ]
        .map(parse);
        assert_eq!(amd64.best(&offered), Some(2));
        assert_eq!(parse("linux/s390x").matcher().best(&offered), None);
    }

    #[test]
    fn the_host_can_run_itself() {
        assert_eq!(Platform::host().matcher().rank(&Platform::host()), Some(0));
    }

    proptest! {
        #[test]
        fn any_text_parses_to_what_its_form_parses_to(text in "[a-z0-9()+%/.]{0,24}") {
            if let Ok(platform) = text.parse::<Platform>() {
                let again: Platform = platform.to_string().parse().unwrap();
                prop_assert_eq!(again.normalize(), platform.normalize());
            }
        }
    }
}
