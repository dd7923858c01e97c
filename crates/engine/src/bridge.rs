//! What frontends ask of a build, wherever they run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weld_llb::{Graph, Platform, pb};
use weld_op::session::Session;
use weld_progress::Sender;

use crate::cache::CacheImport;
use crate::error::BuildError;
use crate::frontend::FrontendRequest;
use crate::job::JobCore;
use crate::policy::SourcePolicies;
use crate::provenance::Scope;
use crate::reference::{Building, Ref};
use crate::result::FrontendResult;

/// The way from a frontend to the build that it works for. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {
    pub(crate) core: Arc<JobCore>,
    /// What is asked for through it, for provenance.
    pub(crate) scope: Arc<Scope>,
    /// What applies to all that is asked for through it.
    pub(crate) policies: SourcePolicies,
}

/// What a frontend, or a client, wants to be solved.
#[derive(Clone, Debug, Default)]
pub struct SolveRequest {
    /// What to solve.
    pub input: SolveInput,
    /// Build the results at once; otherwise they are built when they are needed.
    pub evaluate: bool,
    /// Build without the cache.
    pub no_cache: bool,
    /// Where results may be imported from.
    pub cache_imports: Vec<CacheImport>,
}

/// What to solve.
#[derive(Clone, Debug, Default)]
pub enum SolveInput {
    /// Nothing: the result is empty.
    #[default]
    Nothing,
    /// A definition.
    Definition(pb::Definition),
    /// What a frontend makes of its options.
    Frontend {
        /// The frontend, such as `dockerfile.v0`.
        name: String,
        /// Its options.
        opts: BTreeMap<String, String>,
        /// Definitions by name.
        inputs: BTreeMap<String, pb::Definition>,
    },
}

impl Bridge {
    pub(crate) const fn new(
        core: Arc<JobCore>,
        scope: Arc<Scope>,
        policies: SourcePolicies,
    ) -> Self {
        Self {
            core,
            scope,
            policies,
        }
    }

    /// The same way, with further policies.
    #[must_use]
    pub fn with_policies(&self, policies: &SourcePolicies) -> Self {
        Self {
            policies: self.policies.and(policies),
            ..self.clone()
        }
    }

    /// The session of the client.
    pub fn session(&self) -> &Arc<dyn Session> {
        &self.core.session
    }

    /// Where the build tells what happens.
    pub fn progress(&self) -> &Sender {
        &self.core.progress
    }

    /// Solves a definition, or asks a frontend what to solve.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn solve(&self, request: SolveRequest) -> Result<FrontendResult, BuildError> {
        let stop = &self.core.stop;
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(BuildError::Cancelled),
            result = self.solve_now(request) => result,
        }
    }

    async fn solve_now(&self, request: SolveRequest) -> Result<FrontendResult, BuildError> {
        let result = match request.input {
            SolveInput::Nothing => return Ok(FrontendResult::default()),
            SolveInput::Definition(definition) => {
                let how = Building {
                    no_cache: request.no_cache,
                    imports: request.cache_imports,
                    ..Building::default()
                };
                let reference = self.reference_as(definition, how).await?;
                FrontendResult::single(Some(reference))
            }
            SolveInput::Frontend { name, opts, inputs } => {
                let source = opts.get("source").cloned().unwrap_or_default();
                let frontend = self.core.frontends.get(&name)?;
                let below = Self {
                    scope: self.scope.below(&name, &opts, &inputs),
                    ..self.clone()
                };
                let request = FrontendRequest {
                    opts,
                    inputs,
                    cache_imports: request.cache_imports,
                };
                // Frontends ask for solves in turn, which may be other frontends.
                let solved = Box::pin(frontend.solve(&below, request)).await;
                let result = solved.map_err(|error| error.of_frontend(name, source))?;
                below.scope.note_result(&result);
                result
            }
        };
        if request.evaluate {
            let evaluated = result.each_ref().map(Ref::evaluate);
            futures_util::future::try_join_all(evaluated).await?;
        }
        Ok(result)
    }

    /// The file system that a definition makes.
    ///
    /// # Errors
    /// [`BuildError`] if it is not a definition, or wants what it may not have.
    pub async fn reference(
        &self,
        definition: pb::Definition,
        no_cache: bool,
    ) -> Result<Ref, BuildError> {
        let how = Building {
            no_cache,
            ..Building::default()
        };
        self.reference_as(definition, how).await
    }

    /// The same, of which more is known.
    pub(crate) async fn reference_as(
        &self,
        definition: pb::Definition,
        how: Building,
    ) -> Result<Ref, BuildError> {
        // The client may think about its sources for a while.
        let definition = Box::pin(self.rewrite(definition)).await?;
        self.load(definition, how)
    }

    /// The same, of a definition whose sources may be used.
    pub(crate) fn load(
        &self,
        definition: pb::Definition,
        mut how: Building,
    ) -> Result<Ref, BuildError> {
        let graph = self.checked(definition)?;
        how.nesting = self.nesting(&graph, how.no_cache);
        if how.origin.scope.is_empty() {
            how.origin.scope = self.scope_of(&graph);
        }
        let reference = Ref::new(Arc::clone(&self.core), graph, how);
        self.scope.note_ref(&reference);
        Ok(reference)
    }

    /// What tells a definition of which nothing else is known from those of other projects: the client's directories that it uses, and
    /// the files that it says it comes from.
    fn scope_of(&self, graph: &Graph) -> String {
        let local = |vertex: &weld_llb::Vertex| match vertex.op() {
            weld_llb::Op::Source(source) => match &**source {
                weld_llb::Source::Local(local) => Some(local.name.clone()),
                _ => None,
            },
            _ => None,
        };
        let directories: BTreeSet<String> = graph.vertices().iter().filter_map(local).collect();
        let files: BTreeSet<&str> = graph
            .files()
            .iter()
            .map(|file| file.filename.as_str())
            .collect();
        let session = self.session();
        let directories = directories.iter().map(|name| {
            let directory = session.directory_identity(name).unwrap_or_default();
            format!("directory {name}={directory}")
        });
        let files = files.into_iter().map(|file| format!("file {file}"));
        directories.chain(files).collect::<Vec<_>>().join("\n")
    }

    /// The platform that steps run on.
    pub fn platform(&self) -> &Platform {
        &self.core.worker.platform
    }

    /// What a failed step was given, kept as long as the references live: one for each input.
    pub fn failed_inputs(&self, error: &BuildError) -> Vec<Ref> {
        let Some(weld_solver::Failure::Op { inputs, .. }) = error.step_failure() else {
            return Vec::new();
        };
        let inputs = inputs.iter();
        inputs
            .map(|input| Ref::of_tree(Arc::clone(&self.core), (**input).clone()))
            .collect()
    }

    /// What the mounts, or the file actions, of a failed step came to, one for each; `None` where
    /// there is nothing to look into.
    pub fn failed_results(&self, error: &BuildError) -> Vec<Option<Ref>> {
        let trees = error.left_by_step().into_iter();
        trees
            .map(|tree| Some(Ref::of_tree(Arc::clone(&self.core), tree?)))
            .collect()
    }

    /// Ends when the build does.
    pub async fn ended(&self) {
        self.core.stop.cancelled().await;
    }

    /// Tells the client of something that it should look at.
    pub fn warn(&self, warning: weld_progress::Warning) {
        self.core.progress.warning(warning);
    }
}
