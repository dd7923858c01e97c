use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use weld_digest::Digest;

use super::auth::Scopes;
use super::config::Capability;
use super::endpoint::Endpoint;
use super::error::{Action, Failure, RegistryError};
use super::patience::{self, Flow};
use super::{Failures, Registry, hopeful};
use crate::image::Descriptor;
use crate::progress::{Progress, Transfer};
use crate::pump::{Command, Pump};
use crate::reference::Repository;
use crate::sink::{BlobSink, MemorySink, Verdict};
use crate::transport::NetworkError;

impl Registry {
    /// Fetches a blob into `sink`, going on behind what it has, through breaks and from mirror to
    /// mirror, and hands the sink back once its content proved right. As many blobs are fetched
    /// at a time as the configuration says; the others wait.
    ///
    /// Dropped, it stops; the sink is dropped too, with what it got.
    ///
    /// # Errors
    /// [`RegistryError`], also if the content is not what its digest says.
    pub async fn fetch_blob<S: BlobSink>(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        sink: S,
        progress: &Progress,
    ) -> Result<S, RegistryError> {
        let _permit = self.shared.transfers.acquire().await;
        self.fetch(repository, descriptor, sink, progress).await
    }

    async fn fetch<S: BlobSink>(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        sink: S,
        progress: &Progress,
    ) -> Result<S, RegistryError> {
        let digest = descriptor.digest.to_string();
        let mut fetch = Fetch {
            descriptor,
            position: sink.position(),
            pump: Pump::start(sink),
            transfer: progress.start(&digest, &digest, Some(descriptor.size)),
        };
        fetch.transfer.set(fetch.position);
        let outcome = self.fetch_anywhere(repository, &mut fetch).await;
        let (sink, written) = fetch.pump.stop().await;
        match (outcome, written) {
            (_, Err(source)) => Err(RegistryError::Sink {
                digest: descriptor.digest.clone(),
                source,
            }),
            (Err(error), Ok(())) => Err(error),
            (Ok(()), Ok(())) => {
                fetch.transfer.complete();
                Ok(sink)
            }
        }
    }

    /// The descriptor of a blob of which only the digest is known; the registry tells its size.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn describe_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Descriptor, RegistryError> {
        let action = Action {
            verb: "find blob",
            object: repository.at(digest.clone()).to_string(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Pull, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            let size = self.with_retry(|| Box::pin(self.blob_size(endpoint, repository, digest)));
            match size.await {
                Ok(size) => {
                    let media_type = "application/octet-stream".to_owned();
                    return Ok(Descriptor::new(media_type, digest.clone(), size));
                }
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    /// Asked for with a HEAD; where that does not tell, as of a store behind the registry that
    /// allows nothing but a GET, with the head of a GET.
    async fn blob_size(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64, Failure> {
        let scopes = Scopes::repository(repository.path(), &["pull"]);
        let object = format!("blobs/{digest}");
        for method in [Method::HEAD, Method::GET] {
            let is_last = method == Method::GET;
            let make = |client: &reqwest::Client| {
                client
                    .request(method.clone(), endpoint.url(repository, &object))
                    .header(ACCEPT_ENCODING, "identity")
            };
            let response = self.send(endpoint, &scopes, &make).await?;
            if response.status() != StatusCode::OK {
                if is_last {
                    return Err(Failure::of(response).await);
                }
                continue;
            }
            let header = response.headers().get(CONTENT_LENGTH);
            let length = header.and_then(|value| value.to_str().ok()?.parse().ok());
            if let Some(length) = length {
                return Ok(length);
            }
        }
        Err(Failure::Protocol(
            "it does not say how large the blob is".to_owned(),
        ))
    }

    /// Fetches a small blob, such as an image's configuration, into memory. It does not wait for
    /// large ones that are on their way.
    ///
    /// # Errors
    /// [`RegistryError`], also if it is larger than `limit` bytes.
    pub async fn fetch_bytes(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        if descriptor.size > limit {
            let failure = Failure::TooLarge { limit };
            let action = action(repository, descriptor);
            return Err(failure.at(&action, repository.domain()).into());
        }
        let sink = MemorySink::new();
        let sink = self
            .fetch(repository, descriptor, sink, &Progress::none())
            .await?;
        Ok(sink.into_bytes())
    }

    /// Tries the endpoints in turn. Success means that the blob is complete, or that the sink
    /// failed, which the pump then tells.
    async fn fetch_anywhere<S: BlobSink>(
        &self,
        repository: &Repository,
        fetch: &mut Fetch<'_, S>,
    ) -> Result<(), RegistryError> {
        let action = action(repository, fetch.descriptor);
        let endpoints = self
            .endpoints(repository, Capability::Pull, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            match self
                .fetch_from(&Place::Registry(endpoint, repository), fetch)
                .await
            {
                Ok(()) => return Ok(()),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        // Layers that may not be distributed are where their descriptor says.
        for url in &fetch.descriptor.urls {
            if let Some(endpoint) = endpoints.iter().last()
                && self
                    .fetch_from(&Place::Url(endpoint, url), fetch)
                    .await
                    .is_ok()
            {
                return Ok(());
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    async fn fetch_from<S: BlobSink>(
        &self,
        place: &Place<'_>,
        fetch: &mut Fetch<'_, S>,
    ) -> Result<(), Failure> {
        let mut attempts = self.shared.config.retry.start();
        let mut unreachable = 0;
        loop {
            let before = fetch.position;
            let failure = match self.fetch_once(place, fetch).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if fetch.position > before {
                attempts.progressed();
            }
            if self.asks_once || !hopeful(&failure, &mut attempts, &mut unreachable).await {
                return Err(failure);
            }
            tracing::debug!(%failure, position = fetch.position, "going on with the blob");
        }
    }

    async fn fetch_once<S: BlobSink>(
        &self,
        place: &Place<'_>,
        fetch: &mut Fetch<'_, S>,
    ) -> Result<(), Failure> {
        if fetch.position > fetch.descriptor.size {
            fetch.restart().await;
        }
        if fetch.position < fetch.descriptor.size {
            let response = self.request_blob(place, fetch).await?;
            fetch.receive(response, self.patience).await?;
        }
        fetch.finish().await
    }

    async fn request_blob<S: BlobSink>(
        &self,
        place: &Place<'_>,
        fetch: &Fetch<'_, S>,
    ) -> Result<Response, Failure> {
        let position = fetch.position;
        let with_range = move |request: RequestBuilder| {
            // A transparently compressed answer would not have the descriptor's bytes.
            let request = request.header(ACCEPT_ENCODING, "identity");
            match position {
                0 => request,
                position => request.header(RANGE, format!("bytes={position}-")),
            }
        };
        match place {
            Place::Registry(endpoint, repository) => {
                let scopes = Scopes::repository(repository.path(), &["pull"]);
                let object = format!("blobs/{}", fetch.descriptor.digest);
                let make = move |client: &reqwest::Client| {
                    with_range(client.get(endpoint.url(repository, &object)))
                };
                self.send(endpoint, &scopes, &make).await
            }
            Place::Url(endpoint, url) => {
                let request = with_range(endpoint.client.get(*url));
                let sent = async { Ok(request.send().await.map_err(NetworkError::from)?) };
                patience::answer(self.patience, sent).await
            }
        }
    }
}

fn action(repository: &Repository, descriptor: &Descriptor) -> Action {
    Action {
        verb: "fetch blob",
        object: repository.at(descriptor.digest.clone()).to_string(),
    }
}

/// Where a blob is asked for.
enum Place<'a> {
    Registry(&'a Endpoint, &'a Repository),
    /// Anonymously, with an endpoint's client.
    Url(&'a Endpoint, &'a str),
}

/// The state of a blob's fetch over all its attempts.
struct Fetch<'a, S> {
    descriptor: &'a Descriptor,
    /// How many bytes the sink has, or will have once its queue is empty.
    position: u64,
    pump: Pump<S>,
    transfer: Transfer,
}

impl<S: BlobSink> Fetch<'_, S> {
    /// Takes a response's body.
    async fn receive(
        &mut self,
        mut response: Response,
        patience: Option<Duration>,
    ) -> Result<(), Failure> {
        let mut skip = match response.status() {
            // The server knows no ranges.
            StatusCode::OK => self.position,
            StatusCode::PARTIAL_CONTENT => {
                check_range(&response, self.position)?;
                0
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let actual = self.position;
                self.restart().await;
                return Err(self.wrong_size(actual));
            }
            _ => return Err(Failure::of(response).await),
        };
        let mut flow = Flow::new(patience);
        loop {
            let next = async { Ok(response.chunk().await.map_err(NetworkError::from)?) };
            let began = Instant::now();
            let Some(mut chunk) = patience::answer(patience, next).await? else {
                break;
            };
            flow.came(chunk.len(), began.elapsed())?;
            if skip > 0 {
                let skipped = skip.min(chunk.len() as u64);
                skip -= skipped;
                chunk = chunk.slice(usize::try_from(skipped).unwrap_or(chunk.len())..);
            }
            if chunk.is_empty() {
                continue;
            }
            let position = self.position + chunk.len() as u64;
            if position > self.descriptor.size {
                self.restart().await;
                return Err(self.wrong_size(position));
            }
            if !self.pump.send(Command::Chunk(chunk)).await {
                return Ok(());
            }
            self.position = position;
            self.transfer.set(position);
        }
        if self.position < self.descriptor.size {
            return Err(self.wrong_size(self.position));
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        match self.pump.finish(&self.descriptor.digest).await {
            None | Some(Verdict::Right) => Ok(()),
            Some(Verdict::Wrong { actual }) => {
                self.restart().await;
                Err(Failure::Digest {
                    expected: self.descriptor.digest.clone(),
                    actual,
                })
            }
        }
    }

    async fn restart(&mut self) {
        self.position = 0;
        self.transfer.set(0);
        self.pump.send(Command::Restart).await;
    }

    fn wrong_size(&self, actual: u64) -> Failure {
        Failure::Size {
            expected: self.descriptor.size,
            actual,
        }
    }
}

/// Whether a partial response starts where it should.
fn check_range(response: &Response, position: u64) -> Result<(), Failure> {
    let header = response.headers().get(CONTENT_RANGE);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or("");
    let start = text
        .strip_prefix("bytes ")
        .and_then(|range| range.split('-').next())
        .and_then(|start| start.trim().parse::<u64>().ok());
    if start == Some(position) {
        return Ok(());
    }
    Err(Failure::Protocol(format!(
        "asked for the bytes from {position} on, it gave {text:?}"
    )))
}
