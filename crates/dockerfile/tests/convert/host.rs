//! A host with files and images that the tests put there.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use weld_digest::Digest;
use weld_dockerfile::convert::{
    Build, Host, HostError, ImageRequest, Outline, PlatformBuild, ReadRequest, Request,
    ResolvedImage, build, outline,
};
use weld_dockerfile::lint::Warning;
use weld_dockerfile::{Error, SourceFile};
use weld_llb::{Graph, Platform, Source};

#[derive(Default)]
pub(crate) struct FakeHost {
    /// By context and path.
    files: BTreeMap<(String, String), Bytes>,
    /// Configs by reference; of a layout by its store's name.
    images: BTreeMap<String, String>,
    pub(crate) warnings: Mutex<Vec<String>>,
    /// Of all sources.
    time: Option<i64>,
    /// What was resolved: the reference and the platform.
    pub(crate) resolved: Mutex<Vec<String>>,
    /// What was read: the source and the paths.
    pub(crate) read: Mutex<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}: not found")]
struct NotFound(String);

#[async_trait]
impl Host for FakeHost {
    async fn resolve_image_config(
        &self,
        request: ImageRequest<'_>,
    ) -> Result<ResolvedImage, HostError> {
        let reference = request.reference.to_owned();
        self.resolved
            .lock()
            .unwrap()
            .push(format!("{reference} {}", request.platform));
        let key = request
            .layout
            .map_or(reference.as_str(), |layout| layout.store);
        let config = self
            .images
            .get(key)
            .ok_or_else(|| NotFound(reference.clone()))?;
        Ok(ResolvedImage {
            reference: None,
            // What policies make of an image is told by its name here.
            digest: (!reference.contains("no-image")).then(|| Digest::from_sha256([0xaa; 32])),
            config: Bytes::copy_from_slice(config.as_bytes()),
        })
    }

    async fn read_files(&self, request: ReadRequest<'_>) -> Result<Vec<Option<Bytes>>, HostError> {
        // What a host is to build is a definition like any other.
        Graph::from_pb(request.definition.clone())?;
        let context = match request.source {
            Some(Source::Local(local)) => local.name.clone(),
            Some(source) => source.identifier(),
            None => "a definition".to_owned(),
        };
        let paths = request.paths.join(",");
        self.read
            .lock()
            .unwrap()
            .push(format!("{context}: {paths}"));
        Ok(request
            .paths
            .iter()
            .map(|path| self.files.get(&(context.clone(), path.clone())).cloned())
            .collect())
    }

    async fn source_time(
        &self,
        _definition: &weld_llb::pb::Definition,
        _source: &Source,
    ) -> Result<Option<i64>, HostError> {
        Ok(self.time)
    }

    fn warn(&self, warning: &Warning, _: &SourceFile) {
        let text = format!("{}: {}", warning.lines.start, warning.finding);
        self.warnings.lock().unwrap().push(text);
    }
}

impl FakeHost {
    /// A Dockerfile, and an image called `base` with a shell and some settings.
    pub(crate) fn new(dockerfile: &str) -> Self {
        let config = r#"{"architecture":"amd64","os":"linux",
            "config":{"Env":["PATH=/bin","BASE=1"],"Cmd":["sh"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:0"]},"history":[{"created_by":"base"}]}"#;
        Self::default()
            .file("dockerfile", "Dockerfile", dockerfile)
            .image("docker.io/library/base:latest", config)
    }

    pub(crate) fn file(mut self, context: &str, path: &str, data: impl AsRef<[u8]>) -> Self {
        let data = Bytes::copy_from_slice(data.as_ref());
        self.files
            .insert((context.to_owned(), path.to_owned()), data);
        self
    }

    pub(crate) fn time(mut self, time: i64) -> Self {
        self.time = Some(time);
        self
    }

    pub(crate) fn image(mut self, reference: &str, config: &str) -> Self {
        self.images.insert(reference.to_owned(), config.to_owned());
        self
    }

    pub(crate) fn build(&self, options: &[(&str, &str)]) -> Result<Build, Error> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let platform = Platform::new("linux", "amd64", "");
        let request = Request::from_options(&options, "session", platform).unwrap();
        self.run(&request)
    }

    pub(crate) fn outline(&self, options: &[(&str, &str)]) -> Result<Outline, Error> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let platform = Platform::new("linux", "amd64", "");
        let request = Request::from_options(&options, "session", platform).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(outline(self, &request))
    }

    pub(crate) fn run(&self, request: &Request) -> Result<Build, Error> {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(build(self, request))
    }

    /// The build for one platform.
    pub(crate) fn one(&self, options: &[(&str, &str)]) -> PlatformBuild {
        let build = self
            .build(options)
            .unwrap_or_else(|error| panic!("{error}\n{}", error.excerpt().unwrap_or_default()));
        let [result] = <[PlatformBuild; 1]>::try_from(build.results).unwrap();
        result
    }
}

/// The error of a Dockerfile that cannot be converted.
pub(crate) fn error(dockerfile: &str, options: &[(&str, &str)]) -> Error {
    match FakeHost::new(dockerfile).build(options) {
        Ok(_) => panic!("converted: {dockerfile}"),
        Err(error) => error,
    }
}
