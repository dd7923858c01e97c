//! What is solved, returned and told, and what it holds.

use std::collections::BTreeMap;

use tonic::Code;
use weld_engine::{AttestOptions, ProvenanceOptions, Refs, SolveInput, SolveRequest};
use weld_llb::{Builder, Constraints, Platform, Run, pb};
use weld_proto::frontend as wire;

use crate::containers::init;
use crate::world::{World, details, hello, one_file, shell};

#[tokio::test]
async fn files_of_a_solved_definition_can_be_read() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let read = |path: &str, range| wire::ReadFileRequest {
        r#ref: id.clone(),
        file_path: path.to_owned(),
        range,
        ..wire::ReadFileRequest::default()
    };
    let whole = world.client.read_file(read("/dir/hello", None)).await;
    assert_eq!(whole.unwrap().into_inner().data, "hello, world");
    let range = wire::FileRange {
        offset: 7,
        length: 100,
    };
    let part = world.client.read_file(read("dir/hello", Some(range))).await;
    assert_eq!(part.unwrap().into_inner().data, "world");
    let missing = world.client.read_file(read("/nope", None)).await;
    let missing = missing.unwrap_err();
    assert_eq!(missing.message(), "open /nope: no such file or directory");
    let up = world.client.read_file(read("../../etc/passwd", None)).await;
    assert!(up.is_err(), "a path led out of the result");

    let listed = world.client.read_dir(wire::ReadDirRequest {
        r#ref: id.clone(),
        dir_path: "/dir".to_owned(),
        include_pattern: "*el*".to_owned(),
        ..wire::ReadDirRequest::default()
    });
    let listed = listed.await.unwrap().into_inner().entries;
    let names: Vec<_> = listed.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["below", "hello"]);
    assert_eq!(listed[0].mode, 1 << 31 | 0o755, "a directory in Go's bits");

    let stat = world.client.stat_file(wire::StatFileRequest {
        r#ref: id.clone(),
        path: "/dir/hello".to_owned(),
        ..wire::StatFileRequest::default()
    });
    let stat = stat.await.unwrap().into_inner().stat.unwrap();
    assert_eq!(
        (stat.size, stat.mode, stat.path.as_str()),
        (12, 0o640, "hello")
    );
}

#[tokio::test]
async fn what_it_can_do_and_what_it_was_given_is_told() {
    let mut world = World::new().await;
    let pong = world
        .client
        .ping(wire::PingRequest {})
        .await
        .unwrap()
        .into_inner();
    let has = |caps: &[weld_proto::apicaps::ApiCap], id: &str| caps.iter().any(|cap| cap.id == id);
    assert!(has(&pong.frontend_api_caps, "gateway.exec.signals"));
    assert!(has(&pong.llb_caps, "exec.secretenv"));
    assert!(
        !has(&pong.llb_caps, "exec.meta.networkproxy"),
        "there are no proxy networks"
    );
    assert_eq!(pong.workers.len(), 1);
    let inputs = world.client.inputs(wire::InputsRequest {}).await.unwrap();
    assert_eq!(inputs.into_inner().definitions["context"], hello());
}

#[tokio::test]
async fn what_is_returned_is_the_result_of_the_build() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let reference = wire::Ref { id, def: None };
    let returned = wire::ReturnRequest {
        result: Some(wire::Result {
            metadata: BTreeMap::from([("key".to_owned(), b"value".to_vec())]),
            result: Some(wire::result::Result::Ref(reference)),
            ..wire::Result::default()
        }),
        error: None,
    };
    world.client.return_result(returned.clone()).await.unwrap();
    let again = world.client.return_result(returned).await;
    assert!(again.is_err(), "a result can be returned once");
    let result = world.session.result().await.unwrap();
    assert_eq!(result.metadata["key"], "value");
    let Refs::Single(Some(reference)) = &result.refs else {
        panic!("{:?}", result.refs);
    };
    let read = reference.read_file("/dir/hello", None).await.unwrap();
    assert_eq!(read, "hello, world");
    let exported = world
        .job
        .export(&result, &[], &[], &AttestOptions::default())
        .await;
    assert!(exported.is_ok());
}

#[tokio::test]
async fn provenance_tells_who_made_an_input() {
    let world = World::new().await;
    let files = one_file(
        "/Dockerfile",
        "FROM scratch AS base\nCOPY --from=made /f /f\n",
    );
    let bridge = world.job.bridge();
    let ask = async |made: pb::Definition, input: &str, label: &str| {
        let inputs = [("context", &files), ("dockerfile", &files), (input, &made)];
        let opts = [
            ("context:made", format!("input:{input}")),
            ("label:by", label.to_owned()),
        ];
        let request = SolveRequest {
            input: SolveInput::Frontend {
                name: "dockerfile.v0".to_owned(),
                opts: opts.map(|(key, value)| (key.to_owned(), value)).into(),
                inputs: inputs
                    .map(|(name, input)| (name.to_owned(), input.clone()))
                    .into(),
            },
            evaluate: true,
            ..SolveRequest::default()
        };
        bridge.solve(request).await.unwrap()
    };
    let first = ask(one_file("/f", "f"), "plain", "first").await;
    let made = first.each_ref().next().unwrap().to_definition();
    let second = ask(made, "made", "second").await;
    let documents = world
        .job
        .provenance(&second, &ProvenanceOptions::default())
        .await
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&documents[0].1).unwrap();
    let request = &document["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["label:by"], "second");
    let inputs = request["inputs"].as_object().unwrap();
    // Of what no frontend made nobody knows who did.
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["made"], "{request:#}");
    assert_eq!(inputs["made"]["request"]["args"]["label:by"], "first");
    assert_eq!(inputs["made"]["request"]["frontend"], "dockerfile.v0");
}

#[tokio::test]
async fn a_failed_step_says_where_and_shows_what_was_left() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let dockerfile = builder.add_file("Dockerfile", "Dockerfile", "FROM x\nRUN fail\n");
    let line = pb::Position {
        line: 2,
        character: 0,
    };
    let range = pb::Range {
        start: Some(line),
        end: Some(line),
    };
    let root = shell(&mut builder);
    let script = "echo rest > /left; exit 7";
    let run = Run {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        constraints: Constraints::new().at(dockerfile, vec![range]),
        ..Run::default()
    };
    let failed = root.run(&mut builder, run).unwrap().root;
    let definition = builder.definition(failed.output, &Platform::host());
    let status = world.solve(definition.unwrap()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert!(
        status.message().ends_with("exit code: 7"),
        "{}",
        status.message()
    );
    let details = details(&status);
    let text = |value: &serde_json::Value| value.to_string();
    assert_eq!(details["gatewayapi.ExitMessage+json"]["Code"], 7);
    let vertex = text(&details["errdefs.Vertex+json"]["digest"]);
    assert!(vertex.starts_with("\"sha256:"), "{vertex}");
    let source = &details["errdefs.Source+json"];
    assert_eq!(source["info"]["filename"], "Dockerfile");
    assert_eq!(source["ranges"][0]["start"]["line"], 2);
    let solve = &details["errdefs.Solve+json"];
    assert_eq!(solve["op"]["exec"]["meta"]["args"][2], script);
    let left = solve["mountIDs"][0].as_str().unwrap().to_owned();
    world.container("debug", &left).await;
    let out = world.exec(
        "p",
        vec![init("debug", "read x < /left; echo $x", &[1], false)],
    );
    assert_eq!(out.await.text(), "rest\n");
}

#[tokio::test]
async fn warnings_keep_the_lines_that_they_are_about() {
    let mut world = World::new().await;
    let position = |line, character| Some(pb::Position { line, character });
    let warned = world.client.warn(wire::WarnRequest {
        digest: weld_digest::Digest::sha256_of("step").to_string(),
        level: 1,
        short: "short".into(),
        info: Some(pb::SourceInfo {
            filename: "file".to_owned(),
            data: "content".into(),
            language: "lang".to_owned(),
            definition: None,
        }),
        ranges: vec![pb::Range {
            start: position(3, 1),
            end: position(4, 2),
        }],
        ..wire::WarnRequest::default()
    });
    warned.await.unwrap();
    let batch = world.progress.receive().await.unwrap();
    let warning = &batch.warnings[0];
    let source = warning.source.as_ref().unwrap();
    assert_eq!(
        (source.filename.as_str(), &source.data[..]),
        ("file", &b"content"[..])
    );
    let range = warning.ranges[0];
    assert_eq!((range.start.line, range.end.character), (3, 2));
}

#[tokio::test]
async fn results_for_other_platforms_than_asked_for_are_told() {
    let mut world = World::new().await;
    let id = world.solve(hello()).await.unwrap();
    let returned = world.client.return_result(wire::ReturnRequest {
        result: Some(wire::Result {
            result: Some(wire::result::Result::Ref(wire::Ref { id, def: None })),
            ..wire::Result::default()
        }),
        error: None,
    });
    returned.await.unwrap();
    let result = world.session.result().await.unwrap();
    let check = |platforms: &str| {
        let opts = BTreeMap::from([("platform".to_owned(), platforms.to_owned())]);
        world.job.check_platforms(&opts, &result).unwrap();
    };
    check(&Platform::host().to_string());
    check("linux/amd64,linux/arm64");
    check("plan9/mips");
    let mut told = Vec::new();
    while told.len() < 2 {
        let batch = world.progress.receive().await.unwrap();
        let warnings = batch.warnings.into_iter();
        told.extend(warnings.map(|warning| String::from_utf8(warning.short).unwrap()));
    }
    assert_eq!(
        told[0],
        "Multiple platforms requested but result is not multi-platform"
    );
    assert!(told[1].contains("plan9/mips"), "{}", told[1]);
}

#[tokio::test]
async fn what_the_dockerfile_frontend_lacks_is_named() {
    let mut world = World::new().await;
    let mut solve = async |caps: &str, id: &str| {
        let opts = [("frontend.caps", caps), ("requestid", id)];
        let opts = opts.iter().filter(|(_, value)| !value.is_empty());
        let request = wire::SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: opts
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..wire::SolveRequest::default()
        };
        world.client.solve(request).await
    };
    let describe = "frontend.subrequests.describe";
    let known = "moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts+forward";
    solve(known, describe).await.unwrap();
    for caps in [
        "moby.buildkit.frontend.nope",
        "moby.buildkit.frontend.nope+forward",
        "moby.buildkit.frontend.other+forward,moby.buildkit.frontend.nope",
    ] {
        let refused = solve(caps, describe).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{caps}");
        let named = &details(&refused)["errdefs.FrontendCap+json"]["name"];
        assert_eq!(named, "moby.buildkit.frontend.nope", "{caps}");
    }
    // Without an image that may have it, a build is not even begun.
    let refused = solve("moby.buildkit.frontend.nope", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}
