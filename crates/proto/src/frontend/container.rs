//! How frontends ask a daemon for solves (package `moby.buildkit.v1.frontend`,
//! `frontend/gateway/pb/gateway.proto`): containers.

use bytes::Bytes;

use crate::google::Status;
use crate::pb;

/// Asks for a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewContainerRequest {
    /// The id that it gets.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Its mounts.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<pb::Mount>,
    /// Its network.
    #[prost(enumeration = "pb::NetMode", tag = "3")]
    pub network: i32,
    /// Its platform.
    #[prost(message, optional, tag = "4")]
    pub platform: Option<pb::Platform>,
    /// Where it runs.
    #[prost(message, optional, tag = "5")]
    pub constraints: Option<pb::WorkerConstraints>,
    /// Lines of `/etc/hosts`.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<pb::HostIp>,
    /// The host's name.
    #[prost(string, tag = "7")]
    pub hostname: String,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct NewContainerResponse {}

/// Ends a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReleaseContainerRequest {
    /// Its id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReleaseContainerResponse {}

/// A message about a process in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecMessage {
    /// The id that the client gave the process.
    #[prost(string, tag = "1")]
    pub process_id: String,
    /// What is said.
    #[prost(oneof = "exec_message::Input", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub input: Option<exec_message::Input>,
}

/// What [`ExecMessage`] has a choice of.
pub mod exec_message {
    use super::{
        DoneMessage, ExitMessage, FdMessage, InitMessage, ResizeMessage, SignalMessage,
        StartedMessage,
    };

    /// What is said about a process.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(
        clippy::large_enum_variant,
        reason = "prost decodes in place; one is alive per message"
    )]
    pub enum Input {
        /// Starts it.
        #[prost(message, tag = "2")]
        Init(InitMessage),
        /// Content of one of its streams.
        #[prost(message, tag = "3")]
        File(FdMessage),
        /// Its terminal has another size.
        #[prost(message, tag = "4")]
        Resize(ResizeMessage),
        /// It has started.
        #[prost(message, tag = "5")]
        Started(StartedMessage),
        /// It has ended.
        #[prost(message, tag = "6")]
        Exit(ExitMessage),
        /// Its streams have ended.
        #[prost(message, tag = "7")]
        Done(DoneMessage),
        /// Sends it a signal.
        #[prost(message, tag = "8")]
        Signal(SignalMessage),
    }
}

/// Starts a process.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InitMessage {
    /// The container.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What to run.
    #[prost(message, optional, tag = "2")]
    pub meta: Option<pb::Meta>,
    /// Which streams the client has.
    #[prost(uint32, repeated, tag = "3")]
    pub fds: Vec<u32>,
    /// Whether it gets a terminal.
    #[prost(bool, tag = "4")]
    pub tty: bool,
    /// Its rights.
    #[prost(enumeration = "pb::SecurityMode", tag = "5")]
    pub security: i32,
    /// Secrets in its environment.
    #[prost(message, repeated, tag = "6")]
    pub secretenv: Vec<pb::SecretEnv>,
}

/// How a process ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExitMessage {
    /// Its exit code.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// What went wrong.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Status>,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StartedMessage {}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DoneMessage {}

/// Content of a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FdMessage {
    /// The stream's number.
    #[prost(uint32, tag = "1")]
    pub fd: u32,
    /// Whether it has ended.
    #[prost(bool, tag = "2")]
    pub eof: bool,
    /// The content.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// A terminal's size.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResizeMessage {
    /// Rows.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Columns.
    #[prost(uint32, tag = "2")]
    pub cols: u32,
}

/// A signal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalMessage {
    /// Its name, such as `SIGTERM`.
    #[prost(string, tag = "1")]
    pub name: String,
}
