//! From a [`Graph`] to the wire.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use weld_digest::Digest;
use weld_proto::pb;

use super::Graph;

impl Graph {
    /// The definition. Operations keep the bytes that they came with.
    pub fn to_pb(&self) -> pb::Definition {
        let Some(root) = self.root else {
            return pb::Definition::default();
        };
        let mut def: Vec<Bytes> = self
            .vertices
            .iter()
            .map(|vertex| vertex.bytes.clone())
            .collect();
        let mut metadata: BTreeMap<String, pb::OpMetadata> = self
            .vertices
            .iter()
            .filter_map(|vertex| {
                let metadata = vertex.metadata.as_deref()?.clone();
                Some((vertex.digest.to_string(), metadata))
            })
            .collect();
        let digest = self.vertices.get(root.vertex).map(|vertex| &vertex.digest);
        let terminal = encode_terminal(digest, root.output);
        let terminal_digest = Digest::sha256_of(&terminal).to_string();
        metadata.insert(terminal_digest, self.terminal_metadata.clone());
        def.push(terminal);
        pb::Definition {
            def,
            metadata,
            source: self.source_to_pb(),
        }
    }

    /// The encoded definition.
    pub fn encode(&self) -> Vec<u8> {
        self.to_pb().encode_to_vec()
    }

    fn source_to_pb(&self) -> Option<pb::Source> {
        if self.files.is_empty() {
            return None;
        }
        let locations = self
            .locations
            .iter()
            .filter_map(|(&index, locations)| {
                let locations = locations
                    .iter()
                    .map(|location| pb::Location {
                        source_index: i32::try_from(location.file).unwrap_or(i32::MAX),
                        ranges: location.ranges.clone(),
                    })
                    .collect();
                let digest = self.vertices.get(index)?.digest.to_string();
                Some((digest, pb::Locations { locations }))
            })
            .collect();
        Some(pb::Source {
            locations,
            infos: self.files.clone(),
        })
    }
}

/// The last operation of a definition, whose input is the result.
pub(crate) fn encode_terminal(digest: Option<&Digest>, output: usize) -> Bytes {
    let input = pb::Input {
        digest: digest.map(ToString::to_string).unwrap_or_default(),
        index: i64::try_from(output).unwrap_or(i64::MAX),
    };
    let op = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    };
    op.encode_to_vec().into()
}
