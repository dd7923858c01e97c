//! Messages that make sense, for inputs to change.

use bytes::Bytes;
use prost::Message;
use weld_proto::control::{
    BuildHistoryRequest, CacheOptions, CacheOptionsEntry, DiskUsageRequest, Exporter,
    ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest, UpdateBuildHistoryRequest,
};
use weld_proto::frontend::{self, exec_message};
use weld_proto::fsutil::Packet;
use weld_proto::pb::{self, file_action};
use weld_proto::reflection::{Question, ServerReflectionRequest};
use weld_proto::session::{BytesMessage, auth, content, health as health_messages, secrets, ssh};
use weld_proto::sourcepolicy::{Policy, Rule, Selector};
use weld_proto::{fsutil, telemetry};

/// The samples of one method.
pub(crate) type Samples = fn() -> Vec<Bytes>;

/// Stands for the id of a file system that the caller has built.
pub(crate) const REF: &str = "@@@@@@@@@@@@@@@@@@@@@@@@@";

fn all<M: Message>(messages: impl IntoIterator<Item = M>) -> Vec<Bytes> {
    messages
        .into_iter()
        .map(|message| message.encode_to_vec().into())
        .collect()
}

fn map(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

/// A definition of one file in an empty tree.
pub(crate) fn one_file(content: &str) -> pb::Definition {
    let action = pb::FileAction {
        input: pb::EMPTY_INPUT,
        secondary_input: pb::EMPTY_INPUT,
        output: 0,
        action: Some(file_action::Action::Mkfile(pb::FileActionMkFile {
            path: "/file".to_owned(),
            mode: 0o644,
            data: content.to_owned().into(),
            owner: None,
            timestamp: -1,
        })),
    };
    let file = pb::Op {
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![action],
        })),
        ..pb::Op::default()
    };
    let file = file.encode_to_vec();
    let last = pb::Op {
        inputs: vec![pb::Input {
            digest: weld_digest::Digest::sha256_of(&file).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    pb::Definition {
        def: vec![file.into(), last.encode_to_vec().into()],
        ..pb::Definition::default()
    }
}

pub(crate) fn nothing() -> Vec<Bytes> {
    vec![Bytes::new()]
}

pub(crate) fn disk_usage() -> Vec<Bytes> {
    all([DiskUsageRequest {
        filter: vec!["type==regular,size>10".to_owned()],
        age_limit: 1_000_000_000,
    }])
}

pub(crate) fn prune() -> Vec<Bytes> {
    all([PruneRequest {
        filter: vec!["id~=abc".to_owned()],
        all: true,
        keep_duration: 3_600_000_000_000,
        max_used_space: 1 << 30,
        ..PruneRequest::default()
    }])
}

pub(crate) fn solve() -> Vec<Bytes> {
    let entry = |kind: &str, attrs: &[(&str, &str)]| CacheOptionsEntry {
        kind: kind.to_owned(),
        attrs: map(attrs),
    };
    let exporter = |kind: &str, attrs: &[(&str, &str)]| Exporter {
        kind: kind.to_owned(),
        attrs: map(attrs),
    };
    let policy = Policy {
        version: 1,
        rules: vec![Rule {
            selector: Some(Selector {
                identifier: "docker-image://*".to_owned(),
                ..Selector::default()
            }),
            ..Rule::default()
        }],
    };
    let plain = SolveRequest {
        reference: "one".to_owned(),
        definition: Some(one_file("content")),
        ..SolveRequest::default()
    };
    all([
        plain.clone(),
        SolveRequest {
            reference: "two".to_owned(),
            exporters: vec![
                exporter("image", &[("name", "a/b:c"), ("oci-mediatypes", "true")]),
                exporter("tar", &[]),
            ],
            source_policy: Some(policy),
            entitlements: vec!["network.host".to_owned()],
            ..plain.clone()
        },
        SolveRequest {
            reference: "three".to_owned(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: map(&[("filename", "Dockerfile"), ("build-arg:A", "b")]),
            frontend_inputs: [("dockerfile".to_owned(), one_file("FROM scratch"))].into(),
            cache: Some(CacheOptions {
                exports: vec![entry("inline", &[("mode", "max")])],
                imports: vec![entry("local", &[("src", "x"), ("digest", "sha256:0")])],
                ..CacheOptions::default()
            }),
            ..SolveRequest::default()
        },
    ])
}

pub(crate) fn status() -> Vec<Bytes> {
    all([StatusRequest {
        reference: "one".to_owned(),
    }])
}

pub(crate) fn list_workers() -> Vec<Bytes> {
    all([ListWorkersRequest {
        filter: vec!["id==weld".to_owned()],
    }])
}

pub(crate) fn history() -> Vec<Bytes> {
    all([BuildHistoryRequest {
        reference: "one".to_owned(),
        filter: vec!["ref==one,status==completed".to_owned()],
        early_exit: true,
        limit: 3,
        ..BuildHistoryRequest::default()
    }])
}

pub(crate) fn update_history() -> Vec<Bytes> {
    all([UpdateBuildHistoryRequest {
        reference: "one".to_owned(),
        pinned: true,
        ..UpdateBuildHistoryRequest::default()
    }])
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(crate) fn content_info() -> Vec<Bytes> {
    all([content::InfoRequest {
        digest: DIGEST.to_owned(),
    }])
}

pub(crate) fn content_read() -> Vec<Bytes> {
    all([content::ReadContentRequest {
        digest: DIGEST.to_owned(),
        offset: 1,
        size: 100,
    }])
}

pub(crate) fn content_write() -> Vec<Bytes> {
    all([content::WriteContentRequest {
        action: 1,
        r#ref: "upload".to_owned(),
        total: 5,
        expected: DIGEST.to_owned(),
        data: Bytes::from_static(b"bytes"),
        ..content::WriteContentRequest::default()
    }])
}

/// The beginning of a connection, as a session's stream carries it.
pub(crate) fn http2() -> Vec<Bytes> {
    let bytes = |data: &'static [u8]| BytesMessage {
        data: Bytes::from_static(data),
    };
    all([
        // Settings, and their acknowledgement.
        bytes(b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0"),
        // Headers of an answer, content, a reset.
        bytes(b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x03\0\0\0\0\0\x01abc\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"),
        // A ping, a larger window, the end.
        bytes(b"\0\0\x08\x06\0\0\0\0\0pingping\0\0\x04\x08\0\0\0\0\0\0\0\xff\xff\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"),
    ])
}

pub(crate) fn gateway_solve() -> Vec<Bytes> {
    let plain = frontend::SolveRequest {
        definition: Some(one_file("of a frontend")),
        allow_result_return: true,
        evaluate: true,
        ..frontend::SolveRequest::default()
    };
    all([
        plain,
        frontend::SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: map(&[("requestid", "frontend.outline"), ("target", "a")]),
            frontend_inputs: [("dockerfile".to_owned(), one_file("FROM scratch"))].into(),
            allow_result_return: true,
            ..frontend::SolveRequest::default()
        },
    ])
}

pub(crate) fn image_config() -> Vec<Bytes> {
    all([frontend::ResolveImageConfigRequest {
        // Nobody listens there.
        r#ref: "127.0.0.1:1/a/b:c".to_owned(),
        resolve_mode: "default".to_owned(),
        platform: Some(pb::Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..pb::Platform::default()
        }),
        ..frontend::ResolveImageConfigRequest::default()
    }])
}

pub(crate) fn source_meta() -> Vec<Bytes> {
    let source = |identifier: &str| frontend::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: map(&[("image.resolvemode", "local")]),
        }),
        ..frontend::ResolveSourceMetaRequest::default()
    };
    all([
        source("docker-image://127.0.0.1:1/a/b:c"),
        source("http://127.0.0.1:1/file"),
        source("git://127.0.0.1:1/repository#main"),
    ])
}

pub(crate) fn read_file() -> Vec<Bytes> {
    all([frontend::ReadFileRequest {
        r#ref: REF.to_owned(),
        file_path: "/file".to_owned(),
        range: Some(frontend::FileRange {
            offset: 1,
            length: 5,
        }),
        mount_index: 0,
    }])
}

pub(crate) fn read_dir() -> Vec<Bytes> {
    all([frontend::ReadDirRequest {
        r#ref: REF.to_owned(),
        dir_path: "/".to_owned(),
        include_pattern: "f*".to_owned(),
        mount_index: 0,
    }])
}

pub(crate) fn stat_file() -> Vec<Bytes> {
    all([frontend::StatFileRequest {
        r#ref: REF.to_owned(),
        path: "file".to_owned(),
        mount_index: 0,
    }])
}

pub(crate) fn evaluate() -> Vec<Bytes> {
    all([frontend::EvaluateRequest {
        r#ref: REF.to_owned(),
    }])
}

pub(crate) fn returned() -> Vec<Bytes> {
    let result = frontend::Result {
        metadata: [("containerimage.config".to_owned(), b"{}".to_vec())].into(),
        result: Some(frontend::result::Result::Ref(frontend::Ref {
            id: REF.to_owned(),
            def: None,
        })),
        ..frontend::Result::default()
    };
    all([
        frontend::ReturnRequest {
            result: Some(result),
            error: None,
        },
        frontend::ReturnRequest {
            result: None,
            error: Some(weld_proto::google::Status {
                code: 3,
                message: "no".to_owned(),
                details: Vec::new(),
            }),
        },
    ])
}

pub(crate) fn new_container() -> Vec<Bytes> {
    all([frontend::NewContainerRequest {
        container_id: "container".to_owned(),
        mounts: vec![pb::Mount {
            dest: "/".to_owned(),
            result_id: REF.to_owned(),
            ..pb::Mount::default()
        }],
        hostname: "host".to_owned(),
        ..frontend::NewContainerRequest::default()
    }])
}

pub(crate) fn release_container() -> Vec<Bytes> {
    all([frontend::ReleaseContainerRequest {
        container_id: "container".to_owned(),
    }])
}

pub(crate) fn warn() -> Vec<Bytes> {
    all([frontend::WarnRequest {
        digest: DIGEST.to_owned(),
        level: 1,
        short: Bytes::from_static(b"short"),
        detail: vec![Bytes::from_static(b"detail")],
        ..frontend::WarnRequest::default()
    }])
}

pub(crate) fn exec() -> Vec<Bytes> {
    let said = |input| frontend::ExecMessage {
        process_id: "process".to_owned(),
        input: Some(input),
    };
    all([
        said(exec_message::Input::Init(frontend::InitMessage {
            container_id: "container".to_owned(),
            meta: Some(pb::Meta {
                args: vec!["/file".to_owned()],
                cwd: "/".to_owned(),
                ..pb::Meta::default()
            }),
            fds: vec![0, 1, 2],
            ..frontend::InitMessage::default()
        })),
        said(exec_message::Input::Signal(frontend::SignalMessage {
            name: "SIGTERM".to_owned(),
        })),
        said(exec_message::Input::File(frontend::FdMessage {
            fd: 0,
            eof: true,
            data: Bytes::from_static(b"input"),
        })),
    ])
}

pub(crate) fn health() -> Vec<Bytes> {
    all([health_messages::HealthCheckRequest {
        service: "moby.buildkit.v1.Control".to_owned(),
    }])
}

pub(crate) fn reflection() -> Vec<Bytes> {
    let ask = |question| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    all([
        ask(Question::ListServices("*".to_owned())),
        ask(Question::FileContainingSymbol(
            "moby.buildkit.v1.Control".to_owned(),
        )),
    ])
}

pub(crate) fn spans() -> Vec<Bytes> {
    let span = telemetry::Span {
        trace_id: Bytes::from_static(b"sixteen bytes..."),
        span_id: Bytes::from_static(b"8 bytes."),
        name: "span".to_owned(),
        attributes: vec![telemetry::KeyValue {
            key: "command".to_owned(),
            ..telemetry::KeyValue::default()
        }],
        ..telemetry::Span::default()
    };
    all([telemetry::ExportTraceServiceRequest {
        resource_spans: vec![telemetry::ResourceSpans {
            scope_spans: vec![telemetry::ScopeSpans {
                spans: vec![span],
                ..telemetry::ScopeSpans::default()
            }],
            ..telemetry::ResourceSpans::default()
        }],
    }])
}

/// What a daemon says that wants a directory, and what it says that sends one.
pub(crate) fn packets() -> Vec<Bytes> {
    let packet = |r#type: i32, id: u32, data: &'static [u8]| Packet {
        r#type,
        id,
        data: Bytes::from_static(data),
        ..Packet::default()
    };
    all([
        // Wants the first file, and has all.
        packet(1, 0, b""),
        packet(3, 0, b""),
        // Is a file, of which this is the content.
        Packet {
            stat: Some(fsutil::Stat {
                path: "sent".to_owned(),
                mode: 0o644,
                size: 5,
                ..fsutil::Stat::default()
            }),
            ..packet(0, 0, b"")
        },
        packet(2, 0, b"bytes"),
        packet(0, 0, b""),
    ])
}

pub(crate) fn pieces() -> Vec<Bytes> {
    all([
        BytesMessage {
            data: Bytes::from_static(b"a piece"),
        },
        // A question for an agent: which keys it has.
        BytesMessage {
            data: Bytes::from_static(b"\0\0\0\x01\x0b"),
        },
    ])
}

pub(crate) fn credentials() -> Vec<Bytes> {
    all([auth::CredentialsRequest {
        host: "registry.example".to_owned(),
    }])
}

pub(crate) fn fetch_token() -> Vec<Bytes> {
    all([auth::FetchTokenRequest {
        host: "registry.example".to_owned(),
        // Nobody listens there.
        realm: "http://127.0.0.1:1/token".to_owned(),
        ..auth::FetchTokenRequest::default()
    }])
}

pub(crate) fn token_authority() -> Vec<Bytes> {
    all([auth::GetTokenAuthorityRequest {
        host: "registry.example".to_owned(),
        salt: Bytes::from_static(b"salt"),
    }])
}

pub(crate) fn verify_authority() -> Vec<Bytes> {
    all([auth::VerifyTokenAuthorityRequest {
        host: "registry.example".to_owned(),
        payload: Bytes::from_static(b"payload"),
        salt: Bytes::from_static(b"salt"),
    }])
}

pub(crate) fn secret() -> Vec<Bytes> {
    all([secrets::GetSecretRequest {
        id: "token".to_owned(),
        ..secrets::GetSecretRequest::default()
    }])
}

pub(crate) fn agent() -> Vec<Bytes> {
    all([ssh::CheckAgentRequest {
        id: "default".to_owned(),
    }])
}
