//! Frontends that are images: each runs in a sandbox, and works through the service on its
//! standard streams.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::{Connected, Server};
use weld_engine::{
    Bridge, BuildError, ContainerMount, ContainerMountKind, ContainerRequest, Frontend,
    FrontendRequest, FrontendResult, ImageConfigRequest, Process, ProcessRequest, SandboxMountKind,
    Stdio,
};
use weld_llb::reference::Reference;
use weld_llb::{Builder, Constraints, ImageSource, NetMode, SecurityMode, Source};
use weld_proto::Message;
use weld_proto::frontend::llb_bridge_server::LlbBridgeServer;

use super::session::Session;

/// The name by which clients ask for frontends that are images.
pub const IMAGE_FRONTEND: &str = "gateway.v0";

/// What a frontend runs that names no program.
const DEFAULT_PROGRAM: &str = "/run";

/// Where a frontend finds the definition that it was itself made by.
const OWN_DEFINITION: &str = "/run/config/buildkit/metadata/frontend.bin";

/// What tells a frontend which engine it talks to.
const PRODUCT: &str = "buildkit";

/// A frontend must be able to take definitions.
const TAKES_INPUTS: &str = "moby.buildkit.frontend.inputs";

/// How large messages may be, in bytes: as BuildKit's.
const MAX_MESSAGE: usize = 16 << 20;

/// How much of what a frontend writes to its standard error is told when it fails, in bytes.
const MAX_STDERR: usize = 4 << 10;

/// Runs images as frontends.
#[derive(Clone, Debug, Default)]
pub struct ImageFrontend {
    /// The repositories whose images may be run; any if empty.
    allowed: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Image {
    #[serde(default)]
    config: Option<Settings>,
}

#[derive(Default, Deserialize)]
struct Settings {
    #[serde(rename = "Env", default)]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint", default)]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "WorkingDir", default)]
    working_dir: String,
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Settings {
    fn label(&self, name: &str) -> &str {
        let label = self.labels.as_ref().and_then(|labels| labels.get(name));
        label.map_or("", String::as_str)
    }
}

impl ImageFrontend {
    /// Runs images of these repositories only; any if there are none.
    pub fn new(allowed: Vec<String>) -> Self {
        Self { allowed }
    }

    fn check_allowed(&self, image: &str, reference: &Reference) -> Result<(), BuildError> {
        let repository = |reference: &Reference| {
            let repository = reference.repository();
            (repository.domain().to_owned(), repository.path().to_owned())
        };
        let own = repository(reference);
        let allowed = self.allowed.iter();
        let mut allowed = allowed.filter_map(|text| text.parse::<Reference>().ok());
        if self.allowed.is_empty() || allowed.any(|allowed| repository(&allowed) == own) {
            return Ok(());
        }
        Err(failed(image, "it is not an allowed gateway source"))
    }
}

fn failed(image: &str, reason: impl ToString) -> BuildError {
    BuildError::FrontendImage {
        image: image.to_owned(),
        reason: reason.to_string(),
    }
}

/// Names in a list of capabilities, without what is added behind `+`.
fn names(list: &str) -> BTreeSet<&str> {
    let names = list.split(',');
    let names = names.filter_map(|cap| cap.split('+').next());
    names.filter(|name| !name.is_empty()).collect()
}

fn check_caps(settings: &Settings, request: &FrontendRequest) -> Result<(), BuildError> {
    let has = names(settings.label("moby.buildkit.frontend.caps"));
    let mut wanted = names(request.opts.get("frontend.caps").map_or("", String::as_str));
    if !request.inputs.is_empty() {
        wanted.insert(TAKES_INPUTS);
    }
    match wanted.difference(&has).next() {
        Some(missing) => Err(BuildError::FrontendCap((*missing).to_owned())),
        None => Ok(()),
    }
}

#[async_trait]
impl Frontend for ImageFrontend {
    async fn solve(
        &self,
        bridge: &Bridge,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError> {
        let image = request.opts.get("source").cloned();
        let image = image.ok_or(BuildError::FrontendOption(
            "no source specified for gateway",
        ))?;
        let context = request.opts.get(&format!("context:{image}"));
        let replaced = context.and_then(|context| context.strip_prefix("docker-image://"));
        let name = replaced.unwrap_or(&image);
        let reference: Reference = name.parse().map_err(|error| failed(&image, error))?;
        self.check_allowed(&image, &reference)?;
        let reference = reference.with_default_tag().to_string();
        let asked = ImageConfigRequest {
            reference,
            platform: None,
            layout: None,
            log_name: String::new(),
        };
        let resolved = bridge.resolve_image_config(asked).await?;
        let (reference, digest, config) = (resolved.reference, resolved.digest, resolved.config);
        let settings: Image =
            serde_json::from_slice(&config).map_err(|error| failed(&image, error))?;
        let settings = settings.config.unwrap_or_default();
        check_caps(&settings, &request)?;
        let pinned = match reference.contains('@') {
            true => reference,
            false => format!("{reference}@{digest}"),
        };
        let mut builder = Builder::new();
        let source = Source::Image(ImageSource {
            reference: pinned,
            ..ImageSource::default()
        });
        let output = builder.add_source(source, Constraints::new());
        let definition = builder.definition(Some(output), bridge.platform());
        let definition = definition.map_err(|error| failed(&image, error))?;
        let running = Running::start(bridge, &request, settings, definition).await?;
        running.finish(&image).await
    }
}

/// A frontend that runs.
struct Running {
    session: Session,
    process: Process,
    stderr: mpsc::Receiver<weld_engine::Chunk>,
    _server: AbortOnDropHandle<()>,
    _container: weld_engine::Container,
}

impl Running {
    async fn start(
        bridge: &Bridge,
        request: &FrontendRequest,
        settings: Settings,
        definition: weld_llb::pb::Definition,
    ) -> Result<Self, BuildError> {
        let own = SandboxMountKind::File {
            data: definition.encode_to_vec(),
            mode: 0o400,
        };
        let root = bridge.reference(definition, false).await?;
        let mounts = [
            ("/", ContainerMountKind::Ref(Some(root))),
            (OWN_DEFINITION, ContainerMountKind::Other(own)),
        ];
        let offline = settings.label("moby.buildkit.frontend.network.none");
        let container = ContainerRequest {
            mounts: mounts
                .into_iter()
                .map(|(dest, kind)| ContainerMount {
                    dest: dest.to_owned(),
                    selector: String::new(),
                    readonly: false,
                    kind,
                })
                .collect(),
            network: matches!(offline, "1" | "t" | "T" | "true" | "True" | "TRUE")
                .then_some(NetMode::None),
            ..ContainerRequest::default()
        };
        let container = bridge.new_container(container).await?;
        let (streams, connection) = streams().map_err(BuildError::Streams)?;
        let (sender, stderr) = mpsc::channel(16);
        let session = Session::new(bridge.clone(), request.inputs.clone());
        let server = AbortOnDropHandle::new(tokio::spawn(serve(session.clone(), connection)));
        let process = container.start(ProcessRequest {
            args: settings
                .entrypoint
                .clone()
                .filter(|args| !args.is_empty())
                .unwrap_or_else(|| vec![DEFAULT_PROGRAM.to_owned()]),
            env: environment(bridge, request, &settings),
            secret_env: Vec::new(),
            user: String::new(),
            cwd: settings.working_dir.clone(),
            terminal: false,
            security: SecurityMode::Sandbox,
            remove_mount_stubs: true,
            stdio: Stdio::stream(sender)
                .with_stdin(streams.0)
                .with_stdout(streams.1),
        });
        Ok(Self {
            process: process.await?,
            session,
            stderr,
            _server: server,
            _container: container,
        })
    }

    /// What the frontend returns. What it says itself counts more than how its process ended.
    async fn finish(mut self, image: &str) -> Result<FrontendResult, BuildError> {
        let tail = async {
            let mut tail = Vec::new();
            while let Some(chunk) = self.stderr.recv().await {
                tail.extend_from_slice(&chunk.bytes);
                let excess = tail.len().saturating_sub(MAX_STDERR);
                tail.drain(..excess);
            }
            tail
        };
        let (ended, tail) = tokio::join!(self.process.wait(), tail);
        match (self.session.returned(), ended) {
            (Some(Ok(result)), Ok(())) => Ok(result),
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => {
                let tail = String::from_utf8_lossy(&tail);
                let reason = match tail.trim() {
                    "" => error.to_string(),
                    tail => format!("{error}: {tail}"),
                };
                Err(failed(image, reason))
            }
            (None, Ok(())) => Err(failed(image, "no result for incomplete build")),
        }
    }
}

fn environment(bridge: &Bridge, request: &FrontendRequest, settings: &Settings) -> Vec<String> {
    let mut env = settings.env.clone().unwrap_or_default();
    let opts = request.opts.iter().enumerate();
    env.extend(
        opts.map(|(number, (name, value))| {
            format!("BUILDKIT_FRONTEND_OPT_{number}={name}={value}")
        }),
    );
    env.push(format!("BUILDKIT_SESSION_ID={}", bridge.session().id()));
    let platform = bridge.platform();
    let workers = json!([{
        "ID": "weld",
        "Labels": {},
        "Platforms": [{
            "architecture": platform.architecture,
            "os": platform.os,
        }],
    }]);
    env.push(format!("BUILDKIT_WORKERS={workers}"));
    env.push(format!("BUILDKIT_EXPORTEDPRODUCT={PRODUCT}"));
    env
}

/// The frontend's ends of its streams, and ours.
fn streams() -> io::Result<((std::os::fd::OwnedFd, std::os::fd::OwnedFd), Pipes)> {
    let (to, stdin) = pipe::pipe()?;
    let (stdout, from) = pipe::pipe()?;
    let far = (stdin.into_blocking_fd()?, stdout.into_blocking_fd()?);
    Ok((far, Pipes { from, to }))
}

/// Serves one connection until it ends.
async fn serve(session: Session, connection: Pipes) {
    let service = LlbBridgeServer::new(session)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let incoming = futures_util::stream::once(async { Ok::<_, io::Error>(connection) });
    let server = Server::builder().add_service(service);
    if let Err(error) = server.serve_with_incoming(incoming).await {
        tracing::debug!(%error, "the connection of a frontend ended");
    }
}

/// A connection over two pipes.
struct Pipes {
    from: pipe::Receiver,
    to: pipe::Sender,
}

impl Connected for Pipes {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Pipes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.from).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}
