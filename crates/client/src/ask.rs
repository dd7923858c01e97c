//! Requests to a frontend that are not for a build.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataValue;
use weld_engine::BuildRequest;
use weld_proto::control;
use weld_proto::frontend::SolveRequest;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_session::MAX_MESSAGE;

use crate::{Client, ClientError};

/// Tells a daemon to which build a call of the gateway belongs.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

impl Client {
    /// Has the daemon's frontend answer a request that is not for a build, as an engine in this
    /// process would: what its result says. Exports are passed over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(
        &self,
        request: BuildRequest,
        progress: weld_progress::Sender,
        cancel: CancellationToken,
    ) -> Result<BTreeMap<String, Bytes>, ClientError> {
        let work = |message: control::SolveRequest| self.ask_through_gateway(message);
        let request = BuildRequest {
            exports: Vec::new(),
            cache_exports: Vec::new(),
            ..request
        };
        self.during(request, progress, cancel, work).await
    }

    /// What a frontend says is for its own client alone, so the client is the build's frontend, and
    /// has another one asked.
    async fn ask_through_gateway(
        &self,
        mut message: control::SolveRequest,
    ) -> Result<BTreeMap<String, Bytes>, ClientError> {
        let id = MetadataValue::try_from(&message.reference)
            .map_err(|error| ClientError::Session(error.to_string()))?;
        let mut question = Request::new(question(&mut message));
        question.metadata_mut().insert(BUILD_ID, id);
        let mut gateway = LlbBridgeClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let mut control = self.control();
        let (answer, _) = tokio::try_join!(
            gateway.solve(question),
            control.solve(Request::new(message))
        )?;
        let result = answer.into_inner().result;
        let metadata = result.map(|result| result.metadata).unwrap_or_default();
        let metadata = metadata.into_iter();
        Ok(metadata.map(|(key, value)| (key, value.into())).collect())
    }
}

/// The request of which the answer is what the build comes to.
fn question(message: &mut control::SolveRequest) -> SolveRequest {
    SolveRequest {
        frontend: std::mem::take(&mut message.frontend),
        frontend_opt: std::mem::take(&mut message.frontend_attrs),
        allow_result_return: true,
        allow_result_array_ref: true,
        r#final: true,
        // buildkitd reads them as JSON wherever a result is the last one.
        exporter_attr: bytes::Bytes::from_static(b"{}"),
        ..SolveRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_the_last_result_are_json() {
        let question = question(&mut control::SolveRequest::default());
        assert!(question.r#final);
        let attrs = serde_json::from_slice::<BTreeMap<String, Vec<u8>>>(&question.exporter_attr);
        assert!(attrs.is_ok_and(|attrs| attrs.is_empty()));
    }
}
