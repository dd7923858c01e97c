//! Clients that decide on the sources of their builds.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tonic::{Request, Status};
use weld_engine::{SourceQuestion, SourceVerdict, SourceVerifier, VerifierError};
use weld_proto::session::policy::check_policy_response::Result as Answer;
use weld_proto::session::policy::{
    CHECK_POLICY, CheckPolicyRequest, CheckPolicyResponse, DecisionResponse,
};
use weld_proto::sourcepolicy::PolicyAction;

use super::manager::ClientSession;
use crate::gateway::{meta_request, meta_response};

/// The longest of a client's reasons that is passed on, in bytes.
const MAX_REASON: usize = 64 << 10;
/// The most of a client's reasons that are passed on.
const MAX_REASONS: usize = 100;

/// Asks a client what to do with a source.
pub struct ClientVerifier(Arc<ClientSession>);

impl ClientVerifier {
    /// Asks the client of a session.
    pub const fn new(session: Arc<ClientSession>) -> Self {
        Self(session)
    }

    async fn ask(&self, question: SourceQuestion) -> Result<SourceVerdict, Status> {
        let request = CheckPolicyRequest {
            platform: question.platform,
            source: Some(meta_response(question.source, question.meta)),
            caps: BTreeMap::new(),
        };
        let connection = self.0.connection().await?;
        if !connection.serves(CHECK_POLICY) {
            let text = "the session that is to decide on sources does not offer to";
            return Err(Status::failed_precondition(text));
        }
        // It may think about it for as long as its session lasts: it may ask its user.
        let answer = connection
            .caller
            .unary::<_, CheckPolicyResponse>(CHECK_POLICY, Request::new(request));
        match answer.await?.into_inner().result {
            Some(Answer::Request(asked)) => Ok(SourceVerdict::Ask(Box::new(meta_request(asked)?))),
            Some(Answer::Decision(decision)) => verdict(decision),
            None => Err(Status::invalid_argument("no decision in policy response")),
        }
    }
}

fn verdict(decision: DecisionResponse) -> Result<SourceVerdict, Status> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(SourceVerdict::Allow),
        Ok(PolicyAction::Convert) => match decision.update {
            Some(source) => Ok(SourceVerdict::Convert(source)),
            None => {
                let text = "convert action requires updated source";
                Err(Status::invalid_argument(text))
            }
        },
        action => {
            let messages = decision.deny_messages.into_iter().take(MAX_REASONS);
            Ok(SourceVerdict::Deny {
                action: match action {
                    Ok(_) => "DENY".to_owned(),
                    Err(_) => decision.action.to_string(),
                },
                messages: messages
                    .map(|message| message.message)
                    .filter(|message| message.len() <= MAX_REASON)
                    .collect(),
            })
        }
    }
}

#[async_trait]
impl SourceVerifier for ClientVerifier {
    async fn verify(&self, question: SourceQuestion) -> Result<SourceVerdict, VerifierError> {
        let answer = self.ask(question).await;
        answer.map_err(|status| VerifierError::Client(status.message().to_owned()))
    }
}
