//! Caches in object stores, by the names that BuildKit's clients use.

use std::time::Duration;

use weld_source::Secret;
use weld_source::objects::{
    AzureAccount, Bucket, Location, ObjectCredentials, ObjectOptions, S3Bucket,
};

use super::options::{CacheOptionError, Reader};

/// The attributes that are secrets.
pub const SECRET_ATTRIBUTES: [&str; 5] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "token",
    "ghtoken",
];

/// The name of a cache that has none.
const NAME: &str = "buildkit";
/// How many layers go at once unless told.
pub(super) const PARALLEL: usize = 4;
/// Most layers that go at once.
const MAX_PARALLEL: usize = 64;
/// Most tries of a request.
const MAX_ATTEMPTS: usize = 100;
/// Most names of one cache.
const MAX_NAMES: usize = 64;
/// A blob that is older is made young again unless told.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A cache in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectCache {
    /// Where it is.
    pub location: Location,
    /// Who asks.
    pub credentials: ObjectCredentials,
    /// How.
    pub options: ObjectOptions,
    /// Its names; all are written, and all are read.
    pub names: Vec<String>,
    /// How many layers are written at once.
    pub parallel: usize,
}

/// What a variable of this process's environment says.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl ObjectCache {
    pub(super) fn s3(
        reader: &Reader<'_>,
        environment: Environment<'_>,
    ) -> Result<Self, CacheOptionError> {
        let bucket = or_environment(reader, "bucket", environment("AWS_BUCKET"))?;
        let region = or_environment(reader, "region", environment("AWS_REGION"))?;
        let is_label = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !is_label(&bucket) {
            return Err(reader.bad(
                "bucket",
                "must have letters, digits, '-', '_' and '.' alone",
            ));
        }
        if !is_label(&region) {
            return Err(reader.bad(
                "region",
                "must have letters, digits, '-', '_' and '.' alone",
            ));
        }
        let endpoint = reader.get("endpoint_url").filter(|url| !url.is_empty());
        let id = secret(reader, "access_key_id")?;
        let key = secret(reader, "secret_access_key")?;
        let token = secret(reader, "session_token")?;
        let credentials = match (id, key) {
            (Some(id), Some(secret)) => ObjectCredentials::S3 {
                id: id.expose().to_owned(),
                secret,
                token,
            },
            _ => ObjectCredentials::Environment,
        };
        if !matches!(
            reader.get("retry_mode"),
            None | Some("standard" | "adaptive")
        ) {
            return Err(reader.bad("retry_mode", "must be standard or adaptive"));
        }
        // No request says what encodings it takes, so that nothing on the way changes what was signed.
        reader.flag("disable_accept_encoding")?;
        let prefix = reader.get("prefix").unwrap_or_default();
        let below = |attribute, default| {
            let part = reader.get(attribute).unwrap_or(default);
            format!("{prefix}{part}")
        };
        Ok(Self {
            location: Location {
                bucket: Bucket::S3(S3Bucket {
                    name: bucket,
                    region,
                    path_style: reader.flag("use_path_style")?.unwrap_or(false),
                    endpoint: endpoint.map(str::to_owned),
                }),
                blobs: below("blobs_prefix", "blobs/"),
                documents: below("manifests_prefix", "manifests/"),
            },
            credentials,
            options: ObjectOptions {
                patience: ObjectOptions::default().patience,
                attempts: number(reader, "retry_max_attempts", MAX_ATTEMPTS)?
                    .unwrap_or(ObjectOptions::default().attempts),
                refresh: Some(match reader.get("touch_refresh") {
                    None => REFRESH,
                    Some(text) => duration(text).ok_or_else(|| {
                        reader.bad("touch_refresh", "must be a duration such as 24h or 1h30m")
                    })?,
                }),
            },
            names: names(reader)?,
            parallel: number(reader, "upload_parallelism", MAX_PARALLEL)?.unwrap_or(PARALLEL),
        })
    }

    pub(super) fn azblob(
        reader: &Reader<'_>,
        environment: Environment<'_>,
    ) -> Result<Self, CacheOptionError> {
        let variable = |name: &str| environment(&format!("BUILDKIT_AZURE_STORAGE_{name}"));
        let url = or_environment(reader, "account_url", variable("ACCOUNT_URL"))?;
        let named = reader.get("account_name").map(str::to_owned);
        let name = named
            .or_else(|| variable("ACCOUNT_NAME"))
            .or_else(|| AzureAccount::name_in(&url))
            .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()));
        let name = name.ok_or_else(|| {
            let expected = "must be the name of a storage account (letters and digits), \
                or account_url must begin with it";
            reader.bad("account_name", expected)
        })?;
        let container = reader.get("container").map(str::to_owned);
        let container = container
            .or_else(|| variable("CONTAINER"))
            .unwrap_or_else(|| "buildkit-cache".to_owned());
        let fits = |c: char| c.is_ascii_alphanumeric() || "-$".contains(c);
        if container.is_empty() || !container.chars().all(fits) {
            return Err(reader.bad("container", "must have letters, digits and '-' alone"));
        }
        let key = secret(reader, "secret_access_key")?;
        let prefix = reader.get("prefix").map(str::to_owned);
        let prefix = prefix.or_else(|| variable("PREFIX")).unwrap_or_default();
        let below = |attribute, default| {
            let part = reader.get(attribute).unwrap_or(default);
            joined([prefix.as_str(), part])
        };
        Ok(Self {
            location: Location {
                bucket: Bucket::Azure(AzureAccount {
                    url,
                    name,
                    container,
                }),
                blobs: below("blobs_prefix", "blobs"),
                documents: below("manifests_prefix", "manifests"),
            },
            credentials: key.map_or(ObjectCredentials::Environment, ObjectCredentials::Azure),
            options: ObjectOptions::default(),
            names: names(reader)?,
            parallel: PARALLEL,
        })
    }
}

/// An attribute, or what stands for it on this machine.
fn or_environment(
    reader: &Reader<'_>,
    attribute: &'static str,
    variable: Option<String>,
) -> Result<String, CacheOptionError> {
    let given = reader.get(attribute).map(str::to_owned).or(variable);
    let given = given.filter(|value| !value.is_empty());
    given.ok_or_else(|| reader.missing(attribute))
}

/// A secret, which goes into headers. What is wrong with it is told without it.
pub(super) fn secret(
    reader: &Reader<'_>,
    attribute: &'static str,
) -> Result<Option<Secret>, CacheOptionError> {
    let Some(value) = reader.get(attribute).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(Some(Secret::new(value))),
        false => Err(CacheOptionError::Secret {
            kind: reader.kind().to_owned(),
            attribute,
        }),
    }
}

fn names(reader: &Reader<'_>) -> Result<Vec<String>, CacheOptionError> {
    let names: Vec<String> = match reader.get("name") {
        None | Some("") => vec![NAME.to_owned()],
        Some(names) => names.split(';').map(str::to_owned).collect(),
    };
    match names.len() <= MAX_NAMES && names.iter().all(|name| !name.is_empty()) {
        true => Ok(names),
        false => Err(reader.bad("name", "must be up to 64 names, separated by ';'")),
    }
}

fn number(
    reader: &Reader<'_>,
    attribute: &'static str,
    most: usize,
) -> Result<Option<usize>, CacheOptionError> {
    let Some(text) = reader.get(attribute) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number > 0);
    let number: usize = number.ok_or_else(|| reader.bad(attribute, "must be a positive number"))?;
    Ok(Some(number.min(most)))
}

/// Joins parts of a key as Go's `filepath.Join` does, which BuildKit uses for Azure: no part is empty, and a slash ends it.
fn joined(parts: [&str; 2]) -> String {
    let parts = parts.iter().flat_map(|part| part.split('/'));
    let parts = parts.filter(|part| !part.is_empty() && *part != ".");
    parts.map(|part| format!("{part}/")).collect()
}

/// As Go reads a duration, without a sign: `24h`, `1h30m`, `1.5s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = unit.split_at(end.unwrap_or(unit.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = next;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::options::EXPORTER;

    fn read(
        kind: &str,
        pairs: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<ObjectCache, CacheOptionError> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let attrs = pairs.iter().map(own).collect();
        let variables: std::collections::BTreeMap<String, String> =
            environment.iter().map(own).collect();
        let lookup = |name: &str| variables.get(name).cloned();
        let reader = Reader::new(kind, &attrs, EXPORTER);
        match kind {
            "s3" => ObjectCache::s3(&reader, &lookup),
            _ => ObjectCache::azblob(&reader, &lookup),
        }
    }

    #[test]
    fn keys_are_where_buildkit_has_them() {
        let s3 = [("bucket", "b"), ("region", "r"), ("prefix", "p-")];
        let read_s3 = read("s3", &s3, &[]).unwrap();
        assert_eq!(read_s3.location.blobs, "p-blobs/");
        assert_eq!(read_s3.location.documents, "p-manifests/");
        assert_eq!(read_s3.names, ["buildkit"]);
        assert_eq!(read_s3.credentials, ObjectCredentials::Environment);
        assert_eq!(read_s3.options.refresh, Some(REFRESH));
        let azure = [
            ("account_url", "https://me.blob.core.windows.net"),
            ("prefix", "/p//q"),
            ("blobs_prefix", "blobs/"),
            ("name", "a;b"),
        ];
        let read_azure = read("azblob", &azure, &[]).unwrap();
        assert_eq!(read_azure.location.blobs, "p/q/blobs/");
        assert_eq!(read_azure.location.documents, "p/q/manifests/");
        assert_eq!(read_azure.names, ["a", "b"]);
        let Bucket::Azure(account) = read_azure.location.bucket else {
            panic!("an account");
        };
        assert_eq!(
            (&*account.name, &*account.container),
            ("me", "buildkit-cache")
        );
    }

    #[test]
    fn the_environment_stands_in() {
        let environment = [("AWS_BUCKET", "eb"), ("AWS_REGION", "er")];
        let read_s3 = read("s3", &[("region", "r")], &environment).unwrap();
        let Bucket::S3(bucket) = read_s3.location.bucket else {
            panic!("a bucket");
        };
        assert_eq!((&*bucket.name, &*bucket.region), ("eb", "r"));
        let url = ("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL", "http://127.0.0.1:1/n");
        let error = read("azblob", &[("container", "a/b")], &[url]).unwrap_err();
        assert!(error.to_string().contains("container"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_its_secrets() {
        let base = [("bucket", "b"), ("region", "r")];
        for (pair, part) in [
            (("bucket", ""), "requires bucket"),
            (("bucket", "a/b"), "bucket"),
            (("region", "r\n"), "region"),
            (("upload_parallelism", "0"), "positive"),
            (("retry_mode", "often"), "standard or adaptive"),
            (("touch_refresh", "soon"), "duration"),
            (("session_token", "hush\n"), "session_token"),
            (("name", "a;"), "name"),
        ] {
            let mut pairs = base.to_vec();
            pairs.push(pair);
            let error = read("s3", &pairs, &[]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("24h", Some(86_400_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("", None),
            ("12", None),
            ("1d", None),
            ("-1h", None),
        ] {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
