//! What a build inside of a build may do: what the outer build may, and nothing else.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use weld_digest::{Digest, FieldHasher};
use weld_llb::{DecodeError, Graph, Op, pb};
use weld_op::{NestedError, Nesting, OuterBuild, Tree};

use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::files::{self, FileError};
use crate::job::JobCore;
use crate::policy::SourcePolicies;
use crate::provenance::Scope;
use crate::reference::{Ref, retire_cache_mounts};

/// Why a file has no definition that is built.
#[derive(Debug, thiserror::Error)]
enum DefinitionFileError {
    #[error("invalid LLB definition: {0}")]
    Definition(#[from] DecodeError),
    #[error(
        "the definition has {size} bytes: no more than {} are accepted",
        files::MAX_READ
    )]
    TooLarge { size: u64 },
    #[error("{0}")]
    Build(#[from] BuildError),
}

/// A build as those inside of it know it. It ends when its client's does, whoever else uses its steps.
struct Outer {
    core: Weak<JobCore>,
    scope: Weak<Scope>,
    policies: SourcePolicies,
    id: Digest,
    rights: Option<Digest>,
    no_cache: bool,
}

impl Bridge {
    /// How builds inside of a graph are to be done, if there may be any.
    pub(crate) fn nesting(&self, graph: &Graph, no_cache: bool) -> Option<Nesting> {
        let mut vertices = graph.vertices().iter();
        vertices.find(|vertex| matches!(vertex.op(), Op::Build(_)))?;
        Some(Nesting::new(Arc::new(Outer {
            core: Arc::downgrade(&self.core),
            scope: Arc::downgrade(&self.scope),
            policies: self.policies.clone(),
            id: FieldHasher::new("weld.build.outer.v1")
                .text(&self.core.occasion.invocation)
                .finish(),
            rights: self.rights(),
            no_cache,
        })))
    }

    /// What tells apart what builds may do; `None` for those that may do what all may, with any source.
    fn rights(&self) -> Option<Digest> {
        let core = &self.core;
        if core.entitlements.is_empty() && self.leaves_sources() {
            return None;
        }
        let mut entitlements: Vec<_> = core.entitlements.iter().map(ToString::to_string).collect();
        entitlements.sort_unstable();
        entitlements.dedup();
        // What a client will answer about a source, nobody else knows.
        let own = core.verifier.as_ref().map(|_| &*core.occasion.invocation);
        let hasher = FieldHasher::new("weld.build.rights.v1")
            .texts(&entitlements)
            .optional(own);
        let rules = self.policies.digests();
        let hasher = rules.fold(hasher, |hasher, rules| hasher.digest(rules));
        Some(hasher.finish())
    }

    /// The graph of a definition, if the build may have all of it.
    pub(crate) fn checked(&self, definition: pb::Definition) -> Result<Graph, BuildError> {
        let graph = Graph::from_pb(self.core.with_own_devices(definition)?)?;
        self.core.check(&graph)?;
        Ok(graph)
    }

    async fn nested(
        &self,
        tree: &Tree,
        file: &str,
        no_cache: bool,
    ) -> Result<Graph, DefinitionFileError> {
        let tree = Ref::of_tree(Arc::clone(&self.core), tree.clone());
        let bytes = match tree.read_file(file, None).await {
            Err(BuildError::File(FileError::TooLarge { size, .. })) => {
                return Err(DefinitionFileError::TooLarge { size });
            }
            read => read?,
        };
        let definition = Graph::decode(bytes)?.to_pb();
        let definition = Box::pin(self.rewrite(definition)).await?;
        let graph = self.checked(definition)?;
        retire_cache_mounts(&self.core.worker, &graph, no_cache).await?;
        Ok(graph)
    }
}

#[async_trait]
impl OuterBuild for Outer {
    fn rights(&self) -> Option<Digest> {
        self.rights.clone()
    }

    fn id(&self) -> Digest {
        self.id.clone()
    }

    async fn admit(&self, tree: &Tree, file: &str) -> Result<Graph, NestedError> {
        let (Some(core), Some(scope)) = (self.core.upgrade(), self.scope.upgrade()) else {
            return Err(NestedError::Ended);
        };
        let bridge = Bridge::new(core, scope, self.policies.clone());
        tokio::select! {
            biased;
            () = bridge.core.stop.cancelled() => Err(NestedError::Ended),
            graph = bridge.nested(tree, file, self.no_cache) => {
                graph.map_err(|error| NestedError::Refused(Box::new(error)))
            }
        }
    }
}
