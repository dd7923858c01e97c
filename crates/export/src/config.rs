//! The image config: what the frontend made, with the layers and their history filled in.

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use weld_digest::Digest;
use weld_llb::Platform;

use crate::inline;

/// Why an image config cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON of the right shape.
    #[error("the image config is not valid: {0}")]
    Invalid(#[from] serde_json::Error),
    /// It is JSON's `null`.
    #[error("invalid null image config for export")]
    Null,
    /// A field that every image has is missing.
    #[error("invalid image config for export: missing {0}")]
    Missing(&'static str),
    /// Only one of two fields is there that make a platform.
    #[error("invalid image config: os and architecture must be specified together: missing {0}")]
    HalfPlatform(&'static str),
}

/// What the config needs to know of one layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerFacts {
    pub(crate) diff_id: Digest,
    pub(crate) created: Option<OffsetDateTime>,
    pub(crate) description: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct History {
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    created: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    created_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    author: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    comment: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

/// The config of an image that nobody described: of the given platform, with docker's `PATH`.
pub(crate) fn default_config(platform: &Platform) -> Vec<u8> {
    let mut config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": null},
    });
    if !platform.variant.is_empty() {
        config["variant"] = json!(platform.variant);
    }
    config.to_string().into_bytes()
}

/// When the image of a complete config was made.
pub(crate) fn created_at(config: &[u8]) -> Option<OffsetDateTime> {
    serde_json::from_slice::<Time>(config).ok()?.created
}

#[derive(Deserialize)]
struct Time {
    #[serde(default, with = "time::serde::rfc3339::option")]
    created: Option<OffsetDateTime>,
}

/// How many entries of `config`'s history, counted from the start, stand the same in `base`'s.
fn inherited(history: &[History], base: Option<&[u8]>) -> usize {
    #[derive(Deserialize)]
    struct Base {
        #[serde(default)]
        history: Vec<History>,
    }
    let base: Vec<History> = base
        .and_then(|base| serde_json::from_slice::<Base>(base).ok())
        .map(|base| base.history)
        .unwrap_or_default();
    history
        .iter()
        .zip(&base)
        .take_while(|(ours, theirs)| ours == theirs)
        .count()
}

/// Fills in `rootfs`, `history`, `created` and the build cache; with an epoch, no new entry is later than it.
///
/// # Errors
/// [`ConfigError`] if the config is not one.
pub(crate) fn complete(
    config: &[u8],
    layers: &[LayerFacts],
    epoch: Option<OffsetDateTime>,
    base: Option<&[u8]>,
    cache: Option<&[u8]>,
) -> Result<Vec<u8>, ConfigError> {
    let config: Option<Map<String, Value>> = serde_json::from_slice(config)?;
    let mut config = config.ok_or(ConfigError::Null)?;
    let names = |field: &str| {
        let value = config.get(field).and_then(Value::as_str);
        value.is_some_and(|value| !value.is_empty())
    };
    match (names("os"), names("architecture")) {
        (true, true) => {}
        (false, true) => return Err(ConfigError::HalfPlatform("os")),
        (true, false) => return Err(ConfigError::HalfPlatform("architecture")),
        (false, false) => return Err(ConfigError::Missing("os")),
    }
    let given = config
        .remove("history")
        .filter(|history| !history.is_null());
    let mut history: Vec<History> = given
        .map(serde_json::from_value)
        .transpose()?
        .unwrap_or_default();
    let kept = inherited(&history, base);
    align(&mut history, layers);
    fill_times(&mut history, layers, kept);
    if let Some(epoch) = epoch {
        for entry in history.iter_mut().skip(kept) {
            entry.created = Some(entry.created.map_or(epoch, |created| created.min(epoch)));
        }
    }
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    config.insert(
        "rootfs".into(),
        json!({"type": "layers", "diff_ids": diff_ids}),
    );
    config.insert(
        "created".into(),
        created(config.get("created"), &history, epoch)?,
    );
    config.insert("history".into(), serde_json::to_value(&history)?);
    // That of a base image says nothing of this one.
    config.remove(inline::FIELD);
    if let Some(cache) = cache {
        let encoded = base64::engine::general_purpose::STANDARD.encode(cache);
        config.insert(inline::FIELD.into(), encoded.into());
    }
    Ok(serde_json::to_vec(&config)?)
}

/// Makes the history name exactly as many layers as there are.
fn align(history: &mut Vec<History>, layers: &[LayerFacts]) {
    let mut named = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        entry.empty_layer = named >= layers.len();
        named += usize::from(!entry.empty_layer);
    }
    let missing = layers.get(named..).unwrap_or_default();
    history.extend(missing.iter().map(|layer| History {
        created: layer.created,
        created_by: layer.description.clone(),
        comment: "buildkit.exporter.image.v0".into(),
        ..History::default()
    }));
}

/// Gives every entry after those that the base had a time: its layer's own, else that of the
/// first new layer, or of the entry before. When the base came to this machine is of no interest.
fn fill_times(history: &mut [History], layers: &[LayerFacts], kept: usize) {
    let mut layers = layers.iter();
    for (number, entry) in history.iter_mut().enumerate() {
        if entry.empty_layer {
            continue;
        }
        let layer = layers.next();
        if number >= kept {
            entry.created = entry
                .created
                .or_else(|| layer.and_then(|layer| layer.created));
        }
    }
    let history = history.get_mut(kept..).unwrap_or_default();
    let first_gap = history
        .iter()
        .position(|entry| entry.created.is_none())
        .unwrap_or(history.len());
    let (before, after) = history.split_at(first_gap);
    let mut time = after
        .iter()
        .find_map(|entry| entry.created)
        .or_else(|| before.iter().rev().find_map(|entry| entry.created));
    let mut in_gap = false;
    for entry in history {
        match entry.created {
            Some(created) if in_gap => time = Some(created),
            Some(_) => {}
            None => {
                in_gap = true;
                entry.created = time;
            }
        }
    }
}

fn created(
    given: Option<&Value>,
    history: &[History],
    epoch: Option<OffsetDateTime>,
) -> Result<Value, serde_json::Error> {
    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "time::serde::rfc3339::option")] Option<OffsetDateTime>);
    let given: Option<Time> = given
        .filter(|given| !given.is_null())
        .cloned()
        .map(serde_json::from_value)
        .transpose()?;
    let time = match (given.and_then(|given| given.0), epoch) {
        (Some(given), Some(epoch)) => Some(given.min(epoch)),
        (Some(given), None) => Some(given),
        (None, _) => history.iter().rev().find_map(|entry| entry.created),
    };
    serde_json::to_value(Time(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    fn layer(name: &str, created: Option<i64>) -> LayerFacts {
        LayerFacts {
            diff_id: Digest::sha256_of(name),
            created: created.map(at),
            description: format!("made {name}"),
        }
    }

    fn completed(
        config: &Value,
        layers: &[LayerFacts],
        epoch: Option<i64>,
        base: Option<&Value>,
    ) -> Value {
        let base = base.map(|base| base.to_string().into_bytes());
        let done = complete(
            config.to_string().as_bytes(),
            layers,
            epoch.map(at),
            base.as_deref(),
            None,
        )
        .unwrap();
        serde_json::from_slice(&done).unwrap()
    }

    #[test]
    fn history_names_every_layer_once() {
        let config = json!({"os": "linux", "architecture": "amd64", "history": [
            {"created_by": "base", "created": "1970-01-01T00:00:10Z"},
            {"created_by": "ENV A=1", "empty_layer": true},
            {"created_by": "RUN x"},
        ]});
        let layers = [
            layer("base", None),
            layer("x", Some(20)),
            layer("extra", Some(30)),
        ];
        let done = completed(&config, &layers, None, None);
        let times: Vec<_> = done["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["created"].as_str().unwrap())
            .collect();
        assert_eq!(
            times,
            [
                "1970-01-01T00:00:10Z",
                "1970-01-01T00:00:20Z",
                "1970-01-01T00:00:20Z",
                "1970-01-01T00:00:30Z"
            ]
        );
        assert_eq!(done["history"][3]["created_by"], "made extra");
        assert_eq!(done["created"], "1970-01-01T00:00:30Z");
        assert_eq!(done["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn what_the_base_says_of_its_history_stays() {
        let base = json!({"history": [{"created_by": "base"}]});
        let config = json!({"os": "linux", "architecture": "amd64", "history": [
            {"created_by": "base"},
            {"created_by": "ENV A=1", "empty_layer": true},
        ]});
        let done = completed(&config, &[layer("base", Some(100))], Some(50), Some(&base));
        assert_eq!(done["history"][0], base["history"][0]);
        assert_eq!(done["history"][1]["created"], "1970-01-01T00:00:50Z");
    }

    #[test]
    fn surplus_history_names_no_layer() {
        let config = json!({"os": "linux", "architecture": "amd64", "history": [{"created_by": "a"}, {"created_by": "b"}]});
        let done = completed(&config, &[layer("a", Some(1))], None, None);
        assert_eq!(done["history"][1]["empty_layer"], true);
    }

    #[test]
    fn the_epoch_is_the_latest_time_but_for_what_the_base_had() {
        let base = json!({"history": [{"created_by": "base", "created": "1970-01-01T00:01:40Z"}]});
        let config = json!({"os": "linux", "architecture": "amd64", "created": "1970-01-01T00:05:00Z", "history": [
            {"created_by": "base", "created": "1970-01-01T00:01:40Z"},
            {"created_by": "RUN x"},
        ]});
        let done = completed(
            &config,
            &[layer("base", None), layer("x", Some(200))],
            Some(50),
            Some(&base),
        );
        assert_eq!(done["history"][0]["created"], "1970-01-01T00:01:40Z");
        assert_eq!(done["history"][1]["created"], "1970-01-01T00:00:50Z");
        assert_eq!(done["created"], "1970-01-01T00:00:50Z");
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for (config, part) in [
            ("null", "invalid null image config"),
            ("{}", "missing os"),
            (r#"{"os":"linux"}"#, "together: missing architecture"),
            ("[]", "not valid"),
        ] {
            let error = complete(config.as_bytes(), &[], None, None, None)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{config}: {error}");
        }
    }

    #[test]
    fn the_build_cache_is_the_images_own() {
        let base = br#"{"os":"linux","architecture":"amd64","moby.buildkit.cache.v0":"YmFzZQ=="}"#;
        let field = |cache: Option<&[u8]>| {
            let done = complete(base, &[], None, None, cache).unwrap();
            let done: Value = serde_json::from_slice(&done).unwrap();
            done.get(inline::FIELD).cloned()
        };
        assert_eq!(field(None), None, "a base image's says nothing of this one");
        assert_eq!(field(Some(b"own")), Some(json!("b3du")));
    }

    #[test]
    fn fields_that_we_do_not_know_are_kept() {
        let config = json!({"os": "linux", "architecture": "amd64", "config": {"Healthcheck": {"Test": ["NONE"]}}, "x.y": 1});
        let done = completed(&config, &[], None, None);
        assert_eq!(done["config"], config["config"]);
        assert_eq!(done["x.y"], 1);
    }
}
