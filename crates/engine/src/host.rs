//! The Dockerfile frontend's host: what it asks of the engine while it converts.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use weld_dockerfile::SourceFile;
use weld_dockerfile::convert::{Host, HostError, ImageRequest, ReadRequest, ResolvedImage};
use weld_dockerfile::lint::Warning;
use weld_fileset::SelectionOptions;
use weld_llb::{LocalSource, Platform, Source, pb};
use weld_op::Tree;

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::internal::Internal;
use crate::provenance::ImageMaterial;
use crate::source_time;

pub(crate) struct DockerfileHost<'a> {
    pub(crate) bridge: &'a Bridge,
}

#[async_trait]
impl Host for DockerfileHost<'_> {
    async fn resolve_image_config(
        &self,
        request: ImageRequest<'_>,
    ) -> Result<ResolvedImage, HostError> {
        let step = Internal::begin(
            self.bridge.progress(),
            &request.name,
            &request.platform.to_string(),
        );
        let (worker, session) = (&self.bridge.core.worker, Some(self.bridge.session()));
        let changed = match request.layout {
            Some(_) => Ok(Allowed::Unchanged),
            None => self.allowed(request.reference, request.platform).await,
        };
        let changed = match changed {
            Ok(Allowed::Unchanged) => None,
            Ok(Allowed::Image(reference)) => Some(reference),
            // It is no image any more: there is nothing to know of it.
            Ok(Allowed::Other) => {
                let config = serde_json::json!({
                    "os": request.platform.os,
                    "architecture": request.platform.architecture,
                });
                step.end(Ok::<_, HostError>(()))?;
                return Ok(ResolvedImage {
                    reference: None,
                    digest: None,
                    config: config.to_string().into(),
                });
            }
            Err(denied) => return step.end(Err(denied.into())),
        };
        let reference = changed.as_deref().unwrap_or(request.reference);
        let resolved = match request.layout {
            Some(layout) => {
                worker
                    .resolve_layout(session, layout.store, reference, request.platform)
                    .await
            }
            None => {
                worker
                    .resolve_image(session, reference, request.platform)
                    .await
            }
        };
        let resolved = step.end(resolved)?;
        self.bridge.scope.note_image(ImageMaterial {
            reference: reference.to_owned(),
            platform: Some(request.platform.clone()),
            digest: Some(resolved.digest.clone()),
            is_local: request.layout.is_some(),
        });
        Ok(ResolvedImage {
            reference: changed,
            digest: Some(resolved.digest.clone()),
            config: resolved.config.clone(),
        })
    }

    async fn read_files(&self, request: ReadRequest<'_>) -> Result<Vec<Option<Bytes>>, HostError> {
        let name = match request.paths.first() {
            Some(path) if path.ends_with(IGNORE_FILE) => "[internal] load .dockerignore".to_owned(),
            Some(path) => load_definition(path),
            None => "[internal] load files".to_owned(),
        };
        let is_ignore_file = request.paths.len() == 1 && request.paths[0].ends_with(IGNORE_FILE);
        // What cannot be fetched fails as a step of its own: nothing is read then.
        let place = self.place(&request).await.map_err(of_inner_build)?;
        let step = Internal::begin(self.bridge.progress(), &name, "");
        let read = match self.read(request, place).await.map_err(of_inner_build) {
            // As with BuildKit, which does not say so.
            Err(error) if is_ignore_file && is_unreadable(&*error) => {
                step.warn(format!("{error}: nothing is left out of the context"));
                Ok(vec![None])
            }
            read => read,
        };
        step.end(read)
    }

    async fn source_time(
        &self,
        definition: &pb::Definition,
        source: &Source,
    ) -> Result<Option<i64>, HostError> {
        let reference = self.bridge.reference(definition.clone(), false).await?;
        let tree = reference.tree().await.map_err(of_inner_build)?;
        let Some(snapshot) = tree.snapshot().cloned() else {
            return Ok(None);
        };
        let filename = match source {
            Source::Http(http) => http.file.filename.clone(),
            _ => None,
        };
        let find = move || -> Result<_, HostError> {
            Ok(source_time::of(&snapshot.root()?, filename.as_deref())?)
        };
        tokio::task::spawn_blocking(find).await?
    }

    fn warn(&self, warning: &Warning, source: &SourceFile) {
        // Clients show it with the step that read the Dockerfile.
        let vertex = Internal::digest(&load_definition(source.name()), "");
        let (rule, line) = (warning.rule().name(), warning.lines.start);
        let short = format!("{rule}: {} (line {line})", warning.finding);
        let position = |line: u32| weld_progress::Position {
            line: i32::try_from(line).unwrap_or(i32::MAX),
            character: 0,
        };
        self.bridge.warn(weld_progress::Warning {
            detail: vec![warning.rule().description().as_bytes().to_vec()],
            url: warning.rule().url().to_owned(),
            source: Some(weld_progress::SourceInfo {
                filename: source.name().to_owned(),
                data: source.data().to_vec(),
                language: "Dockerfile".to_owned(),
            }),
            ranges: vec![weld_progress::Range {
                start: position(warning.lines.start),
                end: position(warning.lines.end),
            }],
            ..weld_progress::Warning::new(vertex, short)
        });
    }
}

/// Why what a build needs first failed, in words that the build puts its own in front of.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason())]
struct InnerBuild(#[source] BuildError);

fn of_inner_build(error: impl Into<HostError>) -> HostError {
    match error.into().downcast::<BuildError>() {
        Ok(error) if matches!(*error, BuildError::Solve { .. }) => InnerBuild(*error).into(),
        Ok(error) => error,
        Err(other) => other,
    }
}

/// The step that reads a Dockerfile.
fn load_definition(path: &str) -> String {
    format!("[internal] load build definition from {path}")
}

/// What the names of files with patterns end with.
const IGNORE_FILE: &str = ".dockerignore";

/// What policies make of an image.
enum Allowed {
    Unchanged,
    /// Another image.
    Image(String),
    /// Something that is no image.
    Other,
}

/// Where files are that are to be read.
enum Place<'a> {
    /// In a directory of the client's.
    Client(&'a LocalSource),
    /// In what was built for it.
    Tree(Tree),
}

impl DockerfileHost<'_> {
    async fn allowed(&self, reference: &str, platform: &Platform) -> Result<Allowed, BuildError> {
        let mut source = pb::SourceOp {
            identifier: format!("docker-image://{reference}"),
            attrs: BTreeMap::new(),
        };
        let platform = platform.clone().into();
        let judged = Box::pin(self.bridge.judge(&mut source, Some(&platform)));
        if !judged.await? {
            return Ok(Allowed::Unchanged);
        }
        Ok(match source.identifier.strip_prefix("docker-image://") {
            Some(image) => Allowed::Image(image.to_owned()),
            None => Allowed::Other,
        })
    }

    /// Files of a directory of the client's are read where they are; anything else is built.
    async fn place<'r>(&self, request: &ReadRequest<'r>) -> Result<Place<'r>, HostError> {
        // What policies may change goes their way.
        let local = request.source.filter(|_| self.bridge.leaves_sources());
        if let Some(Source::Local(local)) = local {
            return Ok(Place::Client(local));
        }
        let definition = request.definition.clone();
        let reference = self.bridge.reference(definition, false).await?;
        Ok(Place::Tree(reference.tree().await?))
    }

    async fn read(
        &self,
        request: ReadRequest<'_>,
        place: Place<'_>,
    ) -> Result<Vec<Option<Bytes>>, HostError> {
        match place {
            Place::Client(local) => self.read_local(request, local).await,
            Place::Tree(tree) => read_tree(request, &tree).await,
        }
    }

    async fn read_local(
        &self,
        request: ReadRequest<'_>,
        local: &LocalSource,
    ) -> Result<Vec<Option<Bytes>>, HostError> {
        self.bridge.scope.note_local(&local.name);
        let selection = SelectionOptions {
            follow_paths: request.paths.to_vec(),
            ..SelectionOptions::default()
        };
        let own = self.bridge.session();
        let session = match local.session.as_deref() {
            Some(wanted) if wanted != own.id() => own.other(wanted).await,
            _ => Some(Arc::clone(own)),
        };
        let provider = match session {
            Some(session) => session.directory(&local.name, selection).await?,
            None => None,
        };
        let Some(provider) = provider else {
            return Err(format!("the client offers no directory {:?}", local.name).into());
        };
        let (paths, limit) = (request.paths.to_vec(), request.limit);
        let read = tokio::task::spawn_blocking(move || read_provided(&*provider, &paths, limit));
        read.await?
    }
}

async fn read_tree(request: ReadRequest<'_>, tree: &Tree) -> Result<Vec<Option<Bytes>>, HostError> {
    let Some(snapshot) = tree.snapshot().cloned() else {
        return Ok(vec![None; request.paths.len()]);
    };
    let (paths, limit) = (request.paths.to_vec(), request.limit);
    let read = tokio::task::spawn_blocking(move || -> Result<_, HostError> {
        let root = snapshot.root()?;
        Ok(read_beneath(&root, &paths, limit)?)
    });
    read.await?
}

/// Whether it says that a file is there and none that can be read.
fn is_unreadable(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    error.is::<Unreadable>() || inner.is_some_and(|inner| inner.is::<Unreadable>())
}

/// Why a file that is there cannot be read. Of those that are only looked for this says nothing: they are as good as absent.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("{0} is not a regular file")]
    NoFile(String),
    #[error("{0} is a link to {to}, which is not there", to = .1.display())]
    Leads(String, std::path::PathBuf),
}

fn read_provided(
    provider: &dyn weld_source::local::TreeProvider,
    paths: &[String],
    limit: usize,
) -> Result<Vec<Option<Bytes>>, HostError> {
    use std::io::Read;
    let stats = provider.stats(&weld_source::local::TreeIndex::empty())?;
    let mut found = Vec::with_capacity(paths.len());
    for (first, path) in std::iter::once(true)
        .chain(std::iter::repeat(false))
        .zip(paths)
    {
        let mut wanted = std::path::PathBuf::from(path.trim_start_matches('/'));
        let (mut content, mut link) = (None, None);
        // A link leads to a file that was selected with it; a chain of them ends somewhere.
        for _ in 0..40 {
            let Some(number) = stats.iter().position(|stat| stat.path == wanted) else {
                if first && link.is_some() {
                    return Err(Unreadable::Leads(path.clone(), wanted).into());
                }
                break;
            };
            let stat = &stats[number];
            if let Some(target) = &stat.link_target {
                let parent = stat
                    .path
                    .parent()
                    .map(|path| path.to_string_lossy())
                    .unwrap_or_default();
                link = Some(number);
                let rooted = weld_llb::path::join(&["/", &parent, &target.to_string_lossy()]);
                wanted = rooted.trim_start_matches('/').into();
                continue;
            }
            if stat.has_content() {
                let mut bytes = Vec::new();
                provider
                    .open(number, stat)?
                    .take(limit as u64)
                    .read_to_end(&mut bytes)?;
                content = Some(Bytes::from(bytes));
            } else if first {
                return Err(Unreadable::NoFile(path.clone()).into());
            }
            break;
        }
        found.push(content);
    }
    Ok(found)
}

/// Reads files beneath the root of a tree.
fn read_beneath(
    root: &impl AsFd,
    paths: &[String],
    limit: usize,
) -> std::io::Result<Vec<Option<Bytes>>> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    use std::io::Read;
    paths
        .iter()
        .enumerate()
        .map(|(number, path)| {
            let path = path.trim_start_matches('/');
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let opened = openat2(
                root,
                path,
                flags,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            let file = match opened {
                Ok(file) => std::fs::File::from(file),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
            if !file.metadata()?.is_file() {
                return match number {
                    0 => Err(std::io::Error::other(Unreadable::NoFile(path.to_owned()))),
                    _ => Ok(None),
                };
            }
            let mut bytes = Vec::new();
            file.take(limit as u64).read_to_end(&mut bytes)?;
            Ok(Some(Bytes::from(bytes)))
        })
        .collect()
}
