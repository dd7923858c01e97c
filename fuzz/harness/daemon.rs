//! A daemon in this process, and its services.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use weld_daemon::Server;
use weld_daemon::config::DaemonConfig;
use weld_proto::control::control_client::ControlClient;
use weld_proto::control::{InfoRequest, SolveRequest};
use weld_proto::frontend;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;

use super::call::{body, call};
use super::samples::{self, Samples};
use super::script::Script;
use super::{assert_no_panic, count_panics};

/// Tells to which build a call of the gateway belongs.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// For how long one call of an input may go on.
const PATIENCE: Duration = Duration::from_millis(100);
/// After how many inputs somebody else builds.
const BUILD_EACH: usize = 50;
/// The longest that somebody else waits for an answer: far more than it takes.
const OTHERS: Duration = Duration::from_secs(60);

/// A service of a daemon: its methods, each with samples of what it is sent.
#[derive(Clone, Copy)]
pub(crate) struct Service {
    pub(crate) methods: &'static [(&'static str, Samples)],
    /// Whether its calls are of a build that the caller is the frontend of.
    pub(crate) within_build: bool,
}

/// The services, by the names of their fuzz targets.
pub(crate) const SERVICES: [(&str, Service); 5] = [
    (
        "control",
        Service {
            methods: &[
                ("moby.buildkit.v1.Control/DiskUsage", samples::disk_usage),
                ("moby.buildkit.v1.Control/Prune", samples::prune),
                ("moby.buildkit.v1.Control/Solve", samples::solve),
                ("moby.buildkit.v1.Control/Status", samples::status),
                (
                    "moby.buildkit.v1.Control/ListWorkers",
                    samples::list_workers,
                ),
                ("moby.buildkit.v1.Control/Info", samples::nothing),
                (
                    "moby.buildkit.v1.Control/ListenBuildHistory",
                    samples::history,
                ),
                (
                    "moby.buildkit.v1.Control/UpdateBuildHistory",
                    samples::update_history,
                ),
                (
                    "containerd.services.content.v1.Content/Info",
                    samples::content_info,
                ),
                (
                    "containerd.services.content.v1.Content/Read",
                    samples::content_read,
                ),
                (
                    "containerd.services.content.v1.Content/Write",
                    samples::content_write,
                ),
                (
                    "containerd.services.content.v1.Content/List",
                    samples::nothing,
                ),
            ],
            within_build: false,
        },
    ),
    (
        "session",
        Service {
            methods: &[("moby.buildkit.v1.Control/Session", samples::http2)],
            within_build: false,
        },
    ),
    (
        "gateway",
        Service {
            methods: &[
                (
                    "moby.buildkit.v1.frontend.LLBBridge/Solve",
                    samples::gateway_solve,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ResolveImageConfig",
                    samples::image_config,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ResolveSourceMeta",
                    samples::source_meta,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ReadFile",
                    samples::read_file,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ReadDir",
                    samples::read_dir,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/StatFile",
                    samples::stat_file,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/Evaluate",
                    samples::evaluate,
                ),
                ("moby.buildkit.v1.frontend.LLBBridge/Ping", samples::nothing),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/Return",
                    samples::returned,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/Inputs",
                    samples::nothing,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/NewContainer",
                    samples::new_container,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ReleaseContainer",
                    samples::release_container,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ReadFileContainer",
                    samples::read_file,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ReadDirContainer",
                    samples::read_dir,
                ),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/StatFileContainer",
                    samples::stat_file,
                ),
                ("moby.buildkit.v1.frontend.LLBBridge/Warn", samples::warn),
                (
                    "moby.buildkit.v1.frontend.LLBBridge/ExecProcess",
                    samples::exec,
                ),
            ],
            within_build: true,
        },
    ),
    (
        "health",
        Service {
            methods: &[
                ("grpc.health.v1.Health/Check", samples::health),
                ("grpc.health.v1.Health/Watch", samples::health),
                (
                    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                    samples::reflection,
                ),
                (
                    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                    samples::reflection,
                ),
            ],
            within_build: false,
        },
    ),
    (
        "traces",
        Service {
            methods: &[(
                "opentelemetry.proto.collector.trace.v1.TraceService/Export",
                samples::spans,
            )],
            within_build: false,
        },
    ),
];

/// The service of that name.
pub(crate) fn service(name: &str) -> Service {
    let mut services = SERVICES.into_iter();
    services
        .find(|(known, _)| *known == name)
        .expect("a service")
        .1
}

/// A daemon that inputs are tried on.
pub(crate) struct Tried {
    runtime: Runtime,
    root: tempfile::TempDir,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
    hostile: Channel,
    other: Channel,
    tried: usize,
}

impl Tried {
    pub(crate) fn start() -> Self {
        count_panics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let root = tempfile::tempdir().expect("a directory");
        let socket = root.path().join("sock");
        let mut config = DaemonConfig::new(root.path().join("state"));
        config.listen.addresses = vec![format!("unix://{}", socket.display())];
        config.drain_timeout = Duration::from_secs(10);
        let stop = CancellationToken::new();
        let server = runtime.block_on(Server::bind(config)).expect("a daemon");
        let stopped = stop.clone();
        let served = runtime.spawn(async move {
            server.run(stopped).await.expect("a daemon that ends");
        });
        let (hostile, other) =
            runtime.block_on(async { (connect(&socket).await, connect(&socket).await) });
        Self {
            runtime,
            root,
            stop,
            served: Some(served),
            hostile,
            other,
            tried: 0,
        }
    }

    /// A path beside the daemon's state.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Tries an input on a service.
    pub(crate) fn run(&mut self, service: Service, input: &[u8]) {
        let Some((first, rest)) = input.split_first() else {
            return;
        };
        let (method, samples) = service.methods[usize::from(*first) % service.methods.len()];
        let mut script = Script::parse(rest, &samples());
        self.tried += 1;
        let own = format!("hostile{}", self.tried);
        self.runtime.block_on(async {
            let headers = [
                ("x-docker-expose-session-uuid", own.as_str()),
                (BUILD_ID, own.as_str()),
            ];
            let tried = |script| call(&self.hostile, method, &headers, body(script), PATIENCE);
            match service.within_build {
                false => drop(tried(script).await),
                true => {
                    let mut control = ControlClient::new(self.hostile.clone());
                    // Its frontend is the client.
                    let build = control.solve(SolveRequest {
                        reference: own.clone(),
                        ..SolveRequest::default()
                    });
                    let tried = async {
                        if let Some(id) = self.file_system(&own).await {
                            script.replace(samples::REF, &id);
                        }
                        tried(script).await
                    };
                    tokio::select! {
                        _ = build => {}
                        _ = tried => {}
                    }
                }
            }
        });
        assert_no_panic(method);
        self.others_get_answers(method);
    }

    /// The id of a file system that a build's frontend has had built.
    async fn file_system(&self, build: &str) -> Option<String> {
        let mut request = tonic::Request::new(frontend::SolveRequest {
            definition: Some(samples::one_file("of a frontend")),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..frontend::SolveRequest::default()
        });
        request.metadata_mut().insert(BUILD_ID, build.parse().ok()?);
        let mut gateway = LlbBridgeClient::new(self.hostile.clone());
        let answer = gateway.solve(request).await.ok()?.into_inner();
        match answer.result?.result? {
            frontend::result::Result::Ref(reference) => Some(reference.id),
            _ => None,
        }
    }

    fn others_get_answers(&self, told: &str) {
        let mut control = ControlClient::new(self.other.clone());
        self.runtime.block_on(async {
            let informed = tokio::time::timeout(OTHERS, control.info(InfoRequest {}));
            informed.await.expect(told).expect(told);
            if self.tried.is_multiple_of(BUILD_EACH) {
                let name = format!("other{}", self.tried);
                let request = SolveRequest {
                    definition: Some(samples::one_file(&name)),
                    reference: name,
                    ..SolveRequest::default()
                };
                let built = tokio::time::timeout(OTHERS, control.solve(request));
                built.await.expect(told).expect(told);
            }
        });
    }

    /// Ends the daemon, which has to go without being forced.
    pub(crate) fn end(mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            let ended = async { tokio::time::timeout(OTHERS, served).await };
            let ended = self.runtime.block_on(ended);
            ended.expect("it ends").expect("it ends well");
        }
        assert_no_panic("the end");
    }
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(connector)
        .await
        .expect("a connection")
}
