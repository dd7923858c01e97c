//! What a registry knows to be about a manifest.

use reqwest::header::ACCEPT;
use reqwest::{Response, StatusCode};
use weld_digest::Digest;

use super::auth::Scopes;
use super::config::Capability;
use super::endpoint::Endpoint;
use super::error::{Action, Failure, RegistryError};
use super::{Failures, Registry, read_limited};
use crate::image::{Descriptor, Document, DocumentError, MAX_MANIFEST, media_type};
use crate::reference::Repository;

impl Registry {
    /// The manifests that have `subject` as their subject, by the first page of the referrers'
    /// list, or by the tag that takes its place where a registry keeps no such list. Empty if
    /// there are none.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let action = Action {
            verb: "list referrers",
            object: repository.at(subject.clone()).to_string(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Pull, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            let listed =
                self.with_retry(|| Box::pin(self.referrers_at(endpoint, repository, subject)));
            match listed.await {
                Ok(referrers) => return Ok(referrers),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, Failure> {
        let tag = subject.to_string().replace(':', "-");
        for path in [format!("referrers/{subject}"), format!("manifests/{tag}")] {
            let scopes = Scopes::repository(repository.path(), &["pull"]);
            let make = |client: &reqwest::Client| {
                let url = endpoint.url(repository, &path);
                client.get(url).header(ACCEPT, media_type::OCI_INDEX)
            };
            let response = self.send(endpoint, &scopes, &make).await?;
            match response.status() {
                StatusCode::OK => return listed(response).await,
                StatusCode::NOT_FOUND => {}
                _ => return Err(Failure::of(response).await),
            }
        }
        Ok(Vec::new())
    }
}

async fn listed(response: Response) -> Result<Vec<Descriptor>, Failure> {
    let limit = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
    let bytes = read_limited(response, limit).await?;
    match Document::parse(&bytes, media_type::OCI_INDEX)? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(manifest) => {
            Err(DocumentError::MediaType(manifest.media_type.clone()).into())
        }
    }
}
