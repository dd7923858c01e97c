//! A frontend of a small language, as a program that speaks the gateway on two file descriptors.
//!
//! Its file has a word and its argument in each line: `from IMAGE`, `run COMMAND`, `copy`, `env NAME=VALUE`, `platforms`,
//! `dockerfile FILE`, `exec COMMAND`, `warn TEXT`, `refuse TEXT`, `crash TEXT`, `vanish`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tonic::transport::{Channel, Endpoint};
use weld_llb::{
    Builder, Constraints, CopyAction, FileChange, ImageSource, LocalSource, Platform, Run, Source,
    State, pb,
};
use weld_proto::frontend as wire;
use weld_proto::frontend::exec_message::Input;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_proto::frontend::result::Result as Refs;

type Failure = Box<dyn std::error::Error>;

struct Frontend {
    client: LlbBridgeClient<Channel>,
    opts: BTreeMap<String, String>,
    platform: Platform,
}

/// What a file comes to.
#[derive(Default)]
struct Made {
    refs: Option<Refs>,
    metadata: BTreeMap<String, Vec<u8>>,
}

/// Works for one build, and returns what it came to.
pub(crate) async fn serve() {
    let opts = std::env::vars()
        .filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"))
        .filter_map(|(_, opt)| {
            let (name, value) = opt.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
    assert!(!std::env::var("BUILDKIT_SESSION_ID").unwrap().is_empty());
    let workers: Value = serde_json::from_str(&std::env::var("BUILDKIT_WORKERS").unwrap()).unwrap();
    let platform = &workers[0]["Platforms"][0];
    let mut frontend = Frontend {
        client: LlbBridgeClient::new(connect().await),
        opts: opts.collect(),
        platform: Platform::host(),
    };
    assert_eq!(platform["architecture"], frontend.platform.architecture);
    let request = match frontend.build().await {
        Ok(made) => wire::ReturnRequest {
            result: Some(wire::Result {
                metadata: made.metadata,
                result: made.refs,
                ..wire::Result::default()
            }),
            error: None,
        },
        Err(error) => {
            let status = error.downcast_ref::<tonic::Status>();
            wire::ReturnRequest {
                result: None,
                error: Some(weld_proto::google::Status {
                    code: status.map_or(2, |status| status.code() as i32),
                    message: status.map_or(error.to_string(), |status| status.message().to_owned()),
                    details: Vec::new(),
                }),
            }
        }
    };
    frontend.client.return_result(request).await.unwrap();
}

impl Frontend {
    async fn build(&mut self) -> Result<Made, Failure> {
        let pong = self.client.ping(wire::PingRequest {}).await?.into_inner();
        assert!(pong.llb_caps.iter().any(|cap| cap.id == "source.local"));
        let inputs = self.client.inputs(wire::InputsRequest {}).await?;
        assert!(inputs.into_inner().definitions.is_empty());
        let file = self.opts.get("filename").cloned();
        let file = file.unwrap_or_else(|| "Dockerfile".to_owned());
        let text = self.read_own(&file).await?;
        let mut made = Made::default();
        let mut builder = Builder::new();
        let mut state = State::scratch();
        let mut config = json!({
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": {"Env": []},
        });
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "from" => {
                    let resolved = self.resolve(argument).await?;
                    config = serde_json::from_slice(&resolved.config)?;
                    let source = Source::Image(ImageSource {
                        reference: format!("{argument}@{}", resolved.digest),
                        ..ImageSource::default()
                    });
                    state = State::new(Some(builder.add_source(source, Constraints::new())));
                }
                "run" => {
                    let run = Run {
                        args: ["/bin/sh", "-c", argument].map(str::to_owned).to_vec(),
                        constraints: Constraints::new().named(format!("frontend: {argument}")),
                        ..Run::default()
                    };
                    state = state.run(&mut builder, run)?.root;
                }
                "copy" => {
                    let context = builder.add_source(local("context"), Constraints::new());
                    let copied = copy(State::new(Some(context)));
                    state = state.file(&mut builder, vec![copied], Constraints::new())?;
                }
                "env" => config["config"]["Env"]
                    .as_array_mut()
                    .unwrap()
                    .push(argument.into()),
                "warn" => {
                    let warning = wire::WarnRequest {
                        level: 1,
                        short: argument.as_bytes().to_vec().into(),
                        ..wire::WarnRequest::default()
                    };
                    self.client.warn(warning).await?;
                }
                "dockerfile" => return self.dockerfile(argument).await,
                "exec" => {
                    let root = self.solve(&builder, &state).await?;
                    let text = String::from_utf8(self.exec(root, argument).await?)?;
                    config["config"]["Env"]
                        .as_array_mut()
                        .unwrap()
                        .push(text.into());
                }
                "platforms" => {
                    let reference = self.solve(&builder, &state).await?;
                    let names = ["linux/amd64", "linux/arm64"];
                    let refs = names.map(|name| (name.to_owned(), reference.clone()));
                    let platforms = names.map(|name| {
                        let (os, architecture) = name.split_once('/').unwrap();
                        let platform = json!({"os": os, "architecture": architecture});
                        json!({"ID": name, "Platform": platform})
                    });
                    made.metadata.insert(
                        "refs.platforms".to_owned(),
                        serde_json::to_vec(&json!({"Platforms": platforms}))?,
                    );
                    for name in names {
                        let key = format!("containerimage.config/{name}");
                        config["architecture"] = name[6..].into();
                        made.metadata.insert(key, serde_json::to_vec(&config)?);
                    }
                    made.refs = Some(Refs::Refs(wire::RefMap { refs: refs.into() }));
                    return Ok(made);
                }
                "refuse" => return Err(argument.into()),
                "crash" => {
                    eprintln!("{argument}");
                    std::process::exit(7);
                }
                "vanish" => std::process::exit(0),
                word => return Err(format!("{file}: unknown word {word:?}").into()),
            }
        }
        made.refs = Some(Refs::Ref(self.solve(&builder, &state).await?));
        let key = "containerimage.config".to_owned();
        made.metadata.insert(key, serde_json::to_vec(&config)?);
        Ok(made)
    }

    /// A file of the directory that the build's file is in.
    async fn read_own(&mut self, file: &str) -> Result<String, Failure> {
        let mut builder = Builder::new();
        let output = builder.add_source(local("dockerfile"), Constraints::new());
        let state = State::new(Some(output));
        let reference = self.solve(&builder, &state).await?;
        let read = wire::ReadFileRequest {
            r#ref: reference.id,
            file_path: file.to_owned(),
            ..wire::ReadFileRequest::default()
        };
        let read = self.client.read_file(read).await?.into_inner();
        Ok(String::from_utf8(read.data.to_vec())?)
    }

    async fn resolve(
        &mut self,
        image: &str,
    ) -> Result<wire::ResolveImageConfigResponse, tonic::Status> {
        let request = wire::ResolveImageConfigRequest {
            r#ref: image.to_owned(),
            resolve_mode: "default".to_owned(),
            ..wire::ResolveImageConfigRequest::default()
        };
        Ok(self
            .client
            .resolve_image_config(request)
            .await?
            .into_inner())
    }

    async fn solve(&mut self, builder: &Builder, state: &State) -> Result<wire::Ref, Failure> {
        let request = wire::SolveRequest {
            definition: Some(builder.definition(state.output, &self.platform)?),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..wire::SolveRequest::default()
        };
        let solved = self.client.solve(request).await?.into_inner();
        match solved.result.and_then(|result| result.result) {
            Some(Refs::Ref(reference)) => Ok(reference),
            other => Err(format!("one result was expected: {other:?}").into()),
        }
    }

    /// What the builtin frontend makes of another file, with the same options.
    async fn dockerfile(&mut self, file: &str) -> Result<Made, Failure> {
        let mut opts = self.opts.clone();
        opts.remove("source");
        opts.insert("filename".to_owned(), file.to_owned());
        let request = wire::SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: opts,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..wire::SolveRequest::default()
        };
        let solved = self.client.solve(request).await?.into_inner();
        let result = solved.result.unwrap();
        Ok(Made {
            refs: result.result,
            metadata: result.metadata,
        })
    }

    /// What a command writes in a container on a result.
    async fn exec(&mut self, root: wire::Ref, command: &str) -> Result<Vec<u8>, Failure> {
        let container = wire::NewContainerRequest {
            container_id: "container".to_owned(),
            mounts: vec![pb::Mount {
                dest: "/".to_owned(),
                result_id: root.id,
                ..pb::Mount::default()
            }],
            ..wire::NewContainerRequest::default()
        };
        self.client.new_container(container).await?;
        let init = Input::Init(wire::InitMessage {
            container_id: "container".to_owned(),
            meta: Some(pb::Meta {
                args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            fds: vec![1],
            ..wire::InitMessage::default()
        });
        let message = wire::ExecMessage {
            process_id: "process".to_owned(),
            input: Some(init),
        };
        let requests = futures_util::stream::once(async { message });
        let mut answers = self.client.exec_process(requests).await?.into_inner();
        let mut written = Vec::new();
        while let Some(answer) = answers.message().await? {
            match answer.input {
                Some(Input::File(file)) => written.extend_from_slice(&file.data),
                Some(Input::Exit(exit)) if exit.code != 0 => {
                    return Err(format!("exit code {}", exit.code).into());
                }
                _ => {}
            }
        }
        Ok(written)
    }
}

fn local(name: &str) -> Source {
    Source::Local(LocalSource {
        name: name.to_owned(),
        session: std::env::var("BUILDKIT_SESSION_ID").ok(),
        ..LocalSource::default()
    })
}

fn copy(from: State) -> FileChange<weld_llb::Output> {
    FileChange::Copy(CopyAction {
        from: from.file_input(),
        src: "/".to_owned(),
        dest: "/context".to_owned(),
        owner: None,
        mode: None,
        follow_symlink: true,
        dir_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: false,
        allow_empty_wildcard: false,
        timestamp: None,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace_existing_dest_paths: false,
        required_paths: Vec::new(),
    })
}

/// The service at the other end of the standard input and of descriptor 3: what the test program itself writes goes elsewhere.
async fn connect() -> Channel {
    let pipes = pipe::OpenOptions::new();
    let streams = Streams {
        from: pipes.open_receiver("/proc/self/fd/0").unwrap(),
        to: pipes.open_sender("/proc/self/fd/3").unwrap(),
    };
    let mut streams = Some(hyper_util::rt::TokioIo::new(streams));
    let connector = tower::service_fn(move |_| {
        let streams = streams.take();
        async move { streams.ok_or_else(|| std::io::Error::other("connected already")) }
    });
    let endpoint = Endpoint::from_static("http://bridge");
    endpoint.connect_with_connector(connector).await.unwrap()
}

struct Streams {
    from: pipe::Receiver,
    to: pipe::Sender,
}

impl AsyncRead for Streams {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.from).poll_read(context, buffer)
    }
}

impl AsyncWrite for Streams {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}
