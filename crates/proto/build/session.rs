//! The services that a client serves to a daemon. Where results go is not among them: its method
//! takes two kinds of streams.

use tonic_build::manual::Service;

use crate::rpc::Shape::{BothStream, Unary};
use crate::rpc::service;

const PIECES: &str = "crate::session::BytesMessage";
const PACKETS: &str = "crate::fsutil::Packet";

pub(crate) fn services() -> Vec<Service> {
    vec![
        service(
            "moby.filesync.v1",
            "FileSync",
            &[
                ("DiffCopy", PACKETS, PACKETS, BothStream),
                ("TarStream", PACKETS, PACKETS, BothStream),
            ],
        ),
        unary(
            "moby.filesync.v1",
            "Auth",
            "auth",
            &[
                "Credentials",
                "FetchToken",
                "GetTokenAuthority",
                "VerifyTokenAuthority",
            ],
        ),
        unary(
            "moby.buildkit.secrets.v1",
            "Secrets",
            "secrets",
            &["GetSecret"],
        ),
        service(
            "moby.sshforward.v1",
            "SSH",
            &[
                (
                    "CheckAgent",
                    "crate::session::ssh::CheckAgentRequest",
                    "crate::session::ssh::CheckAgentResponse",
                    Unary,
                ),
                ("ForwardAgent", PIECES, PIECES, BothStream),
            ],
        ),
        service(
            "moby.upload.v1",
            "Upload",
            &[("Pull", PIECES, PIECES, BothStream)],
        ),
        unary(
            "moby.exporter.v1",
            "Exporter",
            "exporter",
            &["FindExporters", "FinalizeExport"],
        ),
    ]
}

/// A service of methods with one request and one response, named after them.
fn unary(package: &str, name: &str, module: &str, methods: &[&str]) -> Service {
    let methods: Vec<_> = methods
        .iter()
        .map(|method| {
            let message = |kind: &str| format!("crate::session::{module}::{method}{kind}");
            (*method, message("Request"), message("Response"))
        })
        .collect();
    let methods: Vec<_> = methods
        .iter()
        .map(|(method, request, response)| (*method, request.as_str(), response.as_str(), Unary))
        .collect();
    service(package, name, &methods)
}
