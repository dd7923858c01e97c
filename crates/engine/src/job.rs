//! One build of a client: what its frontends work through, and its results on their way out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weld_export::{Built, BuiltPlatform, ExportRequest, Exporter};
use weld_llb::{Graph, NetMode, Op, SecurityMode};
use weld_op::lazy::Need;
use weld_op::{Tree, Worker, session};
use weld_progress::Sender;
use weld_solver::{Job, JobOptions, Solver};

use crate::bridge::Bridge;
use crate::cache::{self, CacheExport, Imports};
use crate::engine::Engine;
use crate::error::BuildError;
use crate::frontend::Frontends;
use crate::internal::Internal;
use crate::metadata::{self, SOURCE_DATE_EPOCH};
use crate::platforms;
use crate::reference::Ref;
use crate::relay::relay;
use crate::request::{BuildResponse, Entitlement};
use crate::result::{FrontendResult, Refs};

/// A build that a client opens.
pub struct JobRequest {
    /// Tells the build from all others that are open: the client's name for it.
    pub id: String,
    /// What the client offers: directories, secrets, agents, credentials.
    pub session: Arc<dyn session::Session>,
    /// What steps may do that they must not do by default.
    pub entitlements: Vec<Entitlement>,
}

/// An open build. Dropping it ends it as [`BuildJob::close`] does, without waiting.
pub struct BuildJob {
    core: Arc<JobCore>,
    events: Option<JoinHandle<()>>,
}

/// What a build has, shared by all that work for it.
pub(crate) struct JobCore {
    pub(crate) worker: Arc<Worker>,
    pub(crate) exporter: Exporter,
    pub(crate) frontends: Frontends,
    pub(crate) session: Arc<dyn session::Session>,
    pub(crate) entitlements: Vec<Entitlement>,
    pub(crate) progress: Sender,
    /// Loads what caches are made of.
    pub(crate) solver: Solver<Tree>,
    /// The caches that the build reads.
    pub(crate) imports: Imports,
    /// Fires when the build is cancelled and when it is closed.
    pub(crate) stop: CancellationToken,
    /// `None` once the build is closed.
    job: Mutex<Option<Arc<Job<Tree>>>>,
}

impl JobCore {
    /// The solver's side of the build.
    pub(crate) fn solver_job(&self) -> Result<Arc<Job<Tree>>, BuildError> {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        job.clone().ok_or(BuildError::Cancelled)
    }

    fn take_job(&self) -> Option<Arc<Job<Tree>>> {
        self.job
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whether the client allows all that the definition's steps do.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), BuildError> {
        for vertex in graph.vertices() {
            let Op::Exec(exec) = vertex.op() else {
                continue;
            };
            self.allow(&graph.name(vertex), exec.network, exec.security)?;
        }
        Ok(())
    }

    /// Whether the client allows a step these rights.
    pub(crate) fn allow(
        &self,
        step: &str,
        network: NetMode,
        security: SecurityMode,
    ) -> Result<(), BuildError> {
        let needs = [
            (network == NetMode::Host, Entitlement::NetworkHost),
            (
                security == SecurityMode::Insecure,
                Entitlement::SecurityInsecure,
            ),
        ];
        for (needed, entitlement) in needs {
            if needed && !self.entitlements.contains(&entitlement) {
                return Err(BuildError::Entitlement {
                    step: step.to_owned(),
                    entitlement,
                });
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Opens a build, which tells `progress` of all that happens. When `cancel` fires, all that is
    /// asked of it ends soon with [`BuildError::Cancelled`].
    ///
    /// # Errors
    /// [`BuildError`], also if a build of this id is open.
    pub async fn open_job(
        &self,
        request: JobRequest,
        progress: Sender,
        cancel: CancellationToken,
    ) -> Result<BuildJob, BuildError> {
        let mut options = JobOptions::new(request.id);
        options.session = Some(session::lend(Arc::clone(&request.session)));
        let job = self.solver.new_job(options).await?;
        let events = tokio::spawn(relay(job.progress(), progress.clone(), self.explain));
        Ok(BuildJob {
            core: Arc::new(JobCore {
                worker: Arc::clone(&self.worker),
                exporter: self.exporter.clone(),
                frontends: self.frontends.clone(),
                session: request.session,
                entitlements: request.entitlements,
                progress,
                imports: Imports::new(self.solver.clone()),
                solver: self.solver.clone(),
                stop: cancel.child_token(),
                job: Mutex::new(Some(Arc::new(job))),
            }),
            events: Some(events),
        })
    }
}

impl BuildJob {
    /// What frontends ask of the build. May be used from any number of tasks.
    pub fn bridge(&self) -> Bridge {
        Bridge::new(Arc::clone(&self.core))
    }

    /// Builds what is in a result and does all exports, one after another: they share layers. The
    /// caches come last.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn export(
        &self,
        result: &FrontendResult,
        exports: &[ExportRequest],
        caches: &[CacheExport],
    ) -> Result<BuildResponse, BuildError> {
        let stop = &self.core.stop;
        let export = async {
            let need = crate::export::need(exports);
            let inline = caches.iter().any(|export| export.kind == "inline");
            let built = self.built(result, need, inline).await?;
            let mut response = crate::export::all(&self.core, &built, exports).await?;
            let roots: Vec<_> = result.each_ref().filter_map(Ref::root).collect();
            let told = cache::all(&self.core, &roots, caches).boxed().await?;
            response.attrs.extend(told);
            Ok(response)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(BuildError::Cancelled),
            response = export => response,
        }
    }

    /// Tells the client where a result is not for the platforms that `opts` ask for.
    ///
    /// # Errors
    /// If the result's own list of platforms is malformed.
    pub fn check_platforms(
        &self,
        opts: &BTreeMap<String, String>,
        result: &FrontendResult,
    ) -> Result<(), BuildError> {
        let found = platforms::mismatches(opts, result, &self.core.worker.platform)?;
        if found.is_empty() {
            return Ok(());
        }
        let step = Internal::begin(&self.core.progress, "verifying build result", "");
        for short in found {
            step.warn(short);
        }
        step.end(Ok(()))
    }

    /// What exporters read of a result.
    async fn built(
        &self,
        result: &FrontendResult,
        need: Option<Need>,
        inline: bool,
    ) -> Result<Built, BuildError> {
        let refs = result.refs.named();
        let platforms = metadata::platforms(&result.metadata)?;
        let named = metadata::places(&refs, &platforms, &self.core.worker.platform)?;
        let trees = named.iter().map(|(_, _, reference)| async move {
            match reference {
                Some(reference) => {
                    let tree = reference.tree_for(need).await?;
                    let cache = match reference.root().filter(|_| inline) {
                        Some(root) => Some(cache::inline(&self.core, root).boxed().await?),
                        None => None,
                    };
                    Ok::<_, BuildError>((tree, cache))
                }
                None => Ok((Tree::scratch(), None)),
            }
        });
        let trees = futures_util::future::try_join_all(trees).await?;
        let platforms = named.into_iter().zip(trees);
        let platforms = platforms.map(|((name, platform, _), (tree, cache))| {
            let of = |key| metadata::of_platform(&result.metadata, key, name).map(|v| v.to_vec());
            BuiltPlatform {
                platform,
                tree: tree.snapshot().cloned(),
                config: of(metadata::IMAGE_CONFIG),
                base_config: of(metadata::IMAGE_BASE_CONFIG),
                cache,
            }
        });
        Ok(Built {
            platforms: platforms.collect(),
            is_multi_platform: matches!(result.refs, Refs::Map(_)),
            epoch: metadata::epoch(&result.metadata, SOURCE_DATE_EPOCH)?
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()),
        })
    }

    /// Ends the build: what runs for it alone is cancelled.
    pub async fn close(mut self) {
        self.core.stop.cancel();
        if let Some(job) = self.core.take_job()
            && let Some(job) = Arc::into_inner(job)
        {
            job.discard().await;
        }
        // It ends with the job; what it could not pass on is not worth failing for.
        if let Some(events) = self.events.take() {
            let _ = events.await;
        }
    }
}

impl Drop for BuildJob {
    fn drop(&mut self) {
        self.core.stop.cancel();
        drop(self.core.take_job());
    }
}
