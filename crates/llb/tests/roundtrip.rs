//! Definitions come back as they were written, and no bytes make the decoder panic.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use weld_llb::{
    Builder, Constraints, CopyAction, CopyMode, FileChange, FileInput, GitSource, Graph,
    HttpSource, ImageSource, LocalSource, MkdirAction, MkfileAction, MountSpec, Op, Output,
    Platform, RmAction, Run, Secret, Source, Ssh, State, SymlinkAction, pb,
};

/// One step of a random build. Numbers choose among the states that there are by then.
#[derive(Clone, Debug)]
enum Step {
    Image(String),
    Local(String, Vec<String>),
    Git(String, String, bool),
    Http(String, Option<u32>),
    File(usize, Vec<Change>),
    Run(usize, Vec<String>, Vec<(String, usize, bool)>, bool),
    Merge(Vec<usize>),
    Diff(usize, usize),
}

#[derive(Clone, Debug)]
enum Change {
    Copy(usize, String, String, Option<u32>, Option<String>),
    Mkfile(String, Vec<u8>, Option<i64>),
    Mkdir(String, bool),
    Rm(String),
    Symlink(String, String),
}

fn text() -> impl Strategy<Value = String> {
    "[a-z\"\\\\<é/ ]{1,8}"
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (
            any::<usize>(),
            text(),
            text(),
            option::of(0..0o7777u32),
            option::of(text())
        )
            .prop_map(|(from, src, dest, mode, owner)| Change::Copy(from, src, dest, mode, owner)),
        (text(), vec(any::<u8>(), 0..8), option::of(0..i64::MAX))
            .prop_map(|(path, data, time)| Change::Mkfile(path, data, time)),
        (text(), any::<bool>()).prop_map(|(path, parents)| Change::Mkdir(path, parents)),
        text().prop_map(Change::Rm),
        (text(), text()).prop_map(|(target, path)| Change::Symlink(target, path)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        text().prop_map(Step::Image),
        (text(), vec(text(), 0..3)).prop_map(|(name, paths)| Step::Local(name, paths)),
        ("[a-z]{1,8}", "[a-z]{0,4}", any::<bool>())
            .prop_map(|(id, reference, keep)| Step::Git(id, reference, keep)),
        (text(), option::of(0..0o7777u32)).prop_map(|(url, mode)| Step::Http(url, mode)),
        (any::<usize>(), vec(change(), 1..4)).prop_map(|(base, changes)| Step::File(base, changes)),
        (
            any::<usize>(),
            vec(text(), 1..3),
            vec(("/[a-z]{1,4}", any::<usize>(), any::<bool>()), 0..3),
            any::<bool>()
        )
            .prop_map(|(base, args, mounts, extras)| Step::Run(base, args, mounts, extras)),
        vec(any::<usize>(), 0..4).prop_map(Step::Merge),
        (any::<usize>(), any::<usize>()).prop_map(|(lower, upper)| Step::Diff(lower, upper)),
    ]
}

struct Build {
    builder: Builder,
    states: Vec<State>,
}

impl Build {
    fn state(&self, choice: usize) -> &State {
        &self.states[choice % self.states.len()]
    }

    fn source(&mut self, source: Source) {
        let output = self.builder.add_source(source, Constraints::new());
        self.states.push(State::new(Some(output)));
    }

    fn change(&self, base: &State, change: &Change) -> FileChange<Output> {
        match change.clone() {
            Change::Copy(from, src, dest, mode, owner) => FileChange::Copy(CopyAction {
                mode: mode.map(CopyMode::Bits),
                owner: owner.map(|owner| base.owner(&owner)),
                ..CopyAction::new(self.state(from).file_input(), src, dest)
            }),
            Change::Mkfile(path, data, timestamp) => FileChange::Mkfile(MkfileAction {
                path,
                mode: 0o644,
                data: data.into(),
                owner: None,
                timestamp,
            }),
            Change::Mkdir(path, make_parents) => FileChange::Mkdir(MkdirAction {
                path,
                mode: 0o755,
                make_parents,
                owner: None,
                timestamp: None,
            }),
            Change::Rm(path) => FileChange::Rm(RmAction {
                path,
                allow_not_found: true,
                allow_wildcard: false,
            }),
            Change::Symlink(target, path) => FileChange::Symlink(SymlinkAction {
                target,
                path,
                owner: None,
                timestamp: None,
            }),
        }
    }

    fn run(
        &mut self,
        base: &State,
        args: Vec<String>,
        mounts: Vec<(String, usize, bool)>,
        extras: bool,
    ) {
        let mut run = Run {
            args,
            ..Run::default()
        };
        for (target, from, readonly) in mounts {
            run.mounts.push(MountSpec::Bind {
                target,
                source: self.state(from).output,
                selector: String::new(),
                readonly,
                no_output: false,
                content_cache: pb::MountContentCache::Default,
            });
        }
        if extras {
            run.secrets.push(Secret {
                id: "s".to_owned(),
                target: Some("/run/secrets/s".to_owned()),
                env: Some("S".to_owned()),
                uid: 0,
                gid: 0,
                mode: 0o400,
                optional: true,
            });
            run.ssh.push(Ssh {
                id: "default".to_owned(),
                target: None,
                uid: 0,
                gid: 0,
                mode: 0o600,
                optional: false,
            });
            run.mounts.push(MountSpec::Cache {
                target: "/cache".to_owned(),
                source: None,
                selector: String::new(),
                id: "c".to_owned(),
                sharing: pb::CacheSharingOpt::Locked,
                readonly: false,
            });
            run.mounts.push(MountSpec::Tmpfs {
                target: "/tmp".to_owned(),
                size: 7,
            });
        }
        let outputs = base.run(&mut self.builder, run).unwrap();
        self.states.push(outputs.root);
        for (_, output) in outputs.mounts {
            self.states.push(State::new(output));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Image(reference) => self.source(Source::Image(ImageSource {
                reference,
                ..ImageSource::default()
            })),
            Step::Local(name, follow_paths) => self.source(Source::Local(LocalSource {
                name,
                follow_paths,
                ..LocalSource::default()
            })),
            Step::Git(id, reference, keep_git_dir) => self.source(Source::Git(GitSource {
                id,
                reference,
                keep_git_dir,
                ..GitSource::default()
            })),
            Step::Http(path, mode) => self.source(Source::Http(HttpSource {
                url: format!("https://host/{path}"),
                file: weld_llb::FileAttributes {
                    mode,
                    ..Default::default()
                },
                ..HttpSource::default()
            })),
            Step::File(base, changes) => {
                let base = self.state(base).clone();
                let changes = changes.iter().map(|c| self.change(&base, c)).collect();
                let state = base.file(&mut self.builder, changes, Constraints::new().named("file"));
                self.states.push(state.unwrap());
            }
            Step::Run(base, args, mounts, extras) => {
                let base = self.state(base).clone();
                self.run(&base, args, mounts, extras);
            }
            Step::Merge(inputs) => {
                let inputs: Vec<_> = inputs.iter().map(|i| self.state(*i).output).collect();
                let merged = self.builder.merge(&inputs, Constraints::new());
                self.states.push(State::new(merged));
            }
            Step::Diff(lower, upper) => {
                let (lower, upper) = (self.state(lower).output, self.state(upper).output);
                let diff = self.builder.diff(lower, upper, Constraints::new());
                self.states.push(State::new(diff));
            }
        }
    }
}

fn definition(steps: Vec<Step>) -> pb::Definition {
    let mut build = Build {
        builder: Builder::new(),
        states: vec![State::scratch()],
    };
    for step in steps {
        build.step(step);
    }
    let root = build.states.last().and_then(|state| state.output);
    build.builder.definition(root, &Platform::host()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_built_definition_comes_back_byte_for_byte(steps in vec(step(), 0..12)) {
        let definition = definition(steps);
        let bytes = definition.encode_to_vec();
        let graph = Graph::decode(bytes.clone()).unwrap();
        prop_assert_eq!(graph.vertices().len() + usize::from(graph.root().is_some()), definition.def.len());
        for vertex in graph.vertices() {
            // The typed operation says all that the bytes say.
            let mut op = pb::Op::decode(vertex.bytes().clone()).unwrap();
            prop_assert_eq!(Some(vertex.op().to_pb(op.inputs.len())), op.op.take());
            prop_assert_eq!(vertex.digest(), &weld_llb_digest(vertex.bytes()));
        }
        prop_assert_eq!(graph.to_pb().def, definition.def.clone());
        prop_assert_eq!(graph.to_pb().metadata, definition.metadata);
        // A second builder hands the operations on unchanged.
        let mut builder = Builder::new();
        let root = builder.add_graph(&graph);
        let again = builder.definition(root, &Platform::host()).unwrap();
        let again = Graph::from_pb(again).unwrap();
        let digests = |graph: &Graph| {
            let mut digests: Vec<_> = graph.vertices().iter().map(|v| v.digest().clone()).collect();
            digests.sort();
            digests
        };
        prop_assert_eq!(digests(&again), digests(&graph));
        graph.to_dot();
        graph.to_json();
    }

    #[test]
    fn any_order_of_operations_gives_the_same_graph(steps in vec(step(), 0..12), seed in any::<u64>()) {
        let definition = definition(steps);
        let mut shuffled = definition.clone();
        if let Some(terminal) = shuffled.def.pop() {
            shuffled.def.sort_by_key(|bytes| {
                let digest = weld_llb_digest(bytes);
                digest.bytes()[..8].iter().fold(seed, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte))
            });
            shuffled.def.push(terminal);
        }
        let graph = Graph::from_pb(shuffled).unwrap();
        for (index, vertex) in graph.vertices().iter().enumerate() {
            prop_assert!(vertex.inputs().iter().all(|edge| edge.vertex < index));
        }
        let original = Graph::from_pb(definition).unwrap();
        prop_assert_eq!(graph.vertices().len(), original.vertices().len());
        let root = |graph: &Graph| graph.root().map(|edge| (graph.vertices()[edge.vertex].digest().clone(), edge.output));
        prop_assert_eq!(root(&graph), root(&original));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        let _ = Graph::decode(bytes);
    }

    #[test]
    fn damaged_definitions_never_panic(
        steps in vec(step(), 1..8),
        damage in vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let mut definition = definition(steps);
        for (position, byte) in damage {
            let count = definition.def.len();
            if count == 0 { break; }
            let op = &mut definition.def[position % count];
            let mut bytes = op.to_vec();
            if !bytes.is_empty() {
                let at = (position / count) % bytes.len();
                bytes[at] = byte;
            }
            *op = bytes.into();
        }
        if let Ok(graph) = Graph::from_pb(definition) {
            let again = Graph::decode(graph.encode()).unwrap();
            prop_assert_eq!(again.vertices(), graph.vertices());
        }
    }
}

fn weld_llb_digest(bytes: &[u8]) -> weld_digest::Digest {
    weld_digest::Digest::sha256_of(bytes)
}

#[test]
fn equal_operations_are_encoded_once() {
    let mut builder = Builder::new();
    let mut image = || {
        let source = Source::Image(ImageSource {
            reference: "a".to_owned(),
            ..ImageSource::default()
        });
        builder.add_source(source, Constraints::new().named("n"))
    };
    let (one, two) = (image(), image());
    let copy = FileChange::Copy(CopyAction::new(FileInput::Input(two), "/x", "/y"));
    let state = State::new(Some(one))
        .file(&mut builder, vec![copy], Constraints::new())
        .unwrap();
    let graph =
        Graph::from_pb(builder.definition(state.output, &Platform::host()).unwrap()).unwrap();
    assert_eq!(graph.vertices().len(), 2);
    let copy = &graph.vertices()[1];
    assert_eq!(copy.inputs().len(), 1);
    assert!(matches!(copy.op(), Op::File(file) if file.actions[0].input == FileInput::Input(0)));
}

#[test]
fn a_file_of_several_graphs_is_there_once() {
    let file = |data: &'static str| pb::SourceInfo {
        filename: "Dockerfile".to_owned(),
        data: data.into(),
        ..pb::SourceInfo::default()
    };
    let line = |line| pb::Range {
        start: Some(pb::Position { line, character: 0 }),
        end: Some(pb::Position { line, character: 0 }),
    };
    let source = |name: &str| {
        Source::Local(LocalSource {
            name: name.to_owned(),
            ..LocalSource::default()
        })
    };
    let mut first = Builder::new();
    let at = first.add_source_file(file("content"));
    let output = first.add_source(source("first"), Constraints::new().at(at, vec![line(1)]));
    let first = first.definition(Some(output), &Platform::host()).unwrap();

    let mut second = Builder::new();
    let other = second.add_source_file(file("other"));
    let at = second.add_source_file(file("content"));
    let inner = second.add_graph(&Graph::from_pb(first).unwrap());
    let here = Constraints::new()
        .at(at, vec![line(2)])
        .at(other, vec![line(3)]);
    let own = second.add_source(source("second"), here);
    let merged = second.merge(&[inner, Some(own)], Constraints::new());
    let second = second.definition(merged, &Platform::host()).unwrap();
    let graph = Graph::from_pb(second).unwrap();
    let files: Vec<_> = graph.files().iter().map(|file| file.data.clone()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    let mut lines: Vec<_> = (0..graph.vertices().len())
        .flat_map(|vertex| graph.locations(vertex))
        .map(|location| {
            (
                files[location.file].clone(),
                location.ranges[0].start.unwrap().line,
            )
        })
        .collect();
    lines.sort();
    let expected = [("content", 1), ("content", 2), ("other", 3)];
    assert_eq!(lines, expected.map(|(data, line)| (data.into(), line)));
}
