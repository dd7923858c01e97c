//! What sources are made of policies, and what they stand for.

use std::collections::BTreeMap;

use weld_llb::{Builder, Constraints, Platform, pb};
use weld_proto::frontend as wire;
use weld_proto::sourcepolicy::{MatchType, Policy, PolicyAction, Rule, Selector, Update};

use crate::world::World;

/// A source and nothing else.
fn fetched(source: &pb::SourceOp) -> pb::Definition {
    let mut builder = Builder::new();
    let source = weld_llb::Source::from_pb(source).unwrap();
    let output = builder.add_source(source, Constraints::new());
    builder.definition(Some(output), &Platform::host()).unwrap()
}

/// A server of files.
struct Files {
    address: std::net::SocketAddr,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Files {
    async fn serve(files: &[(&'static str, &'static str)]) -> Self {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let (mut first, mut line) = (String::new(), String::new());
                stream.read_line(&mut first).await.unwrap();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                let path = first.split(' ').nth(1).unwrap();
                let content = files[path];
                let length = content.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let body = if first.starts_with("HEAD") {
                    ""
                } else {
                    content
                };
                let answer = format!("{head}{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            address,
            _task: tokio_util::task::AbortOnDropHandle::new(task),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

#[tokio::test]
async fn a_policy_decides_what_a_source_is() {
    let mut world = World::new().await;
    let server = Files::serve(&[("/a", "content of a"), ("/b", "content of b")]).await;
    let policy = |action: PolicyAction, from: &str, to: Option<String>| Policy {
        version: 1,
        rules: vec![Rule {
            action: action.into(),
            selector: Some(Selector {
                identifier: server.url(from),
                match_type: MatchType::Exact.into(),
                constraints: Vec::new(),
            }),
            updates: to.map(|identifier| Update {
                identifier,
                attrs: BTreeMap::new(),
            }),
        }],
    };
    let source = pb::SourceOp {
        identifier: server.url("/a"),
        attrs: BTreeMap::from([("http.filename".to_owned(), "file".to_owned())]),
    };
    let resolve = |policies| wire::ResolveSourceMetaRequest {
        source: Some(source.clone()),
        source_policies: policies,
        ..wire::ResolveSourceMetaRequest::default()
    };
    let build = |policies| wire::SolveRequest {
        definition: Some(fetched(&source)),
        source_policies: policies,
        allow_result_return: true,
        allow_result_array_ref: true,
        evaluate: true,
        ..wire::SolveRequest::default()
    };

    let plain = world.client.resolve_source_meta(resolve(Vec::new())).await;
    let plain = plain.unwrap().into_inner().http.unwrap();
    let of_a = weld_digest::Digest::sha256_of("content of a").to_string();
    assert_eq!((plain.checksum, plain.filename.as_str()), (of_a, "file"));

    let denied = vec![policy(PolicyAction::Deny, "/a", None)];
    let errors = [
        world
            .client
            .resolve_source_meta(resolve(denied.clone()))
            .await
            .err(),
        world.client.solve(build(denied)).await.err(),
    ];
    for error in errors {
        let error = error.unwrap();
        assert!(error.message().contains("denied by policy"), "{error:?}");
    }

    let converted = vec![policy(PolicyAction::Convert, "/a", Some(server.url("/b")))];
    let other = world
        .client
        .resolve_source_meta(resolve(converted.clone()))
        .await;
    let other = other.unwrap().into_inner();
    assert_eq!(other.source.unwrap().identifier, server.url("/b"));
    let of_b = weld_digest::Digest::sha256_of("content of b").to_string();
    assert_eq!(other.http.unwrap().checksum, of_b);
    let solved = world.client.solve(build(converted)).await.unwrap();
    let wire::result::Result::Ref(reference) = solved.into_inner().result.unwrap().result.unwrap()
    else {
        panic!("one file system");
    };
    let read = world.client.read_file(wire::ReadFileRequest {
        r#ref: reference.id,
        file_path: "/file".to_owned(),
        range: None,
        mount_index: 0,
    });
    assert_eq!(read.await.unwrap().into_inner().data, "content of b");
}

#[tokio::test]
async fn of_some_sources_nothing_is_known_before_they_are_built() {
    let mut world = World::new().await;
    let source = pb::SourceOp {
        identifier: "local://context".to_owned(),
        attrs: BTreeMap::new(),
    };
    let request = wire::ResolveSourceMetaRequest {
        source: Some(source.clone()),
        ..wire::ResolveSourceMetaRequest::default()
    };
    let known = world.client.resolve_source_meta(request).await;
    let only_the_source = wire::ResolveSourceMetaResponse {
        source: Some(source),
        ..wire::ResolveSourceMetaResponse::default()
    };
    assert_eq!(known.unwrap().into_inner(), only_the_source);
}
