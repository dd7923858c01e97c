//! What a client may get wrong is refused, with what and where.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use prost::Message;
use weld_digest::Digest;
use weld_llb::{Graph, Limits, pb};

fn encode(op: &pb::Op) -> Bytes {
    op.encode_to_vec().into()
}

fn input(bytes: &Bytes, index: i64) -> pb::Input {
    pb::Input {
        digest: Digest::sha256_of(bytes).to_string(),
        index,
    }
}

fn source(identifier: &str) -> pb::Op {
    pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn terminal(of: &Bytes) -> Bytes {
    encode(&pb::Op {
        inputs: vec![input(of, 0)],
        ..Default::default()
    })
}

fn mkdir(inputs: Vec<pb::Input>, from: i64, output: i64) -> pb::Op {
    pb::Op {
        inputs,
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![pb::FileAction {
                input: from,
                secondary_input: -1,
                output,
                action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
                    path: "/a".to_owned(),
                    mode: 0o755,
                    timestamp: -1,
                    ..Default::default()
                })),
            }],
        })),
        ..Default::default()
    }
}

fn exec(mounts: Vec<pb::Mount>) -> pb::Op {
    pb::Op {
        op: Some(pb::op::Op::Exec(pb::ExecOp {
            meta: Some(pb::Meta {
                args: vec!["true".to_owned()],
                cwd: "/".to_owned(),
                ..Default::default()
            }),
            mounts,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn mount(dest: &str) -> pb::Mount {
    pb::Mount {
        dest: dest.to_owned(),
        input: -1,
        ..Default::default()
    }
}

fn refused(def: Vec<Bytes>) -> String {
    let definition = pb::Definition {
        def,
        ..Default::default()
    };
    let error = Graph::from_pb(definition).unwrap_err();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A definition whose result is `op`.
fn alone(op: &pb::Op) -> Vec<Bytes> {
    let bytes = encode(op);
    let terminal = terminal(&bytes);
    vec![bytes, terminal]
}

#[test]
fn operations_that_make_no_graph_are_refused() {
    let local = encode(&source("local://a"));
    let missing = encode(&source("local://missing"));
    let cases = [
        (
            vec![local.clone()],
            "the last operation must have exactly one input",
        ),
        (
            vec![local.clone(), terminal(&missing)],
            "which is not in the definition",
        ),
        (
            alone(&mkdir(vec![input(&missing, 0)], 0, 0)),
            "operation 0: input 0 is sha256:",
        ),
        (
            alone(&mkdir(
                vec![pb::Input {
                    digest: "md5:x".to_owned(),
                    index: 0,
                }],
                0,
                0,
            )),
            "no SHA-256 digest",
        ),
        (
            vec![
                local.clone(),
                encode(&mkdir(vec![input(&local, 3)], 0, 0)),
                terminal(&local),
            ],
            "output 3 of sha256:",
        ),
        (
            vec![
                local.clone(),
                encode(&mkdir(vec![input(&local, -1)], 0, 0)),
                terminal(&local),
            ],
            "output -1 of sha256:",
        ),
        (
            vec![
                Bytes::from_static(b"\xff\xff"),
                local.clone(),
                terminal(&local),
            ],
            "operation 0 (sha256:",
        ),
        (alone(&pb::Op::default()), "unknown operation"),
    ];
    for (def, part) in cases {
        let error = refused(def);
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn operations_that_make_no_sense_are_refused() {
    let output = |dest: &str, output| pb::Mount {
        output,
        ..mount(dest)
    };
    let cases = [
        (source("nosuch://a"), "\"nosuch\" is not supported"),
        (mkdir(vec![], 0, 0), "file action 0: input 0 is neither"),
        (mkdir(vec![], -2, 0), "file action 0: input -2 is neither"),
        (mkdir(vec![], -1, 1), "file action 0: output 1"),
        (mkdir(vec![], -1, -1), "no output"),
        (exec(vec![]), "no mount at /"),
        (
            exec(vec![mount("/"), output("/a", 0)]),
            "mount \"/a\" has output 0",
        ),
        (
            exec(vec![mount("/"), output("/a", -2)]),
            "mount \"/a\" has output -2",
        ),
        (
            exec(vec![
                mount("/"),
                pb::Mount {
                    input: 1,
                    ..output("/a", 1)
                },
            ]),
            "mount \"/a\" uses input 1 of 0",
        ),
        (
            exec(vec![
                mount("/"),
                pb::Mount {
                    mount_type: 9,
                    ..output("/a", 1)
                },
            ]),
            "invalid mount type 9",
        ),
        (
            exec(vec![
                mount("/"),
                pb::Mount {
                    mount_type: 1,
                    ..mount("/a")
                },
            ]),
            "lacks its secret options",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::Exec(pb::ExecOp::default())),
                ..Default::default()
            },
            "no process",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::Merge(pb::MergeOp::default())),
                ..Default::default()
            },
            "merge has 0 inputs",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::Diff(pb::DiffOp::default())),
                ..Default::default()
            },
            "lacks its lower side",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::Passthrough(pb::PassthroughOp::default())),
                ..Default::default()
            },
            "no id",
        ),
    ];
    for (op, part) in cases {
        let error = refused(alone(&op));
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_definition_beyond_the_limits_is_refused() {
    let bytes = pb::Definition {
        def: alone(&mkdir(vec![], -1, 0)),
        ..Default::default()
    }
    .encode_to_vec();
    let limits = Limits::default();
    let decode = |limits| Graph::decode_within(bytes.clone(), limits);
    assert!(decode(limits).is_ok());
    let error = decode(Limits {
        vertices: 0,
        ..limits
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("1 operations: more than 0"), "{error}");
    let error = decode(Limits { bytes: 3, ..limits })
        .unwrap_err()
        .to_string();
    assert!(error.contains("more than 3"), "{error}");
}

#[test]
fn an_empty_definition_is_an_empty_file_system() {
    assert_eq!(Graph::decode(Vec::new()).unwrap().root(), None);
}

#[test]
fn what_the_result_does_not_need_is_not_in_the_graph() {
    let (local, other) = (encode(&source("local://a")), encode(&source("local://b")));
    let graph = Graph::from_pb(pb::Definition {
        def: vec![other, local.clone(), terminal(&local)],
        ..Default::default()
    })
    .unwrap();
    assert_eq!(graph.vertices().len(), 1);
}

#[test]
fn an_operation_that_stands_there_twice_is_one() {
    let (local, other) = (encode(&source("local://a")), encode(&source("local://b")));
    let made = encode(&mkdir(vec![input(&local, 0)], 0, 0));
    let (terminal, of_other) = (terminal(&made), terminal(&other));
    let decode = |def: &[&Bytes]| {
        let name = pb::OpMetadata {
            ignore_cache: true,
            ..Default::default()
        };
        let definition = pb::Definition {
            def: def.iter().map(|&bytes| bytes.clone()).collect(),
            metadata: [(Digest::sha256_of(&local).to_string(), name)].into(),
            ..Default::default()
        };
        Graph::from_pb(definition.clone()).inspect(|graph| {
            let encoded = Graph::decode(definition.encode_to_vec()).unwrap();
            assert_eq!(*graph, encoded);
        })
    };
    let once = decode(&[&local, &made, &terminal]).unwrap();
    assert!(once.vertices()[0].metadata().ignore_cache);
    for def in [
        &[&local, &local, &made, &terminal][..],
        &[&local, &made, &local, &made, &terminal],
        &[&made, &local, &made, &terminal],
        &[&local, &made, &terminal, &terminal],
    ] {
        assert_eq!(decode(def).unwrap(), once);
    }
    // Another result before the result is still nothing that acts.
    let error = decode(&[&other, &of_other, &local, &made, &terminal]).unwrap_err();
    assert!(error.to_string().starts_with("operation 1 ("), "{error}");
    // Each counts.
    let limits = Limits {
        vertices: 2,
        ..Limits::default()
    };
    let thrice = pb::Definition {
        def: [&local, &local, &made, &terminal].map(Clone::clone).into(),
        ..Default::default()
    };
    let error = Graph::from_pb_within(thrice, limits).unwrap_err();
    assert!(
        error.to_string().contains("3 operations: more than 2"),
        "{error}"
    );
}

#[test]
fn a_million_operations_are_too_many() {
    let definition = pb::Definition {
        def: vec![Bytes::new(); 1_000_001],
        ..Default::default()
    };
    let error = Graph::from_pb(definition).unwrap_err();
    assert_eq!(
        error.to_string(),
        "definition of 1000000 operations: more than 262144 are not accepted"
    );
}
