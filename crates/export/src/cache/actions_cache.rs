//! Caches of GitHub Actions (`type=gha`), by the names that BuildKit's clients use.

use std::time::Duration;

use weld_digest::Digest;
use weld_source::objects::{
    ActionsService, ActionsToken, ActionsVersion, Bucket, Location, ObjectCredentials,
    ObjectOptions,
};

use super::object_options::{ObjectCache, PARALLEL, duration, secret};
use super::options::{CacheOptionError, Reader};

/// The name of a cache that has none.
pub const DEFAULT_SCOPE: &str = "buildkit";
/// What the keys of layers begin with, as BuildKit has them.
const BLOBS: &str = "buildkit-blob-1-";
/// What the keys of configs begin with.
const CONFIGS: &str = "index-";
/// The host of the service's second version on github.com, by which BuildKit knows the version where no client tells it.
const V2_HOST: &str = "results-receiver.actions.githubusercontent.com";
/// How long an exporter that asks too often tries again unless told: GitHub counts the uploads of a minute.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// The longest name.
const MAX_NAME: usize = 256;

/// Where a job writes its cache: into the scope of its branch.
pub(super) fn written(reader: &Reader<'_>) -> Result<ObjectCache, CacheOptionError> {
    let token = token(reader)?;
    // Without a scope that may be written nothing is; whoever writes tells so.
    let scope = token.written_scope().unwrap_or_default().to_owned();
    cache(reader, token, [scope], PATIENCE)
}

/// Where a job finds caches: in all scopes that it may read, its own branch's first.
pub(super) fn read(reader: &Reader<'_>) -> Result<ObjectCache, CacheOptionError> {
    let token = token(reader)?;
    let scopes: Vec<_> = token.scopes().map(str::to_owned).collect();
    cache(reader, token, scopes, ObjectOptions::default().patience)
}

fn cache(
    reader: &Reader<'_>,
    token: ActionsToken,
    scopes: impl IntoIterator<Item = String>,
    patience: Duration,
) -> Result<ObjectCache, CacheOptionError> {
    let name = match reader.get("scope") {
        None => DEFAULT_SCOPE,
        Some(name) => name,
    };
    // A comma would be two keys for the service's first version, and "#" ends a name.
    let fits = |c: char| !c.is_control() && c != ',' && c != '#';
    if name.len() > MAX_NAME || !name.chars().all(fits) {
        let expected = "must be at most 256 bytes without ',' and '#'";
        return Err(reader.bad("scope", expected));
    }
    let patience = match reader.get("timeout") {
        None => patience,
        Some(text) => {
            let seconds = text.parse().ok().map(Duration::from_secs);
            seconds
                .or_else(|| duration(text))
                .ok_or_else(|| reader.bad("timeout", "must be a duration such as 10m or 1m30s"))?
        }
    };
    let names = scopes.into_iter().map(|scope| {
        let digest = Digest::sha256_of(scope.as_bytes());
        let scope: String = digest.hex().chars().take(8).collect();
        format!("{name}-1-{scope}")
    });
    Ok(ObjectCache {
        location: Location {
            bucket: Bucket::Actions(service(reader)?),
            blobs: BLOBS.to_owned(),
            documents: CONFIGS.to_owned(),
        },
        credentials: ObjectCredentials::Actions(token),
        options: ObjectOptions {
            patience,
            ..ObjectOptions::default()
        },
        names: names.collect(),
        parallel: PARALLEL,
    })
}

fn token(reader: &Reader<'_>) -> Result<ActionsToken, CacheOptionError> {
    let token = secret(reader, "token")?.ok_or_else(|| reader.missing("token"))?;
    ActionsToken::parse(token.expose()).map_err(|source| CacheOptionError::Token {
        kind: reader.kind().to_owned(),
        source,
    })
}

/// Which of the addresses is asked, and in which version, as BuildKit chooses.
fn service(reader: &Reader<'_>) -> Result<ActionsService, CacheOptionError> {
    let version = match reader.get("version") {
        None | Some("") => None,
        Some("1") => Some(ActionsVersion::V1),
        Some("2") => Some(ActionsVersion::V2),
        Some(_) => return Err(reader.bad("version", "must be 1 or 2")),
    };
    let second = reader.get("url_v2").filter(|url| !url.is_empty());
    if let Some(url) = second.filter(|_| version != Some(ActionsVersion::V1)) {
        return Ok(ActionsService {
            url: url.to_owned(),
            version: ActionsVersion::V2,
        });
    }
    let url = reader.required("url")?.to_owned();
    let version = version.unwrap_or_else(|| match url.contains(V2_HOST) {
        true => ActionsVersion::V2,
        false => ActionsVersion::V1,
    });
    Ok(ActionsService { url, version })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::cache::options::{EXPORTER, IMPORTER};

    fn token(access: &str) -> String {
        let claims = serde_json::json!({ "ac": access, "exp": 4_000_000_000_u64 });
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    const ACCESS: &str = r#"[{"Scope":"refs/heads/topic","Permission":3},{"Scope":"refs/heads/main","Permission":1}]"#;

    fn parsed(direction: &'static str, pairs: &[(&str, &str)]) -> Result<ObjectCache, String> {
        let mut attrs: std::collections::BTreeMap<String, String> =
            [("token".to_owned(), token(ACCESS))].into();
        attrs.extend(
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into())),
        );
        let reader = Reader::new("gha", &attrs, direction);
        let parsed = match direction {
            EXPORTER => written(&reader),
            _ => read(&reader),
        };
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_buildkits() {
        let url = ("url", "http://127.0.0.1:1");
        let cache = parsed(EXPORTER, &[url]).unwrap();
        let hash = |scope: &str| Digest::sha256_of(scope.as_bytes()).hex()[..8].to_owned();
        let own = format!("buildkit-1-{}", hash("refs/heads/topic"));
        assert_eq!(cache.names, [own]);
        assert_eq!(cache.options.patience, PATIENCE);
        let cache = parsed(IMPORTER, &[url, ("scope", "app"), ("timeout", "1m30s")]).unwrap();
        let both = ["topic", "main"]
            .map(|branch| format!("app-1-{}", hash(&format!("refs/heads/{branch}"))));
        assert_eq!(cache.names, both);
        assert_eq!(cache.options.patience, Duration::from_secs(90));
    }

    #[test]
    fn addresses_and_versions_are_chosen_as_buildkit_does() {
        let (first, second) = (("url", "http://a/"), ("url_v2", "http://b/"));
        let github = (
            "url",
            "https://results-receiver.actions.githubusercontent.com/",
        );
        for (pairs, url, version) in [
            (&[first, second][..], "http://b/", ActionsVersion::V2),
            (
                &[first, second, ("version", "1")],
                "http://a/",
                ActionsVersion::V1,
            ),
            (&[first, ("version", "2")], "http://a/", ActionsVersion::V2),
            (&[first], "http://a/", ActionsVersion::V1),
            (&[github], github.1, ActionsVersion::V2),
        ] {
            let cache = parsed(IMPORTER, pairs).unwrap();
            let expected = Bucket::Actions(ActionsService {
                url: url.to_owned(),
                version,
            });
            assert_eq!(cache.location.bucket, expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_its_token() {
        let url = ("url", "http://a/");
        for (pairs, part) in [
            (&[][..], "gha cache exporter requires url"),
            (&[url, ("token", "")], "gha cache exporter requires token"),
            (&[url, ("token", "hush")], "no token of a job"),
            (&[url, ("token", "hush hush")], "token has characters"),
            (&[url, ("version", "3")], "must be 1 or 2"),
            (&[url, ("scope", "a,b")], "scope"),
            (&[url, ("timeout", "soon")], "timeout"),
        ] {
            let error = parsed(EXPORTER, pairs).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
