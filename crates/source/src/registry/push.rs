use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use tokio::sync::mpsc;
use url::Url;
use weld_digest::Digest;

use super::auth::Scopes;
use super::config::Capability;
use super::endpoint::Endpoint;
use super::error::{Action, Failure, RegistryError};
use super::patience::{self, Movement};
use super::{Failures, Registry};
use crate::image::{Descriptor, Document};
use crate::progress::{Progress, Transfer};
use crate::reference::{Reference, Repository};

/// How much is read from a blob at a time, and how many such pieces wait for the network.
const PIECE: usize = 512 << 10;
const QUEUE: usize = 4;
/// How much is handed to the network at a time where somebody watches whether it moves.
const WATCHED_PIECE: usize = 64 << 10;
/// How many repositories are tried as the source of a mount.
const MAX_MOUNTS: usize = 3;

/// Content that can be read, again if need be, from anywhere on.
pub trait BlobReader: Send + Sync + 'static {
    /// A reader that starts at `offset`. It runs on a thread that may block.
    ///
    /// # Errors
    /// What opening meets.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;
}

impl BlobReader for PathBuf {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(self)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

impl BlobReader for Bytes {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.len());
        Ok(Box::new(self.slice(start..).reader()))
    }
}

/// A blob to push.
#[derive(Clone)]
pub struct BlobUpload {
    /// Its digest and size.
    pub descriptor: Descriptor,
    /// Its content.
    pub content: Arc<dyn BlobReader>,
    /// Repositories that may have it already, so that the registry need only link it.
    pub mount_from: Vec<Repository>,
}

/// How a blob came to be in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existing,
    /// It was linked from another repository.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

impl Registry {
    /// Sees to it that a repository has a blob. As many blobs are transferred at a time as the
    /// configuration says; the others wait. Dropped, it stops.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn push_blob(
        &self,
        repository: &Repository,
        upload: &BlobUpload,
        progress: &Progress,
    ) -> Result<Pushed, RegistryError> {
        let _permit = self.shared.transfers.acquire().await;
        let descriptor = &upload.descriptor;
        let digest = descriptor.digest.to_string();
        let action = Action {
            verb: "push blob",
            object: repository.at(descriptor.digest.clone()).to_string(),
        };
        let push = Push {
            registry: self,
            repository,
            upload,
            transfer: Arc::new(Mutex::new(progress.start(
                &digest,
                &digest,
                Some(descriptor.size),
            ))),
            movement: Arc::default(),
            unreadable: Arc::default(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Push, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            match self.with_retry(|| Box::pin(push.blob(endpoint))).await {
                Ok(pushed) => {
                    push.complete();
                    return Ok(pushed);
                }
                Err(failure) => failures.add(endpoint, failure),
            }
            if let Some(source) = lock(&push.unreadable).take() {
                return Err(RegistryError::Source {
                    digest: descriptor.digest.clone(),
                    source,
                });
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    /// Sees to it that a repository has a blob whose content is not here: it is there already, or
    /// the registry has it in one of the other repositories. False if neither.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn link_blob(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        mount_from: &[Repository],
    ) -> Result<bool, RegistryError> {
        let upload = BlobUpload {
            descriptor: descriptor.clone(),
            content: Arc::new(Bytes::new()),
            mount_from: mount_from.to_vec(),
        };
        let action = Action {
            verb: "push blob",
            object: repository.at(descriptor.digest.clone()).to_string(),
        };
        let digest = descriptor.digest.to_string();
        let push = Push {
            registry: self,
            repository,
            upload: &upload,
            transfer: Arc::new(Mutex::new(Progress::none().start(&digest, &digest, None))),
            movement: Arc::default(),
            unreadable: Arc::default(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Push, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            match self.with_retry(|| Box::pin(push.link(endpoint))).await {
                Ok(linked) => return Ok(linked.is_some()),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    /// Pushes a manifest or index under the tag of `reference`, or, if it has none, under its
    /// digest. All that it refers to must be there already.
    ///
    /// # Errors
    /// [`RegistryError`], also if `document` is none or not what the reference's digest says.
    pub async fn push_document(
        &self,
        reference: &Reference,
        document: &Bytes,
    ) -> Result<Descriptor, RegistryError> {
        let parsed = Document::parse(document, "")
            .map_err(|error| RegistryError::Manifest(reference.to_string(), error))?;
        let descriptor = Descriptor::of(parsed.media_type(), document);
        let object = match reference.tag() {
            Some(tag) => tag.to_owned(),
            None => descriptor.digest.to_string(),
        };
        let repository = reference.repository();
        let action = Action {
            verb: "push manifest",
            object: reference.to_string(),
        };
        let endpoints = self
            .endpoints(repository, Capability::Push, &action)
            .await?;
        let mut failures = Failures::new(action);
        for endpoint in endpoints.iter() {
            let attempt = self.with_retry(|| {
                Box::pin(self.put_document(endpoint, repository, &object, document, &descriptor))
            });
            match attempt.await {
                Ok(()) => return Ok(descriptor),
                Err(failure) => failures.add(endpoint, failure),
            }
        }
        Err(failures.into_error(repository.domain()))
    }

    async fn put_document(
        &self,
        endpoint: &Endpoint,
        repository: &Repository,
        object: &str,
        document: &Bytes,
        descriptor: &Descriptor,
    ) -> Result<(), Failure> {
        let scopes = push_scopes(repository);
        let make = |client: &reqwest::Client| {
            client
                .put(endpoint.url(repository, &format!("manifests/{object}")))
                .header(CONTENT_TYPE, &descriptor.media_type)
                .body(document.clone())
        };
        let response = self.send(endpoint, &scopes, &make).await?;
        if !response.status().is_success() {
            return Err(Failure::of(response).await);
        }
        check_digest(&response, &descriptor.digest)
    }
}

fn push_scopes(repository: &Repository) -> Scopes {
    Scopes::repository(repository.path(), &["pull", "push"])
}

/// Whether the registry took the content for what it is.
fn check_digest(response: &Response, expected: &Digest) -> Result<(), Failure> {
    let header = response.headers().get("docker-content-digest");
    let stated = header.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
    match stated {
        Some(actual) if actual.algorithm() == expected.algorithm() && actual != *expected => {
            Err(Failure::Digest {
                expected: expected.clone(),
                actual,
            })
        }
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The push of one blob.
struct Push<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    upload: &'a BlobUpload,
    transfer: Arc<Mutex<Transfer>>,
    movement: Arc<Movement>,
    /// Why the content could not be read, if that is why a request failed.
    unreadable: Arc<Mutex<Option<io::Error>>>,
}

/// What a request for an upload came to.
enum Begun {
    Mounted,
    At(Url),
}

impl Push<'_> {
    fn size(&self) -> u64 {
        self.upload.descriptor.size
    }

    fn digest(&self) -> &Digest {
        &self.upload.descriptor.digest
    }

    fn complete(self) {
        if let Some(transfer) = Arc::into_inner(self.transfer) {
            let mut transfer = transfer
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            transfer.set(self.upload.descriptor.size);
            transfer.complete();
        }
    }

    /// Links the blob without its content, if that can be done.
    async fn link(&self, endpoint: &Endpoint) -> Result<Option<Pushed>, Failure> {
        if self.exists(endpoint).await? {
            return Ok(Some(Pushed::Existing));
        }
        Ok(self.mount(endpoint).await?.then_some(Pushed::Mounted))
    }

    async fn blob(&self, endpoint: &Endpoint) -> Result<Pushed, Failure> {
        if let Some(linked) = self.link(endpoint).await? {
            return Ok(linked);
        }
        let scopes = push_scopes(self.repository);
        let Begun::At(location) = self.ask(endpoint, &scopes, "").await? else {
            return Ok(Pushed::Mounted);
        };
        match self.registry.shared.config.upload_chunk {
            Some(size) if size > 0 && size < self.size() => {
                self.in_chunks(endpoint, location, size).await?;
            }
            _ => self.at_once(endpoint, location).await?,
        }
        Ok(Pushed::Uploaded)
    }

    async fn exists(&self, endpoint: &Endpoint) -> Result<bool, Failure> {
        let make = |client: &reqwest::Client| {
            let object = format!("blobs/{}", self.digest());
            client.head(endpoint.url(self.repository, &object))
        };
        let scopes = push_scopes(self.repository);
        let response = self.registry.send(endpoint, &scopes, &make).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            // A HEAD has no body to say why; the request to upload will.
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                Ok(false)
            }
            _ => Err(Failure::of(response).await),
        }
    }

    /// Asks for a link from another repository.
    async fn mount(&self, endpoint: &Endpoint) -> Result<bool, Failure> {
        let sources = self.upload.mount_from.iter().filter(|source| {
            source.domain() == self.repository.domain() && source.path() != self.repository.path()
        });
        for source in sources.take(MAX_MOUNTS) {
            let mut scopes = push_scopes(self.repository);
            scopes.extend(Scopes::repository(source.path(), &["pull"]));
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("mount", &self.digest().to_string())
                .append_pair("from", source.path())
                .finish();
            match self.ask(endpoint, &scopes, &format!("?{query}")).await {
                Ok(Begun::Mounted) => return Ok(true),
                // The registry does not have it there and began an upload.
                Ok(Begun::At(location)) => self.abandon(endpoint, location).await,
                // It may not be read there.
                Err(
                    Failure::Unauthorized(_)
                    | Failure::Forbidden(_)
                    | Failure::NotFound(_)
                    | Failure::Token { .. },
                ) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    async fn ask(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        query: &str,
    ) -> Result<Begun, Failure> {
        let make = |client: &reqwest::Client| {
            let object = format!("blobs/uploads/{query}");
            client
                .post(endpoint.url(self.repository, &object))
                .header(CONTENT_LENGTH, 0)
        };
        let response = self.registry.send(endpoint, scopes, &make).await?;
        match response.status() {
            StatusCode::CREATED if !query.is_empty() => Ok(Begun::Mounted),
            StatusCode::ACCEPTED | StatusCode::OK => Ok(Begun::At(location(&response)?)),
            _ => Err(Failure::of(response).await),
        }
    }

    /// Tells the registry that an upload will not go on. It would find out by itself.
    async fn abandon(&self, endpoint: &Endpoint, location: Url) {
        let make = |client: &reqwest::Client| client.delete(location.clone());
        if let Err(failure) = self.send(endpoint, &location, &make).await {
            tracing::debug!(%failure, "upload not abandoned");
        }
    }

    async fn at_once(&self, endpoint: &Endpoint, mut location: Url) -> Result<(), Failure> {
        append_digest(&mut location, self.digest());
        let make = |client: &reqwest::Client| {
            self.with_content(client.put(location.clone()), 0, self.size())
        };
        let response = self.send(endpoint, &location, &make).await?;
        if !response.status().is_success() {
            return Err(Failure::of(response).await);
        }
        check_digest(&response, self.digest())
    }

    async fn in_chunks(
        &self,
        endpoint: &Endpoint,
        mut location: Url,
        chunk: u64,
    ) -> Result<(), Failure> {
        let mut attempts = self.registry.shared.config.retry.start();
        let mut unreachable = 0;
        let mut position = 0;
        while position < self.size() {
            let length = chunk.min(self.size() - position);
            match self.patch(endpoint, &location, position, length).await {
                Ok(next) => {
                    attempts.progressed();
                    location = next;
                    position += length;
                }
                Err(failure) => {
                    if !super::hopeful(&failure, &mut attempts, &mut unreachable).await {
                        return Err(failure);
                    }
                    // Where that is not known the upload is begun anew, by whoever retries what
                    // broke it.
                    let Ok(received) = self.received(endpoint, &location).await else {
                        return Err(failure);
                    };
                    (location, position) = received;
                }
            }
        }
        append_digest(&mut location, self.digest());
        let make =
            |client: &reqwest::Client| client.put(location.clone()).header(CONTENT_LENGTH, 0);
        let response = self.send(endpoint, &location, &make).await?;
        if !response.status().is_success() {
            return Err(Failure::of(response).await);
        }
        check_digest(&response, self.digest())
    }

    async fn patch(
        &self,
        endpoint: &Endpoint,
        at: &Url,
        position: u64,
        length: u64,
    ) -> Result<Url, Failure> {
        let make = |client: &reqwest::Client| {
            let range = format!("{position}-{}", position + length - 1);
            self.with_content(client.patch(at.clone()), position, length)
                .header(CONTENT_RANGE, range)
        };
        let response = self.send(endpoint, at, &make).await?;
        if !response.status().is_success() {
            return Err(Failure::of(response).await);
        }
        location(&response)
    }

    /// How much of an upload the registry has, and where it goes on.
    async fn received(&self, endpoint: &Endpoint, at: &Url) -> Result<(Url, u64), Failure> {
        let make = |client: &reqwest::Client| client.get(at.clone());
        let response = self.send(endpoint, at, &make).await?;
        if !response.status().is_success() {
            return Err(Failure::of(response).await);
        }
        let range = response.headers().get(RANGE);
        let last = range
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.rsplit('-').next()?.parse::<u64>().ok());
        // "0-0" is also what an empty upload is reported as: one byte again does no harm, since
        // the registry refuses a chunk that does not fit and the upload is begun anew.
        let position = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        let next = location(&response).unwrap_or_else(|_| at.clone());
        Ok((next, position.min(self.size())))
    }

    fn with_content(&self, request: RequestBuilder, offset: u64, length: u64) -> RequestBuilder {
        request
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(self.body(offset, length))
    }

    /// A part of the content, read on a thread of the blocking pool.
    fn body(&self, offset: u64, length: u64) -> Body {
        let (pieces, queue) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let content = Arc::clone(&self.upload.content);
        let unreadable = Arc::clone(&self.unreadable);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_pieces(&*content, offset, length, &pieces) {
                let _ = pieces.blocking_send(Err(io::Error::other("the content is unreadable")));
                *lock(&unreadable) = Some(error);
            }
        });
        let (transfer, movement) = (Arc::clone(&self.transfer), Arc::clone(&self.movement));
        lock(&transfer).set(offset);
        let most = match self.registry.patience {
            Some(_) => WATCHED_PIECE,
            None => PIECE,
        };
        let stream =
            futures_util::stream::unfold((queue, Bytes::new()), move |(mut queue, rest)| {
                let (transfer, movement) = (Arc::clone(&transfer), Arc::clone(&movement));
                async move {
                    let mut rest = match rest.is_empty() {
                        true => match movement.reading(queue.recv()).await? {
                            Ok(piece) => piece,
                            Err(error) => return Some((Err(error), (queue, rest))),
                        },
                        false => rest,
                    };
                    let piece = rest.split_to(most.min(rest.len()));
                    movement.note();
                    lock(&transfer).advance(piece.len() as u64);
                    Some((Ok(piece), (queue, rest)))
                }
            });
        Body::wrap_stream(stream)
    }

    /// Sends a request to an upload's location, as who we are only if that is at the registry.
    async fn send(
        &self,
        endpoint: &Endpoint,
        at: &Url,
        make: &(dyn Fn(&reqwest::Client) -> RequestBuilder + Send + Sync),
    ) -> Result<Response, Failure> {
        let registry = self.registry;
        let answer = async {
            if authority(at) == endpoint.host {
                let scopes = push_scopes(self.repository);
                return registry.send_at_leisure(endpoint, &scopes, make).await;
            }
            registry.send_once(endpoint, None, make).await
        };
        patience::answer_to(registry.patience, &self.movement, answer).await
    }
}

fn read_pieces(
    content: &dyn BlobReader,
    offset: u64,
    length: u64,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut reader = content.open(offset)?.take(length);
    let mut left = length;
    while left > 0 {
        let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
        let count = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{left} bytes are missing at its end"),
            ));
        }
        left -= count as u64;
        // The request was given up.
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Where an upload goes on.
fn location(response: &Response) -> Result<Url, Failure> {
    let header = response.headers().get(LOCATION);
    let text = header.and_then(|value| value.to_str().ok());
    let text = text.ok_or_else(|| Failure::Protocol("no location for the upload".to_owned()))?;
    response
        .url()
        .join(text)
        .map_err(|_| Failure::Protocol("the upload's location is no URL".to_owned()))
}

fn append_digest(location: &mut Url, digest: &Digest) {
    location
        .query_pairs_mut()
        .append_pair("digest", &digest.to_string());
}

/// `host[:port]` as an endpoint writes it.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
