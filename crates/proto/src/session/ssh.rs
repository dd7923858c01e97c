//! SSH agents of the client (package `moby.sshforward.v1`).

/// [`CheckAgentRequest`] to [`CheckAgentResponse`].
pub const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
/// One connection to an agent: streams of [`BytesMessage`](super::BytesMessage) both ways.
pub const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";

/// Metadata of [`FORWARD_AGENT`]: which agent.
pub const AGENT_ID: &str = "buildkit.ssh.id";
/// The id of the agent that is meant if none is named.
pub const DEFAULT_ID: &str = "default";

/// Asks whether there is an agent.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckAgentRequest {
    /// Which; empty for [`DEFAULT_ID`].
    #[prost(string, tag = "1")]
    pub id: String,
}

/// There is.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CheckAgentResponse {}
