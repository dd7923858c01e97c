//! Definitions with other sources.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt, TryStreamExt};
use weld_digest::Digest;
use weld_llb::{Graph, pb};
use weld_proto::Message;

use super::PolicyError;
use crate::bridge::Bridge;
use crate::error::BuildError;

/// How many sources are decided on at once.
const AT_ONCE: usize = 32;

impl Bridge {
    /// The definition with the sources that it is to have.
    ///
    /// # Errors
    /// [`BuildError`] if it is no definition, or must not use one of its sources.
    pub(crate) async fn rewrite(
        &self,
        definition: pb::Definition,
    ) -> Result<pb::Definition, BuildError> {
        if self.leaves_sources() {
            return Ok(definition);
        }
        // Inputs before what they are inputs of, and nothing twice.
        let definition = Graph::from_pb(definition)?.to_pb();
        let judged = sources(&definition)?.into_iter();
        let judged = judged.map(|(digest, platform, mut source)| async move {
            let changed = self.judge(&mut source, platform.as_ref()).await?;
            Ok::<_, BuildError>(changed.then_some((digest, source)))
        });
        // A client that decides may think about several, and one may have to wait for another.
        let judged = futures_util::stream::iter(judged).buffer_unordered(AT_ONCE);
        let changed: Vec<_> = judged.try_collect().await?;
        Ok(with_sources(
            definition,
            &changed.into_iter().flatten().collect(),
        )?)
    }
}

/// A source of a definition: the digest of its operation, its platform, and what it is.
type Found = (String, Option<pb::Platform>, pb::SourceOp);

/// The sources of a definition.
pub(super) fn sources(definition: &pb::Definition) -> Result<Vec<Found>, PolicyError> {
    let mut sources = Vec::new();
    for bytes in &definition.def {
        let op = decode(bytes)?;
        if let Some(pb::op::Op::Source(source)) = op.op {
            sources.push((Digest::sha256_of(bytes).to_string(), op.platform, source));
        }
    }
    Ok(sources)
}

/// A definition, inputs first, with other sources in place of those with these digests.
pub(super) fn with_sources(
    definition: pb::Definition,
    changed: &HashMap<String, pb::SourceOp>,
) -> Result<pb::Definition, PolicyError> {
    replace(definition, |digest, op| {
        let (pb::op::Op::Source(source), Some(other)) = (op, changed.get(digest)) else {
            return false;
        };
        source.clone_from(other);
        true
    })
}

/// A definition, inputs first, with other operations. `change` gets each with its digest, and tells whether it changed it.
pub(crate) fn replace(
    definition: pb::Definition,
    change: impl Fn(&str, &mut pb::op::Op) -> bool,
) -> Result<pb::Definition, PolicyError> {
    let mut renamed: HashMap<String, String> = HashMap::new();
    let mut rewritten = pb::Definition {
        def: Vec::with_capacity(definition.def.len()),
        ..pb::Definition::default()
    };
    let mut locations = BTreeMap::new();
    let mut source = definition.source.unwrap_or_default();
    let mut metadata = definition.metadata;
    for bytes in definition.def {
        let before = Digest::sha256_of(&bytes).to_string();
        let mut op = decode(&bytes)?;
        let mut differs = false;
        for input in &mut op.inputs {
            if let Some(after) = renamed.get(&input.digest) {
                input.digest.clone_from(after);
                differs = true;
            }
        }
        if let Some(op) = &mut op.op {
            differs |= change(&before, op);
        }
        let (bytes, after) = match differs {
            true => {
                let bytes = op.encode_to_vec();
                let after = Digest::sha256_of(&bytes).to_string();
                renamed.insert(before.clone(), after.clone());
                (bytes.into(), after)
            }
            false => (bytes, before.clone()),
        };
        if let Some(metadata) = metadata.remove(&before) {
            rewritten.metadata.insert(after.clone(), metadata);
        }
        if let Some(found) = source.locations.remove(&before) {
            locations.insert(after, found);
        }
        rewritten.def.push(bytes);
    }
    rewritten.source = Some(pb::Source {
        locations,
        infos: source.infos,
    });
    Ok(rewritten)
}

fn decode(bytes: &bytes::Bytes) -> Result<pb::Op, PolicyError> {
    pb::Op::decode(bytes.clone()).map_err(|error| PolicyError::Operation(error.to_string()))
}
