//! What builds share and what they do not: isolation domains, and steps that are never merged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use weld_engine::{
    Asked, BuildError, Config, Engine, HostSession, JobRequest, Refs, SolveInput, SolveRequest,
    SourcePolicies,
};
use weld_fileset::SelectionOptions;
use weld_llb::{
    Builder, CacheSharingOpt, Constraints, CopyAction, FileChange, ImageSource, LocalSource,
    MountSpec, Platform, Run, Source, State, pb,
};
use weld_op::session::{Agent, Layout, Secret, Session, SessionError};
use weld_progress::Vertex;
use weld_source::local::TreeProvider;
use weld_source::registry::{Credential, Credentials, CredentialsError};
use weld_testbed::Registry;

fn registry() -> Arc<Registry> {
    Registry::shared_with_base().unwrap()
}

/// The image, while a world keeps the registry.
fn base() -> String {
    format!("{}/base", registry().host())
}

struct World {
    engine: Engine,
    jobs: AtomicU32,
    directory: tempfile::TempDir,
    _registry: Arc<Registry>,
}

/// What a build made of `/out`, and the names of its steps that were cached.
struct Made {
    out: String,
    cached: BTreeSet<String>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("context")).unwrap();
        std::fs::write(directory.path().join("context/file"), "hello").unwrap();
        let ignore = "Dockerfile-*\n.dockerignore";
        std::fs::write(directory.path().join("context/.dockerignore"), ignore).unwrap();
        let config = Config::new(directory.path().join("state"));
        Self {
            engine: Engine::open(config).await.unwrap(),
            jobs: AtomicU32::new(0),
            directory,
            _registry: registry(),
        }
    }

    /// A session that offers the context, also as the directory of the Dockerfile.
    fn session(&self) -> HostSession {
        let context = self.directory.path().join("context");
        let mut session = HostSession::new();
        session.add_directory("context", &context).unwrap();
        session.add_directory("dockerfile", &context).unwrap();
        session
    }

    /// Writes a Dockerfile of its own, and says how it is asked for.
    fn write(&self, text: &str) -> impl Fn() -> SolveInput + use<> {
        let file = format!("Dockerfile-{}", self.jobs.fetch_add(1, Ordering::Relaxed));
        std::fs::write(self.directory.path().join("context").join(&file), text).unwrap();
        move || SolveInput::Frontend {
            name: "dockerfile.v0".to_owned(),
            opts: BTreeMap::from([("filename".to_owned(), file.clone())]),
            inputs: BTreeMap::new(),
        }
    }

    async fn dockerfile(&self, domain: Option<&str>, text: &str) -> Made {
        let input = self.write(text);
        self.solve(domain, |_| input()).await.unwrap()
    }

    /// Solves what `input` makes of the session's id.
    async fn solve(
        &self,
        domain: Option<&str>,
        input: impl FnOnce(&str) -> SolveInput,
    ) -> Result<Made, BuildError> {
        let session = self.session().into_session();
        self.solve_in(domain, session, input).await
    }

    async fn solve_in(
        &self,
        domain: Option<&str>,
        session: Arc<dyn Session>,
        input: impl FnOnce(&str) -> SolveInput,
    ) -> Result<Made, BuildError> {
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let input = input(session.id());
        let request = JobRequest {
            id: format!("job-{number}"),
            session,
            entitlements: Vec::new(),
            asked: Asked::default(),
            source_policies: SourcePolicies::default(),
            source_verifier: None,
            explain: false,
            domain: domain.map(str::to_owned),
        };
        let (progress, mut heard) = weld_progress::channel();
        let listening = tokio::spawn(async move {
            let mut vertices = Vec::new();
            while let Some(batch) = heard.receive().await {
                vertices.extend(batch.vertexes);
            }
            vertices
        });
        let job = self
            .engine
            .open_job(request, progress, CancellationToken::new())
            .await?;
        let request = SolveRequest {
            input,
            ..SolveRequest::default()
        };
        let result = job.bridge().solve(request).await?;
        let Refs::Single(Some(reference)) = &result.refs else {
            panic!("one result is expected");
        };
        let out = reference.read_file("/out", None).await?;
        let out = String::from_utf8(out.to_vec()).unwrap();
        drop(result);
        job.close().await;
        let vertices: Vec<Vertex> = listening.await.unwrap();
        let cached = vertices.into_iter().filter(|vertex| vertex.cached);
        Ok(Made {
            out,
            cached: cached.map(|vertex| vertex.name).collect(),
        })
    }
}

impl Made {
    fn has_cached(&self, part: &str) -> bool {
        self.cached.iter().any(|name| name.contains(part))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn domains_share_base_images_and_nothing_that_was_built_on_them() {
    let world = World::new().await;
    let text = format!(
        "FROM {}\nCOPY file /file\nRUN cat /proc/sys/kernel/random/uuid >/out",
        base()
    );
    let first = world.dockerfile(Some("a"), &text).await;
    assert!(!first.has_cached("FROM"), "{:?}", first.cached);
    let again = world.dockerfile(Some("a"), &text).await;
    assert_eq!(first.out, again.out);
    for domain in [Some("b"), None] {
        let other = world.dockerfile(domain, &text).await;
        assert_ne!(other.out, first.out, "{domain:?}");
        assert!(!other.has_cached("COPY"), "{:?}", other.cached);
        assert!(other.has_cached("FROM"), "{:?}", other.cached);
        let again = world.dockerfile(domain, &text).await;
        assert_eq!(other.out, again.out, "{domain:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_that_of_the_client_that_asks_for_it() {
    let world = World::new().await;
    // The same words for both, which wait for each other.
    let mut builder = Builder::new();
    let local = Source::Local(LocalSource {
        name: "mine".to_owned(),
        ..LocalSource::default()
    });
    let local = State::new(Some(builder.add_source(local, Constraints::new())));
    let base = Source::Image(ImageSource {
        reference: base(),
        ..ImageSource::default()
    });
    let base = State::new(Some(builder.add_source(base, Constraints::new())));
    let copy = CopyAction::new(local.file_input(), "/out", "/out");
    let copied = base
        .file(
            &mut builder,
            vec![FileChange::Copy(copy)],
            Constraints::new(),
        )
        .unwrap();
    let waits = Run {
        args: ["/bin/sh", "-c", "sleep 0.5"].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let run = copied.run(&mut builder, waits).unwrap().root;
    let definition = builder.definition(run.output, &Platform::host()).unwrap();
    let builds = ["one", "two"].map(|who| {
        let directory = world.directory.path().join(who);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("out"), who).unwrap();
        let mut session = HostSession::new();
        session.add_directory("mine", &directory).unwrap();
        let definition = definition.clone();
        world.solve_in(None, session.into_session(), move |_| {
            SolveInput::Definition(definition)
        })
    });
    let made = futures_util::future::join_all(builds).await;
    let made: Vec<_> = made.into_iter().map(|made| made.unwrap().out).collect();
    assert_eq!(made, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_mount_belongs_to_its_domain() {
    let world = World::new().await;
    let step = |number: u32| {
        format!(
            "FROM {}\nRUN --mount=type=cache,target=/c echo {number} >>/c/log && cp /c/log /out",
            base()
        )
    };
    assert_eq!(world.dockerfile(Some("a"), &step(1)).await.out, "1\n");
    assert_eq!(world.dockerfile(Some("b"), &step(2)).await.out, "2\n");
    assert_eq!(world.dockerfile(None, &step(3)).await.out, "3\n");
    assert_eq!(world.dockerfile(Some("a"), &step(4)).await.out, "1\n4\n");
}

/// A step that ends when two runs of it are under way at once. `/out` is another one for each.
const TWICE: &str = "cat /proc/sys/kernel/random/uuid >/out && touch /c/$(cat /out) && n=0 && \
                     while [ $(ls /c | wc -l) -lt 2 ]; do n=$((n+1)); [ $n -lt 600 ] || exit 7; sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_dockerfile_that_is_never_merged_runs_for_each_build() {
    let world = World::new().await;
    let text = format!(
        "FROM {}\nCOPY file /file\n# weld:merge=never\nRUN --mount=type=cache,target=/c {TWICE}",
        base()
    );
    let input = world.write(&text);
    let build = || world.solve(None, |_| input());
    let (first, second) = tokio::join!(build(), build());
    assert_ne!(first.unwrap().out, second.unwrap().out);
}

/// The same as LLB, as a client of `buildctl`'s kind sends it: each session's directory is a source of its own.
fn never_merged(session: &str) -> pb::Definition {
    let mut builder = Builder::new();
    let image = builder.add_source(
        Source::Image(ImageSource {
            reference: base(),
            ..ImageSource::default()
        }),
        Constraints::default(),
    );
    let context = builder.add_source(
        Source::Local(LocalSource {
            name: "context".to_owned(),
            session: Some(session.to_owned()),
            ..LocalSource::default()
        }),
        Constraints::default(),
    );
    let root = State::new(Some(image));
    let copy = CopyAction::new(State::new(Some(context)).file_input(), "/file", "/file");
    let copied = root
        .file(
            &mut builder,
            vec![FileChange::Copy(copy)],
            Constraints::default(),
        )
        .unwrap();
    let run = Run {
        args: ["/bin/sh", "-c", TWICE].map(str::to_owned).to_vec(),
        mounts: vec![MountSpec::Cache {
            target: "/c".to_owned(),
            source: None,
            selector: String::new(),
            id: "twice".to_owned(),
            sharing: CacheSharingOpt::Shared,
            readonly: false,
        }],
        constraints: Constraints::default().described("weld.merge", "never"),
        ..Run::default()
    };
    let done = copied.run(&mut builder, run).unwrap().root;
    builder.definition(done.output, &Platform::host()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vertex_of_a_definition_that_is_never_merged_runs_for_each_build() {
    let world = World::new().await;
    let build = || world.solve(None, |id| SolveInput::Definition(never_merged(id)));
    let (first, second) = tokio::join!(build(), build());
    assert_ne!(first.unwrap().out, second.unwrap().out);
}

/// A client's session, with credentials of its own.
struct Known(Arc<dyn Session>, Option<Credential>);

#[async_trait]
impl Session for Known {
    fn id(&self) -> &str {
        // Chosen by the client: it may be that of somebody else.
        "the-same"
    }

    async fn directory(
        &self,
        name: &str,
        selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, SessionError> {
        self.0.directory(name, selection).await
    }

    async fn layout(&self, name: &str) -> Result<Option<Layout>, SessionError> {
        self.0.layout(name).await
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        self.0.secret(id).await
    }

    async fn agent(&self, id: &str) -> Result<Option<Agent>, SessionError> {
        self.0.agent(id).await
    }

    fn credentials(&self) -> Arc<dyn Credentials> {
        Arc::new(Known(Arc::clone(&self.0), self.1.clone()))
    }
}

#[async_trait]
impl Credentials for Known {
    async fn get(&self, _host: &str) -> Result<Credential, CredentialsError> {
        Ok(self.1.clone().unwrap_or(Credential::Anonymous))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_named_by_digest_is_given_to_no_domain_that_may_not_have_it() {
    let registry = Registry::start_private().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("base");
    let busybox = weld_testbed::static_busybox().expect("Debian's busybox-static");
    weld_testbed::write_base_image(&layout, &busybox).unwrap();
    registry.push_layout(&layout, "latest", "base").unwrap();
    let index = std::fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let pinned = format!("{}/base@{digest}", registry.host());

    let world = World::new().await;
    let input = world.write(&format!(
        "FROM {pinned}\nRUN cat /proc/sys/kernel/random/uuid >/out"
    ));
    let member = Credential::Basic {
        username: Registry::USER.to_owned(),
        password: weld_source::Secret::new(Registry::PASSWORD),
    };
    let build = |domain, credential: Option<&Credential>| {
        let session = world.session().into_session();
        let session = Arc::new(Known(session, credential.cloned()));
        world.solve_in(domain, session, |_| input())
    };
    let made = build(Some("a"), Some(&member)).await.unwrap();
    for stranger in [Some("b"), None] {
        let refused = build(stranger, None).await.err().expect("no access");
        let refused = refused.to_string();
        assert!(refused.contains(&digest), "{refused}");
    }
    // Who is let in finds it there.
    for domain in [Some("b"), None] {
        let other = build(domain, Some(&member)).await.unwrap();
        assert!(other.has_cached("FROM"), "{:?}", other.cached);
        assert_ne!(other.out, made.out);
    }
    let again = build(Some("a"), Some(&member)).await.unwrap();
    assert_eq!(again.out, made.out);
    // What the domain without a name was given is not given to others either.
    assert!(build(Some("c"), None).await.is_err());
}
