//! Builds inside of builds, in an engine of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_util::sync::CancellationToken;
use weld_engine::{
    Asked, BuildError, BuildJob, Config, Engine, Entitlement, FrontendResult, HostSession,
    JobRequest, Refs, SolveInput, SolveRequest, SourcePolicies, SourceVerifier,
};
use weld_llb::{
    BuildOp, Builder, Constraints, FileChange, ImageSource, MkfileAction, Op, Output, Platform,
    Run, SecurityMode, Source, State, pb,
};
use weld_proto::Message as _;
use weld_testbed::Registry;

pub(crate) const DEFAULT: &str = "buildkit.llb.definition";

pub(crate) fn registry() -> Arc<Registry> {
    Registry::shared_with_base().unwrap()
}

/// The image, while a world keeps the registry.
pub(crate) fn base() -> String {
    format!("{}/base:latest", registry().host())
}

pub(crate) fn image(builder: &mut Builder) -> State {
    let source = ImageSource {
        reference: base(),
        ..ImageSource::default()
    };
    let source = Source::Image(source);
    State::new(Some(builder.add_source(source, Constraints::new())))
}

pub(crate) fn encoded(builder: &Builder, state: &State) -> pb::Definition {
    builder.definition(state.output, &Platform::host()).unwrap()
}

/// A step on the base image.
pub(crate) fn step(command: &str, security: SecurityMode) -> pb::Definition {
    let mut builder = Builder::new();
    let mut state = image(&mut builder);
    state.security = security;
    let file = builder.add_file("inner.txt", "text", "first line\nsecond line\n");
    let run = Run {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        constraints: Constraints::new().named(format!("inner: {command}")).at(
            file,
            vec![pb::Range {
                start: Some(pb::Position {
                    line: 2,
                    character: 0,
                }),
                end: Some(pb::Position {
                    line: 2,
                    character: 0,
                }),
            }],
        ),
        ..Run::default()
    };
    let state = state.run(&mut builder, run).unwrap().root;
    encoded(&builder, &state)
}

pub(crate) fn run(command: &str) -> pb::Definition {
    step(command, SecurityMode::Sandbox)
}

pub(crate) fn mkfile(path: &str, data: Vec<u8>) -> FileChange<Output> {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode: 0o600,
        data: data.into(),
        owner: None,
        timestamp: None,
    })
}

pub(crate) fn build(builder: &mut Builder, input: &State, file: Option<&str>) -> State {
    let attrs = file.map(|file| ("llbbuild.filename".to_owned(), file.to_owned()));
    let op = BuildOp {
        builder: None,
        inputs: BTreeMap::from([(DEFAULT.to_owned(), input.output.unwrap())]),
        definition: None,
        attrs: attrs.into_iter().collect(),
    };
    let constraints = Constraints::new().named("outer");
    State::new(Some(builder.add(Op::Build(Box::new(op)), constraints)))
}

/// A build of what these changes leave in a file.
pub(crate) fn of_files(changes: Vec<FileChange<Output>>, file: Option<&str>) -> pb::Definition {
    let mut builder = Builder::new();
    let input = State::scratch()
        .file(&mut builder, changes, Constraints::new())
        .unwrap();
    let built = build(&mut builder, &input, file);
    encoded(&builder, &built)
}

/// A build of a definition.
pub(crate) fn nested(inner: &pb::Definition) -> pb::Definition {
    of_files(vec![mkfile(DEFAULT, inner.encode_to_vec())], None)
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) jobs: AtomicU32,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) _registry: Arc<Registry>,
}

/// What a build may do.
#[derive(Default)]
pub(crate) struct Rights {
    pub(crate) entitlements: Vec<Entitlement>,
    pub(crate) policies: SourcePolicies,
    pub(crate) verifier: Option<Arc<dyn SourceVerifier>>,
}

/// A build that is open.
pub(crate) struct Open {
    pub(crate) job: BuildJob,
    pub(crate) result: FrontendResult,
    pub(crate) heard: tokio::task::JoinHandle<Heard>,
}

/// The names of steps that ran and of those that were cached, what they wrote, and the errors that were told.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) ran: BTreeSet<String>,
    pub(crate) cached: BTreeSet<String>,
    pub(crate) log: String,
    pub(crate) errors: Vec<String>,
}

/// What `/out` has, and what was heard.
pub(crate) struct Made {
    pub(crate) out: String,
    pub(crate) heard: Heard,
}

impl std::ops::Deref for Made {
    type Target = Heard;

    fn deref(&self) -> &Heard {
        &self.heard
    }
}

impl Open {
    pub(crate) async fn out(&self) -> String {
        let Refs::Single(Some(reference)) = &self.result.refs else {
            panic!("one result is expected");
        };
        let out = reference.read_file("/out", None).await.unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    pub(crate) async fn close(self) -> Made {
        let out = self.out().await;
        drop(self.result);
        self.job.close().await;
        let heard = self.heard.await.unwrap();
        Made { out, heard }
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("context")).unwrap();
        let config = Config::new(directory.path().join("state"));
        Self {
            engine: Engine::open(config).await.unwrap(),
            jobs: AtomicU32::new(0),
            directory,
            _registry: registry(),
        }
    }

    pub(crate) async fn open(
        &self,
        rights: Rights,
        definition: pb::Definition,
    ) -> Result<Open, BuildError> {
        let never = CancellationToken::new();
        self.open_until(rights, definition, never).await
    }

    pub(crate) async fn open_until(
        &self,
        rights: Rights,
        definition: pb::Definition,
        cancel: CancellationToken,
    ) -> Result<Open, BuildError> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut session = HostSession::new();
        let context = self.directory.path().join("context");
        session.add_directory("context", &context).unwrap();
        let request = JobRequest {
            id: format!("job-{number}"),
            session: session.into_session(),
            entitlements: rights.entitlements,
            asked: Asked::default(),
            source_policies: rights.policies,
            source_verifier: rights.verifier,
            explain: false,
            domain: None,
        };
        let (progress, mut receiver) = weld_progress::channel();
        let heard = tokio::spawn(async move {
            let mut heard = Heard::default();
            while let Some(batch) = receiver.receive().await {
                for vertex in batch.vertexes {
                    heard
                        .errors
                        .extend(Some(vertex.error).filter(|error| !error.is_empty()));
                    match vertex.cached {
                        true => heard.cached.insert(vertex.name),
                        false if vertex.completed.is_some() => heard.ran.insert(vertex.name),
                        false => false,
                    };
                }
                for log in batch.logs {
                    heard.log.push_str(&String::from_utf8_lossy(&log.data));
                }
            }
            heard
        });
        let job = self.engine.open_job(request, progress, cancel).await?;
        let request = SolveRequest {
            input: SolveInput::Definition(definition),
            evaluate: true,
            ..SolveRequest::default()
        };
        let result = job.bridge().solve(request).await?;
        Ok(Open { job, result, heard })
    }

    pub(crate) async fn solve(&self, definition: pb::Definition) -> Made {
        let open = self.open(Rights::default(), definition).await.unwrap();
        open.close().await
    }

    pub(crate) async fn fails(
        &self,
        rights: Rights,
        definition: &pb::Definition,
        parts: &[&str],
    ) -> BuildError {
        let error = self.open(rights, definition.clone()).await;
        let error = error.err().expect("it must not be built");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        error
    }
}
