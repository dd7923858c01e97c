//! Operations as JSON, in the names of their messages: as typed errors and provenance carry them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use weld_proto::pb;

/// The operation as protobuf's JSON mapping has it, which typed errors use.
pub fn message(op: &pb::Op) -> Value {
    let mut object = described(op);
    let inputs = op.inputs.iter();
    let inputs = inputs.map(|input| json!({"digest": input.digest, "index": input.index}));
    object.insert("inputs".to_owned(), Value::Array(inputs.collect()));
    Value::Object(object)
}

/// The operation without its inputs as Go programs read it from provenance: what is one of several
/// lies under the name of the choice.
pub fn step(op: &pb::Op) -> Value {
    let mut object = described(op);
    if let Some(Value::Object(file)) = object.get_mut("file")
        && let Some(Value::Array(actions)) = file.get_mut("actions")
    {
        for action in actions.iter_mut().filter_map(Value::as_object_mut) {
            choose(
                action,
                "Action",
                &["copy", "mkfile", "mkdir", "rm", "symlink"],
            );
            let kinds = action.get_mut("Action").and_then(Value::as_object_mut);
            let kinds = kinds.into_iter().flat_map(Map::values_mut);
            for owner in kinds.filter_map(|kind| kind.get_mut("owner")?.as_object_mut()) {
                for user in owner.values_mut().filter_map(Value::as_object_mut) {
                    if let Some(id) = user.remove("byID") {
                        user.insert("byId".to_owned(), id);
                    }
                    choose(user, "User", &["byName", "byId"]);
                }
            }
        }
    }
    let kinds = [
        "exec",
        "source",
        "file",
        "build",
        "merge",
        "diff",
        "passthrough",
    ];
    choose(&mut object, "Op", &kinds);
    Value::Object(object)
}

/// Moves those of `fields` that are there into an object of their own.
fn choose(object: &mut Map<String, Value>, choice: &str, fields: &[&str]) {
    let chosen = fields.iter();
    let chosen: Map<_, _> = chosen
        .filter_map(|field| object.remove_entry(*field))
        .collect();
    object.insert(choice.to_owned(), Value::Object(chosen));
}

fn described(op: &pb::Op) -> Map<String, Value> {
    let mut object = Map::new();
    if let Some(kind) = &op.op {
        let (name, value) = match kind {
            pb::op::Op::Exec(exec) => ("exec", exec_op(exec)),
            pb::op::Op::Source(source) => (
                "source",
                json!({"identifier": source.identifier, "attrs": source.attrs}),
            ),
            pb::op::Op::File(file) => {
                let actions = file.actions.iter().map(file_action).collect();
                ("file", json!({"actions": Value::Array(actions)}))
            }
            pb::op::Op::Build(build) => (
                "build",
                json!({"builder": build.builder, "attrs": build.attrs}),
            ),
            pb::op::Op::Merge(merge) => {
                let inputs = merge.inputs.iter();
                let inputs = inputs.map(|input| json!({"input": input.input}));
                ("merge", json!({"inputs": Value::Array(inputs.collect())}))
            }
            pb::op::Op::Diff(diff) => {
                let lower = diff
                    .lower
                    .as_ref()
                    .map(|lower| json!({"input": lower.input}));
                let upper = diff
                    .upper
                    .as_ref()
                    .map(|upper| json!({"input": upper.input}));
                ("diff", json!({"lower": lower, "upper": upper}))
            }
            pb::op::Op::Passthrough(_) => ("passthrough", json!({})),
        };
        object.insert(name.to_owned(), value);
    }
    if let Some(platform) = &op.platform {
        let platform = json!({
            "Architecture": platform.architecture,
            "OS": platform.os,
            "Variant": platform.variant,
            "OSVersion": platform.os_version,
            "OSFeatures": platform.os_features,
        });
        object.insert("platform".to_owned(), platform);
    }
    if let Some(constraints) = &op.constraints {
        object.insert(
            "constraints".to_owned(),
            json!({"filter": constraints.filter}),
        );
    }
    object
}

fn exec_op(exec: &pb::ExecOp) -> Value {
    let secrets = exec.secretenv.iter();
    let secrets = secrets
        .map(|secret| json!({"ID": secret.id, "name": secret.name, "optional": secret.optional}));
    let devices = exec.cdi_devices.iter();
    let devices = devices.map(|device| json!({"name": device.name, "optional": device.optional}));
    json!({
        "meta": exec.meta.as_ref().map(meta),
        "mounts": exec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "network": exec.network,
        "security": exec.security,
        "secretenv": secrets.collect::<Vec<_>>(),
        "cdiDevices": devices.collect::<Vec<_>>(),
    })
}

fn meta(meta: &pb::Meta) -> Value {
    let hosts = meta.extra_hosts.iter();
    let hosts = hosts.map(|host| json!({"Host": host.host, "IP": host.ip}));
    let limits = meta.ulimit.iter();
    let limits =
        limits.map(|limit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard}));
    let proxy = meta.proxy_env.as_ref().map(|proxy| {
        json!({
            "http_proxy": proxy.http_proxy,
            "https_proxy": proxy.https_proxy,
            "ftp_proxy": proxy.ftp_proxy,
            "no_proxy": proxy.no_proxy,
            "all_proxy": proxy.all_proxy,
        })
    });
    json!({
        "args": meta.args,
        "env": meta.env,
        "cwd": meta.cwd,
        "user": meta.user,
        "proxy_env": proxy,
        "extraHosts": hosts.collect::<Vec<_>>(),
        "hostname": meta.hostname,
        "ulimit": limits.collect::<Vec<_>>(),
        "cgroupParent": meta.cgroup_parent,
        "removeMountStubsRecursive": meta.remove_mount_stubs_recursive,
        "validExitCodes": meta.valid_exit_codes,
    })
}

fn mount(mount: &pb::Mount) -> Value {
    let cache = mount.cache_opt.as_ref();
    let cache = cache.map(|cache| json!({"ID": cache.id, "sharing": cache.sharing}));
    let tmpfs = mount.tmpfs_opt.as_ref();
    let tmpfs = tmpfs.map(|tmpfs| json!({"size": tmpfs.size}));
    let secret = mount.secret_opt.as_ref().map(|secret| {
        json!({
            "ID": secret.id,
            "uid": secret.uid,
            "gid": secret.gid,
            "mode": secret.mode,
            "optional": secret.optional,
        })
    });
    let ssh = mount.ssh_opt.as_ref().map(|ssh| {
        json!({
            "ID": ssh.id,
            "uid": ssh.uid,
            "gid": ssh.gid,
            "mode": ssh.mode,
            "optional": ssh.optional,
        })
    });
    json!({
        "input": mount.input,
        "selector": mount.selector,
        "dest": mount.dest,
        "output": mount.output,
        "readonly": mount.readonly,
        "mountType": mount.mount_type,
        "TmpfsOpt": tmpfs,
        "cacheOpt": cache,
        "secretOpt": secret,
        "SSHOpt": ssh,
        "contentCache": mount.content_cache,
    })
}

fn file_action(action: &pb::FileAction) -> Value {
    use pb::file_action::Action;
    let mut object = Map::new();
    object.insert("input".to_owned(), json!(action.input));
    object.insert("secondaryInput".to_owned(), json!(action.secondary_input));
    object.insert("output".to_owned(), json!(action.output));
    if let Some(action) = &action.action {
        let (name, value) = match action {
            Action::Copy(copy) => ("copy", copy_action(copy)),
            Action::Mkfile(file) => (
                "mkfile",
                json!({
                    "path": file.path,
                    "mode": file.mode,
                    "data": BASE64_STANDARD.encode(&file.data),
                    "owner": file.owner.as_ref().map(owner),
                    "timestamp": file.timestamp,
                }),
            ),
            Action::Mkdir(dir) => (
                "mkdir",
                json!({
                    "path": dir.path,
                    "mode": dir.mode,
                    "makeParents": dir.make_parents,
                    "owner": dir.owner.as_ref().map(owner),
                    "timestamp": dir.timestamp,
                }),
            ),
            Action::Rm(rm) => (
                "rm",
                json!({
                    "path": rm.path,
                    "allowNotFound": rm.allow_not_found,
                    "allowWildcard": rm.allow_wildcard,
                }),
            ),
            Action::Symlink(link) => (
                "symlink",
                json!({
                    "oldpath": link.oldpath,
                    "newpath": link.newpath,
                    "owner": link.owner.as_ref().map(owner),
                    "timestamp": link.timestamp,
                }),
            ),
        };
        object.insert(name.to_owned(), value);
    }
    Value::Object(object)
}

fn copy_action(copy: &pb::FileActionCopy) -> Value {
    json!({
        "src": copy.src,
        "dest": copy.dest,
        "owner": copy.owner.as_ref().map(owner),
        "mode": copy.mode,
        "followSymlink": copy.follow_symlink,
        "dirCopyContents": copy.dir_copy_contents,
        "attemptUnpackDockerCompatibility": copy.attempt_unpack_docker_compatibility,
        "createDestPath": copy.create_dest_path,
        "allowWildcard": copy.allow_wildcard,
        "allowEmptyWildcard": copy.allow_empty_wildcard,
        "timestamp": copy.timestamp,
        "include_patterns": copy.include_patterns,
        "exclude_patterns": copy.exclude_patterns,
        "alwaysReplaceExistingDestPaths": copy.always_replace_existing_dest_paths,
        "modeStr": copy.mode_str,
        "required_paths": copy.required_paths,
    })
}

fn owner(owner: &pb::ChownOpt) -> Value {
    use pb::user_opt::User;
    let user = |user: &pb::UserOpt| match &user.user {
        Some(User::ByName(named)) => json!({"byName": {"name": named.name, "input": named.input}}),
        Some(User::ById(id)) => json!({"byID": id}),
        None => json!({}),
    };
    json!({
        "user": owner.user.as_ref().map(user),
        "group": owner.group.as_ref().map(user),
    })
}
