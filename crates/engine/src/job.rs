//! One build of a client: what its frontends work through, and its results on their way out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weld_export::{Built, BuiltPlatform, ExportRequest, Exporter};
use weld_llb::{Graph, NetMode, Op, Platform, SecurityMode};
use weld_op::lazy::Need;
use weld_op::{Domain, Tree, Worker, session};
use weld_progress::Sender;
use weld_solver::{Job, JobOptions, Solver};

use crate::attest::AttestOptions;
use crate::bridge::Bridge;
use crate::cache::{self, CacheExport, Imports};
use crate::engine::Engine;
use crate::error::BuildError;
use crate::frontend::Frontends;
use crate::internal::Internal;
use crate::metadata::{self, SOURCE_DATE_EPOCH};
use crate::platforms;
use crate::policy::{SourcePolicies, SourceVerifier};
use crate::provenance::{Asked, Captures, Occasion, ProvenanceOptions, Scope};
use crate::reference::Ref;
use crate::relay::relay;
use crate::request::{BuildResponse, Entitlement};
use crate::result::{FrontendResult, Refs};
use crate::sbom::Scanner;

/// A build that a client opens.
pub struct JobRequest {
    /// Tells the build from all others that are open: the client's name for it.
    pub id: String,
    /// What the client offers: directories, secrets, agents, credentials.
    pub session: Arc<dyn session::Session>,
    /// What steps may do that they must not do by default.
    pub entitlements: Vec<Entitlement>,
    /// What the client asks for, as provenance is to tell it.
    pub asked: Asked,
    /// Whether to tell beside each step that was not cached why it was not.
    pub explain: bool,
    /// The isolation domain; without one, that of all builds that have none. Nothing that a client
    /// says may choose it: whoever opens builds for clients knows who they are.
    pub domain: Option<String>,
    /// Which sources may be used.
    pub source_policies: SourcePolicies,
    /// Who decides on each source, where that is the client.
    pub source_verifier: Option<Arc<dyn SourceVerifier>>,
}

/// An open build. Dropping it ends it as [`BuildJob::close`] does, without waiting.
pub struct BuildJob {
    core: Arc<JobCore>,
    scope: Arc<Scope>,
    policies: SourcePolicies,
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
    pub(crate) occasion: Occasion,
    /// Who decides on each source, where that is the client.
    pub(crate) verifier: Option<Arc<dyn SourceVerifier>>,
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

    /// A key for steps of the build's own, which clients that have several builds shown at once tell from those of the others.
    pub(crate) fn own_key(&self, key: &str) -> String {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        let id = job.as_ref().map_or("", |job| &**job.id());
        format!("{key} of {id}")
    }

    fn take_job(&self) -> Option<Arc<Job<Tree>>> {
        self.job
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Whether the client allows all that the definition's steps do.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), BuildError> {
        for (index, vertex) in graph.vertices().iter().enumerate() {
            let Op::Exec(exec) = vertex.op() else {
                continue;
            };
            let name = graph.name(vertex);
            let mut allowed = self.allow(&name, exec.network, exec.security);
            if allowed.is_ok() && !exec.devices.is_empty() {
                allowed = self.allow_devices(&name, &exec.devices);
            }
            allowed.map_err(|refused| refused.refused(graph, index))?;
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
        let occasion = Occasion {
            invocation: invocation()?,
            started: OffsetDateTime::now_utc(),
            environment: Arc::clone(&self.provenance_environment),
        };
        let producers = self.producers.within(request.domain.as_deref());
        let worker = match request.domain.map(Domain::named) {
            None => Arc::clone(&self.worker),
            Some(domain) => {
                options.domain = domain.name().cloned();
                Arc::new(self.worker.in_domain(domain))
            }
        };
        let job = self.solver.new_job(options).await?;
        if request.explain {
            self.explained.store(true, Ordering::Relaxed);
            worker.explaining.set(true);
        }
        let events = tokio::spawn(relay(job.progress(), progress.clone(), request.explain));
        Ok(BuildJob {
            core: Arc::new(JobCore {
                worker,
                exporter: self.exporter.clone(),
                frontends: self.frontends.clone(),
                session: request.session,
                entitlements: request.entitlements,
                progress,
                imports: Imports::new(self.solver.clone(), Arc::clone(&self.absences)),
                solver: self.solver.clone(),
                occasion,
                verifier: request.source_verifier,
                stop: cancel.child_token(),
                job: Mutex::new(Some(Arc::new(job))),
            }),
            scope: Scope::new(request.asked, producers),
            policies: request.source_policies,
            events: Some(events),
        })
    }
}

/// A name that no other build has.
fn invocation() -> Result<String, BuildError> {
    let mut random = [0; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut random, flags)
        .map_err(|errno| BuildError::Random(errno.into()))?;
    let digest = weld_digest::Digest::sha256_of(random);
    Ok(digest.hex().chars().take(25).collect())
}

impl BuildJob {
    /// What frontends ask of the build. May be used from any number of tasks.
    pub fn bridge(&self) -> Bridge {
        Bridge::new(
            Arc::clone(&self.core),
            Arc::clone(&self.scope),
            self.policies.clone(),
        )
    }

    /// Builds what is in a result, says of it what `attest` asks for, and does all exports, one
    /// after another: they share layers. The caches come last.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn export(
        &self,
        result: &FrontendResult,
        exports: &[ExportRequest],
        caches: &[CacheExport],
        attest: &AttestOptions,
    ) -> Result<BuildResponse, BuildError> {
        let stop = &self.core.stop;
        let export = async {
            let need = crate::export::need(exports);
            let inline = caches.iter().any(|export| export.kind == "inline");
            let built = || self.built(result, need, inline, attest).boxed();
            let mut response = crate::export::all(&self.core, exports, built).await?;
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
        let step = Internal::begin(
            &self.core.progress,
            "verifying build result",
            &self.core.own_key(""),
        );
        for short in found {
            step.warn(short);
        }
        step.end(Ok(()))
    }

    /// How each file system of a result was made, by its name (`default` where it has none), as
    /// documents.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn provenance(
        &self,
        result: &FrontendResult,
        options: &ProvenanceOptions,
    ) -> Result<Vec<(String, Bytes)>, BuildError> {
        let named: Vec<(String, Ref)> = match &result.refs {
            Refs::Single(reference) => reference
                .iter()
                .map(|reference| ("default".to_owned(), reference.clone()))
                .collect(),
            Refs::Map(refs) => refs
                .iter()
                .filter_map(|(name, reference)| Some((name.clone(), reference.clone()?)))
                .collect(),
        };
        let platforms = metadata::platforms(&result.metadata)?;
        let captures = Captures::of(&self.scope, result, &named, &platforms).await?;
        captures.documents(&self.core, options).await
    }

    /// What exporters read of a result.
    async fn built(
        &self,
        result: &FrontendResult,
        need: Option<Need>,
        inline: bool,
        attest: &AttestOptions,
    ) -> Result<Built, BuildError> {
        let refs = result.refs.named();
        let listed = metadata::platforms(&result.metadata)?;
        let named = metadata::places(&refs, &listed, &self.core.worker.platform)?;
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
        let mut said = self.said(result, &named, &listed, attest).boxed().await?;
        let platforms = named.into_iter().zip(trees);
        let platforms = platforms.map(|((name, platform, _), (tree, cache))| {
            let of = |key| metadata::of_platform(&result.metadata, key, name).map(|v| v.to_vec());
            BuiltPlatform {
                tree: tree.snapshot().cloned(),
                config: of(metadata::IMAGE_CONFIG),
                base_config: of(metadata::IMAGE_BASE_CONFIG),
                cache,
                attestations: said
                    .remove(&attested_name(name, &platform))
                    .unwrap_or_default(),
                platform,
            }
        });
        Ok(Built {
            platforms: platforms.collect(),
            is_multi_platform: matches!(result.refs, Refs::Map(_)),
            epoch: metadata::epoch(&result.metadata, SOURCE_DATE_EPOCH)?
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()),
        })
    }

    /// What frontends say of each file system of a result, and what the engine says of it, by name.
    async fn said(
        &self,
        result: &FrontendResult,
        named: &[metadata::Placed<'_>],
        listed: &[metadata::Place],
        attest: &AttestOptions,
    ) -> Result<BTreeMap<String, Vec<weld_export::Attestation>>, BuildError> {
        let mut said = BTreeMap::new();
        for (name, attestations) in &result.attestations {
            let mut exported = Vec::with_capacity(attestations.len());
            for attestation in attestations {
                exported.push(attestation.to_export().await?);
            }
            said.insert(name.clone(), exported);
        }
        let refs: Vec<(String, Ref)> = named
            .iter()
            .filter_map(|(name, platform, reference)| {
                let reference = (*reference)?.clone();
                Some((attested_name(*name, platform), reference))
            })
            .collect();
        if let Some(options) = &attest.sbom
            && !result.has_sbom()
        {
            let scanner = Scanner::find(&self.bridge(), options).await?;
            for (name, reference) in &refs {
                let result = reference.to_definition();
                let no_extras = BTreeMap::new();
                let scan = scanner
                    .scan(name, &result, &no_extras, attest.no_cache)
                    .await?;
                let scan = scan.to_export().await?;
                said.entry(name.clone()).or_default().push(scan);
            }
        }
        let Some(options) = &attest.provenance else {
            return Ok(said);
        };
        let captures = Captures::of(&self.scope, result, &refs, listed).await?;
        for (name, _) in refs {
            if let Some(provenance) = captures.attestation(&self.core, &name, options)? {
                said.entry(name).or_default().push(provenance);
            }
        }
        Ok(said)
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

/// The name under which attestations of a file system are found: its own, or its platform's.
fn attested_name(name: Option<&str>, platform: &Platform) -> String {
    match name {
        Some(name) => name.to_owned(),
        None => platform.to_string(),
    }
}

impl Drop for BuildJob {
    fn drop(&mut self) {
        self.core.stop.cancel();
        drop(self.core.take_job());
    }
}
