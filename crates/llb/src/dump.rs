//! Graphs for people and tools.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{
    CopyMode, ExecOp, FileAction, FileChange, FileInput, Graph, MountKind, Op, Owner, UserRef,
    Vertex,
};

impl Graph {
    /// The graph in Graphviz's language: boxes run, ellipses fetch, edges carry mount points.
    pub fn to_dot(&self) -> String {
        let mut dot = String::from("digraph {\n");
        for vertex in self.vertices() {
            let shape = match vertex.op() {
                Op::Source(_) => "ellipse",
                Op::Exec(_) | Op::Build(_) => "box",
                Op::File(_) => "note",
                Op::Merge(_) => "invtriangle",
                Op::Diff(_) => "doublecircle",
                Op::Passthrough(_) => "cds",
            };
            let name = escape_dot(&self.name(vertex));
            let digest = vertex.digest();
            let _ = writeln!(dot, "  \"{digest}\" [label=\"{name}\" shape=\"{shape}\"];");
        }
        for vertex in self.vertices() {
            for (index, (input, output)) in self.inputs_of(vertex).enumerate() {
                let label = escape_dot(&edge_label(vertex, index, output));
                let (from, to) = (input.digest(), vertex.digest());
                let _ = writeln!(dot, "  \"{from}\" -> \"{to}\" [label=\"{label}\"];");
            }
        }
        dot.push_str("}\n");
        dot
    }

    /// One JSON value per vertex, inputs first: its digest, what it does, its inputs, its metadata.
    pub fn to_json(&self) -> Vec<Value> {
        self.vertices()
            .iter()
            .enumerate()
            .map(|(index, vertex)| self.vertex_to_json(index, vertex))
            .collect()
    }

    fn vertex_to_json(&self, index: usize, vertex: &Vertex) -> Value {
        let inputs: Vec<Value> = self
            .inputs_of(vertex)
            .map(|(input, output)| json!({"digest": input.digest(), "index": output}))
            .collect();
        let mut object = Map::new();
        object.insert("digest".to_owned(), json!(vertex.digest()));
        object.insert("name".to_owned(), json!(self.name(vertex)));
        object.insert("kind".to_owned(), json!(vertex.op().kind()));
        object.insert("inputs".to_owned(), Value::Array(inputs));
        object.insert("op".to_owned(), op_to_json(vertex.op()));
        if let Some(platform) = vertex.platform() {
            object.insert("platform".to_owned(), json!(platform.to_string()));
        }
        if !vertex.worker_filters().is_empty() {
            object.insert("constraints".to_owned(), json!(vertex.worker_filters()));
        }
        object.insert("metadata".to_owned(), metadata_to_json(vertex));
        let locations: Vec<Value> = self
            .locations(index)
            .iter()
            .flat_map(|location| {
                let file = self.files().get(location.file);
                let file = file.map_or("", |file| file.filename.as_str());
                location.ranges.iter().map(move |range| {
                    let line = |position: Option<weld_proto::pb::Position>| {
                        position.unwrap_or_default().line
                    };
                    json!({"file": file, "from": line(range.start), "to": line(range.end)})
                })
            })
            .collect();
        if !locations.is_empty() {
            object.insert("source".to_owned(), Value::Array(locations));
        }
        Value::Object(object)
    }
}

fn escape_dot(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The mount point for a process, the output's index otherwise, where it is not the first.
fn edge_label(vertex: &Vertex, input: usize, output: usize) -> String {
    if let Op::Exec(exec) = vertex.op() {
        let mounts: Vec<&str> = exec
            .mounts
            .iter()
            .filter(|mount| mount.input() == Some(&input))
            .map(|mount| mount.dest.as_str())
            .collect();
        return mounts.join(", ");
    }
    if output == 0 {
        return String::new();
    }
    output.to_string()
}

fn metadata_to_json(vertex: &Vertex) -> Value {
    let metadata = vertex.metadata();
    let mut object = Map::new();
    if metadata.ignore_cache {
        object.insert("ignore_cache".to_owned(), json!(true));
    }
    if !metadata.description.is_empty() {
        object.insert("description".to_owned(), json!(metadata.description));
    }
    if let Some(export) = metadata.export_cache {
        object.insert("export_cache".to_owned(), json!(export.value));
    }
    if !metadata.caps.is_empty() {
        object.insert("caps".to_owned(), json!(metadata.caps));
    }
    if let Some(group) = &metadata.progress_group {
        let group = json!({"id": group.id, "name": group.name, "weak": group.weak});
        object.insert("progress_group".to_owned(), group);
    }
    Value::Object(object)
}

impl Vertex {
    /// What the vertex does, without its inputs and its name.
    pub fn op_to_json(&self) -> Value {
        op_to_json(self.op())
    }
}

fn op_to_json(op: &Op) -> Value {
    match op {
        Op::Source(source) => {
            let source = source.to_pb();
            json!({"identifier": source.identifier, "attrs": source.attrs})
        }
        Op::Exec(exec) => exec_to_json(exec),
        Op::File(file) => {
            let actions: Vec<Value> = file.actions.iter().map(action_to_json).collect();
            json!({"actions": actions})
        }
        Op::Merge(merge) => json!({"inputs": merge.inputs}),
        Op::Diff(diff) => json!({"lower": diff.lower, "upper": diff.upper}),
        Op::Build(build) => {
            json!({"builder": build.builder, "inputs": build.inputs, "attrs": build.attrs})
        }
        Op::Passthrough(passthrough) => {
            json!({"id": passthrough.id, "outputs": passthrough.outputs})
        }
    }
}

/// What few steps have is there only where a step has it.
fn exec_to_json(exec: &ExecOp) -> Value {
    let process = &exec.process;
    let mounts: Vec<Value> = exec.mounts.iter().map(mount_to_json).collect();
    let mut value = json!({
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "user": process.user,
        "network": lower(exec.network),
        "security": lower(exec.security),
        "mounts": mounts,
    });
    let hosts = process.extra_hosts.iter();
    let hosts = hosts.map(|line| format!("{}={}", line.host, line.ip));
    let limits = process.ulimits.iter();
    let limits = limits.map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    let secrets = exec.secret_env.iter();
    let secrets = secrets.map(|secret| format!("{}={}", secret.name, secret.id));
    let devices = exec.devices.iter().map(|device| device.name.clone());
    let codes = process.valid_exit_codes.iter().map(i32::to_string);
    let lists: [(&str, Vec<String>); 5] = [
        ("extra_hosts", hosts.collect()),
        ("ulimits", limits.collect()),
        ("secret_env", secrets.collect()),
        ("devices", devices.collect()),
        ("valid_exit_codes", codes.collect()),
    ];
    let texts = [
        ("hostname", &process.hostname),
        ("cgroup_parent", &process.cgroup_parent),
    ];
    let lists = lists.into_iter().filter(|(_, all)| !all.is_empty());
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    if let Some(object) = value.as_object_mut() {
        object.extend(lists.map(|(name, all)| (name.to_owned(), json!(all))));
        object.extend(texts.map(|(name, text)| (name.to_owned(), json!(text))));
    }
    value
}

fn mount_to_json(mount: &crate::Mount) -> Value {
    let kind = match &mount.kind {
        MountKind::Bind(bind) => {
            json!({"type": "bind", "selector": bind.selector, "readonly": bind.readonly})
        }
        MountKind::Cache(cache) => {
            json!({
                "type": "cache",
                "id": cache.id,
                "selector": cache.selector,
                "sharing": lower(cache.sharing),
                "readonly": cache.readonly,
            })
        }
        MountKind::Tmpfs { size } => json!({"type": "tmpfs", "size": size}),
        MountKind::Secret(crate::SecretMount {
            id,
            uid,
            gid,
            mode,
            optional,
        }) => offered("secret", id, (*uid, *gid), *mode, *optional),
        MountKind::Ssh(crate::SshMount {
            id,
            uid,
            gid,
            mode,
            optional,
        }) => offered("ssh", id, (*uid, *gid), *mode, *optional),
    };
    json!({"dest": mount.dest, "input": mount.input(), "output": mount.output(), "mount": kind})
}

/// A mount of what a client offers.
fn offered(kind: &str, id: &str, (uid, gid): (u32, u32), mode: u32, optional: bool) -> Value {
    json!({
        "type": kind,
        "id": id,
        "uid": uid,
        "gid": gid,
        "mode": format!("{mode:04o}"),
        "optional": optional,
    })
}

/// The name of an enumeration's value.
fn lower(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn action_to_json(action: &FileAction) -> Value {
    let change = match &action.change {
        FileChange::Copy(copy) => json!({"copy": {
            "from": input_to_json(&copy.from),
            "src": copy.src,
            "dest": copy.dest,
            "owner": owner_to_json(copy.owner.as_ref()),
            "mode": match &copy.mode {
                None => Value::Null,
                Some(CopyMode::Bits(bits)) => json!(format!("{bits:04o}")),
                Some(CopyMode::Symbolic(change)) => json!(change),
            },
            "follow_symlink": copy.follow_symlink,
            "dir_contents": copy.dir_contents,
            "attempt_unpack": copy.attempt_unpack,
            "create_dest_path": copy.create_dest_path,
            "allow_wildcard": copy.allow_wildcard,
            "allow_empty_wildcard": copy.allow_empty_wildcard,
            "timestamp": copy.timestamp,
            "include_patterns": copy.include_patterns,
            "exclude_patterns": copy.exclude_patterns,
            "required_paths": copy.required_paths,
            "always_replace_existing_dest_paths": copy.always_replace_existing_dest_paths,
        }}),
        FileChange::Mkfile(mkfile) => json!({"mkfile": {
            "path": mkfile.path,
            "mode": format!("{:04o}", mkfile.mode),
            "size": mkfile.data.len(),
            "owner": owner_to_json(mkfile.owner.as_ref()),
            "timestamp": mkfile.timestamp,
        }}),
        FileChange::Mkdir(mkdir) => json!({"mkdir": {
            "path": mkdir.path,
            "mode": format!("{:04o}", mkdir.mode),
            "make_parents": mkdir.make_parents,
            "owner": owner_to_json(mkdir.owner.as_ref()),
            "timestamp": mkdir.timestamp,
        }}),
        FileChange::Rm(rm) => json!({"rm": {
            "path": rm.path,
            "allow_not_found": rm.allow_not_found,
            "allow_wildcard": rm.allow_wildcard,
        }}),
        FileChange::Symlink(symlink) => json!({"symlink": {
            "target": symlink.target,
            "path": symlink.path,
            "owner": owner_to_json(symlink.owner.as_ref()),
            "timestamp": symlink.timestamp,
        }}),
    };
    json!({"input": input_to_json(&action.input), "output": action.output, "change": change})
}

fn input_to_json(input: &FileInput) -> Value {
    match input {
        FileInput::Empty => Value::Null,
        FileInput::Input(input) => json!({"input": input}),
        FileInput::Action(action) => json!({"action": action}),
    }
}

fn owner_to_json(owner: Option<&Owner>) -> Value {
    let user = |user: Option<&UserRef>| match user {
        None => Value::Null,
        Some(UserRef::Id(id)) => json!(id),
        Some(UserRef::Name { name, .. }) => json!(name),
    };
    owner.map_or(
        Value::Null,
        |owner| json!({"user": user(owner.user.as_ref()), "group": user(owner.group.as_ref())}),
    )
}
