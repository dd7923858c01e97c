//! Between messages about sources and the engine's types.

use tonic::Status;
use weld_digest::Algorithm;
use weld_engine::{ChecksumRequest, SourceMeta, SourceMetaRequest};
use weld_proto::frontend as wire;
use weld_proto::pb;

use super::convert;

/// What is asked of a source.
pub(crate) fn request(asked: wire::ResolveSourceMetaRequest) -> Result<SourceMetaRequest, Status> {
    let source = asked.source;
    let source = source.ok_or_else(|| Status::invalid_argument("source is required"))?;
    let image = asked.image.unwrap_or_default();
    if image.attestation_chain || !image.resolve_attestations.is_empty() {
        let text = "attestations of images are not resolved by this version";
        return Err(Status::unimplemented(text));
    }
    let checksum = asked.http.and_then(|http| http.checksum_request);
    Ok(SourceMetaRequest {
        source,
        platform: convert::platform(asked.platform),
        log_name: asked.log_name,
        return_object: asked.git.is_some_and(|git| git.return_object),
        checksum: checksum.map(checksum_request).transpose()?,
    })
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
        SourceMeta::Image { digest, config } => {
            response.image = Some(wire::ResolveSourceImageResponse {
                digest: digest.to_string(),
                config,
                attestation_chain: None,
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
