//! Which services a server has (packages `grpc.reflection.v1` and `v1alpha`, which are the same on
//! the wire).

use bytes::Bytes;

/// The stubs of `v1`.
pub mod v1 {
    pub use super::stubs::server_reflection_server::{ServerReflection, ServerReflectionServer};
}

/// The stubs of `v1alpha`.
pub mod v1alpha {
    pub use super::stubs_alpha::server_reflection_server::{
        ServerReflection, ServerReflectionServer,
    };
}

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs {
    include!(concat!(
        env!("OUT_DIR"),
        "/grpc.reflection.v1.ServerReflection.rs"
    ));
}

#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::nursery
)]
mod stubs_alpha {
    include!(concat!(
        env!("OUT_DIR"),
        "/grpc.reflection.v1alpha.ServerReflection.rs"
    ));
}

/// A question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerReflectionRequest {
    /// The server that is asked.
    #[prost(string, tag = "1")]
    pub host: String,
    /// The question.
    #[prost(oneof = "Question", tags = "3, 4, 5, 6, 7")]
    pub message_request: Option<Question>,
}

/// A question.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Question {
    /// The definition file of this name.
    #[prost(string, tag = "3")]
    FileByFilename(String),
    /// The definition file that has this symbol.
    #[prost(string, tag = "4")]
    FileContainingSymbol(String),
    /// The definition file that has this extension.
    #[prost(message, tag = "5")]
    FileContainingExtension(ExtensionRequest),
    /// The extensions of this message.
    #[prost(string, tag = "6")]
    AllExtensionNumbersOfType(String),
    /// The services.
    #[prost(string, tag = "7")]
    ListServices(String),
}

/// An extension.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExtensionRequest {
    /// The message.
    #[prost(string, tag = "1")]
    pub containing_type: String,
    /// The field.
    #[prost(int32, tag = "2")]
    pub extension_number: i32,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerReflectionResponse {
    /// The server that answers.
    #[prost(string, tag = "1")]
    pub valid_host: String,
    /// The question.
    #[prost(message, optional, tag = "2")]
    pub original_request: Option<ServerReflectionRequest>,
    /// The answer.
    #[prost(oneof = "Answer", tags = "4, 5, 6, 7")]
    pub message_response: Option<Answer>,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// Definition files.
    #[prost(message, tag = "4")]
    FileDescriptor(FileDescriptorResponse),
    /// Extensions.
    #[prost(message, tag = "5")]
    AllExtensionNumbers(ExtensionNumberResponse),
    /// Services.
    #[prost(message, tag = "6")]
    ListServices(ListServiceResponse),
    /// No answer.
    #[prost(message, tag = "7")]
    Error(ErrorResponse),
}

/// Definition files.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileDescriptorResponse {
    /// Encoded descriptors.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub file_descriptor_proto: Vec<Bytes>,
}

/// Extensions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExtensionNumberResponse {
    /// The message.
    #[prost(string, tag = "1")]
    pub base_type_name: String,
    /// The fields.
    #[prost(int32, repeated, tag = "2")]
    pub extension_number: Vec<i32>,
}

/// Services.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListServiceResponse {
    /// The services.
    #[prost(message, repeated, tag = "1")]
    pub service: Vec<ServiceResponse>,
}

/// A service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServiceResponse {
    /// Its full name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ErrorResponse {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub error_code: i32,
    /// What a person reads.
    #[prost(string, tag = "2")]
    pub error_message: String,
}
