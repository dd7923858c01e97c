//! Builds inside of builds: a definition in a file of an input is built, and may do what the outer build may.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]

mod sharing;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use weld_engine::{
    Entitlement, ProvenanceOptions, SourcePolicies, SourceQuestion, SourceVerdict, SourceVerifier,
    VerifierError,
};
use weld_llb::{
    BuildOp, Builder, Constraints, FileChange, LocalSource, Op, Run, SecurityMode, Source, State,
    SymlinkAction, pb,
};
use weld_proto::Message as _;
use weld_proto::sourcepolicy::{MatchType, Policy, PolicyAction, Rule, Selector};

use world::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_of_an_input_says_is_built_shown_and_cached_as_a_whole() {
    let world = World::new().await;
    let inner = run("cat /proc/sys/kernel/random/uuid >/out");
    let first = world.solve(nested(&inner)).await;
    let name = "inner: cat /proc/sys/kernel/random/uuid >/out";
    assert!(first.ran.contains(name), "{:?}", first.ran);
    assert!(first.ran.contains("outer"), "{:?}", first.ran);
    let again = world.solve(nested(&inner)).await;
    assert_eq!(again.out, first.out);
    assert!(again.cached.contains("outer"), "{:?}", again.cached);
    assert!(!again.cached.contains(name), "{:?}", again.cached);
    // The inner steps are steps like others: from elsewhere, they are found.
    let file = of_files(vec![mkfile("other", inner.encode_to_vec())], Some("other"));
    let elsewhere = world.solve(file).await;
    assert_eq!(elsewhere.out, first.out);
    assert!(elsewhere.cached.contains(name), "{:?}", elsewhere.cached);
    assert_eq!(world.solve(inner).await.out, first.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_can_be_built_on_and_come_from_a_step() {
    let world = World::new().await;
    let context = world.directory.path().join("context");
    let mut builder = Builder::new();
    let local = Source::Local(LocalSource {
        name: "context".to_owned(),
        ..LocalSource::default()
    });
    let local = State::new(Some(builder.add_source(local, Constraints::new())));
    let built = build(&mut builder, &local, Some("sub/definition"));
    let command = "cat /out /out >/twice && mv /twice /out";
    let on_top = Run {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let on_top = built.run(&mut builder, on_top).unwrap().root;
    let definition = encoded(&builder, &on_top);
    std::fs::create_dir(context.join("sub")).unwrap();
    for text in ["one", "two"] {
        let inner = run(&format!("printf {text} >/out"));
        std::fs::write(context.join("sub/definition"), inner.encode_to_vec()).unwrap();
        assert_eq!(world.solve(definition.clone()).await.out, text.repeat(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_found_beneath_the_root_of_its_input_only() {
    let world = World::new().await;
    let link = |to: &str| {
        FileChange::Symlink(SymlinkAction {
            path: "/link".to_owned(),
            target: to.to_owned(),
            owner: None,
            timestamp: None,
        })
    };
    let inner = run("echo found >/out").encode_to_vec();
    let within = of_files(
        vec![mkfile("/file", inner.clone()), link("/../file")],
        Some("link"),
    );
    assert_eq!(world.solve(within).await.out, "found\n");
    let above = of_files(vec![mkfile("/file", inner.clone())], Some("../../file"));
    assert_eq!(world.solve(above).await.out, "found\n");

    let outside = world.directory.path().join("outside");
    std::fs::write(&outside, &inner).unwrap();
    let outside = of_files(vec![link(outside.to_str().unwrap())], Some("link"));
    let parts = ["outer: ", "link", "no such file"];
    world.fails(Rights::default(), &outside, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_definition_is_told_with_its_place() {
    let world = World::new().await;
    let no_file = of_files(vec![mkfile("file", Vec::new())], None);
    let garbage = of_files(vec![mkfile("file", b"garbage".to_vec())], Some("file"));
    let directory = of_files(vec![mkfile("file", Vec::new())], Some("/"));
    let unknown = pb::Definition {
        def: vec![pb::Op::default().encode_to_vec().into(); 2],
        ..pb::Definition::default()
    };
    for (definition, parts) in [
        (no_file, ["outer: ", DEFAULT, "no such file"]),
        (garbage, ["outer: ", "file: ", "invalid LLB definition"]),
        (directory, ["outer: ", "/: ", "is not a regular file"]),
        (
            nested(&unknown),
            ["outer: ", DEFAULT, "invalid LLB definition"],
        ),
    ] {
        world.fails(Rights::default(), &definition, &parts).await;
    }

    let mut builder = Builder::new();
    let command = "truncate -s 17M /large";
    let sparse = Run {
        args: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
        ..Run::default()
    };
    let sparse = image(&mut builder).run(&mut builder, sparse).unwrap().root;
    let large = build(&mut builder, &sparse, Some("large"));
    let parts = ["outer: large: ", "17825792 bytes"];
    world
        .fails(Rights::default(), &encoded(&builder, &large), &parts)
        .await;

    // A definition without steps is an empty file system.
    let empty = nested(&pb::Definition::default());
    let open = world.open(Rights::default(), empty).await.unwrap();
    open.job.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_definitions_build() {
    let world = World::new().await;
    let mut builder = Builder::new();
    let files = vec![mkfile(DEFAULT, run("true").encode_to_vec())];
    let input = State::scratch().file(&mut builder, files, Constraints::new());
    let input = input.unwrap();
    let op = |builder, name: &str| {
        Op::Build(Box::new(BuildOp {
            builder,
            inputs: BTreeMap::from([(name.to_owned(), input.output.unwrap())]),
            definition: None,
            attrs: BTreeMap::new(),
        }))
    };
    for (op, part) in [
        (
            op(input.output, DEFAULT),
            "a builder of its own is not supported",
        ),
        (op(None, "other"), "no input buildkit.llb.definition"),
    ] {
        let mut builder = builder.clone();
        let built = builder.add(op, Constraints::new());
        let definition = encoded(&builder, &State::new(Some(built)));
        world
            .fails(Rights::default(), &definition, &["build: ", part])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_inner_step_is_told_with_its_own_place() {
    let world = World::new().await;
    let definition = nested(&nested(&run("exit 3")));
    let parts = ["outer: ", DEFAULT, "inner: exit 3", "exit code: 3"];
    let error = world.fails(Rights::default(), &definition, &parts).await;
    assert_eq!(error.exit_code(), Some(3));
    let excerpt = error.source_excerpt().unwrap();
    assert!(
        excerpt.contains("inner.txt") && excerpt.contains("second line"),
        "{excerpt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_are_inside_of_each_other_to_a_limit() {
    let world = World::new().await;
    let at_depth = |depth| (0..depth).fold(run("echo deep >/out"), |inner, _| nested(&inner));
    assert_eq!(world.solve(at_depth(16)).await.out, "deep\n");
    let parts = ["inside of 16 other builds"];
    // Another text: what was built before is found.
    let deeper = (0..17).fold(run("echo deeper >/out"), |inner, _| nested(&inner));
    world.fails(Rights::default(), &deeper, &parts).await;
}

fn insecure() -> Rights {
    Rights {
        entitlements: vec![Entitlement::SecurityInsecure],
        ..Rights::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_step_has_no_rights_that_the_outer_build_lacks() {
    let world = World::new().await;
    let definition = nested(&nested(&step("echo free >/out", SecurityMode::Insecure)));
    let parts = [
        "outer: ",
        DEFAULT,
        "inner: ",
        "security.insecure is not allowed",
    ];
    let error = world.fails(Rights::default(), &definition, &parts).await;
    let excerpt = error.source_excerpt().unwrap();
    assert!(excerpt.contains("second line"), "{excerpt}");
    let allowed = world.open(insecure(), definition.clone()).await.unwrap();
    // Neither what runs now nor what ran before is for those who may not.
    world.fails(Rights::default(), &definition, &parts).await;
    assert_eq!(allowed.close().await.out, "free\n");
    world.fails(Rights::default(), &definition, &parts).await;
    let again = world.open(insecure(), definition).await.unwrap();
    assert!(again.close().await.cached.contains("outer"));
}

fn denied() -> Rights {
    let policy = Policy {
        version: 1,
        rules: vec![Rule {
            action: PolicyAction::Deny.into(),
            selector: Some(Selector {
                identifier: format!("docker-image://{}", base()),
                match_type: MatchType::Exact.into(),
                constraints: Vec::new(),
            }),
            updates: None,
        }],
    };
    Rights {
        policies: SourcePolicies::new(vec![policy]).unwrap(),
        ..Rights::default()
    }
}

/// Allows sources that have this in their names.
struct Allows(&'static str);

#[async_trait]
impl SourceVerifier for Allows {
    async fn verify(&self, question: SourceQuestion) -> Result<SourceVerdict, VerifierError> {
        Ok(match question.source.identifier.contains(self.0) {
            true => SourceVerdict::Allow,
            false => SourceVerdict::Deny {
                action: "DENY".to_owned(),
                messages: vec!["not that one".to_owned()],
            },
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_definition_has_no_sources_that_the_outer_build_may_not_use() {
    let world = World::new().await;
    let definition = nested(&run("echo fetched >/out"));
    let open = world
        .open(Rights::default(), definition.clone())
        .await
        .unwrap();
    let parts = ["outer: ", DEFAULT, "denied by policy"];
    world.fails(denied(), &definition, &parts).await;
    assert_eq!(open.close().await.out, "fetched\n");
    world.fails(denied(), &definition, &parts).await;

    let verified = |part| Rights {
        verifier: Some(Arc::new(Allows(part))),
        ..Rights::default()
    };
    let open = world.open(verified("/base"), definition.clone()).await;
    let open = open.unwrap();
    let parts = ["outer: ", DEFAULT, "not allowed by policy"];
    let error = world.fails(verified("nothing"), &definition, &parts).await;
    assert_eq!(error.forbidden().unwrap(), ["not that one"]);
    assert_eq!(open.close().await.out, "fetched\n");
    world.fails(verified("nothing"), &definition, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_knows_what_an_inner_build_was_made_of_if_it_ran() {
    let world = World::new().await;
    let definition = nested(&run("echo made >/out"));
    for (ran, complete) in [(true, true), (false, false)] {
        let open = world.open(Rights::default(), definition.clone()).await;
        let open = open.unwrap();
        let options = ProvenanceOptions::default();
        let documents = open.job.provenance(&open.result, &options).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&documents[0].1).unwrap();
        let materials = document["buildDefinition"]["resolvedDependencies"].to_string();
        let base = base().replace(":latest", "");
        assert_eq!(
            materials.contains(base.split('/').nth(1).unwrap()),
            ran,
            "{materials}"
        );
        let completeness = &document["runDetails"]["metadata"]["buildkit_completeness"];
        assert_eq!(completeness["resolvedDependencies"], complete, "{document}");
        open.job.close().await;
    }
}
