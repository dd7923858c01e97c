//! How a step is cached: what it runs, on which platform, and what it sees of its inputs.

use std::collections::BTreeMap;

use prost::Message;
use weld_digest::FieldHasher;
use weld_llb::{CacheSharingOpt, ExecOp, MountContentCache, MountKind, Platform};
use weld_solver::{CacheMap, InputMap};

use crate::digest::to_solver;

/// What a step sees of one of its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// The paths that it mounts, sorted, without one that is beneath another.
    pub(super) selectors: Vec<String>,
    /// Whether equal content there makes equal results.
    pub(super) by_content: bool,
}

/// The uses of a step's inputs, in their order.
pub(super) fn uses(op: &ExecOp, inputs: usize) -> Vec<Use> {
    let mut uses = vec![Use::default(); inputs];
    for mount in &op.mounts {
        let (Some(&input), by_content) = (match &mount.kind {
            MountKind::Bind(bind) => {
                let whole = matches!(bind.selector.trim_matches('/'), "" | ".");
                // What a step writes beside a selected part would be in its result although no
                // key says what was there before.
                let safe = bind.output.is_none() || bind.readonly || whole;
                let wanted = match bind.content_cache {
                    MountContentCache::Off => false,
                    MountContentCache::On => true,
                    // Reading a whole root costs more than it can save.
                    MountContentCache::Default => mount.dest != "/",
                };
                (bind.input.as_ref(), safe && wanted)
            }
            MountKind::Cache(cache) => (cache.input.as_ref(), cache.output.is_none()),
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => continue,
        }) else {
            continue;
        };
        let Some(used) = uses.get_mut(input) else {
            continue;
        };
        // One mount whose content does not do is enough.
        used.by_content = by_content && (used.selectors.is_empty() || used.by_content);
        used.selectors.extend(selector(&mount.kind));
    }
    for used in &mut uses {
        used.selectors.sort();
        used.selectors.dedup_by(|path, above| {
            *path == *above
                || path
                    .strip_prefix(above.trim_end_matches('/'))
                    .is_some_and(|rest| rest.starts_with('/'))
        });
    }
    uses
}

/// The path that is mounted of an input; `None` for a mount that has none.
pub(super) fn selector(kind: &MountKind) -> Option<String> {
    let (input, selector) = match kind {
        MountKind::Bind(bind) => (bind.input, &bind.selector),
        MountKind::Cache(cache) => (cache.input, &cache.selector),
        MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => return None,
    };
    input.map(|_| format!("/{}", selector.trim_matches('/')))
}

/// The step's cache map.
pub(super) fn cache_map(op: &ExecOp, platform: &Platform, inputs: usize) -> CacheMap {
    let bytes = what_counts(op).to_pb().encode_to_vec();
    let digest = FieldHasher::new("weld.op.exec.v1")
        .bytes(&bytes)
        .text(&platform.os)
        .text(&platform.architecture)
        .text(&platform.variant)
        .text(&platform.os_version)
        .texts(&platform.os_features)
        .finish();
    let mut map = CacheMap::new(to_solver(&digest));
    map.inputs = uses(op, inputs)
        .into_iter()
        .map(|used| InputMap {
            selector: (!used.selectors.is_empty())
                .then(|| {
                    FieldHasher::new("weld.op.exec.selectors.v1")
                        .texts(&used.selectors)
                        .finish()
                })
                .map(|digest| to_solver(&digest)),
            slow_key: used.by_content,
            preprocess: false,
        })
        .collect();
    map
}

/// The operation without what changes nothing in its result, or what other parts of the key say:
/// the proxy, the addresses of extra hosts, the selector of what is mounted once, and which cache directory is used.
pub(super) fn what_counts(op: &ExecOp) -> ExecOp {
    let mut op = op.clone();
    let mut mounted = BTreeMap::new();
    for input in op.mounts.iter().filter_map(|mount| mount.input().copied()) {
        *mounted.entry(input).or_insert(0) += 1;
    }
    // Of what is mounted at several places, the keys of inputs do not say which part is where.
    let said = |input: Option<usize>, selector: &mut String| {
        let several =
            input.is_some_and(|input| mounted.get(&input).is_some_and(|count| *count > 1));
        *selector = match several {
            true => selector.trim_matches('/').to_owned(),
            false => String::new(),
        };
    };
    op.process.proxy = None;
    for host in &mut op.process.extra_hosts {
        host.ip.clear();
    }
    for mount in &mut op.mounts {
        match &mut mount.kind {
            MountKind::Bind(bind) => said(bind.input, &mut bind.selector),
            MountKind::Cache(cache) => {
                said(cache.input, &mut cache.selector);
                cache.id.clear();
                cache.sharing = CacheSharingOpt::Shared;
            }
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => {}
        }
    }
    op
}

#[cfg(test)]
mod tests {
    use super::*;
    use weld_llb::{BindMount, CacheMount, HostIp, Mount, NetMode, Process, SecurityMode};

    fn bind(dest: &str, selector: &str, output: Option<usize>, readonly: bool) -> Mount {
        Mount {
            dest: dest.into(),
            kind: MountKind::Bind(BindMount {
                input: Some(usize::from(dest != "/")),
                selector: selector.into(),
                readonly,
                output,
                content_cache: MountContentCache::Default,
            }),
        }
    }

    fn exec(mounts: Vec<Mount>) -> ExecOp {
        ExecOp {
            process: Process {
                args: vec!["true".into()],
                ..Process::default()
            },
            mounts,
            network: NetMode::Unset,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
        }
    }

    #[test]
    fn content_counts_where_it_is_safe() {
        let root = bind("/", "", Some(0), false);
        for (mount, by_content) in [
            (bind("/a", "part", None, false), true),
            (bind("/a", "part", Some(1), true), true),
            (bind("/a", "part", Some(1), false), false),
            (bind("/a", "/", Some(1), false), true),
        ] {
            let uses = uses(&exec(vec![root.clone(), mount.clone()]), 2);
            assert_eq!(uses[1].by_content, by_content, "{mount:?}");
            assert!(!uses[0].by_content);
        }
    }

    #[test]
    fn selectors_beneath_others_are_dropped() {
        let mounts = ["b/c", "b", "bc", "/b/d/"].map(|selector| bind("/m", selector, None, true));
        assert_eq!(uses(&exec(mounts.into()), 2)[1].selectors, ["/b", "/bc"]);
    }

    /// Which part of an input is mounted where is in the key, and one unsafe mount of it is enough.
    #[test]
    fn several_mounts_of_an_input_are_told_apart() {
        let platform = Platform::new("linux", "amd64", "");
        let root = bind("/", "", Some(0), false);
        let two = |one: &str, other: &str| {
            exec(vec![
                root.clone(),
                bind("/one", one, None, true),
                bind("/two", other, None, true),
            ])
        };
        let key = |op: &ExecOp| cache_map(op, &platform, 2).digest;
        assert_ne!(key(&two("a", "b")), key(&two("b", "a")));
        assert_eq!(key(&two("a", "b")), key(&two("/a", "b/")));
        for unsafe_first in [true, false] {
            let mut mounts = vec![
                bind("/one", "part", Some(1), false),
                bind("/two", "part", None, true),
            ];
            if !unsafe_first {
                mounts.reverse();
            }
            mounts.insert(0, root.clone());
            assert!(!uses(&exec(mounts), 2)[1].by_content, "{unsafe_first}");
        }
    }

    #[test]
    fn what_does_not_count_does_not_change_the_key() {
        let platform = Platform::new("linux", "amd64", "");
        let base = exec(vec![bind("/", "", Some(0), false)]);
        let mut cache = base.clone();
        cache.mounts.push(Mount {
            dest: "/c".into(),
            kind: MountKind::Cache(CacheMount {
                input: None,
                selector: String::new(),
                id: "one".into(),
                sharing: CacheSharingOpt::Shared,
                readonly: false,
                output: None,
            }),
        });
        let mut other_id = cache.clone();
        if let MountKind::Cache(mount) = &mut other_id.mounts[1].kind {
            mount.id = "two".into();
            mount.sharing = CacheSharingOpt::Locked;
        }
        let mut hosts = base.clone();
        hosts.process.extra_hosts = vec![HostIp {
            host: "h".into(),
            ip: "1.2.3.4".into(),
        }];
        let mut other_address = hosts.clone();
        other_address.process.extra_hosts[0].ip = "5.6.7.8".into();
        let key = |op: &ExecOp| cache_map(op, &platform, 2).digest;
        assert_eq!(key(&cache), key(&other_id));
        assert_eq!(key(&hosts), key(&other_address));
        assert_ne!(key(&base), key(&cache));
        assert_ne!(key(&base), key(&hosts));
        let arm = Platform::new("linux", "arm64", "");
        assert_ne!(cache_map(&base, &arm, 2).digest, key(&base));
    }
}
