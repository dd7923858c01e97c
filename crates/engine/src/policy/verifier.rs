//! Sources that a client decides on itself, while it builds.

use async_trait::async_trait;
use weld_llb::pb;

use super::canonical;
use crate::bridge::Bridge;
use crate::error::BuildError;
use crate::source_meta::{SourceMeta, SourceMetaRequest};

/// How often a client may ask for more, or change its mind, about one source.
const MAX_QUESTIONS: usize = 10;

/// A source that a client is to decide on.
#[derive(Clone, Debug)]
pub struct SourceQuestion {
    /// The source, by its canonical name.
    pub source: pb::SourceOp,
    /// The platform that it is for.
    pub platform: Option<pb::Platform>,
    /// What it stands for, once the client has asked for that.
    pub meta: SourceMeta,
}

/// What a client says of a source.
#[derive(Clone, Debug)]
pub enum SourceVerdict {
    /// It may be used.
    Allow,
    /// It must not be used.
    Deny {
        /// What the client calls that.
        action: String,
        /// Why, in the client's words.
        messages: Vec<String>,
    },
    /// This is to be used instead, if it may be.
    Convert(pb::SourceOp),
    /// First it wants to know more of the source.
    Ask(Box<SourceMetaRequest>),
}

/// Why a source was not decided on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifierError {
    /// The client does not answer, or with an error.
    #[error("{0}")]
    Client(String),
    /// The client asks for something that is not the source in question.
    #[error("policy requested different source {what}: {asked:?} != {source_in_question:?}")]
    OtherSource {
        /// What differs.
        what: &'static str,
        /// What it asks for.
        asked: String,
        /// What it is asked about.
        source_in_question: String,
    },
    /// The client comes to no decision.
    #[error("too many policy requests")]
    Undecided,
}

/// Decides on sources.
#[async_trait]
pub trait SourceVerifier: Send + Sync {
    /// What to do with a source.
    ///
    /// # Errors
    /// [`VerifierError`] if that cannot be said: the source is not used then.
    async fn verify(&self, question: SourceQuestion) -> Result<SourceVerdict, VerifierError>;
}

impl Bridge {
    /// Whether sources may be used as they are without asking anybody.
    pub(crate) fn leaves_sources(&self) -> bool {
        self.policies.is_empty() && self.core.verifier.is_none()
    }

    /// Turns a source into what it is to be, as policies and the client say; whether that is
    /// something else.
    ///
    /// # Errors
    /// [`BuildError`] if it must not be used.
    pub(crate) async fn judge(
        &self,
        source: &mut pb::SourceOp,
        platform: Option<&pb::Platform>,
    ) -> Result<bool, BuildError> {
        let mut changed = self.policies.apply(source)?;
        let Some(verifier) = &self.core.verifier else {
            return Ok(changed);
        };
        source.identifier = canonical(source);
        let mut meta = SourceMeta::Nothing;
        for _ in 0..MAX_QUESTIONS {
            let question = SourceQuestion {
                source: source.clone(),
                platform: platform.cloned(),
                meta: std::mem::replace(&mut meta, SourceMeta::Nothing),
            };
            match verifier.verify(question).await? {
                SourceVerdict::Allow => return Ok(changed),
                SourceVerdict::Deny { action, messages } => {
                    return Err(BuildError::Forbidden {
                        identifier: source.identifier.clone(),
                        action,
                        messages,
                    });
                }
                SourceVerdict::Convert(other) => {
                    *source = other;
                    changed = true;
                    self.policies.apply(source)?;
                    source.identifier = canonical(source);
                }
                SourceVerdict::Ask(request) => {
                    check_asked(&request.source, source)?;
                    meta = self.metadata_of(*request).await?.meta;
                }
            }
        }
        Err(VerifierError::Undecided.into())
    }
}

/// A client learns of what it decides on, and of nothing else.
fn check_asked(asked: &pb::SourceOp, source: &pb::SourceOp) -> Result<(), VerifierError> {
    let differs = |what, asked: String, source_in_question: String| VerifierError::OtherSource {
        what,
        asked,
        source_in_question,
    };
    if asked.identifier != source.identifier {
        let (asked, source) = (asked.identifier.clone(), source.identifier.clone());
        return Err(differs("identifier", asked, source));
    }
    if asked.attrs != source.attrs {
        // Not their values, which may be anything.
        let names =
            |source: &pb::SourceOp| source.attrs.keys().cloned().collect::<Vec<_>>().join(",");
        return Err(differs("attrs", names(asked), names(source)));
    }
    Ok(())
}
