//! What failed, and what there is to look into.

use weld_llb::{Builder, Constraints, MountSpec, Platform, Run, State, pb};
use weld_proto::frontend as wire;

use crate::world::{World, details, dir, file, shell};

/// The detail that has the ids by which one looks into a failure.
async fn failure(world: &mut World, definition: pb::Definition) -> serde_json::Value {
    let status = world.solve(definition).await.unwrap_err();
    details(&status)["errdefs.Solve+json"].clone()
}

async fn content(world: &mut World, id: &serde_json::Value, path: &str) -> String {
    let read = wire::ReadFileRequest {
        r#ref: id.as_str().unwrap().to_owned(),
        file_path: path.to_owned(),
        ..wire::ReadFileRequest::default()
    };
    let read = world.client.read_file(read).await.unwrap().into_inner();
    String::from_utf8(read.data.to_vec()).unwrap()
}

#[tokio::test]
async fn what_file_actions_had_made_can_be_looked_into() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let changes = vec![
        dir("/found"),
        file("/found/a", 0o644, "made before"),
        file("/missing/b", 0o644, "not made"),
        file("/c", 0o644, "not tried"),
    ];
    let failed = State::scratch().file(&mut builder, changes, Constraints::new());
    let definition = builder.definition(failed.unwrap().output, &Platform::host());
    let failed = failure(&mut world, definition.unwrap()).await;
    assert_eq!(failed["file"]["index"], 2);
    assert_eq!(failed["inputIDs"].as_array().unwrap().len(), 0);
    let made = failed["mountIDs"].as_array().unwrap();
    assert_eq!(made.len(), 4, "one for each action");
    assert_eq!(
        content(&mut world, &made[2], "/found/a").await,
        "made before"
    );
    for nothing in [&made[0], &made[1], &made[3]] {
        assert_eq!(nothing, "");
    }
}

#[tokio::test]
async fn an_input_that_the_cache_could_not_look_at_can_be_looked_into() {
    let mut world = World::new().await;
    let mut builder = Builder::new();
    let root = shell(&mut builder);
    let changes = vec![dir("/found"), file("/found/a", 0o644, "content")];
    let input = State::scratch().file(&mut builder, changes, Constraints::new());
    let run = Run {
        args: ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec(),
        // Only of what is read the content counts.
        mounts: vec![MountSpec::Bind {
            target: "/in".to_owned(),
            source: input.unwrap().output,
            selector: "/missing".to_owned(),
            readonly: true,
            no_output: false,
            content_cache: pb::MountContentCache::Default,
        }],
        ..Run::default()
    };
    let failed = root.run(&mut builder, run).unwrap().root;
    let definition = builder.definition(failed.output, &Platform::host());
    let failed = failure(&mut world, definition.unwrap()).await;
    assert_eq!(failed["cache"]["index"], 1);
    assert_eq!(failed["mountIDs"].as_array().unwrap().len(), 0);
    let inputs = failed["inputIDs"].as_array().unwrap();
    assert_eq!(inputs.len(), 1, "the one that could not be looked at");
    assert_eq!(content(&mut world, &inputs[0], "/found/a").await, "content");
}
