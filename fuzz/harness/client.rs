//! A client's session in this process, whose daemon is hostile.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use weld_client::serve::{SessionServer, Targets};
use weld_engine::{ExportKind, ExportRequest, ExportTarget, HostSession, SecretSource, Session};
use weld_proto::session::{auth, content, filesync, health, secrets, ssh, upload};

use super::call::{body, call};
use super::samples::{self, Samples};
use super::script::Script;
use super::{assert_no_panic, count_panics};

/// For how long one call of an input may go on.
const PATIENCE: Duration = Duration::from_millis(100);
/// The longest that a client may take to answer what is in order: far more than it takes.
const ORDERLY: Duration = Duration::from_secs(60);

/// What a client serves, each with samples of what it is sent.
pub(crate) const METHODS: [(&str, Samples); 14] = [
    (filesync::DIFF_COPY, samples::packets),
    (filesync::SEND, samples::packets),
    (filesync::SEND, samples::pieces),
    (auth::CREDENTIALS, samples::credentials),
    (auth::FETCH_TOKEN, samples::fetch_token),
    (auth::GET_TOKEN_AUTHORITY, samples::token_authority),
    (auth::VERIFY_TOKEN_AUTHORITY, samples::verify_authority),
    (secrets::GET_SECRET, samples::secret),
    (ssh::CHECK_AGENT, samples::agent),
    (ssh::FORWARD_AGENT, samples::pieces),
    (content::INFO, samples::content_info),
    (content::READ, samples::content_read),
    (content::WRITE, samples::content_write),
    (upload::PULL, samples::pieces),
];

/// A session that inputs are tried on.
pub(crate) struct TriedClient {
    runtime: Runtime,
    root: tempfile::TempDir,
    session: Arc<dyn Session>,
}

impl TriedClient {
    pub(crate) fn start() -> Self {
        count_panics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let root = tempfile::tempdir().expect("a directory");
        let context = root.path().join("context");
        std::fs::create_dir(&context).expect("a directory");
        std::fs::write(context.join("file"), "content").expect("a file");
        std::fs::write(root.path().join("outside"), "untouched").expect("a file");
        let mut session = HostSession::new();
        session
            .add_directory("context", &context)
            .expect("a directory");
        let secret = SecretSource::File(context.join("file"));
        session.add_secret("token", secret).expect("a secret");
        Self {
            runtime,
            root,
            session: session.into_session(),
        }
    }

    /// Tries an input on a connection of its own.
    pub(crate) fn run(&mut self, input: &[u8]) {
        let Some((first, rest)) = input.split_first() else {
            return;
        };
        let (method, samples) = METHODS[usize::from(*first) % METHODS.len()];
        let script = Script::parse(rest, &samples());
        // A directory and a file are to be had from the daemon.
        let results = self.root.path().join("results");
        let export = |kind, target| ExportRequest::new(kind, target);
        let exports = [
            export(
                ExportKind::Local,
                ExportTarget::Directory(results.join("directory")),
            ),
            export(ExportKind::Tar, ExportTarget::File(results.join("file"))),
        ];
        std::fs::create_dir_all(&results).expect("a directory");
        let exporter = if script.body.len().is_multiple_of(2) {
            "0"
        } else {
            "1"
        };
        let session = Arc::clone(&self.session);
        self.runtime.block_on(async move {
            let targets = Arc::new(Targets::new(&exports).expect("targets"));
            let server = SessionServer::new(session, targets);
            let (channel, stream) = pair();
            let _serving = server.over(stream);
            let headers = [
                (filesync::DIR_NAME, "context"),
                (filesync::EXPORTER_ID, exporter),
                (content::STORE_ID, "export"),
                (ssh::AGENT_ID, "default"),
                (upload::URL_PATH, "/file"),
                (upload::URL_HOST, upload::HOST),
            ];
            call(&channel, method, &headers, body(script), PATIENCE).await;
            assert_no_panic(method);
            // The session still serves what is in order.
            let alive = Script::parse(&[super::script::SAMPLE, 1], &samples::nothing());
            let answered = call(&channel, health::CHECK, &[], body(alive), ORDERLY).await;
            assert_eq!(answered, Some(tonic::Code::Ok), "{method}");
        });
        self.check_outside();
    }

    /// Nothing is written but results.
    fn check_outside(&self) {
        let content = |name: &str| std::fs::read(self.root.path().join(name)).expect("a file");
        assert_eq!(content("outside"), b"untouched");
        assert_eq!(content("context/file"), b"content");
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).expect("a directory");
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
            names.sort();
            names
        };
        assert_eq!(names(self.root.path()), ["context", "outside", "results"]);
        assert_eq!(names(&self.root.path().join("context")), ["file"]);
    }
}

/// The two ends of a connection: a caller's, and the stream that is served.
fn pair() -> (Channel, UnixStream) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let mut near = Some(near);
    let connector = tower::service_fn(move |_: Uri| {
        let near = near.take().ok_or(std::io::ErrorKind::NotConnected);
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(near?)) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let connecting = endpoint.connect_with_connector_lazy(connector);
    (connecting, far)
}
