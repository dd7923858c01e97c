use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use weld_llb::Platform;
use weld_source::progress::Progress;
use weld_source::reference::Reference;
use weld_source::registry::{Credentials, Registry};
use weld_store::Store;
use weld_store::snapshot::{SnapshotRef, Snapshots};

use crate::ahead::{Ahead, Begun};
use crate::archive::{Archive, ImageName};
use crate::attestation::{self, Attestation, Loaded};
use crate::blocking::blocking;
use crate::checked;
use crate::client::{self, ResultTree, send_error};
use crate::destination::{self, Destination};
use crate::error::write_error;
use crate::files::FilesExport;
use crate::image::{Assembly, Image};
use crate::inline::InlineCache;
use crate::layout_tar::LayoutTar;
use crate::local::LocalExport;
use crate::options::{FileOptions, ImageOptions, LocalMode};
use crate::push::Push;
use crate::stream::Stream;
use crate::watch::Watch;
use crate::{ExportError, ExportKind, ExportRequest, ExportTarget};

/// What was built for one platform.
#[derive(Clone, Debug)]
pub struct BuiltPlatform {
    /// The platform.
    pub platform: Platform,
    /// The files; `None` if there are none.
    pub tree: Option<SnapshotRef>,
    /// The image's config as JSON, without layers.
    pub config: Option<Vec<u8>>,
    /// The config of the image that it started from.
    pub base_config: Option<Vec<u8>>,
    /// The cache that the image's config is to hold.
    pub cache: Option<InlineCache>,
    /// What is said of it.
    pub attestations: Vec<Attestation>,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// For each platform, in the order of the request.
    pub platforms: Vec<BuiltPlatform>,
    /// Whether several platforms were asked for, so that the result has an index or a directory
    /// for each, even if it is only one in the end.
    pub is_multi_platform: bool,
    /// `SOURCE_DATE_EPOCH`: what is new in an image's config is no later, files of an exported
    /// directory or tar archive are of this time, and with `rewrite-timestamp` files of new layers
    /// are no later.
    pub epoch: Option<OffsetDateTime>,
}

/// Exports results. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    pub(crate) store: Store,
    pub(crate) snapshots: Snapshots,
    registry: Registry,
}

/// What a response says of an image, by BuildKit's names.
const IMAGE_NAME: &str = "image.name";
const IMAGE_DIGEST: &str = "containerimage.digest";
const IMAGE_CONFIG_DIGEST: &str = "containerimage.config.digest";
const IMAGE_DESCRIPTOR: &str = "containerimage.descriptor";

impl Exporter {
    /// An exporter of what is in `store` that pushes through `registry`.
    pub fn new(store: Store, snapshots: Snapshots, registry: Registry) -> Self {
        Self {
            store,
            snapshots,
            registry,
        }
    }

    /// Whether a request can be met, as far as that can be said before anything is built.
    ///
    /// # Errors
    /// [`ExportError`] for attributes that are wrong, and destinations that cannot be written.
    pub fn validate(request: &ExportRequest) -> Result<(), ExportError> {
        match request.kind {
            ExportKind::CacheOnly => Ok(()),
            ExportKind::Local | ExportKind::Tar => {
                let options = FileOptions::parse(request.kind, &request.attrs)?;
                destination::check(request.kind, &request.target, false)?;
                match (&request.target, options.mode) {
                    (ExportTarget::Directory(path), LocalMode::Delete) => {
                        crate::local::check_delete(path)
                    }
                    _ => Ok(()),
                }
            }
            ExportKind::Image | ExportKind::OciArchive | ExportKind::DockerArchive => {
                ImageRequest::read(request)?;
                Ok(())
            }
        }
    }

    /// Exports what was built, and returns what BuildKit's exporters return: digests and names by
    /// their keys. When `cancel` fires or the future is dropped, nothing partial stays behind.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn export(
        &self,
        request: &ExportRequest,
        built: &Built,
        credentials: Arc<dyn Credentials>,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<String, String>, ExportError> {
        // Work that blocks is told of both ends: cancelled, and not waited for any more.
        let stop = cancel.child_token();
        let _stop_at_end = stop.clone().drop_guard();
        if stop.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        let exported = self.dispatch(request, built, credentials, progress, &stop);
        match exported.await {
            Err(error) => Err(checked::drop_damaged(&self.store, error, Vec::new()).await),
            exported => exported,
        }
    }

    async fn dispatch(
        &self,
        request: &ExportRequest,
        built: &Built,
        credentials: Arc<dyn Credentials>,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<BTreeMap<String, String>, ExportError> {
        match request.kind {
            ExportKind::CacheOnly => Ok(BTreeMap::new()),
            ExportKind::Local | ExportKind::Tar => {
                self.files(request, built, progress, stop).await?;
                Ok(BTreeMap::new())
            }
            ExportKind::Image | ExportKind::OciArchive | ExportKind::DockerArchive => {
                let registry = self.registry.with_credentials(credentials);
                self.image(request, built, registry, progress, stop).await
            }
        }
    }

    async fn image(
        &self,
        request: &ExportRequest,
        built: &Built,
        registry: Registry,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<BTreeMap<String, String>, ExportError> {
        let wanted = ImageRequest::read(request)?;
        if request.kind == ExportKind::DockerArchive && built.platforms.len() > 1 {
            let platforms = built.platforms.iter();
            let platforms: Vec<_> = platforms.map(|one| one.platform.to_string()).collect();
            return Err(ExportError::SeveralPlatforms {
                platforms: platforms.join(", "),
            });
        }
        let ahead = match request.kind {
            ExportKind::Image => None,
            _ if wanted.options.directory => None,
            kind => {
                let images = built.platforms.len();
                Ahead::of_target(kind, &request.target, images, progress, stop).await?
            }
        };
        let assembly = Assembly {
            exporter: self,
            options: &wanted.options,
            built,
            progress,
            stop,
            ahead: ahead.as_ref(),
        };
        let mut image = match assembly.image().await {
            Ok(image) => image,
            Err(error) => {
                // What else is made ends too, and then who writes it.
                stop.cancel();
                if let Some(ahead) = ahead {
                    drop(ahead.finish().await);
                }
                return Err(error);
            }
        };
        if request.kind != ExportKind::Image {
            image.note_created();
        }
        let image = Arc::new(image);
        let mut response = describe(&image)?;
        let names = wanted.names_of(&image);
        if !names.is_empty() {
            response.insert(IMAGE_NAME.to_owned(), names.join(","));
        }
        match request.kind {
            ExportKind::Image if wanted.options.push => {
                let push = Push {
                    image: &image,
                    store: &self.store,
                    registry,
                    insecure: wanted.options.insecure,
                    by_digest: wanted.options.push_by_digest,
                    progress,
                };
                tokio::select! {
                    pushed = push.run(&wanted.names) => pushed?,
                    () = stop.cancelled() => return Err(ExportError::Cancelled),
                }
            }
            ExportKind::Image => {}
            kind => match ahead {
                Some(ahead) => {
                    let names = wanted.image_names();
                    complete(kind, image, names, ahead.finish().await?).await?;
                }
                None => {
                    self.archive(request, &wanted, image, &response, progress, stop)
                        .await?;
                }
            },
        }
        Ok(response)
    }

    async fn archive(
        &self,
        request: &ExportRequest,
        wanted: &ImageRequest,
        image: Arc<Image>,
        response: &BTreeMap<String, String>,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<(), ExportError> {
        let names = wanted.image_names();
        let kind = request.kind;
        match &request.target {
            ExportTarget::Client(client) if wanted.options.directory => {
                let archive = archive_of(kind, &image, &names);
                let watch = Watch::start(progress, COPYING_LAYOUT, Some(archive.size()), stop);
                let sent = client.receiver().blobs(archive.result_blobs());
                watch.judge(until_stopped(sent, stop).await?.map_err(send_error))
            }
            ExportTarget::Directory(path) if wanted.options.directory => {
                let (path, progress, stop) = (path.clone(), progress.clone(), stop.clone());
                blocking(move || {
                    let archive = archive_of(kind, &image, &names);
                    let watch =
                        Watch::start(&progress, COPYING_LAYOUT, Some(archive.size()), &stop);
                    watch.judge(archive.write_directory(&path, &watch))
                })
                .await
            }
            target => {
                let (progress, stopped) = (progress.clone(), stop.clone());
                let write = move |destination: Destination| {
                    let archive = archive_of(kind, &image, &names);
                    let watch = Watch::start(&progress, SENDING, Some(archive.size()), &stopped);
                    watch.judge(write_archive(&archive, destination, &watch))
                };
                write_to(kind, target, response, stop, write).await
            }
        }
    }

    async fn files(
        &self,
        request: &ExportRequest,
        built: &Built,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<(), ExportError> {
        let options = FileOptions::parse(request.kind, &request.attrs)?;
        let (kind, built) = (request.kind, built.clone());
        let said = load_attestations(&built).await?;
        let (reported, stopped) = (progress.clone(), stop.clone());
        match (kind, &request.target) {
            (ExportKind::Local, ExportTarget::Client(client)) => {
                let tree = blocking(move || {
                    let files = FilesExport::new(&built, &options, &said)?;
                    Ok::<_, ExportError>(ResultTree::new(files.trees, files.split, files.epoch))
                });
                let tree = Arc::new(tree.await?);
                let watch = Watch::start(progress, COPYING_FILES, None, stop);
                let sent = client.receiver().tree(tree);
                watch.judge(until_stopped(sent, stop).await?.map_err(send_error))
            }
            (ExportKind::Local, ExportTarget::Directory(path)) => {
                let path = path.clone();
                blocking(move || {
                    let watch = Watch::start(&reported, COPYING_FILES, None, &stopped);
                    let written = FilesExport::new(&built, &options, &said).and_then(|files| {
                        let local = LocalExport::open(&path, files.epoch, &watch)?;
                        local.write(&files.trees, files.split, files.mode)
                    });
                    watch.judge(written)
                })
                .await
            }
            (ExportKind::Local, _) => Err(destination::wrong_target(kind, "a directory")),
            (_, target) => {
                let write = move |destination: Destination| {
                    let watch = Watch::start(&reported, SENDING, None, &stopped);
                    let written = FilesExport::new(&built, &options, &said).and_then(|files| {
                        files.write_tar(&destination, &watch)?;
                        destination.publish()
                    });
                    watch.judge(written)
                };
                write_to(kind, target, &BTreeMap::new(), stop, write).await
            }
        }
    }
}

/// What is said of each platform's files, those left out that are for images alone.
async fn load_attestations(built: &Built) -> Result<Vec<Vec<Loaded>>, ExportError> {
    let mut all = Vec::with_capacity(built.platforms.len());
    for platform in &built.platforms {
        let loaded = attestation::load(&platform.attestations, false).await;
        all.push(loaded.map_err(|source| ExportError::Attestation {
            platform: platform.platform.to_string(),
            source: Box::new(source),
        })?);
    }
    Ok(all)
}

/// What is reported while a layout is copied.
const COPYING_LAYOUT: &str = "copying image layout";
/// What is reported while files are copied.
const COPYING_FILES: &str = "copying files";
/// What is reported while an archive is written.
pub(crate) const SENDING: &str = "sending tarball";

/// Has `write` write an archive to where it goes, on the pool for work that blocks.
async fn write_to(
    kind: ExportKind,
    target: &ExportTarget,
    response: &BTreeMap<String, String>,
    stop: &CancellationToken,
    write: impl FnOnce(Destination) -> Result<(), ExportError> + Send + 'static,
) -> Result<(), ExportError> {
    let ExportTarget::Client(client) = target else {
        let target = target.clone();
        return blocking(move || write(Destination::open(kind, &target)?)).await;
    };
    let (file, content, complete) = client::pipe().map_err(send_error)?;
    let written = blocking(move || {
        let written = write(Destination::client(file));
        if written.is_ok() {
            // Nobody listens if sending failed.
            let _ = complete.send(());
        }
        written
    });
    let sent = client.receiver().file(response, content);
    let both = async { tokio::join!(written, sent) };
    let (written, sent) = until_stopped(both, stop).await?;
    client::judge(written, sent)
}

async fn until_stopped<T>(
    work: impl Future<Output = T>,
    stop: &CancellationToken,
) -> Result<T, ExportError> {
    tokio::select! {
        done = work => Ok(done),
        () = stop.cancelled() => Err(ExportError::Cancelled),
    }
}

/// An image exporter's request, read.
struct ImageRequest {
    options: ImageOptions,
    names: Vec<Reference>,
}

impl ImageRequest {
    fn read(request: &ExportRequest) -> Result<Self, ExportError> {
        let kind = request.kind.name();
        let options = ImageOptions::parse(request.kind, &request.attrs)?;
        destination::check(request.kind, &request.target, options.directory)?;
        let parse = |name: &String| {
            let parsed = name.parse::<Reference>();
            parsed.map_err(|source| ExportError::Name {
                kind,
                name: name.clone(),
                source: Box::new(source),
            })
        };
        let mut names = Vec::with_capacity(options.names.len());
        for text in &options.names {
            let name = parse(text)?;
            if !options.push_by_digest {
                names.push(name.with_default_tag());
            } else if name.tag().is_some() || name.digest().is_some() {
                return Err(ExportError::TaggedByDigest {
                    kind,
                    name: text.clone(),
                });
            } else {
                names.push(name);
            }
        }
        if let Some(prefix) = &options.dangling_prefix {
            parse(prefix)?;
        }
        if options.push && request.kind == ExportKind::Image && names.is_empty() {
            return Err(ExportError::NoName { kind });
        }
        Ok(Self { options, names })
    }

    /// The names that an archive tells.
    fn image_names(&self) -> Vec<ImageName> {
        self.names.iter().map(image_name).collect()
    }

    /// The names that a response tells.
    fn names_of(&self, image: &Image) -> Vec<String> {
        let mut names: Vec<_> = self.names.iter().map(ToString::to_string).collect();
        if let Some(prefix) = &self.options.dangling_prefix
            && (!self.options.dangling_empty_only || names.is_empty())
        {
            names.push(format!("{prefix}@{}", image.root.digest));
        }
        names
    }
}

fn image_name(name: &Reference) -> ImageName {
    ImageName {
        full: name.to_string(),
        familiar: name.familiar(),
        tag: name.object(),
    }
}

fn describe(image: &Image) -> Result<BTreeMap<String, String>, ExportError> {
    let descriptor = serde_json::to_vec(&image.root).map_err(|source| ExportError::Encode {
        what: "descriptor",
        source,
    })?;
    let mut response = BTreeMap::from([
        (IMAGE_DIGEST.to_owned(), image.root.digest.to_string()),
        (
            IMAGE_DESCRIPTOR.to_owned(),
            BASE64_STANDARD.encode(descriptor),
        ),
    ]);
    if let (None, [only]) = (&image.index, image.manifests.as_slice()) {
        let digest = only.config.digest.to_string();
        response.insert(IMAGE_CONFIG_DIGEST.to_owned(), digest);
    }
    Ok(response)
}

fn archive_of<'a>(kind: ExportKind, image: &'a Image, names: &'a [ImageName]) -> Archive<'a> {
    let blobs = image.blobs.iter();
    let docker = image.manifests.first().map(|manifest| {
        let layers = manifest.layers.iter().map(|layer| layer.digest.clone());
        (manifest.config.digest.clone(), layers.collect())
    });
    Archive {
        root: &image.root,
        names,
        layers: &image.layers,
        blobs: blobs
            .map(|(digest, blob)| (digest.clone(), (blob.path(), blob.size())))
            .collect(),
        docker: docker.filter(|_| kind == ExportKind::DockerArchive),
    }
}

fn write_archive(
    archive: &Archive<'_>,
    destination: Destination,
    watch: &Watch,
) -> Result<(), ExportError> {
    LayoutTar::begin(Stream::new(destination.handle(), watch))
        .and_then(|tar| archive.write_tar(tar))
        .map_err(write_error("write", destination.path()))?;
    destination.publish()
}

/// Ends an archive that has the layers.
async fn complete(
    kind: ExportKind,
    image: Arc<Image>,
    names: Vec<ImageName>,
    begun: Begun,
) -> Result<(), ExportError> {
    blocking(move || {
        let Begun {
            destination,
            watch,
            written,
        } = begun;
        let archive = archive_of(kind, &image, &names);
        watch.set_total(archive.size());
        let out = Stream::new(destination.handle(), &watch);
        let done = archive
            .write_tar(LayoutTar::resume(out, written))
            .map_err(write_error("write", destination.path()))
            .and_then(|()| destination.publish());
        watch.judge(done)
    })
    .await
}
