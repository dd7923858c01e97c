//! Where in an object store blobs and documents are, as text that is no secret.

use std::fmt;
use std::str::FromStr;

use url::Url;
use weld_digest::Digest;

/// A bucket of S3's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Bucket {
    /// Its name.
    pub name: String,
    /// The region that it is in.
    pub region: String,
    /// The server's address, where that is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether a server of its own has the bucket's name in its paths, not in its host.
    pub path_style: bool,
}

/// A container of an account with Azure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AzureAccount {
    /// The account's address.
    pub url: String,
    /// The account's name.
    pub name: String,
    /// The container.
    pub container: String,
}

/// A version of GitHub's cache service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionsVersion {
    /// The one that GitHub's own enterprise servers and others have: paths below `_apis/artifactcache`.
    V1,
    /// The one that github.com has: Twirp, and content at signed addresses.
    V2,
}

/// A cache of GitHub Actions, as its jobs reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActionsService {
    /// The service's address.
    pub url: String,
    /// The version that it speaks.
    pub version: ActionsVersion,
}

/// A named part of an object store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// S3, or what speaks its protocol.
    S3(S3Bucket),
    /// Azure Blob Storage.
    Azure(AzureAccount),
    /// The cache of a repository on GitHub, and what speaks its protocol.
    Actions(ActionsService),
}

/// Where blobs and documents are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The bucket.
    pub bucket: Bucket,
    /// What the keys of blobs begin with; a digest follows.
    pub blobs: String,
    /// What the keys of documents begin with; a name follows.
    pub documents: String,
}

impl Location {
    pub(super) fn blob(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.blobs)
    }

    pub(super) fn document(&self, name: &str) -> String {
        format!("{}{name}", self.documents)
    }
}

/// `s3://BUCKET?region=…&blobs=…`, which [`Location::from_str`] reads.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        let (scheme, name) = match &self.bucket {
            Bucket::S3(bucket) => {
                query.append_pair("region", &bucket.region);
                if let Some(endpoint) = &bucket.endpoint {
                    query.append_pair("endpoint", endpoint);
                }
                if bucket.path_style {
                    query.append_pair("path-style", "true");
                }
                ("s3", bucket.name.as_str())
            }
            Bucket::Azure(account) => {
                query.append_pair("account", &account.name);
                query.append_pair("url", &account.url);
                ("azblob", account.container.as_str())
            }
            Bucket::Actions(service) => {
                query.append_pair("url", &service.url);
                let version = match service.version {
                    ActionsVersion::V1 => "v1",
                    ActionsVersion::V2 => "v2",
                };
                ("gha", version)
            }
        };
        query.append_pair("blobs", &self.blobs);
        query.append_pair("documents", &self.documents);
        write!(f, "{scheme}://{name}?{}", query.finish())
    }
}

/// Text that names no place in an object store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in an object store")]
pub struct ParseLocationError(String);

impl FromStr for Location {
    type Err = ParseLocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseLocationError(text.to_owned());
        let (head, query) = text.split_once('?').ok_or_else(bad)?;
        let (scheme, name) = head.split_once("://").ok_or_else(bad)?;
        let pairs = || url::form_urlencoded::parse(query.as_bytes());
        let find = |key: &str| {
            let mut found = pairs().filter(|(name, _)| name == key);
            found.next().map(|(_, value)| value.into_owned())
        };
        let name = name.to_owned();
        let bucket = match scheme {
            "s3" => Bucket::S3(S3Bucket {
                name,
                region: find("region").ok_or_else(bad)?,
                endpoint: find("endpoint"),
                path_style: find("path-style").is_some(),
            }),
            "azblob" => Bucket::Azure(AzureAccount {
                url: find("url").ok_or_else(bad)?,
                name: find("account").ok_or_else(bad)?,
                container: name,
            }),
            "gha" => Bucket::Actions(ActionsService {
                url: find("url").ok_or_else(bad)?,
                version: match &*name {
                    "v1" => ActionsVersion::V1,
                    "v2" => ActionsVersion::V2,
                    _ => return Err(bad()),
                },
            }),
            _ => return Err(bad()),
        };
        Ok(Self {
            bucket,
            blobs: find("blobs").ok_or_else(bad)?,
            documents: find("documents").ok_or_else(bad)?,
        })
    }
}

impl AzureAccount {
    /// The name of the account that an address is of: the first label of its host.
    pub fn name_in(url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        let label = url.host_str()?.split('.').next()?;
        (!label.is_empty()).then(|| label.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for bucket in [
            Bucket::S3(S3Bucket {
                name: "b".into(),
                region: "r".into(),
                endpoint: Some("http://h:1/a?&=".into()),
                path_style: true,
            }),
            Bucket::Azure(AzureAccount {
                url: "http://127.0.0.1:1/name".into(),
                name: "name".into(),
                container: "c".into(),
            }),
            Bucket::Actions(ActionsService {
                url: "http://127.0.0.1:1/a/".into(),
                version: ActionsVersion::V1,
            }),
        ] {
            let location = Location {
                bucket,
                blobs: "a b/blobs/".into(),
                documents: "a b/manifests/".into(),
            };
            assert_eq!(location.to_string().parse(), Ok(location));
        }
        assert!("s3://b?blobs=".parse::<Location>().is_err());
        assert!(
            "gs://b?region=&blobs=&documents="
                .parse::<Location>()
                .is_err()
        );
    }
}
