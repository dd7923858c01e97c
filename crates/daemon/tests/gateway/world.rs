//! A build with a frontend at the other end of a connection, and definitions for it.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Server};
use weld_daemon::gateway::Session;
use weld_engine::{Asked, BuildJob, Config, Engine, HostSession, JobRequest, SourcePolicies};
use weld_llb::{
    Builder, Constraints, FileChange, MkdirAction, MkfileAction, Output, Platform, State, pb,
};
use weld_proto::frontend as wire;
use weld_proto::frontend::exec_message::Input;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_proto::frontend::llb_bridge_server::LlbBridgeServer;

pub(crate) struct World {
    pub(crate) client: LlbBridgeClient<Channel>,
    pub(crate) session: Session,
    pub(crate) job: BuildJob,
    pub(crate) progress: weld_progress::Receiver,
    pub(crate) _engine: Engine,
    pub(crate) _root: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = Config::new(root.path().join("state"));
        let engine = Engine::open(config).await.unwrap();
        let request = JobRequest {
            id: "job".to_owned(),
            session: HostSession::new().into_session(),
            entitlements: Vec::new(),
            asked: Asked::default(),
            explain: false,
            domain: None,
            source_policies: SourcePolicies::default(),
            source_verifier: None,
        };
        let (sender, progress) = weld_progress::channel();
        let job = engine.open_job(request, sender, CancellationToken::new());
        let job = job.await.unwrap();
        let inputs = BTreeMap::from([("context".to_owned(), hello())]);
        let session = Session::new(job.bridge(), inputs);
        let (near, far) = tokio::io::duplex(1 << 16);
        let service = LlbBridgeServer::new(session.clone());
        let incoming = futures_util::stream::once(async { Ok::<_, std::io::Error>(far) });
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let mut near = Some(near);
        let connector = tower::service_fn(move |_| {
            let near = near.take().map(hyper_util::rt::TokioIo::new);
            async move { near.ok_or_else(|| std::io::Error::other("connected already")) }
        });
        let channel = Endpoint::from_static("http://bridge")
            .connect_with_connector(connector)
            .await
            .unwrap();
        Self {
            client: LlbBridgeClient::new(channel).max_decoding_message_size(64 << 20),
            session,
            job,
            progress,
            _engine: engine,
            _root: root,
        }
    }

    pub(crate) async fn solve(&mut self, definition: pb::Definition) -> Result<String, Status> {
        let solved = self
            .client
            .solve(wire::SolveRequest {
                definition: Some(definition),
                allow_result_return: true,
                allow_result_array_ref: true,
                evaluate: true,
                ..wire::SolveRequest::default()
            })
            .await?;
        match solved.into_inner().result.unwrap().result.unwrap() {
            wire::result::Result::Ref(reference) => Ok(reference.id),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn container(&mut self, id: &str, root: &str) {
        self.client
            .new_container(wire::NewContainerRequest {
                container_id: id.to_owned(),
                mounts: vec![pb::Mount {
                    dest: "/".to_owned(),
                    result_id: root.to_owned(),
                    ..pb::Mount::default()
                }],
                ..wire::NewContainerRequest::default()
            })
            .await
            .unwrap();
    }

    /// Sends messages for one process, and gives all that comes until it is done.
    pub(crate) async fn exec(&mut self, id: &str, messages: Vec<Input>) -> Outcome {
        let messages = messages.into_iter().map(|input| wire::ExecMessage {
            process_id: id.to_owned(),
            input: Some(input),
        });
        let messages: Vec<_> = messages.collect();
        let requests = futures_util::stream::iter(messages);
        let mut answers = self
            .client
            .exec_process(requests)
            .await
            .unwrap()
            .into_inner();
        let mut outcome = Outcome::default();
        while let Some(answer) = answers.next().await {
            match answer.unwrap().input.unwrap() {
                Input::Started(_) => outcome.started = true,
                Input::File(file) => outcome.output.extend_from_slice(&file.data),
                Input::Exit(exit) => outcome.exit = Some(exit),
                Input::Done(_) => outcome.done = true,
                other => panic!("{other:?}"),
            }
        }
        outcome
    }
}

pub(crate) fn file(path: &str, mode: u32, data: impl Into<bytes::Bytes>) -> FileChange<Output> {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode,
        data: data.into(),
        owner: None,
        timestamp: None,
    })
}

pub(crate) fn dir(path: &str) -> FileChange<Output> {
    FileChange::Mkdir(MkdirAction {
        path: path.to_owned(),
        mode: 0o755,
        make_parents: true,
        owner: None,
        timestamp: None,
    })
}

pub(crate) fn hello() -> pb::Definition {
    let mut builder = Builder::new();
    let changes = vec![
        dir("/dir/below"),
        file("/dir/hello", 0o640, "hello, world"),
        file("/dir/other", 0o644, "other"),
    ];
    let state = State::scratch();
    let state = state
        .file(&mut builder, changes, Constraints::new())
        .unwrap();
    builder.definition(state.output, &Platform::host()).unwrap()
}

/// One file.
pub(crate) fn one_file(path: &'static str, content: &'static str) -> pb::Definition {
    let mut builder = Builder::new();
    let changes = vec![file(path, 0o644, content)];
    let state = State::scratch();
    let state = state
        .file(&mut builder, changes, Constraints::new())
        .unwrap();
    builder.definition(state.output, &Platform::host()).unwrap()
}

pub(crate) fn details(status: &Status) -> BTreeMap<String, serde_json::Value> {
    let status = weld_proto::google::Status::decode(status.details()).unwrap();
    let details = status.details.into_iter().map(|detail| {
        let name = detail.type_url.strip_prefix("github.com/moby/buildkit/");
        let value = serde_json::from_slice(&detail.value).unwrap();
        (name.unwrap().to_owned(), value)
    });
    details.collect()
}

#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) started: bool,
    pub(crate) output: Vec<u8>,
    pub(crate) exit: Option<wire::ExitMessage>,
    pub(crate) done: bool,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    pub(crate) fn code(&self) -> u32 {
        self.exit.as_ref().unwrap().code
    }
}

/// A root with a shell.
pub(crate) fn shell(builder: &mut Builder) -> State {
    let busybox = weld_testbed::static_busybox().expect("busybox-static is installed");
    let changes = vec![
        dir("/bin"),
        dir("/proc"),
        dir("/dev"),
        file("/bin/sh", 0o755, std::fs::read(busybox).unwrap()),
    ];
    let state = State::scratch();
    state.file(builder, changes, Constraints::new()).unwrap()
}
