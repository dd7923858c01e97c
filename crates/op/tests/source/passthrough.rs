use prost::Message as _;
use weld_digest::Digest;
use weld_llb::Graph;
use weld_proto::pb;

use crate::world::World;

fn blob(name: &str, digest: &Digest) -> pb::Op {
    let attrs = [
        ("http.filename", name.to_owned()),
        ("oci.store", "layout".to_owned()),
    ];
    pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: format!("oci-layout+blob://example.org/x@{digest}"),
            attrs: attrs.map(|(key, value)| (key.to_owned(), value)).into(),
        })),
        ..pb::Op::default()
    }
}

fn input(digest: &str, index: i64) -> pb::Input {
    pb::Input {
        digest: digest.to_owned(),
        index,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_the_inputs_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    std::fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let digest = Digest::sha256_of("content");
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), "content").unwrap();
    let mut world = World::open(dir.path());
    world.layouts.insert("layout".into(), layout);

    for (output, file) in [(0, "second"), (1, "first")] {
        let mut def = Vec::new();
        let mut add = |op: pb::Op| {
            let bytes = op.encode_to_vec();
            let digest = Digest::sha256_of(&bytes).to_string();
            def.push(bytes.into());
            digest
        };
        let inputs = ["first", "second"].map(|name| input(&add(blob(name, &digest)), 0));
        let passed = add(pb::Op {
            inputs: inputs.into(),
            op: Some(pb::op::Op::Passthrough(pb::PassthroughOp {
                id: "both".into(),
                outputs: vec![1, 0],
            })),
            ..pb::Op::default()
        });
        add(pb::Op {
            inputs: vec![input(&passed, output)],
            ..pb::Op::default()
        });
        let definition = pb::Definition {
            def,
            ..pb::Definition::default()
        };
        let tree = world
            .solve_graph(&Graph::from_pb(definition).unwrap())
            .await
            .unwrap();
        let mounted = tree.mount().unwrap();
        let names: Vec<_> = std::fs::read_dir(mounted.path().join("."))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [file]);
    }
}
