//! One build, from the request to the response.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use weld_dockerfile::SourceFile;
use weld_dockerfile::convert::{self, HostError, ImageConfig, PlatformBuild, ReadRequest, Request};
use weld_export::{Built, BuiltPlatform, Exporter};
use weld_llb::{Graph, NetMode, Op, SecurityMode};
use weld_op::digest::from_solver;
use weld_op::{Origin, Tree, definition, definition_from, session};
use weld_progress::Sender;
use weld_solver::{Job, JobOptions, ResultRef};

use crate::engine::Engine;
use crate::error::BuildError;
use crate::frontend::{Frontend, ReadTree, read_beneath};
use crate::relay::relay;
use crate::request::{BuildInput, BuildRequest, BuildResponse, Entitlement};

pub(crate) struct Build<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) request: &'a BuildRequest,
    pub(crate) progress: Sender,
    cancel: CancellationToken,
}

/// One result before it is solved.
struct Target {
    graph: Graph,
    no_cache: bool,
    built: BuiltPlatform,
}

struct Targets {
    targets: Vec<Target>,
    is_multi_platform: bool,
    epoch: Option<i64>,
    source: Option<SourceFile>,
}

impl<'a> Build<'a> {
    pub(crate) const fn new(
        engine: &'a Engine,
        request: &'a BuildRequest,
        progress: Sender,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            engine,
            request,
            progress,
            cancel,
        }
    }

    /// Builds and exports.
    pub(crate) async fn run(self) -> Result<BuildResponse, BuildError> {
        for export in &self.request.exports {
            Exporter::validate(export)?;
        }
        let job = self.open_job().await?;
        let events = tokio::spawn(relay(
            job.progress(),
            self.progress.clone(),
            self.engine.explain,
        ));
        let cancel = self.cancel.clone();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(BuildError::Cancelled),
            result = self.solve_and_export(&job) => result,
        };
        job.discard().await;
        // It ends with the job; what it could not pass on is not worth failing for.
        let _ = events.await;
        result
    }

    /// The frontend's definition, encoded.
    pub(crate) async fn definition(self) -> Result<Vec<u8>, BuildError> {
        let job = self.open_job().await?;
        // Whoever solves it later has another session.
        let targets = self.targets(&job, "").await;
        job.discard().await;
        let targets = targets?.targets;
        Ok(targets
            .first()
            .map(|target| target.graph.encode())
            .unwrap_or_default())
    }

    async fn open_job(&self) -> Result<Job<Tree>, BuildError> {
        let mut options = JobOptions::new(self.request.session.id());
        options.session = Some(session::lend(Arc::clone(&self.request.session)));
        Ok(self.engine.solver.new_job(options).await?)
    }

    async fn solve_and_export(&self, job: &Job<Tree>) -> Result<BuildResponse, BuildError> {
        let targets = self.targets(job, self.request.session.id()).await?;
        let mut built = Built {
            platforms: Vec::new(),
            is_multi_platform: targets.is_multi_platform,
            epoch: targets
                .epoch
                .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok()),
        };
        let source = targets.source.as_ref();
        let solved = targets
            .targets
            .iter()
            .map(|target| self.solve(job, target, source));
        let trees = try_all(solved).await?;
        for (target, tree) in targets.targets.into_iter().zip(&trees) {
            let tree = tree.as_ref().and_then(|tree| tree.snapshot().cloned());
            built.platforms.push(BuiltPlatform {
                tree,
                ..target.built
            });
        }
        self.export(&built).await
    }

    /// What is to be solved: the frontend's results, or the definition as it is.
    async fn targets(&self, job: &Job<Tree>, session_id: &str) -> Result<Targets, BuildError> {
        let attrs = match &self.request.input {
            BuildInput::Definition {
                definition,
                no_cache,
            } => {
                let graph = definition.graph().clone();
                self.check(&graph)?;
                let platform = self.engine.worker.platform.clone();
                let built = BuiltPlatform {
                    platform,
                    tree: None,
                    config: None,
                    base_config: None,
                };
                let targets = vec![Target {
                    graph,
                    no_cache: *no_cache,
                    built,
                }];
                return Ok(Targets {
                    targets,
                    is_multi_platform: false,
                    epoch: None,
                    source: None,
                });
            }
            BuildInput::Dockerfile { attrs } => attrs,
        };
        let session = &self.request.session;
        let platform = self.engine.worker.platform.clone();
        let request =
            Request::from_options(attrs, session_id, platform).map_err(BuildError::Option)?;
        let frontend = Frontend {
            worker: &self.engine.worker,
            session,
            progress: &self.progress,
            reader: &Reader {
                engine: self.engine,
                job,
            },
        };
        let converted = convert::build(&frontend, &request).await?;
        let epoch = converted.results.first().and_then(|result| result.epoch);
        let targets = converted
            .results
            .into_iter()
            .map(|result| self.target(result))
            .collect::<Result<_, _>>()?;
        Ok(Targets {
            targets,
            is_multi_platform: converted.multi_platform,
            epoch,
            source: Some(converted.source),
        })
    }

    fn target(&self, result: PlatformBuild) -> Result<Target, BuildError> {
        let graph = Graph::from_pb(result.definition)?;
        self.check(&graph)?;
        let encoded = |config: &ImageConfig| serde_json::to_vec(config).ok();
        Ok(Target {
            graph,
            no_cache: false,
            built: BuiltPlatform {
                platform: result.platform,
                tree: None,
                config: encoded(&result.image),
                base_config: result.base_image.as_ref().and_then(encoded),
            },
        })
    }

    /// Whether the client allows all that the definition's steps do.
    fn check(&self, graph: &Graph) -> Result<(), BuildError> {
        for vertex in graph.vertices() {
            let Op::Exec(exec) = vertex.op() else {
                continue;
            };
            let needs = [
                (exec.network == NetMode::Host, Entitlement::NetworkHost),
                (
                    exec.security == SecurityMode::Insecure,
                    Entitlement::SecurityInsecure,
                ),
            ];
            for (needed, entitlement) in needs {
                if needed && !self.request.entitlements.contains(&entitlement) {
                    return Err(BuildError::Entitlement {
                        step: graph.name(vertex),
                        entitlement,
                    });
                }
            }
        }
        Ok(())
    }

    async fn solve(
        &self,
        job: &Job<Tree>,
        target: &Target,
        source: Option<&SourceFile>,
    ) -> Result<Option<ResultRef<Tree>>, BuildError> {
        let Some(definition) = definition_from(
            &self.engine.worker,
            &target.graph,
            target.no_cache,
            self.origin(),
        )?
        else {
            return Ok(None);
        };
        match job.solve(definition).await {
            Ok(built) => Ok(Some(built.value)),
            Err(failure) => Err(match BuildError::from(failure) {
                BuildError::Solve { failure, .. } => {
                    let excerpt =
                        source.and_then(|source| excerpt(&target.graph, &failure, source));
                    BuildError::Solve { failure, excerpt }
                }
                other => other,
            }),
        }
    }

    /// What tells this build's steps from those of other projects.
    fn origin(&self) -> Origin {
        let BuildInput::Dockerfile { attrs } = &self.request.input else {
            return Origin::default();
        };
        let directory = |name: &str| self.request.session.directory_identity(name);
        let main = ["context", "dockerfile"].map(|name| directory(name).unwrap_or_default());
        let chosen = ["context", "filename", "contextsubdir"]
            .map(|name| attrs.get(name).map(String::as_str).unwrap_or_default());
        Origin {
            scope: [main.join("\n"), chosen.join("\n")].join("\n"),
            build_args: attrs
                .keys()
                .filter_map(|key| key.strip_prefix("build-arg:"))
                .map(str::to_owned)
                .collect(),
        }
    }

    async fn export(&self, built: &Built) -> Result<BuildResponse, BuildError> {
        crate::export::all(self, built).await
    }

    pub(crate) const fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }
}

/// The lines that the failed step comes from.
fn excerpt(
    graph: &Graph,
    failure: &weld_solver::SolveError<Tree>,
    source: &SourceFile,
) -> Option<String> {
    let weld_solver::Failure::Op { failure, .. } = failure else {
        return None;
    };
    let digest = from_solver(failure.vertex);
    let index = graph
        .vertices()
        .iter()
        .position(|vertex| *vertex.digest() == digest)?;
    let range = graph.locations(index).first()?.ranges.first()?;
    let line = |position: Option<&weld_llb::Position>| u32::try_from(position?.line).ok();
    let start = line(range.start.as_ref())?;
    let end = line(range.end.as_ref()).unwrap_or(start).max(start);
    source.excerpt(weld_dockerfile::LineRange::new(start, end))
}

/// Awaits all at once; the first error ends the others.
async fn try_all<T, F>(futures: impl Iterator<Item = F>) -> Result<Vec<T>, BuildError>
where
    F: Future<Output = Result<T, BuildError>>,
{
    futures_util::future::try_join_all(futures).await
}

/// Builds what the frontend wants to read.
struct Reader<'a> {
    engine: &'a Engine,
    job: &'a Job<Tree>,
}

#[async_trait]
impl ReadTree for Reader<'_> {
    async fn read(&self, request: ReadRequest<'_>) -> Result<Vec<Option<Bytes>>, HostError> {
        let graph = Graph::from_pb(request.definition.clone())?;
        let Some(definition) = definition(&self.engine.worker, &graph, false)? else {
            return Ok(vec![None; request.paths.len()]);
        };
        let built = self.job.solve(definition).await?;
        let Some(snapshot) = built.value.snapshot().cloned() else {
            return Ok(vec![None; request.paths.len()]);
        };
        let (paths, limit) = (request.paths.to_vec(), request.limit);
        let read = tokio::task::spawn_blocking(move || -> Result<_, HostError> {
            let root = snapshot.root()?;
            Ok(read_beneath(&root, &paths, limit)?)
        });
        read.await?
    }
}
