//! Between messages about sources and the engine's types.

use tonic::Status;
use weld_digest::Algorithm;
use weld_engine::{
    AttestationChain, ChecksumRequest, ImageMetaRequest, SourceMeta, SourceMetaRequest,
};
use weld_proto::frontend as wire;
use weld_proto::pb;

use super::convert;

/// The most predicate types that are asked for at once.
const MAX_PREDICATES: usize = 100;

/// What is asked of a source.
pub(crate) fn request(asked: wire::ResolveSourceMetaRequest) -> Result<SourceMetaRequest, Status> {
    let source = asked.source;
    let source = source.ok_or_else(|| Status::invalid_argument("source is required"))?;
    let image = asked.image.unwrap_or_default();
    if image.resolve_attestations.len() > MAX_PREDICATES {
        let text = format!("more than {MAX_PREDICATES} predicate types are asked for");
        return Err(Status::invalid_argument(text));
    }
    let checksum = asked.http.and_then(|http| http.checksum_request);
    Ok(SourceMetaRequest {
        source,
        platform: convert::platform(asked.platform),
        log_name: asked.log_name,
        return_object: asked.git.is_some_and(|git| git.return_object),
        checksum: checksum.map(checksum_request).transpose()?,
        image: image_request(image),
    })
}

fn image_request(asked: wire::ResolveSourceImageRequest) -> ImageMetaRequest {
    // An empty one is none.
    let mut predicates = asked.resolve_attestations;
    let is_wanted = asked.attestation_chain || !predicates.is_empty();
    predicates.retain(|predicate| !predicate.is_empty());
    ImageMetaRequest {
        no_config: asked.no_config,
        attestations: is_wanted.then_some(predicates),
    }
}

fn checksum_request(asked: wire::ChecksumRequest) -> Result<ChecksumRequest, Status> {
    let algorithm = match wire::ChecksumAlgo::try_from(asked.algo) {
        Ok(wire::ChecksumAlgo::Sha256) => Algorithm::Sha256,
        Ok(wire::ChecksumAlgo::Sha384) => Algorithm::Sha384,
        Ok(wire::ChecksumAlgo::Sha512) => Algorithm::Sha512,
        Err(_) => {
            let text = format!("unsupported checksum algorithm {}", asked.algo);
            return Err(Status::invalid_argument(text));
        }
    };
    Ok(ChecksumRequest {
        algorithm,
        suffix: asked.suffix,
    })
}

/// What is known of a source.
pub(crate) fn response(source: pb::SourceOp, meta: SourceMeta) -> wire::ResolveSourceMetaResponse {
    let mut response = wire::ResolveSourceMetaResponse {
        source: Some(source),
        ..wire::ResolveSourceMetaResponse::default()
    };
    match meta {
        SourceMeta::Nothing => {}
        SourceMeta::Image {
            digest,
            config,
            attestations,
        } => {
            response.image = Some(wire::ResolveSourceImageResponse {
                digest: digest.to_string(),
                config,
                attestation_chain: attestations.map(|chain| attestation_chain(*chain)),
            });
        }
        SourceMeta::Git {
            checksum,
            reference,
            commit_checksum,
            objects,
        } => {
            let objects = objects.map(|objects| (objects.commit, objects.tag));
            let (commit, tag) = objects.unwrap_or_default();
            response.git = Some(wire::ResolveSourceGitResponse {
                checksum,
                r#ref: reference,
                commit_checksum: commit_checksum.unwrap_or_default(),
                commit_object: commit.into(),
                tag_object: tag.unwrap_or_default().into(),
            });
        }
        SourceMeta::Http {
            digest,
            filename,
            last_modified,
            checksum,
        } => {
            response.http = Some(wire::ResolveSourceHttpResponse {
                checksum: digest.to_string(),
                filename,
                last_modified: last_modified
                    .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                checksum_response: checksum.map(|checksum| wire::ChecksumResponse {
                    digest: checksum.digest.to_string(),
                    suffix: checksum.suffix,
                }),
            });
        }
    }
    response
}

fn attestation_chain(chain: AttestationChain) -> wire::AttestationChain {
    let contents = chain.contents.into_iter().map(|(digest, content)| {
        let descriptor = wire::Descriptor {
            media_type: content.descriptor.media_type,
            digest: digest.to_string(),
            size: i64::try_from(content.descriptor.size).unwrap_or(i64::MAX),
            annotations: content.descriptor.annotations,
        };
        let blob = wire::Blob {
            descriptor: Some(descriptor),
            data: content.bytes,
        };
        (digest.to_string(), blob)
    });
    wire::AttestationChain {
        root: chain.root.to_string(),
        image_manifest: chain.image_manifest.to_string(),
        attestation_manifest: chain
            .attestation_manifest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        signature_manifests: chain
            .signature_manifests
            .iter()
            .map(ToString::to_string)
            .collect(),
        blobs: contents.collect(),
    }
}
