//! From a decoded definition to one that a solver loads.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use weld_digest::FieldHasher;
use weld_llb::{Graph, Op as LlbOp, Source, Vertex};
use weld_solver::{
    CacheSourceId, Definition, MergePolicy, Op, OpDefinition, Output, VertexDef, VertexOptions,
};
use weld_store::StepName;

use crate::digest::to_solver;
use crate::exec::Exec;
use crate::file::File;
use crate::merge::{Diff, Merge};
use crate::nested::{Build, Nesting};
use crate::passthrough::Passthrough;
use crate::recall::names;
use crate::recall::part::Part;
use crate::recall::recipe::Lineage;
use crate::recall::written::Texts;
use crate::recall::{Naming, Origin, Remembered, Step, Surroundings};
use crate::source::blob::{Blob, BlobPlace};
use crate::source::git::Git;
use crate::source::http::Http;
use crate::source::image::{Image, Wanted};
use crate::source::local::Local;
use crate::{Tree, Worker};

/// Why a definition cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// An operation that this version does not have.
    #[error("{name}: {what} is not supported")]
    Unsupported {
        /// The vertex.
        name: String,
        /// What it wants.
        what: &'static str,
    },
    /// Its description asks for a way to merge that there is not.
    #[error("{name}: weld.merge={value} is neither never nor auto")]
    Merge {
        /// The vertex.
        name: String,
        /// What it asks for.
        value: String,
    },
    /// It is larger than a solver can count.
    #[error("the definition has too many operations")]
    TooLarge,
    /// The solver refuses it.
    #[error(transparent)]
    Definition(#[from] weld_solver::DefinitionError),
}

/// The solver's definition of a graph; `None` if its result is the tree without files.
///
/// # Errors
/// [`ResolveError`].
pub fn definition(
    worker: &Arc<Worker>,
    graph: &Graph,
    no_cache: bool,
) -> Result<Option<OpDefinition<Tree>>, ResolveError> {
    let loading = Loading {
        no_cache,
        ..Loading::default()
    };
    definition_from(worker, graph, loading)
}

/// How a graph is made a definition.
#[derive(Clone, Debug, Default)]
pub struct Loading {
    /// Every step is to run.
    pub no_cache: bool,
    /// Where the graph comes from: its steps are compared with those that came from there before.
    pub origin: Origin,
    /// Where results may also come from.
    pub sources: Vec<CacheSourceId>,
    /// What builds inside of it may do; without, there are none.
    pub nesting: Option<Nesting>,
    /// The session whose directories are meant where the graph does not say: builds of other sessions have steps of their own for these.
    pub session: Option<String>,
}

/// The same, for a graph of which more is known.
///
/// # Errors
/// [`ResolveError`].
pub fn definition_from(
    worker: &Arc<Worker>,
    graph: &Graph,
    loading: Loading,
) -> Result<Option<OpDefinition<Tree>>, ResolveError> {
    let Loading {
        no_cache,
        origin,
        sources,
        nesting,
        session,
    } = &loading;
    let no_cache = *no_cache;
    let users = users(graph);
    let known_as = |vertex: &Vertex| match users.get(vertex.digest()) {
        Some((user, input)) => names::used_by(&graph.name(vertex), user, *input),
        None => graph.name(vertex),
    };
    let names = graph.vertices().iter().map(known_as);
    let surroundings = Arc::new(Surroundings::new(Arc::clone(worker), origin.clone(), names));
    let Some(root) = graph.root() else {
        return Ok(None);
    };
    let called = Texts::new(graph).all_called();
    // Inputs come before what they are inputs of.
    let mut lineages: HashMap<_, Lineage> = HashMap::with_capacity(graph.vertices().len());
    let mut parts: HashMap<_, LivePart> = HashMap::with_capacity(graph.vertices().len());
    let vertices = graph
        .vertices()
        .iter()
        .map(|vertex| {
            let name = graph.name(vertex);
            let made_of = graph
                .inputs_of(vertex)
                .filter_map(|(input, _)| lineages.get(input.digest()));
            let known_as = known_as(vertex);
            let lineage = Lineage::new(&known_as, made_of);
            lineages.insert(vertex.digest(), lineage);
            let ignore_cache = no_cache || vertex.metadata().ignore_cache;
            let live = live_part(worker, graph, vertex, &parts, ignore_cache);
            let part = Arc::clone(&live.part);
            parts.insert(vertex.digest(), live);
            let inputs = vertex
                .inputs()
                .iter()
                .map(|edge| output(edge.vertex, edge.output))
                .collect::<Result<Vec<_>, _>>()?;
            let metadata = vertex.metadata();
            let merge = match vertex.description("weld.merge") {
                Some("never") => MergePolicy::Never,
                Some("auto") | None => MergePolicy::Auto,
                Some(value) => {
                    let value = value.to_owned();
                    return Err(ResolveError::Merge { name, value });
                }
            };
            Ok(VertexDef {
                digest: to_solver(vertex.digest()),
                op: Arc::new(Remembered::new(
                    operation(worker, vertex, &name, &loading)?,
                    Arc::clone(&surroundings),
                    vertex.clone(),
                    Naming {
                        name: known_as,
                        inputs: vertex
                            .inputs()
                            .iter()
                            .filter_map(|edge| called.get(edge.vertex).cloned())
                            .collect(),
                        lineage,
                    },
                    part,
                    ignore_cache,
                )) as Arc<dyn Op<Tree>>,
                inputs,
                options: VertexOptions {
                    ignore_cache,
                    merge,
                    export_cache: metadata
                        .export_cache
                        .as_ref()
                        .is_none_or(|export| export.value),
                    public: is_public(vertex),
                    // Builds share it once its keys turn out equal, so that each has an operation of its own: to fall back to, or since
                    // other files may be meant by the same words.
                    audience: match vertex.op() {
                        LlbOp::Build(_) => nesting.as_ref().map(|nesting| to_solver(&nesting.id())),
                        LlbOp::Source(source) => match &**source {
                            Source::Local(local) if local.session.is_none() => {
                                session.as_deref().map(of_session)
                            }
                            _ => None,
                        },
                        _ => None,
                    },
                    description: Arc::from(name.as_str()),
                    cache_sources: sources.clone(),
                },
                name: Arc::from(name),
            })
        })
        .collect::<Result<Vec<_>, ResolveError>>()?;
    Ok(Some(Definition::new(
        vertices,
        output(root.vertex, root.output)?,
    )?))
}

/// What the steps of a session have in common that are no other's.
fn of_session(session: &str) -> weld_solver::Digest {
    let digest = FieldHasher::new("weld.op.session.v1")
        .text(session)
        .finish();
    to_solver(&digest)
}

/// What uses files that are within the definition itself, and as which input: they are all called the same.
fn users(graph: &Graph) -> HashMap<&weld_digest::Digest, (String, usize)> {
    let mut users = HashMap::new();
    for vertex in graph.vertices() {
        for (number, (input, _)) in graph.inputs_of(vertex).enumerate() {
            let is_of_itself = matches!(input.op(), LlbOp::File(_)) && input.inputs().is_empty();
            if is_of_itself && !names::is_numbered(&graph.name(input)) {
                let user = || (graph.name(vertex), number);
                users.entry(input.digest()).or_insert_with(user);
            }
        }
    }
    users
}

/// What is known of a live vertex, and what that is found by.
struct LivePart {
    name: StepName,
    part: Arc<Part>,
}

/// What is known of a vertex, whichever definitions have it; inputs have theirs already.
fn live_part(
    worker: &Worker,
    graph: &Graph,
    vertex: &Vertex,
    parts: &HashMap<&weld_digest::Digest, LivePart>,
    ignore_cache: bool,
) -> LivePart {
    let inputs = || {
        let inputs = graph.inputs_of(vertex);
        inputs.filter_map(|(input, output)| Some((parts.get(input.digest())?, output)))
    };
    let mut hasher = FieldHasher::new("weld.step.part.v1")
        .text(&worker.domain().scoped(vertex.digest().to_string()))
        .number(u64::from(ignore_cache));
    for (input, _) in inputs() {
        hasher = hasher.bytes(&input.name);
    }
    let name = to_solver(&hasher.finish()).0;
    let inputs = inputs()
        .map(|(input, output)| {
            (
                Arc::clone(&input.part),
                u32::try_from(output).unwrap_or(u32::MAX),
            )
        })
        .collect();
    let part = worker.parts.part(name, inputs, ignore_cache);
    LivePart { name, part }
}

/// The cache mounts that a definition wants to start anew: those of steps that are to run in any
/// case.
pub fn retired_cache_mounts(worker: &Worker, graph: &Graph, no_cache: bool) -> Vec<String> {
    let forced = graph
        .vertices()
        .iter()
        .filter(|vertex| no_cache || vertex.metadata().ignore_cache);
    forced
        .filter_map(|vertex| match vertex.op() {
            LlbOp::Exec(exec) => Some(exec.as_ref()),
            _ => None,
        })
        .flat_map(crate::exec::cache_ids)
        .map(|id| worker.domain().scoped(id))
        .collect()
}

fn output(vertex: usize, index: usize) -> Result<Output, ResolveError> {
    let number = |number| u32::try_from(number).map_err(|_| ResolveError::TooLarge);
    Ok(Output {
        vertex: number(vertex)?,
        index: number(index)?,
    })
}

/// Whether all isolation domains may have what it makes. An image of a registry is named by the
/// digest that the registry told this very client, and holds what that digest says.
fn is_public(vertex: &Vertex) -> bool {
    matches!(vertex.op(), LlbOp::Source(source) if matches!(**source, Source::Image(_)))
}

fn unsupported_git(git: &weld_llb::GitSource) -> Option<&'static str> {
    if git.signature.is_some() {
        return Some("verification of a commit's signature");
    }
    match git.mtime.as_deref() {
        None | Some("checkout" | "commit") => None,
        Some(_) => Some("git.mtime other than checkout and commit"),
    }
}

fn operation(
    worker: &Arc<Worker>,
    vertex: &Vertex,
    name: &str,
    loading: &Loading,
) -> Result<Arc<dyn Step>, ResolveError> {
    let worker = Arc::clone(worker);
    let platform = vertex
        .platform()
        .cloned()
        .unwrap_or_else(|| worker.platform.clone());
    let description = name.to_owned();
    let unsupported = |what| {
        Err(ResolveError::Unsupported {
            name: name.to_owned(),
            what,
        })
    };
    Ok(match vertex.op() {
        LlbOp::Exec(op) => Arc::new(Exec {
            worker,
            op: (**op).clone(),
            platform,
            inputs: vertex.inputs().len(),
            resources: vertex.metadata().linux_resources.clone(),
            description,
        }),
        LlbOp::Merge(op) => Arc::new(Merge {
            worker,
            op: op.clone(),
            description,
        }),
        LlbOp::Diff(op) => Arc::new(Diff {
            worker,
            op: op.clone(),
            description,
        }),
        LlbOp::Source(source) => match &**source {
            Source::Image(image) => Arc::new(Image {
                worker,
                wanted: Wanted::Registry(image.clone()),
                platform,
                description: image.reference.clone(),
                resolved: OnceLock::new(),
            }),
            Source::OciLayout(image) => Arc::new(Image {
                worker,
                wanted: Wanted::Layout(image.clone()),
                platform,
                description: image.reference.clone(),
                resolved: OnceLock::new(),
            }),
            Source::ImageBlob(blob) => Arc::new(Blob {
                worker,
                wanted: blob.clone(),
                place: BlobPlace::Registry,
            }),
            Source::OciLayoutBlob(blob) => Arc::new(Blob {
                worker,
                wanted: blob.clone(),
                place: BlobPlace::Layout,
            }),
            Source::Git(git) => match unsupported_git(git) {
                Some(what) => return unsupported(what),
                None => Arc::new(Git::new(worker, git.clone(), description)),
            },
            Source::Http(http) => {
                if http.signature_public_key.is_some() || http.signature.is_some() {
                    return unsupported("verification of a file's signature");
                }
                Arc::new(Http::new(worker, http.clone(), description))
            }
            Source::Local(local) => Arc::new(Local {
                worker,
                source: local.clone(),
                description: local
                    .shared_key_hint
                    .clone()
                    .unwrap_or_else(|| local.name.clone()),
                synced: OnceLock::new(),
            }),
        },
        LlbOp::File(op) => Arc::new(File {
            worker,
            op: op.clone(),
            inputs: vertex.inputs().len(),
            description,
        }),
        LlbOp::Build(op) => match &loading.nesting {
            Some(nesting) => Arc::new(Build {
                worker,
                op: (**op).clone(),
                inputs: vertex.inputs().len(),
                nesting: nesting.clone(),
                no_cache: loading.no_cache,
                origin: loading.origin.clone(),
                sources: loading.sources.clone(),
                description,
            }),
            None => return unsupported("a build inside of a build"),
        },
        LlbOp::Passthrough(op) => Arc::new(Passthrough { op: op.clone() }),
    })
}
