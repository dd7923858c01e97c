//! Where cached layers are, as the store notes it with each of them.

use std::fmt;
use std::str::FromStr;

use weld_llb::reference::Repository;
use weld_source::objects::Location;

/// Where layers are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// A repository of a registry.
    Registry {
        /// The repository.
        repository: Repository,
        /// Any certificate is taken, or plain HTTP.
        insecure: bool,
    },
    /// A client's store of blobs, by its id.
    Store(String),
    /// An object store.
    Objects {
        /// Where in it.
        location: Box<Location>,
        /// Whether a client said who asks: then only a build that names the store again can have its layers.
        by_client: bool,
    },
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry {
                repository,
                insecure: false,
            } => write!(f, "registry:{repository}"),
            Self::Registry { repository, .. } => write!(f, "insecure-registry:{repository}"),
            Self::Store(id) => write!(f, "store:{id}"),
            Self::Objects {
                location,
                by_client: false,
            } => write!(f, "objects:{location}"),
            Self::Objects { location, .. } => write!(f, "client-objects:{location}"),
        }
    }
}

/// Text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place where layers are")]
pub struct ParseHomeError(String);

impl FromStr for Home {
    type Err = ParseHomeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseHomeError(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let registry = |insecure| {
            Ok(Self::Registry {
                repository: rest.parse().map_err(|_| bad())?,
                insecure,
            })
        };
        let objects = |by_client| {
            Ok(Self::Objects {
                location: Box::new(rest.parse().map_err(|_| bad())?),
                by_client,
            })
        };
        match kind {
            "objects" => objects(false),
            "client-objects" => objects(true),
            "registry" => registry(false),
            "insecure-registry" => registry(true),
            "store" => Ok(Self::Store(rest.to_owned())),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_read_as_they_are_written() {
        for text in [
            "registry:localhost:5000/a/b",
            "insecure-registry:example.com/cache",
            "store:local:/tmp/cache dir",
            "objects:s3://b?region=r&blobs=blobs%2F&documents=manifests%2F",
            "client-objects:azblob://c?account=a&url=http%3A%2F%2Fh%2Fa&blobs=b%2F&documents=m%2F",
        ] {
            let home: Home = text.parse().unwrap();
            assert_eq!(home.to_string(), text);
        }
        assert!("elsewhere:x".parse::<Home>().is_err());
        assert!("registry:".parse::<Home>().is_err());
    }
}
