//! Named contexts: what stands for a stage or an image by the user's wish.

use weld_llb::reference::Reference;
use weld_llb::{
    Builder, Constraints, FileAttributes, Graph, HttpSource, ImageSource, LocalSource,
    OciLayoutSource, Output, Platform, Source,
};

use super::context::{input_graph, read_ignore_file, session};
use super::git_ref::GitRef;
use super::host::{Host, ImageRequest, LayoutStore, ResolvedImage};
use super::{ConvertError, HostFailure, ImageConfig, Request, options::context_key};
use crate::error::Error;

/// A named context that a name refers to.
#[derive(Clone, Debug)]
pub(super) struct NamedContext {
    /// The name, maybe with a platform.
    pub(super) name: String,
    /// Where it is.
    value: String,
}

/// A named context that is known well enough to be used.
#[derive(Debug)]
pub(super) struct LoadedContext {
    /// What it is.
    pub(super) content: Content,
    /// What to call it where progress is shown.
    label: String,
    /// The config of an image.
    pub(super) image: Option<ImageConfig>,
}

#[derive(Debug)]
pub(super) enum Content {
    Empty,
    Source(Box<Source>),
    /// A directory of the client's, of which only the paths in use are wanted.
    Local(LocalSource),
    Graph(Graph),
}

/// The context that stands for `name`, for `platform`.
pub(super) fn find(request: &Request, name: &str, platform: &Platform) -> Option<NamedContext> {
    if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
        return None;
    }
    let key = context_key(name);
    let with_platform = format!("{key}::{}", platform.clone().normalize());
    [with_platform, key].into_iter().find_map(|name| {
        let value = request.contexts.get(&name)?.clone();
        Some(NamedContext { name, value })
    })
}

impl LoadedContext {
    /// Adds the content to a definition.
    pub(super) fn add_to(&self, builder: &mut Builder, platform: &Platform) -> Option<Output> {
        let constraints = Constraints::new()
            .named(&self.label)
            .for_platform(Some(platform.clone()));
        match &self.content {
            Content::Empty => None,
            Content::Source(source) => Some(builder.add_source((**source).clone(), constraints)),
            Content::Local(local) => {
                Some(builder.add_source(Source::Local(local.clone()), constraints))
            }
            Content::Graph(graph) => builder.add_graph(graph),
        }
    }
}

impl NamedContext {
    /// Finds out what the context is.
    pub(super) async fn load(
        &self,
        host: &dyn Host,
        request: &Request,
        platform: &Platform,
    ) -> Result<LoadedContext, Error> {
        let Some((scheme, rest)) = self.value.split_once(':') else {
            return Err(self.malformed("expected SCHEME:VALUE").into());
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "docker-image" if rest == "scratch" => Ok(self.loaded(Content::Empty, String::new())),
            "docker-image" => self.load_image(host, request, rest, platform).await,
            "oci-layout" => self.load_layout(host, request, rest, platform).await,
            "local" => self.load_local(host, request, rest).await,
            "input" => self.load_input(request, rest),
            _ => self.load_url(),
        }
    }

    fn malformed(&self, reason: impl Into<String>) -> ConvertError {
        ConvertError::NamedContext {
            name: self.name.clone(),
            value: self.value.clone(),
            reason: reason.into(),
        }
    }

    fn loaded(&self, content: Content, label: impl AsRef<str>) -> LoadedContext {
        LoadedContext {
            content,
            label: format!("[context {}] {}", self.name, label.as_ref()),
            image: None,
        }
    }

    async fn load_image(
        &self,
        host: &dyn Host,
        request: &Request,
        text: &str,
        platform: &Platform,
    ) -> Result<LoadedContext, Error> {
        let reference: Reference =
            text.parse()
                .map_err(|error: weld_llb::reference::ParseReferenceError| {
                    self.malformed(error.to_string())
                })?;
        let reference = reference.with_default_tag();
        let resolved = host
            .resolve_image_config(ImageRequest {
                reference: &reference.to_string(),
                platform,
                mode: request.resolve_mode,
                layout: None,
                name: format!("[context {}] load metadata for {reference}", self.name),
            })
            .await
            .map_err(|error| self.unresolved(text, &reference, error))?;
        let image = self.parse_config(text, &resolved)?;
        let reference = pinned(reference, &resolved, text)?;
        let source = Source::Image(ImageSource {
            reference: reference.to_string(),
            ..ImageSource::default()
        });
        let mut loaded = self.loaded(Content::Source(Box::new(source)), text);
        loaded.image = Some(image);
        Ok(loaded)
    }

    async fn load_layout(
        &self,
        host: &dyn Host,
        request: &Request,
        text: &str,
        platform: &Platform,
    ) -> Result<LoadedContext, Error> {
        let (name, digest) = text
            .split_once('@')
            .ok_or_else(|| self.malformed("an OCI layout's reference needs a digest"))?;
        let digest = digest
            .parse()
            .map_err(|error: weld_digest::ParseDigestError| self.malformed(error.to_string()))?;
        let store = match name.rsplit_once(':') {
            Some((store, tag)) if !tag.contains('/') => store,
            _ => name,
        };
        if store.is_empty() {
            return Err(self
                .malformed("an OCI layout's reference needs a name")
                .into());
        }
        // What the image is called where it is not fetched from is of no importance, but it is shown.
        let shown = self.name.split("::").next().unwrap_or(&self.name);
        let reference: Reference =
            shown
                .parse()
                .map_err(|error: weld_llb::reference::ParseReferenceError| {
                    self.malformed(error.to_string())
                })?;
        let reference = reference.with_digest(digest);
        let resolved = host
            .resolve_image_config(ImageRequest {
                reference: &reference.to_string(),
                platform,
                mode: request.resolve_mode,
                layout: Some(LayoutStore {
                    session: &request.session,
                    store,
                }),
                name: format!("[context {}] load metadata for {reference}", self.name),
            })
            .await
            .map_err(|error| self.unresolved(text, &reference, error))?;
        let image = self.parse_config(text, &resolved)?;
        let source = Source::OciLayout(OciLayoutSource {
            reference: reference.to_string(),
            session: (!request.session.is_empty()).then(|| request.session.clone()),
            store: Some(store.to_owned()),
            layer_limit: None,
        });
        let mut loaded = self.loaded(Content::Source(Box::new(source)), "OCI load from client");
        loaded.image = Some(image);
        Ok(loaded)
    }

    async fn load_local(
        &self,
        host: &dyn Host,
        request: &Request,
        local: &str,
    ) -> Result<LoadedContext, Error> {
        let shared_key = format!("context:{}-.dockerignore", self.name);
        let constraints =
            Constraints::new().named(format!("[context {}] load .dockerignore", self.name));
        let exclude_patterns =
            read_ignore_file(host, request, local, shared_key, constraints).await?;
        let shared_key = request.shared_keys.get(&self.name);
        let source = LocalSource {
            name: local.to_owned(),
            session: session(request, local),
            exclude_patterns,
            shared_key_hint: Some(format!(
                "context:{}-{}",
                self.name,
                shared_key.map_or("", String::as_str)
            )),
            ..LocalSource::default()
        };
        Ok(self.loaded(Content::Local(source), "load from client"))
    }

    fn load_input(&self, request: &Request, input: &str) -> Result<LoadedContext, Error> {
        let definition = request
            .inputs
            .get(input)
            .ok_or_else(|| self.malformed("there is no such input"))?;
        let graph = input_graph(input, definition.clone())?;
        let mut loaded = self.loaded(Content::Graph(graph), input);
        if let Some(config) = request.input_configs.get(input) {
            let image = serde_json::from_slice(config)
                .map_err(|error| self.malformed(format!("its image config: {error}")))?;
            loaded.image = Some(image);
        }
        Ok(loaded)
    }

    /// A git repository, or a file behind a URL.
    fn load_url(&self) -> Result<LoadedContext, Error> {
        if let Some(git) = GitRef::parse(&self.value).map_err(ConvertError::from)? {
            let source = Source::Git(git.to_source());
            let mut loaded = self.loaded(Content::Source(Box::new(source)), "");
            loaded.label = format!("[internal] load git source {}", self.value);
            return Ok(loaded);
        }
        if !self.value.starts_with("http://") && !self.value.starts_with("https://") {
            let reason =
                "expected docker-image://, oci-layout://, local:, input:, or a git or HTTP URL";
            return Err(self.malformed(reason).into());
        }
        let source = Source::Http(HttpSource {
            url: self.value.clone(),
            file: FileAttributes {
                filename: Some("context".to_owned()),
                ..FileAttributes::default()
            },
            ..HttpSource::default()
        });
        Ok(self.loaded(Content::Source(Box::new(source)), &self.value))
    }

    fn unresolved(
        &self,
        image: &str,
        reference: &Reference,
        error: super::HostError,
    ) -> ConvertError {
        ConvertError::ImageConfig {
            image: image.to_owned(),
            reference: reference.to_string(),
            source: HostFailure::from(error),
        }
    }

    fn parse_config(&self, image: &str, resolved: &ResolvedImage) -> Result<ImageConfig, Error> {
        parse_config(image, &resolved.config)
    }
}

pub(super) fn parse_config(image: &str, config: &[u8]) -> Result<ImageConfig, Error> {
    Ok(
        serde_json::from_slice(config).map_err(|error| ConvertError::BadImageConfig {
            image: image.to_owned(),
            reason: error.to_string(),
        })?,
    )
}

/// The reference that was resolved, with the digest that was found.
pub(super) fn pinned(
    reference: Reference,
    resolved: &ResolvedImage,
    written: &str,
) -> Result<Reference, Error> {
    let reference = match &resolved.reference {
        None => reference,
        Some(changed) => changed.parse().map_err(|source| ConvertError::Reference {
            name: written.to_owned(),
            source,
        })?,
    };
    Ok(match &resolved.digest {
        Some(digest) => reference.with_digest(digest.clone()),
        None => reference,
    })
}
