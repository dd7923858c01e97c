//! The config of an image, as docker writes and reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use weld_llb::Platform;

/// What images that set no path have, by their operating system.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image's config. Members that are not known are dropped, as docker does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub author: String,
    /// Such as `amd64`.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// The version of the operating system, on Windows.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_version: String,
    /// Required features of the operating system.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub os_features: Vec<String>,
    /// Such as `v7`.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub variant: String,
    /// How its containers run.
    #[serde(default, deserialize_with = "or_default")]
    pub config: ImageSettings,
    /// Its layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How it was made.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub history: Vec<History>,
}

/// How the containers of an image run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageSettings {
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub user: String,
    /// Ports, as `80/tcp`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Variables, as `NAME=value`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub env: Vec<String>,
    /// The program.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program if there is none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub cmd: Vec<String>,
    /// Directories that outlive a container.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// What stops a container.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub stop_signal: String,
    /// Whether the command is escaped already, which matters on Windows.
    #[serde(
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "or_default"
    )]
    pub args_escaped: bool,
    /// How to find out whether a container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Instructions for images that are built on this one.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub on_build: Vec<String>,
    /// The shell of commands in shell form.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub shell: Vec<String>,
}

/// `{}`, the value of a set's member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How to find out whether a container is well. Durations are nanoseconds; 0 is the runtime's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthConfig {
    /// `NONE`, `CMD` and a program, or `CMD-SHELL` and a command.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "or_default"
    )]
    pub interval: i64,
    /// When a check has failed for it hangs.
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "or_default"
    )]
    pub timeout: i64,
    /// How long failures do not count after the start.
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "or_default"
    )]
    pub start_period: i64,
    /// Between two checks while failures do not count.
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "or_default"
    )]
    pub start_interval: i64,
    /// How many failures in a row make a container unwell.
    #[serde(
        default,
        skip_serializing_if = "is_zero",
        deserialize_with = "or_default"
    )]
    pub retries: i64,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The digests of the uncompressed layers, the lowest first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<String>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// One step of how an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub author: String,
    /// A remark.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "or_default"
    )]
    pub empty_layer: bool,
}

/// `null` is as good as nothing in configs that Go has written.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl ImageConfig {
    /// The config of an empty image.
    pub fn empty(platform: &Platform) -> Self {
        let mut image = Self::default();
        image.set_platform(platform);
        image.config.working_dir = "/".to_owned();
        image.ensure_path();
        image
    }

    /// The platform.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }

    pub(super) fn set_platform(&mut self, platform: &Platform) {
        self.architecture.clone_from(&platform.architecture);
        self.os.clone_from(&platform.os);
        self.os_version.clone_from(&platform.os_version);
        self.os_features.clone_from(&platform.os_features);
        self.variant.clone_from(&platform.variant);
    }

    /// Sets `PATH` if it is not set. Windows knows its own.
    pub(super) fn ensure_path(&mut self) {
        let set = self.config.env.iter().any(|pair| key_of(pair) == "PATH");
        if !set && self.os != "windows" {
            self.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
    }

    /// Sets a variable in its place, or at the end.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        match self.config.env.iter_mut().find(|pair| key_of(pair) == name) {
            Some(old) => *old = pair,
            None => self.config.env.push(pair),
        }
    }

    /// The variables.
    pub(super) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .env
            .iter()
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The arguments that run `command` in the image's shell.
    pub(super) fn in_shell(&self, command: &str) -> Vec<String> {
        let mut args = if !self.config.shell.is_empty() {
            self.config.shell.clone()
        } else if self.os == "windows" {
            ["cmd", "/S", "/C"].map(str::to_owned).to_vec()
        } else {
            ["/bin/sh", "-c"].map(str::to_owned).to_vec()
        };
        args.push(command.to_owned());
        args
    }

    /// Whether the image has no layers, as far as its config tells.
    pub(super) fn is_scratch(&self) -> bool {
        self.rootfs.diff_ids.is_empty() && self.history.iter().all(|step| step.empty_layer)
    }
}

fn key_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

pub(super) fn nanoseconds(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| {
        i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_with_nulls_is_read_and_written_without_them() {
        let json = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Volumes":null,
            "Labels":null,"OnBuild":null,"ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["NONE"]}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"created_by":"x","empty_layer":true}],
            "docker_version":"1"}"#;
        let image: ImageConfig = serde_json::from_str(json).unwrap();
        assert!(image.is_scratch());
        let written = serde_json::to_string(&image).unwrap();
        assert_eq!(
            written,
            r#"{"architecture":"amd64","os":"linux","config":{"ExposedPorts":{"80/tcp":{}},"Cmd":["sh"],"Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","empty_layer":true}]}"#
        );
    }
}
