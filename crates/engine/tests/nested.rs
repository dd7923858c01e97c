//! Builds inside of builds: a definition in a file of an input is built, and may do what the outer build may.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use weld_engine::{
    Asked, BuildError, BuildJob, Config, Engine, Entitlement, FrontendResult, HostSession,
    JobRequest, ProvenanceOptions, Refs, SolveInput, SolveRequest, SourcePolicies, SourceQuestion,
    SourceVerdict, SourceVerifier, VerifierError,
};
use weld_llb::{
    BuildOp, Builder, Constraints, FileChange, ImageSource, LocalSource, MkfileAction, Op, Output,
    Platform, Run, SecurityMode, Source, State, SymlinkAction, pb,
};
use weld_proto::Message as _;
use weld_proto::sourcepolicy::{MatchType, Policy, PolicyAction, Rule, Selector};
use weld_testbed::Registry;

const DEFAULT: &str = "buildkit.llb.definition";

fn registry() -> Arc<Registry> {
    Registry::shared_with_base().unwrap()
}

/// The image, while a world keeps the registry.
fn base() -> String {
    format!("{}/base:latest", registry().host())
}

fn image(builder: &mut Builder) -> State {
    let source = ImageSource {
        reference: base(),
        ..ImageSource::default()
    };
    let source = Source::Image(source);
    State::new(Some(builder.add_source(source, Constraints::new())))
}

fn encoded(builder: &Builder, state: &State) -> pb::Definition {
    builder.definition(state.output, &Platform::host()).unwrap()
}

/// A step on the base image.
fn step(command: &str, security: SecurityMode) -> pb::Definition {
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

fn run(command: &str) -> pb::Definition {
    step(command, SecurityMode::Sandbox)
}

fn mkfile(path: &str, data: Vec<u8>) -> FileChange<Output> {
    FileChange::Mkfile(MkfileAction {
        path: path.to_owned(),
        mode: 0o600,
        data: data.into(),
        owner: None,
        timestamp: None,
    })
}

fn build(builder: &mut Builder, input: &State, file: Option<&str>) -> State {
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
fn of_files(changes: Vec<FileChange<Output>>, file: Option<&str>) -> pb::Definition {
    let mut builder = Builder::new();
    let input = State::scratch()
        .file(&mut builder, changes, Constraints::new())
        .unwrap();
    let built = build(&mut builder, &input, file);
    encoded(&builder, &built)
}

/// A build of a definition.
fn nested(inner: &pb::Definition) -> pb::Definition {
    of_files(vec![mkfile(DEFAULT, inner.encode_to_vec())], None)
}

struct World {
    engine: Engine,
    jobs: AtomicU32,
    directory: tempfile::TempDir,
    _registry: Arc<Registry>,
}

/// What a build may do.
#[derive(Default)]
struct Rights {
    entitlements: Vec<Entitlement>,
    policies: SourcePolicies,
    verifier: Option<Arc<dyn SourceVerifier>>,
}

/// A build that is open.
struct Open {
    job: BuildJob,
    result: FrontendResult,
    heard: tokio::task::JoinHandle<Heard>,
}

/// The names of steps that ran and of those that were cached, what they wrote, and the errors that were told.
#[derive(Default)]
struct Heard {
    ran: BTreeSet<String>,
    cached: BTreeSet<String>,
    log: String,
    errors: Vec<String>,
}

/// What `/out` has, and what was heard.
struct Made {
    out: String,
    heard: Heard,
}

impl std::ops::Deref for Made {
    type Target = Heard;

    fn deref(&self) -> &Heard {
        &self.heard
    }
}

impl Open {
    async fn out(&self) -> String {
        let Refs::Single(Some(reference)) = &self.result.refs else {
            panic!("one result is expected");
        };
        let out = reference.read_file("/out", None).await.unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    async fn close(self) -> Made {
        let out = self.out().await;
        drop(self.result);
        self.job.close().await;
        let heard = self.heard.await.unwrap();
        Made { out, heard }
    }
}

impl World {
    async fn new() -> Self {
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

    async fn open(&self, rights: Rights, definition: pb::Definition) -> Result<Open, BuildError> {
        let never = CancellationToken::new();
        self.open_until(rights, definition, never).await
    }

    async fn open_until(
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

    async fn solve(&self, definition: pb::Definition) -> Made {
        let open = self.open(Rights::default(), definition).await.unwrap();
        open.close().await
    }

    async fn fails(
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_of_an_input_says_is_built_shown_and_cached_as_a_whole() {
    let world = World::new().await;
    let inner = run("cat /proc/sys/kernel/random/uuid >/out");
    let first = world.solve(nested(&inner)).await;
    let name = "inner: cat /proc/sys/kernel/random/uuid >/out";
    assert!(first.ran.contains(name), "{:?}", first.ran);
    assert!(first.ran.contains("outer"), "{:?}", first.ran);
    let again = world.solve(nested(&inner)).await;
    assert_eq!(again.out, first.out);
    assert!(again.cached.contains("outer"), "{:?}", again.cached);
    assert!(!again.cached.contains(name), "{:?}", again.cached);
    // The inner steps are steps like others: from elsewhere, they are found.
    let file = of_files(vec![mkfile("other", inner.encode_to_vec())], Some("other"));
    let elsewhere = world.solve(file).await;
    assert_eq!(elsewhere.out, first.out);
    assert!(elsewhere.cached.contains(name), "{:?}", elsewhere.cached);
    assert_eq!(world.solve(inner).await.out, first.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_can_be_built_on_and_come_from_a_step() {
    let world = World::new().await;
    let context = world.directory.path().join("context");
    let mut builder = Builder::new();
    let local = Source::Local(LocalSource {
        name: "context".to_owned(),
        ..LocalSource::default()
    });
    let local = State::new(Some(builder.add_source(local, Constraints::new())));
    let built = build(&mut builder, &local, Some("sub/definition"));
    let command = "cat /out /out >/twice && mv /twice /out";
    let on_top = Run {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let on_top = built.run(&mut builder, on_top).unwrap().root;
    let definition = encoded(&builder, &on_top);
    std::fs::create_dir(context.join("sub")).unwrap();
    for text in ["one", "two"] {
        let inner = run(&format!("printf {text} >/out"));
        std::fs::write(context.join("sub/definition"), inner.encode_to_vec()).unwrap();
        assert_eq!(world.solve(definition.clone()).await.out, text.repeat(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_found_beneath_the_root_of_its_input_only() {
    let world = World::new().await;
    let link = |to: &str| {
        FileChange::Symlink(SymlinkAction {
            path: "/link".to_owned(),
            target: to.to_owned(),
            owner: None,
            timestamp: None,
        })
    };
    let inner = run("echo found >/out").encode_to_vec();
    let within = of_files(
        vec![mkfile("/file", inner.clone()), link("/../file")],
        Some("link"),
    );
    assert_eq!(world.solve(within).await.out, "found\n");
    let above = of_files(vec![mkfile("/file", inner.clone())], Some("../../file"));
    assert_eq!(world.solve(above).await.out, "found\n");

    let outside = world.directory.path().join("outside");
    std::fs::write(&outside, &inner).unwrap();
    let outside = of_files(vec![link(outside.to_str().unwrap())], Some("link"));
    let parts = ["outer: ", "link", "no such file"];
    world.fails(Rights::default(), &outside, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_definition_is_told_with_its_place() {
    let world = World::new().await;
    let no_file = of_files(vec![mkfile("file", Vec::new())], None);
    let garbage = of_files(vec![mkfile("file", b"garbage".to_vec())], Some("file"));
    let directory = of_files(vec![mkfile("file", Vec::new())], Some("/"));
    let unknown = pb::Definition {
        def: vec![pb::Op::default().encode_to_vec().into(); 2],
        ..pb::Definition::default()
    };
    for (definition, parts) in [
        (no_file, ["outer: ", DEFAULT, "no such file"]),
        (garbage, ["outer: ", "file: ", "invalid LLB definition"]),
        (directory, ["outer: ", "/: ", "is not a regular file"]),
        (
            nested(&unknown),
            ["outer: ", DEFAULT, "invalid LLB definition"],
        ),
    ] {
        world.fails(Rights::default(), &definition, &parts).await;
    }

    let mut builder = Builder::new();
    let command = "truncate -s 17M /large";
    let sparse = Run {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let sparse = image(&mut builder).run(&mut builder, sparse).unwrap().root;
    let large = build(&mut builder, &sparse, Some("large"));
    let parts = ["outer: large: ", "17825792 bytes"];
    world
        .fails(Rights::default(), &encoded(&builder, &large), &parts)
        .await;

    // A definition without steps is an empty file system.
    let empty = nested(&pb::Definition::default());
    let open = world.open(Rights::default(), empty).await.unwrap();
    open.job.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_definitions_build() {
    let world = World::new().await;
    let mut builder = Builder::new();
    let files = vec![mkfile(DEFAULT, run("true").encode_to_vec())];
    let input = State::scratch().file(&mut builder, files, Constraints::new());
    let input = input.unwrap();
    let op = |builder, name: &str| {
        Op::Build(Box::new(BuildOp {
            builder,
            inputs: BTreeMap::from([(name.to_owned(), input.output.unwrap())]),
            definition: None,
            attrs: BTreeMap::new(),
        }))
    };
    for (op, part) in [
        (
            op(input.output, DEFAULT),
            "a builder of its own is not supported",
        ),
        (op(None, "other"), "no input buildkit.llb.definition"),
    ] {
        let mut builder = builder.clone();
        let built = builder.add(op, Constraints::new());
        let definition = encoded(&builder, &State::new(Some(built)));
        world
            .fails(Rights::default(), &definition, &["build: ", part])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_inner_step_is_told_with_its_own_place() {
    let world = World::new().await;
    let definition = nested(&nested(&run("exit 3")));
    let parts = ["outer: ", DEFAULT, "inner: exit 3", "exit code: 3"];
    let error = world.fails(Rights::default(), &definition, &parts).await;
    assert_eq!(error.exit_code(), Some(3));
    let excerpt = error.source_excerpt().unwrap();
    assert!(
        excerpt.contains("inner.txt") && excerpt.contains("second line"),
        "{excerpt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_are_inside_of_each_other_to_a_limit() {
    let world = World::new().await;
    let at_depth = |depth| (0..depth).fold(run("echo deep >/out"), |inner, _| nested(&inner));
    assert_eq!(world.solve(at_depth(16)).await.out, "deep\n");
    let parts = ["inside of 16 other builds"];
    // Another text: what was built before is found.
    let deeper = (0..17).fold(run("echo deeper >/out"), |inner, _| nested(&inner));
    world.fails(Rights::default(), &deeper, &parts).await;
}

fn insecure() -> Rights {
    Rights {
        entitlements: vec![Entitlement::SecurityInsecure],
        ..Rights::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_step_has_no_rights_that_the_outer_build_lacks() {
    let world = World::new().await;
    let definition = nested(&nested(&step("echo free >/out", SecurityMode::Insecure)));
    let parts = [
        "outer: ",
        DEFAULT,
        "inner: ",
        "security.insecure is not allowed",
    ];
    let error = world.fails(Rights::default(), &definition, &parts).await;
    let excerpt = error.source_excerpt().unwrap();
    assert!(excerpt.contains("second line"), "{excerpt}");
    let allowed = world.open(insecure(), definition.clone()).await.unwrap();
    // Neither what runs now nor what ran before is for those who may not.
    world.fails(Rights::default(), &definition, &parts).await;
    assert_eq!(allowed.close().await.out, "free\n");
    world.fails(Rights::default(), &definition, &parts).await;
    let again = world.open(insecure(), definition).await.unwrap();
    assert!(again.close().await.cached.contains("outer"));
}

fn denied() -> Rights {
    let policy = Policy {
        version: 1,
        rules: vec![Rule {
            action: PolicyAction::Deny.into(),
            selector: Some(Selector {
                identifier: format!("docker-image://{}", base()),
                match_type: MatchType::Exact.into(),
                constraints: Vec::new(),
            }),
            updates: None,
        }],
    };
    Rights {
        policies: SourcePolicies::new(vec![policy]).unwrap(),
        ..Rights::default()
    }
}

/// Allows sources that have this in their names.
struct Allows(&'static str);

#[async_trait]
impl SourceVerifier for Allows {
    async fn verify(&self, question: SourceQuestion) -> Result<SourceVerdict, VerifierError> {
        Ok(match question.source.identifier.contains(self.0) {
            true => SourceVerdict::Allow,
            false => SourceVerdict::Deny {
                action: "DENY".to_owned(),
                messages: vec!["not that one".to_owned()],
            },
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_definition_has_no_sources_that_the_outer_build_may_not_use() {
    let world = World::new().await;
    let definition = nested(&run("echo fetched >/out"));
    let open = world
        .open(Rights::default(), definition.clone())
        .await
        .unwrap();
    let parts = ["outer: ", DEFAULT, "denied by policy"];
    world.fails(denied(), &definition, &parts).await;
    assert_eq!(open.close().await.out, "fetched\n");
    world.fails(denied(), &definition, &parts).await;

    let verified = |part| Rights {
        verifier: Some(Arc::new(Allows(part))),
        ..Rights::default()
    };
    let open = world.open(verified("/base"), definition.clone()).await;
    let open = open.unwrap();
    let parts = ["outer: ", DEFAULT, "not allowed by policy"];
    let error = world.fails(verified("nothing"), &definition, &parts).await;
    assert_eq!(error.forbidden().unwrap(), ["not that one"]);
    assert_eq!(open.close().await.out, "fetched\n");
    world.fails(verified("nothing"), &definition, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_knows_what_an_inner_build_was_made_of_if_it_ran() {
    let world = World::new().await;
    let definition = nested(&run("echo made >/out"));
    for (ran, complete) in [(true, true), (false, false)] {
        let open = world.open(Rights::default(), definition.clone()).await;
        let open = open.unwrap();
        let options = ProvenanceOptions::default();
        let documents = open.job.provenance(&open.result, &options).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&documents[0].1).unwrap();
        let materials = document["buildDefinition"]["resolvedDependencies"].to_string();
        let base = base().replace(":latest", "");
        assert_eq!(
            materials.contains(base.split('/').nth(1).unwrap()),
            ran,
            "{materials}"
        );
        let completeness = &document["runDetails"]["metadata"]["buildkit_completeness"];
        assert_eq!(completeness["resolvedDependencies"], complete, "{document}");
        open.job.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_inside_of_two_goes_on_when_the_first_is_cancelled() {
    let world = World::new().await;
    // The definition comes late, out of a step that both wait for.
    let mut builder = Builder::new();
    let late = Run {
        args: ["/bin/sleep", "1.5"].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let late = image(&mut builder).run(&mut builder, late).unwrap().root;
    let inner = run("echo inner > /out").encode_to_vec();
    let late = late
        .file(
            &mut builder,
            vec![mkfile(DEFAULT, inner)],
            Constraints::new(),
        )
        .unwrap();
    let built = build(&mut builder, &late, None);
    let definition = encoded(&builder, &built);
    let cancel = CancellationToken::new();
    let first = world.open_until(Rights::default(), definition.clone(), cancel.clone());
    let second = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.solve(definition.clone()).await
    };
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, second, cancelled);
    assert!(first.is_err_and(|error| error.is_cancelled()));
    assert_eq!(second.out, "inner\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_step_goes_on_when_the_first_of_two_is_cancelled() {
    let world = World::new().await;
    let definition = nested(&run("echo begun; sleep 1.5; echo ended; echo inner > /out"));
    let cancel = CancellationToken::new();
    let first = world.open_until(Rights::default(), definition.clone(), cancel.clone());
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.solve(definition.clone()).await
    };
    let cancelled = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, second, cancelled);
    assert!(first.is_err_and(|error| error.is_cancelled()));
    assert_eq!(second.out, "inner\n");
    assert_eq!(second.log, "begun\nended\n");
    assert_eq!(second.errors, [""; 0]);
}

/// Builds that share one inside of them, of which some are cancelled at any moment: the others hear all of it, once.
/// `WELD_TEST_ROUNDS` has it done more often.
#[tokio::test(flavor = "multi_thread")]
async fn who_shares_an_inner_build_hears_all_of_it_whoever_goes() {
    let rounds = std::env::var("WELD_TEST_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(8, |rounds| rounds.parse().unwrap());
    let world = World::new().await;
    for round in 0..rounds {
        let inner = run(&format!(
            "echo begun {round}; sleep 0.3; echo ended; echo inner > /out"
        ));
        let definition = nested(&inner);
        let builds = (0..4_u64).map(|number| {
            let (world, definition) = (&world, definition.clone());
            // Spread over the whole build, and not in step with anything.
            let moment =
                move |prime: u64| Duration::from_millis((round * prime + number * 211) % 500);
            async move {
                let cancel = CancellationToken::new();
                tokio::time::sleep(moment(37) / 2).await;
                let build = world.open_until(Rights::default(), definition, cancel.clone());
                if number % 2 == 1 {
                    let built = build.await.unwrap().close().await;
                    assert_eq!(built.out, "inner\n");
                    return Some(built.heard);
                }
                let cancelled = async {
                    tokio::time::sleep(moment(53)).await;
                    cancel.cancel();
                };
                if let (Ok(open), ()) = tokio::join!(build, cancelled) {
                    open.job.close().await;
                }
                None
            }
        });
        let heard = futures_util::future::join_all(builds).await;
        let log = format!("begun {round}\nended\n");
        for heard in heard.into_iter().flatten() {
            assert_eq!(heard.errors, [""; 0], "round {round}");
            // One that came when all was done heard of a cached step.
            let all = match heard.cached.contains("outer") {
                true => "",
                false => &log,
            };
            assert_eq!(heard.log, all, "round {round}");
        }
    }
}
