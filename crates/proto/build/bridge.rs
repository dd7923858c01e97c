//! The service that frontends work through.

use tonic_build::manual::Service;

use crate::rpc::Shape::{BothStream, Unary};
use crate::rpc::service;

pub(crate) fn services() -> Vec<Service> {
    const UNARY: [&str; 16] = [
        "ResolveImageConfig",
        "ResolveSourceMeta",
        "Solve",
        "ReadFile",
        "ReadDir",
        "StatFile",
        "Evaluate",
        "Ping",
        "Return",
        "Inputs",
        "NewContainer",
        "ReleaseContainer",
        "ReadFileContainer",
        "ReadDirContainer",
        "StatFileContainer",
        "Warn",
    ];
    let mut methods: Vec<_> = UNARY
        .iter()
        .map(|name| {
            let (request, response) = messages(name);
            (*name, request, response, Unary)
        })
        .collect();
    let exec = "crate::frontend::ExecMessage".to_owned();
    methods.push(("ExecProcess", exec.clone(), exec, BothStream));
    let methods: Vec<_> = methods
        .iter()
        .map(|(name, request, response, shape)| {
            (*name, request.as_str(), response.as_str(), *shape)
        })
        .collect();
    vec![service("moby.buildkit.v1.frontend", "LLBBridge", &methods)]
}

fn messages(method: &str) -> (String, String) {
    let message = |name: &str| format!("crate::frontend::{name}");
    // Files of containers are asked for as files of results are.
    let name = match method {
        "ReadFileContainer" | "ReadDirContainer" | "StatFileContainer" => {
            method.trim_end_matches("Container")
        }
        name => name,
    };
    let response = match name {
        "Ping" => "PongResponse".to_owned(),
        name => format!("{name}Response"),
    };
    (message(&format!("{name}Request")), message(&response))
}
