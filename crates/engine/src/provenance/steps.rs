//! The steps that a file system was made in, and the layers that each came to.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use weld_digest::Digest;
use weld_llb::pb;
use weld_llb::{mask_credentials, without_credentials};
use weld_op::Tree;
use weld_op::digest::from_solver;
use weld_proto::Message;
use weld_source::image::Descriptor;
use weld_store::snapshot::LayerBlob;

use crate::error::BuildError;
use crate::job::JobCore;
use crate::reference::Ref;

/// The steps of a definition, in the order in which their inputs come first.
#[derive(Default)]
pub(super) struct Steps {
    /// Each step as a document.
    pub(super) documents: Vec<Value>,
    /// The number of each step, by the digest of its operation.
    numbers: HashMap<Digest, usize>,
}

impl Steps {
    pub(super) fn of(definition: &pb::Definition) -> Self {
        let mut ops: HashMap<Digest, pb::Op> = HashMap::new();
        let mut root = None;
        for bytes in &definition.def {
            // It was decoded before.
            let Ok(op) = pb::Op::decode(bytes.as_ref()) else {
                continue;
            };
            let digest = Digest::sha256_of(bytes);
            root = Some(digest.clone());
            ops.insert(digest, op);
        }
        let Some(root) = root else {
            return Self::default();
        };
        let mut steps = Self::default();
        let mut work = vec![(root, false)];
        while let Some((digest, below_done)) = work.pop() {
            if steps.numbers.contains_key(&digest) {
                continue;
            }
            let Some(op) = ops.get(&digest) else {
                continue;
            };
            if below_done {
                let number = steps.documents.len();
                let document = steps.document(number, op);
                steps.documents.push(document);
                steps.numbers.insert(digest, number);
                continue;
            }
            work.push((digest, true));
            let inputs = op.inputs.iter().rev();
            work.extend(
                inputs.filter_map(|input| Some((input.digest.parse::<Digest>().ok()?, false))),
            );
        }
        steps
    }

    fn document(&self, number: usize, op: &pb::Op) -> Value {
        let inputs = op.inputs.iter().filter_map(|input| {
            let number = self.numbers.get(&input.digest.parse().ok()?)?;
            Some(format!("step{number}:{}", input.index))
        });
        let inputs: Vec<_> = inputs.collect();
        let mut op = op.clone();
        scrub(&mut op);
        let mut document = Map::new();
        document.insert("id".to_owned(), json!(format!("step{number}")));
        document.insert("op".to_owned(), weld_llb::json::step(&op));
        if !inputs.is_empty() {
            document.insert("inputs".to_owned(), json!(inputs));
        }
        Value::Object(document)
    }

    pub(super) fn number(&self, digest: &Digest) -> Option<usize> {
        self.numbers.get(digest).copied()
    }

    /// The name of each step by the digest of its operation.
    pub(super) fn digest_mapping(&self) -> BTreeMap<String, String> {
        let numbers = self.numbers.iter();
        numbers
            .map(|(digest, number)| (digest.to_string(), format!("step{number}")))
            .collect()
    }
}

/// Takes out what is nobody else's business: which session a directory is of, and credentials in
/// URLs.
fn scrub(op: &mut pb::Op) {
    match &mut op.op {
        Some(pb::op::Op::Source(source)) => {
            source
                .attrs
                .retain(|key, _| key != "local.session" && key != "local.unique");
            source.identifier = without_credentials(&source.identifier);
            for value in source.attrs.values_mut() {
                *value = without_credentials(value);
            }
        }
        Some(pb::op::Op::Exec(exec)) => {
            // Build arguments are among the variables.
            for text in exec
                .meta
                .iter_mut()
                .flat_map(|meta| meta.env.iter_mut().chain(&mut meta.args))
            {
                if let Cow::Owned(masked) = mask_credentials(text) {
                    *text = masked;
                }
            }
            let proxy = exec.meta.as_mut().and_then(|meta| meta.proxy_env.as_mut());
            if let Some(proxy) = proxy {
                for url in [
                    &mut proxy.http_proxy,
                    &mut proxy.https_proxy,
                    &mut proxy.ftp_proxy,
                    &mut proxy.all_proxy,
                ] {
                    *url = without_credentials(url);
                }
            }
        }
        _ => {}
    }
}

/// The layers that the outputs of steps are made of, as far as they are blobs.
#[derive(Default)]
pub(super) struct StepLayers(Vec<(Digest, u32, Chains)>);

/// The same layers once for each compression that they are known in.
type Chains = Vec<Vec<Descriptor>>;

impl StepLayers {
    /// The layers of all steps whose results are here.
    pub(super) async fn of(job: &Arc<JobCore>, reference: &Ref) -> Result<Self, BuildError> {
        let solver = job.solver_job()?;
        let mut trees: Vec<(Digest, u32, Tree)> = Vec::new();
        for walked in reference.provenance().await? {
            let digest = from_solver(walked.digest);
            for result in walked.results {
                let value = match result.value {
                    Some(value) => Some(value),
                    None => solver.recorded(&result.keys).await,
                };
                if let Some(tree) = value {
                    trees.push((digest.clone(), result.output, (*tree).clone()));
                }
            }
        }
        let work = move || {
            let layers = trees.iter().filter_map(|(digest, output, tree)| {
                Some((digest.clone(), *output, chains(tree)?))
            });
            Self(layers.collect())
        };
        Ok(tokio::task::spawn_blocking(work).await?)
    }

    /// By the names of steps and their outputs.
    pub(super) fn by_step(&self, steps: &Steps) -> BTreeMap<String, Value> {
        let layers = self.0.iter();
        layers
            .filter_map(|(digest, output, chains)| {
                let number = steps.number(digest)?;
                Some((format!("step{number}:{output}"), json!(chains)))
            })
            .collect()
    }
}

/// The layers of a tree; `None` if one is no blob yet.
fn chains(tree: &Tree) -> Option<Chains> {
    let snapshot = tree.snapshot()?;
    // Each step of a long chain has all layers below it: where its own is no blob, they are not looked at.
    if !snapshot.may_be_blobs().unwrap_or(false) {
        return None;
    }
    let layers = snapshot.layer_snapshots();
    let known = layers.iter().map(|layer| {
        // What cannot be read is left out: nobody fails for the sake of a note.
        let blobs = layer.known_blobs().ok()?.into_iter();
        let blobs = blobs.map(|LayerBlob { descriptor, .. }| {
            Descriptor::new(descriptor.media_type, descriptor.digest, descriptor.size)
        });
        let blobs: Vec<Descriptor> = blobs.collect();
        (!blobs.is_empty()).then_some(blobs)
    });
    let known: Vec<Vec<Descriptor>> = known.collect::<Option<_>>()?;
    let mut kinds: Vec<&str> = Vec::new();
    for blob in known.iter().flatten() {
        if !kinds.contains(&blob.media_type.as_str()) {
            kinds.push(&blob.media_type);
        }
    }
    let chains = kinds.into_iter().map(|kind| {
        let of_kind = |blob: &&Descriptor| blob.media_type == kind;
        let chain = known.iter().filter_map(|blobs| {
            let blob = blobs.iter().find(of_kind).or_else(|| blobs.first());
            blob.cloned()
        });
        chain.collect()
    });
    Some(chains.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(op: pb::Op) -> bytes::Bytes {
        op.encode_to_vec().into()
    }

    #[test]
    fn steps_name_their_inputs_and_no_credentials() {
        let source = pb::Op {
            op: Some(pb::op::Op::Source(pb::SourceOp {
                identifier: "https://u:p@host/file".to_owned(),
                attrs: [
                    ("local.session".to_owned(), "s".to_owned()),
                    (
                        "git.fullurl".to_owned(),
                        "https://u:p@host/a.git".to_owned(),
                    ),
                ]
                .into(),
            })),
            ..pb::Op::default()
        };
        let source = bytes(source);
        let input = |of: &bytes::Bytes| pb::Input {
            digest: Digest::sha256_of(of).to_string(),
            index: 0,
        };
        let merge = bytes(pb::Op {
            inputs: vec![input(&source)],
            op: Some(pb::op::Op::Merge(pb::MergeOp::default())),
            ..pb::Op::default()
        });
        let root = bytes(pb::Op {
            inputs: vec![input(&merge)],
            ..pb::Op::default()
        });
        let steps = Steps::of(&pb::Definition {
            def: vec![source.clone(), merge, root],
            ..pb::Definition::default()
        });
        assert_eq!(steps.documents.len(), 3);
        assert_eq!(steps.number(&Digest::sha256_of(&source)), Some(0));
        assert_eq!(steps.documents[1]["inputs"], json!(["step0:0"]));
        let op = &steps.documents[0]["op"]["Op"]["source"];
        assert_eq!(op["identifier"], "https://xxxxx:xxxxx@host/file");
        assert!(op["attrs"].get("local.session").is_none());
        let all = json!(steps.documents).to_string();
        assert!(!all.contains("u:p@"), "{all}");
    }
}
