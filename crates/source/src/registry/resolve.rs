use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use weld_digest::{Digest, Hasher};

use super::auth::Scopes;
use super::config::Capability;
use super::endpoint::Endpoint;
use super::error::{Action, Failure, RegistryError};
use super::{Failures, Registry, read_limited};
use crate::image::{Descriptor, Document, MAX_MANIFEST, Served, media_type};
use crate::reference::{Reference, Repository};

/// What a reference means at its registry.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Media type, digest and size of the manifest or index.
    pub descriptor: Descriptor,
    /// The document itself, if it came along.
    pub served: Option<Served>,
}

const ACCEPTED: [&str; 4] = [
    media_type::OCI_INDEX,
    media_type::DOCKER_MANIFEST_LIST,
    media_type::OCI_MANIFEST,
    media_type::DOCKER_MANIFEST,
];

impl Registry {
    /// Looks up what `reference` means: with a HEAD, which registries count less, then, where
    /// that does not tell, with a GET.
    ///
    /// # Errors
    /// [`RegistryError`] names the reference and the hosts that were asked.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        let capability = match reference.digest() {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        self.resolve_by(reference, capability).await
    }

    /// The same where a push would go, past all mirrors: what is there now.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn resolve_pushed(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        self.resolve_by(reference, Capability::Push).await
    }

    async fn resolve_by(
        &self,
        reference: &Reference,
        capability: Capability,
    ) -> Result<Resolved, RegistryError> {
        let action = Action {
            verb: "resolve",
            object: reference.to_string(),
        };
        let repository = reference.repository();
        let endpoints = self.endpoints(repository, capability, &action).await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            let resolved = self.with_retry(|| Box::pin(self.resolve_at(endpoint, reference)));
            match resolved.await {
                Ok(resolved) => return Ok(resolved),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    /// Fetches the manifest or index that `descriptor` names.
    ///
    /// # Errors
    /// [`RegistryError`], also if it is not what its digest says, or no such document.
    pub async fn fetch_document(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
    ) -> Result<Served, RegistryError> {
        let action = Action {
            verb: "fetch manifest",
            object: repository.at(descriptor.digest.clone()).to_string(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Pull, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            let fetched = self.with_retry(|| {
                Box::pin(async {
                    let object = descriptor.digest.to_string();
                    let response = self
                        .request_manifest(Method::GET, endpoint, repository, &object)
                        .await?;
                    served(response, &descriptor.media_type, Some(&descriptor.digest)).await
                })
            });
            match fetched.await {
                Ok(served) => return Ok(served),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    /// Resolves a reference and fetches its manifest or index.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve) and [`fetch_document`](Self::fetch_document).
    pub async fn resolve_document(&self, reference: &Reference) -> Result<Served, RegistryError> {
        let resolved = self.resolve(reference).await?;
        match resolved.served {
            Some(served) => Ok(served),
            None => {
                let repository = reference.repository();
                self.fetch_document(repository, &resolved.descriptor).await
            }
        }
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
    ) -> Result<Resolved, Failure> {
        let (repository, object) = (reference.repository(), reference.object());
        let wanted = reference.digest();
        match self
            .request_manifest(Method::HEAD, endpoint, repository, &object)
            .await
        {
            Ok(response) => {
                if let Some(descriptor) = described(&response, wanted)? {
                    return Ok(Resolved {
                        descriptor,
                        served: None,
                    });
                }
            }
            // A HEAD's failure has no body to say why; and some servers know no HEAD.
            Err(
                failure @ (Failure::Network(_)
                | Failure::Silent(_)
                | Failure::TooManyRequests { .. }
                | Failure::Credentials(_)
                | Failure::Token { .. }),
            ) => return Err(failure),
            Err(_) => {}
        }
        let response = self
            .request_manifest(Method::GET, endpoint, repository, &object)
            .await?;
        let served = served(response, "", wanted).await?;
        Ok(Resolved {
            descriptor: served.descriptor.clone(),
            served: Some(served),
        })
    }

    async fn request_manifest(
        &self,
        method: Method,
        endpoint: &Endpoint,
        repository: &Repository,
        object: &str,
    ) -> Result<Response, Failure> {
        let scopes = Scopes::repository(repository.path(), &["pull"]);
        let accept = format!("{}, */*;q=0.5", ACCEPTED.join(", "));
        let make = move |client: &reqwest::Client| {
            let url = endpoint.url(repository, &format!("manifests/{object}"));
            client.request(method.clone(), url).header(ACCEPT, &accept)
        };
        let response = self.send(endpoint, &scopes, &make).await?;
        if response.status() != StatusCode::OK {
            return Err(Failure::of(response).await);
        }
        Ok(response)
    }
}

/// The descriptor that a HEAD's headers give, if they give all of it.
fn described(response: &Response, wanted: Option<&Digest>) -> Result<Option<Descriptor>, Failure> {
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let size = header("content-length").and_then(|text| text.parse().ok());
    let stated = header("docker-content-digest").and_then(|text| text.parse().ok());
    let media_type = media_type_of(response);
    if media_type::is_schema1(&media_type) {
        return Err(Failure::Document(crate::image::DocumentError::Schema1));
    }
    if let (Some(wanted), Some(stated)) = (wanted, &stated)
        && wanted != stated
    {
        return Err(Failure::Digest {
            expected: wanted.clone(),
            actual: stated.clone(),
        });
    }
    let digest = wanted.cloned().or(stated);
    Ok(match (digest, size) {
        (Some(digest), Some(size)) if size > 0 && media_type::is_document(&media_type) => {
            Some(Descriptor::new(media_type, digest, size))
        }
        _ => None,
    })
}

/// The document in a response, verified.
async fn served(
    response: Response,
    announced: &str,
    wanted: Option<&Digest>,
) -> Result<Served, Failure> {
    let mut media_type = media_type_of(&response);
    if media_type::is_generic(&media_type) && !announced.is_empty() {
        announced.clone_into(&mut media_type);
    }
    let limit = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
    let bytes = Bytes::from(read_limited(response, limit).await?);
    let digest = match wanted {
        None => Digest::sha256_of(&bytes),
        Some(wanted) => {
            let mut hasher = Hasher::new(wanted.algorithm());
            hasher.update(&bytes);
            let actual = hasher.finish();
            if actual != *wanted {
                return Err(Failure::Digest {
                    expected: wanted.clone(),
                    actual,
                });
            }
            actual
        }
    };
    let document = Document::parse(&bytes, &media_type)?;
    let size = bytes.len() as u64;
    Ok(Served {
        descriptor: Descriptor::new(document.media_type(), digest, size),
        bytes,
        document,
    })
}

fn media_type_of(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim().to_owned()
}
