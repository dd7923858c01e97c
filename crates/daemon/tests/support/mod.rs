//! A daemon of its own for one test, and definitions for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses a part of it, and all of it may fail its test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use weld_daemon::Server;
use weld_daemon::config::DaemonConfig;
use weld_proto::Message;
use weld_proto::control::SolveRequest;
use weld_proto::control::control_client::ControlClient;
use weld_proto::pb::{self, file_action};

/// A daemon of its own for one test.
pub(crate) struct Daemon {
    pub(crate) channel: Channel,
    pub(crate) stop: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<()>,
    root: tempfile::TempDir,
}

impl Daemon {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// One that `change` configures.
    pub(crate) async fn start_with(change: impl FnOnce(&mut DaemonConfig)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("sock");
        let mut config = DaemonConfig::new(root.path().join("state"));
        config.listen.addresses = vec![format!("unix://{}", socket.display())];
        config.drain_timeout = Duration::from_secs(10);
        change(&mut config);
        let server = Server::bind(config).await.unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn({
            let stop = stop.clone();
            async move { server.run(stop).await.unwrap() }
        });
        Self {
            channel: connect(&socket).await,
            stop,
            served,
            root,
        }
    }

    /// A path beside the daemon's state.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Channel {
        connect(&self.path("sock")).await
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap();
    }
}

pub(crate) async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
        .unwrap()
}

/// A definition of one file in an empty tree.
pub(crate) fn one_file(content: &str) -> pb::Definition {
    let action = pb::FileAction {
        input: pb::EMPTY_INPUT,
        secondary_input: pb::EMPTY_INPUT,
        output: 0,
        action: Some(file_action::Action::Mkfile(pb::FileActionMkFile {
            path: "/file".to_owned(),
            mode: 0o644,
            data: content.to_owned().into(),
            owner: None,
            timestamp: -1,
        })),
    };
    let file = pb::Op {
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![action],
        })),
        ..pb::Op::default()
    };
    definition(file)
}

/// A definition of one operation.
pub(crate) fn definition(op: pb::Op) -> pb::Definition {
    let op = op.encode_to_vec();
    let last = pb::Op {
        inputs: vec![pb::Input {
            digest: weld_digest::Digest::sha256_of(&op).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    pb::Definition {
        def: vec![op.into(), last.encode_to_vec().into()],
        ..pb::Definition::default()
    }
}

pub(crate) fn solve(reference: &str, content: &str) -> SolveRequest {
    SolveRequest {
        reference: reference.to_owned(),
        definition: Some(one_file(content)),
        ..SolveRequest::default()
    }
}
