//! What a daemon remembers of how the result of a build was made.

use tonic::{Code, Request};
use weld_digest::{Digest, Hasher};
use weld_engine::{Provenance, SlsaVersion};
use weld_proto::content::content_client::ContentClient;
use weld_proto::control::{BuildHistoryRequest, BuildResultInfo, Descriptor};
use weld_proto::session::content::ReadContentRequest;
use weld_session::MAX_MESSAGE;

use crate::{Client, ClientError};

/// How long a document may be, in bytes.
const LIMIT: usize = 256 << 20;
/// What a statement is of.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

impl Client {
    /// How each file system of the result of a build that has ended was made; nothing from a daemon
    /// without a history.
    pub(crate) async fn provenance(&self, build: &str) -> Result<Vec<Provenance>, ClientError> {
        let request = Request::new(BuildHistoryRequest {
            reference: build.to_owned(),
            early_exit: true,
            ..BuildHistoryRequest::default()
        });
        let mut events = match self.control().listen_build_history(request).await {
            Ok(events) => events.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok(Vec::new()),
            Err(status) => return Err(status.into()),
        };
        let mut told = Vec::new();
        while let Some(event) = events.message().await? {
            let record = event.record.unwrap_or_default();
            let platforms = record.results.iter();
            let mut results: Vec<_> = platforms
                .map(|(platform, info)| (Some(platform.clone()), info))
                .collect();
            if results.is_empty() {
                results.extend(record.result.as_ref().map(|info| (None, info)));
            }
            for (platform, info) in results {
                let Some((version, descriptor)) = statement(info) else {
                    continue;
                };
                told.push(Provenance {
                    platform,
                    version,
                    document: self.blob(descriptor).await?.into(),
                });
            }
        }
        Ok(told)
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ClientError> {
        let digest = &descriptor.digest;
        let wrong = |what: &str| ClientError::Answer(format!("the provenance {digest} {what}"));
        let expected: Digest = digest.parse().map_err(|_| wrong("has no digest"))?;
        let request = Request::new(ReadContentRequest {
            digest: digest.clone(),
            ..ReadContentRequest::default()
        });
        let mut client =
            ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut pieces = client.read(request).await?.into_inner();
        let mut content = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if content.len() + piece.data.len() > LIMIT {
                return Err(wrong("is too long"));
            }
            content.extend_from_slice(&piece.data);
        }
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&content);
        if hasher.finish() != expected {
            return Err(wrong("came damaged"));
        }
        Ok(content)
    }
}

/// The provenance among the statements on a result.
fn statement(info: &BuildResultInfo) -> Option<(SlsaVersion, &Descriptor)> {
    let mut statements = info.attestations.iter();
    statements.find_map(|descriptor| {
        let kind = descriptor.annotations.get(PREDICATE_TYPE)?;
        Some((SlsaVersion::of_predicate_type(kind)?, descriptor))
    })
}
