//! What a step says: each field of what its key is made of, and nothing else.

use weld_llb::{ExecOp, MountKind, Platform};
use weld_proto::pb;

use super::key::{selector, what_counts};
use crate::recall::Fields;
use crate::recall::said::{Said, command};

/// The fields. All of the message that the key takes are named here, so that one that is added to it cannot be forgotten.
pub(super) fn said(op: &ExecOp, platform: &Platform) -> Fields {
    let mut said = Said::default();
    let pb::ExecOp {
        meta,
        mounts,
        network,
        security,
        secretenv,
        cdi_devices,
    } = what_counts(op).to_pb();
    of_process(&mut said, meta.unwrap_or_default());
    said.field("network", &named::<pb::NetMode>(network));
    said.field("security", &named::<pb::SecurityMode>(security));
    let secrets = secretenv.into_iter().map(|secret| {
        let pb::SecretEnv { id, name, optional } = secret;
        format!("{name}={id}{}", or_none(optional))
    });
    said.list("secret_env", secrets);
    let devices = cdi_devices.into_iter().map(|device| {
        let pb::CdiDevice { name, optional } = device;
        format!("{name}{}", or_none(optional))
    });
    said.list("devices", devices);
    for (mount, defined) in mounts.into_iter().zip(&op.mounts) {
        of_mount(&mut said, mount, &defined.kind);
    }
    of_platform(&mut said, platform);
    said.into_fields()
}

fn of_process(said: &mut Said, meta: pb::Meta) {
    let pb::Meta {
        args,
        env,
        cwd,
        user,
        proxy_env,
        extra_hosts,
        hostname,
        ulimit,
        cgroup_parent,
        remove_mount_stubs_recursive,
        valid_exit_codes,
    } = meta;
    said.field("args", &command(&args));
    for variable in &env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        said.field(&format!("env.{name}"), value);
    }
    said.field("cwd", &cwd);
    said.field("user", &user);
    // Addresses of proxies may have passwords in them.
    said.text("proxy", if proxy_env.is_some() { "some" } else { "" });
    let hosts = extra_hosts.into_iter().map(|line| {
        let pb::HostIp { host, ip } = line;
        match ip.is_empty() {
            true => host,
            false => format!("{host}={ip}"),
        }
    });
    said.list("extra_hosts", hosts);
    said.text("hostname", &hostname);
    let limits = ulimit.into_iter().map(|limit| {
        let pb::Ulimit { name, soft, hard } = limit;
        format!("{name}={soft}:{hard}")
    });
    said.list("ulimits", limits);
    said.text("cgroup_parent", &cgroup_parent);
    said.flag("remove_mount_stubs_recursive", remove_mount_stubs_recursive);
    let codes = valid_exit_codes.iter().map(i32::to_string);
    said.list("valid_exit_codes", codes);
}

/// Where something is mounted comes first: it is what the mount is called.
fn of_mount(said: &mut Said, mount: pb::Mount, defined: &MountKind) {
    let pb::Mount {
        input,
        selector: _,
        dest,
        output,
        readonly,
        mount_type,
        tmpfs_opt,
        cache_opt,
        secret_opt,
        ssh_opt,
        result_id,
        content_cache,
    } = mount;
    let name = |field: &str| format!("mounts[{dest}].{field}");
    said.field(&name("dest"), &dest);
    said.field(&name("type"), &named::<pb::MountType>(mount_type));
    said.field(&name("input"), &input.to_string());
    said.field(&name("output"), &output.to_string());
    // The key has this by way of its inputs.
    said.text(&name("selector"), &selector(defined).unwrap_or_default());
    if matches!(defined, MountKind::Bind(_) | MountKind::Cache(_)) {
        said.flag(&name("readonly"), readonly);
    }
    said.text(&name("result_id"), &result_id);
    said.field(
        &name("content_cache"),
        &named::<pb::MountContentCache>(content_cache),
    );
    if let Some(pb::TmpfsOpt { size }) = tmpfs_opt {
        said.field(&name("size"), &size.to_string());
    }
    if let Some(pb::CacheOpt { id, sharing }) = cache_opt {
        said.text(&name("id"), &id);
        if sharing != pb::CacheSharingOpt::Shared as i32 {
            said.field(&name("sharing"), &named::<pb::CacheSharingOpt>(sharing));
        }
    }
    let file = secret_opt.map(|secret| {
        let pb::SecretOpt {
            id,
            uid,
            gid,
            mode,
            optional,
        } = secret;
        (id, uid, gid, mode, optional)
    });
    let socket = ssh_opt.map(|ssh| {
        let pb::SshOpt {
            id,
            uid,
            gid,
            mode,
            optional,
        } = ssh;
        (id, uid, gid, mode, optional)
    });
    if let Some((id, uid, gid, mode, optional)) = file.or(socket) {
        said.field(&name("id"), &id);
        said.field(&name("uid"), &uid.to_string());
        said.field(&name("gid"), &gid.to_string());
        said.field(&name("mode"), &format!("{mode:04o}"));
        said.flag(&name("optional"), optional);
    }
}

fn of_platform(said: &mut Said, platform: &Platform) {
    let Platform {
        os,
        architecture,
        variant,
        os_version,
        os_features,
    } = platform;
    let platform = [os.as_str(), architecture, variant].join("/");
    said.field("platform", platform.trim_end_matches('/'));
    said.text("platform.version", os_version);
    said.list("platform.features", os_features);
}

fn or_none(optional: bool) -> &'static str {
    if optional { " or none" } else { "" }
}

/// The name of an enumeration's value.
fn named<T: TryFrom<i32> + std::fmt::Debug>(value: i32) -> String {
    match T::try_from(value) {
        Ok(value) => format!("{value:?}").to_lowercase(),
        Err(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use weld_llb::{BindMount, CacheMount, Mount, Process, SecretMount, SshMount};

    use super::super::key::cache_map;
    use super::*;
    use crate::recall::{does, told_of};

    fn mount(dest: &str, kind: MountKind) -> Mount {
        Mount {
            dest: dest.into(),
            kind,
        }
    }

    fn bind(dest: &str, input: usize, selector: &str) -> Mount {
        mount(
            dest,
            MountKind::Bind(BindMount {
                input: Some(input),
                selector: selector.into(),
                readonly: false,
                output: None,
                content_cache: pb::MountContentCache::Default,
            }),
        )
    }

    /// A step with something of each kind.
    fn full() -> ExecOp {
        let text = |text: &str| text.to_owned();
        ExecOp {
            process: Process {
                args: vec![text("/bin/sh"), text("-c"), text("make")],
                env: vec![text("A=1"), text("B=2"), text("C=3")],
                cwd: text("/w"),
                user: text("me"),
                proxy: None,
                extra_hosts: vec![pb::HostIp {
                    host: text("far"),
                    ip: text("10.0.0.1"),
                }],
                hostname: text("here"),
                ulimits: vec![pb::Ulimit {
                    name: text("nofile"),
                    soft: 1,
                    hard: 2,
                }],
                cgroup_parent: text("group"),
                remove_mount_stubs_recursive: false,
                valid_exit_codes: vec![0, 3],
            },
            mounts: vec![
                mount(
                    "/",
                    MountKind::Bind(BindMount {
                        input: Some(0),
                        selector: String::new(),
                        readonly: false,
                        output: Some(0),
                        content_cache: pb::MountContentCache::Default,
                    }),
                ),
                bind("/one", 1, "a"),
                bind("/two", 2, "a"),
                bind("/three", 2, "b"),
                mount(
                    "/cache",
                    MountKind::Cache(CacheMount {
                        input: None,
                        selector: String::new(),
                        id: text("cache"),
                        sharing: pb::CacheSharingOpt::Shared,
                        readonly: false,
                        output: None,
                    }),
                ),
                mount("/tmp", MountKind::Tmpfs { size: 0 }),
                mount(
                    "/secret",
                    MountKind::Secret(SecretMount {
                        id: text("token"),
                        uid: 0,
                        gid: 0,
                        mode: 0o400,
                        optional: false,
                    }),
                ),
                mount(
                    "/ssh",
                    MountKind::Ssh(SshMount {
                        id: text("agent"),
                        uid: 0,
                        gid: 0,
                        mode: 0o600,
                        optional: false,
                    }),
                ),
            ],
            network: pb::NetMode::Unset,
            security: pb::SecurityMode::Sandbox,
            secret_env: vec![pb::SecretEnv {
                id: text("token"),
                name: text("TOKEN"),
                optional: false,
            }],
            devices: vec![pb::CdiDevice {
                name: text("vendor/device"),
                optional: false,
            }],
        }
    }

    type Change = Box<dyn Fn(&mut ExecOp)>;

    /// Changes with what the reason has to name. That none is left out, the compiler tells.
    fn changes() -> Vec<(&'static str, Change)> {
        let ExecOp {
            process,
            mounts,
            network: _,
            security: _,
            secret_env: _,
            devices: _,
        } = full();
        let Process {
            args: _,
            env: _,
            cwd: _,
            user: _,
            proxy: _,
            extra_hosts: _,
            hostname: _,
            ulimits: _,
            cgroup_parent: _,
            remove_mount_stubs_recursive: _,
            valid_exit_codes: _,
        } = process;
        fn change(apply: impl Fn(&mut ExecOp) + 'static) -> Change {
            Box::new(apply)
        }
        let mut all: Vec<(&'static str, Change)> = vec![
            ("command", change(|op| op.process.args[2].push('r'))),
            ("command", change(|op| op.process.args[0].push('r'))),
            ("variable B", change(|op| op.process.env[1].push('r'))),
            ("variable D", change(|op| op.process.env.push("D=".into()))),
            (
                "order of variables was A B, now B A",
                change(|op| op.process.env.swap(0, 1)),
            ),
            ("variable A", change(|op| op.process.env.push("A=1".into()))),
            ("working directory", change(|op| op.process.cwd.push('r'))),
            ("user", change(|op| op.process.user.push('r'))),
            (
                "",
                change(|op| op.process.proxy = Some(pb::ProxyEnv::default())),
            ),
            (
                "added hosts",
                change(|op| op.process.extra_hosts[0].host.push('r')),
            ),
            ("", change(|op| op.process.extra_hosts[0].ip.push('1'))),
            ("host name", change(|op| op.process.hostname.push('r'))),
            ("limits", change(|op| op.process.ulimits[0].name.push('r'))),
            ("limits", change(|op| op.process.ulimits[0].soft = 0)),
            ("limits", change(|op| op.process.ulimits[0].hard = 5)),
            (
                "control group",
                change(|op| op.process.cgroup_parent.push('r')),
            ),
            (
                "mount points",
                change(|op| op.process.remove_mount_stubs_recursive = true),
            ),
            (
                "exit codes",
                change(|op| op.process.valid_exit_codes.push(9)),
            ),
            ("network", change(|op| op.network = pb::NetMode::None)),
            (
                "security",
                change(|op| op.security = pb::SecurityMode::Insecure),
            ),
            (
                "secrets in variables",
                change(|op| op.secret_env[0].id.push('r')),
            ),
            (
                "secrets in variables",
                change(|op| op.secret_env[0].name.push('r')),
            ),
            (
                "secrets in variables",
                change(|op| op.secret_env[0].optional = true),
            ),
            ("devices", change(|op| op.devices[0].name.push('r'))),
            ("devices", change(|op| op.devices[0].optional = true)),
            (
                "order of mounts was /one /two, now /two /one",
                change(|op| op.mounts.swap(1, 2)),
            ),
            (
                "a mount is new: /more",
                change(|op| op.mounts.push(bind("/more", 0, ""))),
            ),
        ];
        for (at, mount) in mounts.into_iter().enumerate() {
            all.push(("a mount", change(move |op| op.mounts[at].dest.push('r'))));
            all.extend(changes_of(&mount.kind).into_iter().map(|(named, apply)| {
                let apply = move |op: &mut ExecOp| apply(&mut op.mounts[at].kind);
                (named, change(apply))
            }));
        }
        all
    }

    type KindChange = Box<dyn Fn(&mut MountKind)>;

    fn changes_of(kind: &MountKind) -> Vec<(&'static str, KindChange)> {
        macro_rules! change {
            ($kind:path, $mount:ident, $apply:expr) => {
                Box::new(|kind: &mut MountKind| match kind {
                    $kind($mount) => $apply,
                    _ => unreachable!(),
                }) as KindChange
            };
        }
        use MountKind::{Bind, Cache, Secret, Ssh};
        let tmpfs = || -> KindChange { Box::new(|kind| *kind = MountKind::Tmpfs { size: 7 }) };
        match kind {
            Bind(BindMount {
                input: _,
                selector: _,
                readonly: _,
                output: _,
                content_cache: _,
            }) => vec![
                (
                    "source of the mount",
                    change!(Bind, mount, mount.input = None),
                ),
                ("input", change!(Bind, mount, mount.input = Some(3))),
                (
                    "source of the mount",
                    change!(Bind, mount, mount.selector = "q".into()),
                ),
                ("", change!(Bind, mount, mount.selector.insert(0, '/'))),
                ("read-only", change!(Bind, mount, mount.readonly = true)),
                ("output", change!(Bind, mount, mount.output = Some(1))),
                (
                    "content_cache",
                    change!(
                        Bind,
                        mount,
                        mount.content_cache = pb::MountContentCache::Off
                    ),
                ),
                ("type", tmpfs()),
            ],
            Cache(CacheMount {
                input: _,
                selector: _,
                id: _,
                sharing: _,
                readonly: _,
                output: _,
            }) => vec![
                (
                    "source of the mount",
                    change!(Cache, mount, mount.input = Some(3)),
                ),
                ("", change!(Cache, mount, mount.selector = "q".into())),
                ("", change!(Cache, mount, mount.id.push('r'))),
                (
                    "",
                    change!(Cache, mount, mount.sharing = pb::CacheSharingOpt::Locked),
                ),
                ("read-only", change!(Cache, mount, mount.readonly = true)),
                ("output", change!(Cache, mount, mount.output = Some(1))),
                ("type", tmpfs()),
            ],
            MountKind::Tmpfs { size: _ } => vec![("size", tmpfs())],
            Secret(SecretMount {
                id: _,
                uid: _,
                gid: _,
                mode: _,
                optional: _,
            }) => vec![
                ("id", change!(Secret, mount, mount.id.push('r'))),
                ("owner", change!(Secret, mount, mount.uid = 1)),
                ("group", change!(Secret, mount, mount.gid = 1)),
                ("mode", change!(Secret, mount, mount.mode = 0o440)),
                ("may lack", change!(Secret, mount, mount.optional = true)),
            ],
            Ssh(SshMount {
                id: _,
                uid: _,
                gid: _,
                mode: _,
                optional: _,
            }) => vec![
                ("id", change!(Ssh, mount, mount.id.push('r'))),
                ("owner", change!(Ssh, mount, mount.uid = 1)),
                ("group", change!(Ssh, mount, mount.gid = 1)),
                ("mode", change!(Ssh, mount, mount.mode = 0o440)),
                ("may lack", change!(Ssh, mount, mount.optional = true)),
            ],
        }
    }

    /// What changes the key is told by its name, and what does not is not.
    #[test]
    fn what_is_told_is_what_counts() {
        let platform = Platform::new("linux", "amd64", "");
        let op = full();
        let key = |op: &ExecOp, platform: &Platform| does(&cache_map(op, platform, 4));
        for (number, (named, apply)) in changes().into_iter().enumerate() {
            let mut changed = op.clone();
            apply(&mut changed);
            assert_ne!(changed, op, "change {number} of {named:?} is none");
            let counts = key(&changed, &platform) != key(&op, &platform);
            let told = told_of(&said(&op, &platform), &said(&changed, &platform));
            assert_eq!(
                counts,
                !named.is_empty(),
                "change {number} of {named:?}: {told:?}"
            );
            assert_eq!(
                counts,
                !told.is_empty(),
                "change {number} of {named:?}: {told:?}"
            );
            assert!(told.join("; ").contains(named), "{named:?}: {told:?}");
        }
        let Platform {
            os: _,
            architecture: _,
            variant: _,
            os_version: _,
            os_features: _,
        } = &platform;
        let change: [fn(&mut Platform); 5] = [
            |platform| platform.os.push('r'),
            |platform| platform.architecture.push('r'),
            |platform| platform.variant.push('r'),
            |platform| platform.os_version.push('r'),
            |platform| platform.os_features.push("r".into()),
        ];
        for apply in change {
            let mut changed = platform.clone();
            apply(&mut changed);
            assert_ne!(key(&op, &changed), key(&op, &platform));
            let told = told_of(&said(&op, &platform), &said(&op, &changed));
            assert!(told.join("; ").contains("platform"), "{told:?}");
        }
    }
}
