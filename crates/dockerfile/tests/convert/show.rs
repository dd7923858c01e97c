//! Definitions as short texts.

use weld_llb::{
    CacheSharingOpt, CopyMode, FileChange, FileInput, Graph, Mount, MountKind, NetMode, Op, Owner,
    SecurityMode, UserRef, Vertex, pb,
};

/// One line for each vertex, inputs first.
pub(crate) fn show(definition: &pb::Definition) -> Vec<String> {
    let graph = Graph::from_pb(definition.clone()).unwrap();
    let vertices = graph.vertices().iter().enumerate();
    vertices
        .map(|(index, vertex)| format!("{index} {}", show_vertex(vertex)))
        .collect()
}

/// The names of the vertices.
pub(crate) fn names(definition: &pb::Definition) -> Vec<String> {
    let graph = Graph::from_pb(definition.clone()).unwrap();
    graph.vertices().iter().map(|v| graph.name(v)).collect()
}

fn input(vertex: &Vertex, index: usize) -> String {
    let edge = vertex.inputs()[index];
    match edge.output {
        0 => edge.vertex.to_string(),
        output => format!("{}.{output}", edge.vertex),
    }
}

fn show_vertex(vertex: &Vertex) -> String {
    match vertex.op() {
        Op::Source(source) => {
            let source = source.to_pb();
            let mut text = source.identifier.replace(&"aa".repeat(32), "AA");
            for (name, value) in &source.attrs {
                if name != "local.session" && !name.ends_with("secret") {
                    text.push_str(&format!(" {name}={value}"));
                }
            }
            text
        }
        Op::Exec(exec) => {
            let process = &exec.process;
            let mut text = process.args.join(" ");
            if process.cwd != "/" {
                text.push_str(&format!(" in {}", process.cwd));
            }
            if !process.user.is_empty() {
                text.push_str(&format!(" as {}", process.user));
            }
            if exec.network != NetMode::Unset {
                text.push_str(&format!(" net={:?}", exec.network));
            }
            if exec.security != SecurityMode::Sandbox {
                text.push_str(&format!(" security={:?}", exec.security));
            }
            for secret in &exec.secret_env {
                text.push_str(&format!(" ${}={}", secret.name, secret.id));
            }
            for mount in &exec.mounts {
                text.push_str(&format!(" [{}]", show_mount(vertex, mount)));
            }
            text
        }
        Op::File(file) => file
            .actions
            .iter()
            .map(|action| {
                let on = match &action.input {
                    FileInput::Empty => "scratch".to_owned(),
                    FileInput::Input(index) => input(vertex, *index),
                    FileInput::Action(_) => "^".to_owned(),
                };
                format!("on {on} {}", show_change(vertex, &action.change))
            })
            .collect::<Vec<_>>()
            .join("; "),
        Op::Merge(merge) => {
            let inputs: Vec<_> = merge.inputs.iter().map(|i| input(vertex, *i)).collect();
            format!("merge {}", inputs.join(" "))
        }
        op => op.kind().to_owned(),
    }
}

fn show_mount(vertex: &Vertex, mount: &Mount) -> String {
    let from = |index: Option<usize>, selector: &str| match index {
        None => format!("scratch{selector}"),
        Some(index) => format!("{}{selector}", input(vertex, index)),
    };
    let kind = match &mount.kind {
        MountKind::Bind(bind) => {
            let mode = match (bind.readonly, bind.output) {
                (true, _) => " ro".to_owned(),
                (false, None) => " none".to_owned(),
                (false, Some(0)) => String::new(),
                (false, Some(output)) => format!(" out={output}"),
            };
            format!("{}{mode}", from(bind.input, &bind.selector))
        }
        MountKind::Cache(cache) => {
            let sharing = match cache.sharing {
                CacheSharingOpt::Shared => "",
                CacheSharingOpt::Private => " private",
                CacheSharingOpt::Locked => " locked",
            };
            format!(
                "cache {} {}{sharing}",
                cache.id,
                from(cache.input, &cache.selector)
            )
        }
        MountKind::Tmpfs { size } => format!("tmpfs {size}"),
        MountKind::Secret(secret) => format!(
            "secret {} {}:{} {:o}{}",
            secret.id,
            secret.uid,
            secret.gid,
            secret.mode,
            if secret.optional { "" } else { " required" }
        ),
        MountKind::Ssh(ssh) => format!(
            "ssh {:?} {:o}{}",
            ssh.id,
            ssh.mode,
            if ssh.optional { "" } else { " required" }
        ),
    };
    format!("{}={kind}", mount.dest)
}

fn show_owner(owner: Option<&Owner>) -> String {
    let user = |user: Option<&UserRef>| match user {
        None => String::new(),
        Some(UserRef::Id(id)) => id.to_string(),
        Some(UserRef::Name { name, input }) => match input {
            FileInput::Empty => format!("{name}@scratch"),
            _ => name.clone(),
        },
    };
    owner.map_or(String::new(), |owner| {
        format!(
            " owner={}:{}",
            user(owner.user.as_ref()),
            user(owner.group.as_ref())
        )
    })
}

fn show_change(vertex: &Vertex, change: &FileChange) -> String {
    match change {
        FileChange::Copy(copy) => {
            let from = match &copy.from {
                FileInput::Empty => "scratch".to_owned(),
                FileInput::Input(index) => input(vertex, *index),
                FileInput::Action(index) => format!("^{index}"),
            };
            let mut text = format!("copy {from}:{} {}", copy.src, copy.dest);
            let local = copy.follow_symlink
                && copy.dir_contents
                && copy.allow_wildcard
                && copy.allow_empty_wildcard;
            for (name, set) in [
                ("local", local),
                ("unpack", copy.attempt_unpack),
                ("no-dest-path", !copy.create_dest_path),
            ] {
                if set {
                    text.push_str(&format!(" {name}"));
                }
            }
            text.push_str(&show_owner(copy.owner.as_ref()));
            match &copy.mode {
                None => {}
                Some(CopyMode::Bits(bits)) => text.push_str(&format!(" mode={bits:o}")),
                Some(CopyMode::Symbolic(mode)) => text.push_str(&format!(" mode={mode}")),
            }
            for (name, list) in [
                ("include", &copy.include_patterns),
                ("exclude", &copy.exclude_patterns),
                ("require", &copy.required_paths),
            ] {
                if !list.is_empty() {
                    text.push_str(&format!(" {name}={}", list.join(",")));
                }
            }
            text
        }
        FileChange::Mkfile(mkfile) => format!(
            "mkfile {} {:o} {:?}",
            mkfile.path,
            mkfile.mode,
            String::from_utf8_lossy(&mkfile.data)
        ),
        FileChange::Mkdir(mkdir) => format!(
            "mkdir {} {:o}{}{}{}",
            mkdir.path,
            mkdir.mode,
            if mkdir.make_parents { " parents" } else { "" },
            show_owner(mkdir.owner.as_ref()),
            mkdir
                .timestamp
                .map(|time| format!(" at {time}"))
                .unwrap_or_default()
        ),
        FileChange::Rm(rm) => format!("rm {}", rm.path),
        FileChange::Symlink(symlink) => format!("symlink {} {}", symlink.target, symlink.path),
    }
}
