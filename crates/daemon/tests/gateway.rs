//! A frontend at the other end of a connection: what it asks for, and what it is answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

use std::collections::BTreeMap;

use futures_util::StreamExt;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use weld_daemon::gateway::Session;
use weld_engine::{
    Asked, AttestOptions, BuildJob, Config, Engine, HostSession, JobRequest, ProvenanceOptions,
    Refs, SolveInput, SolveRequest, SourcePolicies,
};
use weld_llb::{
    Builder, Constraints, FileChange, MkdirAction, MkfileAction, Output, Platform, Run, State, pb,
};
use weld_proto::frontend as wire;
use weld_proto::frontend::exec_message::Input;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_proto::frontend::llb_bridge_server::LlbBridgeServer;
use weld_proto::sourcepolicy::{MatchType, Policy, PolicyAction, Rule, Selector, Update};

struct World {
    client: LlbBridgeClient<Channel>,
    session: Session,
    job: BuildJob,
    progress: weld_progress::Receiver,
    _engine: Engine,
    _root: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
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

    async fn solve(&mut self, definition: pb::Definition) -> Result<String, Status> {
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

    async fn container(&mut self, id: &str, root: &str) {
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
    async fn exec(&mut self, id: &str, messages: Vec<Input>) -> Outcome {
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

#[derive(Default)]
struct Outcome {
    started: bool,
    output: Vec<u8>,
    exit: Option<wire::ExitMessage>,
    done: bool,
}

impl Outcome {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn code(&self) -> u32 {
        self.exit.as_ref().unwrap().code
    }
}

fn file(path: &str, mode: u32, data: impl Into<bytes::Bytes>) -> FileChange<Output> {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode,
        data: data.into(),
        owner: None,
        timestamp: None,
    })
}

fn dir(path: &str) -> FileChange<Output> {
    FileChange::Mkdir(MkdirAction {
        path: path.to_owned(),
        mode: 0o755,
        make_parents: true,
        owner: None,
        timestamp: None,
    })
}

fn hello() -> pb::Definition {
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
fn one_file(path: &'static str, content: &'static str) -> pb::Definition {
    let mut builder = Builder::new();
    let changes = vec![file(path, 0o644, content)];
    let state = State::scratch();
    let state = state
        .file(&mut builder, changes, Constraints::new())
        .unwrap();
    builder.definition(state.output, &Platform::host()).unwrap()
}

/// A source and nothing else.
fn fetched(source: &pb::SourceOp) -> pb::Definition {
    let mut builder = Builder::new();
    let source = weld_llb::Source::from_pb(source).unwrap();
    let output = builder.add_source(source, Constraints::new());
    builder.definition(Some(output), &Platform::host()).unwrap()
}

/// A server of files.
struct Files {
    address: std::net::SocketAddr,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Files {
    async fn serve(files: &[(&'static str, &'static str)]) -> Self {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let (mut first, mut line) = (String::new(), String::new());
                stream.read_line(&mut first).await.unwrap();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                let path = first.split(' ').nth(1).unwrap();
                let content = files[path];
                let length = content.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let body = if first.starts_with("HEAD") {
                    ""
                } else {
                    content
                };
                let answer = format!("{head}{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            address,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A root with a shell.
fn shell(builder: &mut Builder) -> State {
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

fn init(container: &str, script: &str, fds: &[u32], tty: bool) -> Input {
    Input::Init(wire::InitMessage {
        container_id: container.to_owned(),
        meta: Some(pb::Meta {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["GREETING=hi".to_owned()],
            cwd: "/".to_owned(),
            ..pb::Meta::default()
        }),
        fds: fds.to_vec(),
        tty,
        ..wire::InitMessage::default()
    })
}

fn details(status: &Status) -> BTreeMap<String, serde_json::Value> {
    let status = weld_proto::google::Status::decode(status.details()).unwrap();
    let details = status.details.into_iter().map(|detail| {
        let name = detail.type_url.strip_prefix("github.com/moby/buildkit/");
        let value = serde_json::from_slice(&detail.value).unwrap();
        (name.unwrap().to_owned(), value)
    });
    details.collect()
}

#[tokio::test]
async fn files_of_a_solved_definition_can_be_read() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let read = |path: &str, range| wire::ReadFileRequest {
        r#ref: id.clone(),
        file_path: path.to_owned(),
        range,
        ..wire::ReadFileRequest::default()
    };
    let whole = world.client.read_file(read("/dir/hello", None)).await;
    assert_eq!(whole.unwrap().into_inner().data, "hello, world");
    let range = wire::FileRange {
        offset: 7,
        length: 100,
    };
    let part = world.client.read_file(read("dir/hello", Some(range))).await;
    assert_eq!(part.unwrap().into_inner().data, "world");
    let missing = world.client.read_file(read("/nope", None)).await;
    let missing = missing.unwrap_err();
    assert_eq!(missing.message(), "open /nope: no such file or directory");
    let up = world.client.read_file(read("../../etc/passwd", None)).await;
    assert!(up.is_err(), "a path led out of the result");

    let listed = world.client.read_dir(wire::ReadDirRequest {
        r#ref: id.clone(),
        dir_path: "/dir".to_owned(),
        include_pattern: "*el*".to_owned(),
        ..wire::ReadDirRequest::default()
    });
    let listed = listed.await.unwrap().into_inner().entries;
    let names: Vec<_> = listed.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["below", "hello"]);
    assert_eq!(listed[0].mode, 1 << 31 | 0o755, "a directory in Go's bits");

    let stat = world.client.stat_file(wire::StatFileRequest {
        r#ref: id.clone(),
        path: "/dir/hello".to_owned(),
        ..wire::StatFileRequest::default()
    });
    let stat = stat.await.unwrap().into_inner().stat.unwrap();
    assert_eq!(
        (stat.size, stat.mode, stat.path.as_str()),
        (12, 0o640, "hello")
    );
}

#[tokio::test]
async fn what_it_can_do_and_what_it_was_given_is_told() {
    let mut world = World::new().await;
    let pong = world
        .client
        .ping(wire::PingRequest {})
        .await
        .unwrap()
        .into_inner();
    let has = |caps: &[weld_proto::apicaps::ApiCap], id: &str| caps.iter().any(|cap| cap.id == id);
    assert!(has(&pong.frontend_api_caps, "gateway.exec.signals"));
    assert!(has(&pong.llb_caps, "exec.secretenv"));
    assert!(
        !has(&pong.llb_caps, "exec.meta.networkproxy"),
        "there are no proxy networks"
    );
    assert_eq!(pong.workers.len(), 1);
    let inputs = world.client.inputs(wire::InputsRequest {}).await.unwrap();
    assert_eq!(inputs.into_inner().definitions["context"], hello());
}

#[tokio::test]
async fn what_is_returned_is_the_result_of_the_build() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let reference = wire::Ref { id, def: None };
    let returned = wire::ReturnRequest {
        result: Some(wire::Result {
            metadata: BTreeMap::from([("key".to_owned(), b"value".to_vec())]),
            result: Some(wire::result::Result::Ref(reference)),
            ..wire::Result::default()
        }),
        error: None,
    };
    world.client.return_result(returned.clone()).await.unwrap();
    let again = world.client.return_result(returned).await;
    assert!(again.is_err(), "a result can be returned once");
    let result = world.session.result().await.unwrap();
    assert_eq!(result.metadata["key"], "value");
    let Refs::Single(Some(reference)) = &result.refs else {
        panic!("{:?}", result.refs);
    };
    let read = reference.read_file("/dir/hello", None).await.unwrap();
    assert_eq!(read, "hello, world");
    let exported = world
        .job
        .export(&result, &[], &[], &AttestOptions::default())
        .await;
    assert!(exported.is_ok());
}

#[tokio::test]
async fn a_policy_decides_what_a_source_is() {
    let mut world = World::new().await;
    let server = Files::serve(&[("/a", "content of a"), ("/b", "content of b")]).await;
    let policy = |action: PolicyAction, from: &str, to: Option<String>| Policy {
        version: 1,
        rules: vec![Rule {
            action: action.into(),
            selector: Some(Selector {
                identifier: server.url(from),
                match_type: MatchType::Exact.into(),
                constraints: Vec::new(),
            }),
            updates: to.map(|identifier| Update {
                identifier,
                attrs: BTreeMap::new(),
            }),
        }],
    };
    let source = pb::SourceOp {
        identifier: server.url("/a"),
        attrs: BTreeMap::from([("http.filename".to_owned(), "file".to_owned())]),
    };
    let resolve = |policies| wire::ResolveSourceMetaRequest {
        source: Some(source.clone()),
        source_policies: policies,
        ..wire::ResolveSourceMetaRequest::default()
    };
    let build = |policies| wire::SolveRequest {
        definition: Some(fetched(&source)),
        source_policies: policies,
        allow_result_return: true,
        allow_result_array_ref: true,
        evaluate: true,
        ..wire::SolveRequest::default()
    };

    let plain = world.client.resolve_source_meta(resolve(Vec::new())).await;
    let plain = plain.unwrap().into_inner().http.unwrap();
    let of_a = weld_digest::Digest::sha256_of("content of a").to_string();
    assert_eq!((plain.checksum, plain.filename.as_str()), (of_a, "file"));

    let denied = vec![policy(PolicyAction::Deny, "/a", None)];
    let errors = [
        world
            .client
            .resolve_source_meta(resolve(denied.clone()))
            .await
            .err(),
        world.client.solve(build(denied)).await.err(),
    ];
    for error in errors {
        let error = error.unwrap();
        assert!(error.message().contains("denied by policy"), "{error:?}");
    }

    let converted = vec![policy(PolicyAction::Convert, "/a", Some(server.url("/b")))];
    let other = world
        .client
        .resolve_source_meta(resolve(converted.clone()))
        .await;
    let other = other.unwrap().into_inner();
    assert_eq!(other.source.unwrap().identifier, server.url("/b"));
    let of_b = weld_digest::Digest::sha256_of("content of b").to_string();
    assert_eq!(other.http.unwrap().checksum, of_b);
    let solved = world.client.solve(build(converted)).await.unwrap();
    let wire::result::Result::Ref(reference) = solved.into_inner().result.unwrap().result.unwrap()
    else {
        panic!("one file system");
    };
    let read = world.client.read_file(wire::ReadFileRequest {
        r#ref: reference.id,
        file_path: "/file".to_owned(),
        range: None,
        mount_index: 0,
    });
    assert_eq!(read.await.unwrap().into_inner().data, "content of b");
}

#[tokio::test]
async fn provenance_tells_who_made_an_input() {
    let world = World::new().await;
    let files = one_file(
        "/Dockerfile",
        "FROM scratch AS base\nCOPY --from=made /f /f\n",
    );
    let bridge = world.job.bridge();
    let ask = async |made: pb::Definition, input: &str, label: &str| {
        let inputs = [("context", &files), ("dockerfile", &files), (input, &made)];
        let opts = [
            ("context:made", format!("input:{input}")),
            ("label:by", label.to_owned()),
        ];
        let request = SolveRequest {
            input: SolveInput::Frontend {
                name: "dockerfile.v0".to_owned(),
                opts: opts.map(|(key, value)| (key.to_owned(), value)).into(),
                inputs: inputs
                    .map(|(name, input)| (name.to_owned(), input.clone()))
                    .into(),
            },
            evaluate: true,
            ..SolveRequest::default()
        };
        bridge.solve(request).await.unwrap()
    };
    let first = ask(one_file("/f", "f"), "plain", "first").await;
    let made = first.each_ref().next().unwrap().to_definition();
    let second = ask(made, "made", "second").await;
    let documents = world
        .job
        .provenance(&second, &ProvenanceOptions::default())
        .await
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&documents[0].1).unwrap();
    let request = &document["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["label:by"], "second");
    let inputs = request["inputs"].as_object().unwrap();
    // Of what no frontend made nobody knows who did.
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["made"], "{request:#}");
    assert_eq!(inputs["made"]["request"]["args"]["label:by"], "first");
    assert_eq!(inputs["made"]["request"]["frontend"], "dockerfile.v0");
}

#[tokio::test]
async fn a_failed_step_says_where_and_shows_what_was_left() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let dockerfile = builder.add_file("Dockerfile", "Dockerfile", "FROM x\nRUN fail\n");
    let line = pb::Position {
        line: 2,
        character: 0,
    };
    let range = pb::Range {
        start: Some(line),
        end: Some(line),
    };
    let root = shell(&mut builder);
    let script = "echo rest > /left; exit 7";
    let run = Run {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        constraints: Constraints::new().at(dockerfile, vec![range]),
        ..Run::default()
    };
    let failed = root.run(&mut builder, run).unwrap().root;
    let definition = builder.definition(failed.output, &Platform::host());
    let status = world.solve(definition.unwrap()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert!(
        status.message().ends_with("exit code: 7"),
        "{}",
        status.message()
    );
    let details = details(&status);
    let text = |value: &serde_json::Value| value.to_string();
    assert_eq!(details["gatewayapi.ExitMessage+json"]["Code"], 7);
    let vertex = text(&details["errdefs.Vertex+json"]["digest"]);
    assert!(vertex.starts_with("\"sha256:"), "{vertex}");
    let source = &details["errdefs.Source+json"];
    assert_eq!(source["info"]["filename"], "Dockerfile");
    assert_eq!(source["ranges"][0]["start"]["line"], 2);
    let solve = &details["errdefs.Solve+json"];
    assert_eq!(solve["op"]["exec"]["meta"]["args"][2], script);
    let left = solve["mountIDs"][0].as_str().unwrap().to_owned();
    world.container("debug", &left).await;
    let out = world.exec(
        "p",
        vec![init("debug", "read x < /left; echo $x", &[1], false)],
    );
    assert_eq!(out.await.text(), "rest\n");
}

#[tokio::test]
async fn processes_run_in_containers() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder).output;
    let definition = builder.definition(root, &Platform::host()).unwrap();
    let id = world.solve(definition).await.unwrap();

    world.container("pipes", &id).await;
    let data = |data: &'static str, eof| {
        Input::File(wire::FdMessage {
            fd: 0,
            eof,
            data: data.into(),
        })
    };
    let script = "read x; echo $GREETING $x; echo kept > /kept; exit 3";
    let started = init("pipes", script, &[0, 1, 2], false);
    let out = world.exec("p", vec![started, data("you\n", true)]).await;
    assert!(out.started && out.done);
    assert_eq!((out.text().as_str(), out.code()), ("hi you\n", 3));
    let kept = world.client.read_file_container(wire::ReadFileRequest {
        r#ref: "pipes".to_owned(),
        file_path: "kept".to_owned(),
        ..wire::ReadFileRequest::default()
    });
    assert_eq!(kept.await.unwrap().into_inner().data, "kept\n");
    let unchanged = world.client.read_file(wire::ReadFileRequest {
        r#ref: id.clone(),
        file_path: "kept".to_owned(),
        ..wire::ReadFileRequest::default()
    });
    assert!(unchanged.await.is_err(), "a container changed the result");

    world.container("signals", &id).await;
    let waits = "trap 'echo caught; exit 5' TERM; kill -TERM $$; exit 6";
    let out = world
        .exec("p", vec![init("signals", waits, &[1], false)])
        .await;
    assert_eq!((out.text().as_str(), out.code()), ("caught\n", 5));

    world.container("terminal", &id).await;
    let terminal = init(
        "terminal",
        "[ -t 0 ] && [ -t 1 ] && echo terminal",
        &[0, 1],
        true,
    );
    let out = world.exec("p", vec![terminal]).await;
    assert_eq!((out.text().as_str(), out.code()), ("terminal\r\n", 0));

    let release = wire::ReleaseContainerRequest {
        container_id: "pipes".to_owned(),
    };
    world
        .client
        .release_container(release.clone())
        .await
        .unwrap();
    let again = world.client.release_container(release).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
}

#[tokio::test]
async fn further_processes_join_the_first() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder).output;
    let definition = builder.definition(root, &Platform::host()).unwrap();
    let id = world.solve(definition).await.unwrap();
    world.container("c", &id).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let requests = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    let message = |id: &str, input| wire::ExecMessage {
        process_id: id.to_owned(),
        input: Some(input),
    };
    let first = init(
        "c",
        "echo ready; read x < /dev/stdin; exit 4",
        &[0, 1],
        false,
    );
    sender.send(message("first", first)).await.unwrap();
    let mut answers = world
        .client
        .exec_process(requests)
        .await
        .unwrap()
        .into_inner();
    let mut exits = BTreeMap::new();
    let mut second = String::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        match (answer.process_id.as_str(), answer.input.unwrap()) {
            ("first", Input::File(file)) if &file.data[..] == b"ready\n" => {
                let joining = init("c", "echo $$; [ -d /proc/1 ] && echo seen", &[1], false);
                sender.send(message("second", joining)).await.unwrap();
            }
            ("second", Input::File(file)) => second.push_str(&String::from_utf8_lossy(&file.data)),
            (id, Input::Exit(exit)) => {
                exits.insert(id.to_owned(), exit.code);
                if id == "second" {
                    let end = wire::FdMessage {
                        fd: 0,
                        eof: true,
                        data: "x\n".into(),
                    };
                    sender
                        .send(message("first", Input::File(end)))
                        .await
                        .unwrap();
                }
            }
            _ => {}
        }
        if exits.len() == 2 {
            break;
        }
    }
    assert_eq!((exits["first"], exits["second"]), (4, 0));
    let (pid, seen) = second.split_once('\n').unwrap();
    assert!(
        pid.parse::<u32>().unwrap() > 1,
        "it is not the first of the sandbox: {pid}"
    );
    assert_eq!(seen, "seen\n");
}

#[tokio::test]
async fn what_cannot_be_started_ends_and_others_go_on() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder).output;
    let definition = builder.definition(root, &Platform::host()).unwrap();
    let id = world.solve(definition).await.unwrap();
    world.container("c", &id).await;
    for (mode, part) in [
        (
            i32::from(pb::SecurityMode::Insecure),
            "security.insecure is not allowed",
        ),
        (2, "invalid security mode 2"),
    ] {
        let Input::Init(init) = init("c", "true", &[1], false) else {
            unreachable!();
        };
        let refused = Input::Init(wire::InitMessage {
            security: mode,
            ..init
        });
        let out = world.exec("p", vec![refused]).await;
        assert!(out.started && out.done, "{mode}");
        let message = out.exit.unwrap().error.unwrap().message;
        assert!(message.contains(part), "{message}");
    }
    let out = world.exec("q", vec![init("c", "echo on", &[1], false)]);
    assert_eq!(out.await.text(), "on\n");
}

#[tokio::test]
async fn a_container_that_still_runs_says_so_when_it_is_released() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder).output;
    let definition = builder.definition(root, &Platform::host()).unwrap();
    let id = world.solve(definition).await.unwrap();
    world.container("c", &id).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let requests = futures_util::stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    let sleeping = wire::ExecMessage {
        process_id: "p".to_owned(),
        input: Some(init("c", "echo ready; read x", &[0, 1], false)),
    };
    sender.send(sleeping).await.unwrap();
    let answers = world.client.exec_process(requests).await.unwrap();
    let mut answers = answers.into_inner();
    loop {
        match answers.next().await.unwrap().unwrap().input.unwrap() {
            Input::File(file) if !file.data.is_empty() => break,
            _ => {}
        }
    }
    let release = wire::ReleaseContainerRequest {
        container_id: "c".to_owned(),
    };
    let released = world.client.release_container(release).await.unwrap_err();
    assert_eq!(released.code(), Code::Cancelled);
}

#[tokio::test]
async fn warnings_keep_the_lines_that_they_are_about() {
    let mut world = World::new().await;
    let position = |line, character| Some(pb::Position { line, character });
    let warned = world.client.warn(wire::WarnRequest {
        digest: weld_digest::Digest::sha256_of("step").to_string(),
        level: 1,
        short: "short".into(),
        info: Some(pb::SourceInfo {
            filename: "file".to_owned(),
            data: "content".into(),
            language: "lang".to_owned(),
            definition: None,
        }),
        ranges: vec![pb::Range {
            start: position(3, 1),
            end: position(4, 2),
        }],
        ..wire::WarnRequest::default()
    });
    warned.await.unwrap();
    let batch = world.progress.receive().await.unwrap();
    let warning = &batch.warnings[0];
    let source = warning.source.as_ref().unwrap();
    assert_eq!(
        (source.filename.as_str(), &source.data[..]),
        ("file", &b"content"[..])
    );
    let range = warning.ranges[0];
    assert_eq!((range.start.line, range.end.character), (3, 2));
}

#[tokio::test]
async fn results_for_other_platforms_than_asked_for_are_told() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let returned = world.client.return_result(wire::ReturnRequest {
        result: Some(wire::Result {
            result: Some(wire::result::Result::Ref(wire::Ref { id, def: None })),
            ..wire::Result::default()
        }),
        error: None,
    });
    returned.await.unwrap();
    let result = world.session.result().await.unwrap();
    let check = |platforms: &str| {
        let opts = BTreeMap::from([("platform".to_owned(), platforms.to_owned())]);
        world.job.check_platforms(&opts, &result).unwrap();
    };
    check(&Platform::host().to_string());
    check("linux/amd64,linux/arm64");
    check("plan9/mips");
    let mut told = Vec::new();
    while told.len() < 2 {
        let batch = world.progress.receive().await.unwrap();
        let warnings = batch.warnings.into_iter();
        told.extend(warnings.map(|warning| String::from_utf8(warning.short).unwrap()));
    }
    assert_eq!(
        told[0],
        "Multiple platforms requested but result is not multi-platform"
    );
    assert!(told[1].contains("plan9/mips"), "{}", told[1]);
}
