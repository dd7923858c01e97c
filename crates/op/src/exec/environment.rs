//! The environment, limits and hosts of a step.

use std::net::IpAddr;

use weld_llb::{ExecOp, HostIp, ProxyEnv, Ulimit};

use super::ExecError;

/// Where programs are looked for unless the step says it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The step's environment: its own, the proxy's where the step has none of that name, and secrets. Of several values of a variable the
/// last counts, and a name without a value takes it away.
pub(super) fn variables(op: &ExecOp, secrets: Vec<(String, String)>) -> Vec<String> {
    let mut env = vec![PATH.to_owned()];
    for entry in &op.process.env {
        let (name, is_set) = match entry.split_once('=') {
            Some((name, _)) => (name, true),
            None => (entry.as_str(), false),
        };
        let of_name = |known: &String| known.split_once('=').is_some_and(|(set, _)| set == name);
        match (env.iter().position(of_name), is_set) {
            (Some(at), true) => env[at].clone_from(entry),
            (None, true) => env.push(entry.clone()),
            (Some(at), false) => drop(env.remove(at)),
            (None, false) => {}
        }
    }
    if let Some(proxy) = &op.process.proxy {
        for (name, value) in proxies(proxy) {
            let is_set = |entry: &String| entry.split_once('=').is_some_and(|(set, _)| set == name);
            if !value.is_empty() && !env.iter().any(is_set) {
                env.push(format!("{name}={value}"));
            }
        }
    }
    for (name, value) in secrets {
        env.retain(|entry| entry.split_once('=').is_none_or(|(set, _)| set != name));
        env.push(format!("{name}={value}"));
    }
    env
}

/// Both spellings of each, as programs read one or the other.
fn proxies(proxy: &ProxyEnv) -> impl Iterator<Item = (String, &str)> {
    [
        ("http_proxy", proxy.http_proxy.as_str()),
        ("https_proxy", &proxy.https_proxy),
        ("ftp_proxy", &proxy.ftp_proxy),
        ("no_proxy", &proxy.no_proxy),
        ("all_proxy", &proxy.all_proxy),
    ]
    .into_iter()
    .flat_map(|(name, value)| [(name.to_uppercase(), value), (name.to_owned(), value)])
}

/// The lines of `/etc/hosts` beyond the usual.
pub(super) fn hosts(hosts: &[HostIp]) -> Result<Vec<(String, IpAddr)>, ExecError> {
    hosts
        .iter()
        .map(|host| {
            let address = host.ip.parse().map_err(|_| ExecError::BadHost {
                host: host.host.clone(),
                address: host.ip.clone(),
            })?;
            Ok((host.host.clone(), address))
        })
        .collect()
}

/// The limits in the runtime's form.
pub(super) fn ulimits(limits: &[Ulimit]) -> Vec<weld_runtime::Ulimit> {
    limits
        .iter()
        .map(|limit| weld_runtime::Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weld_llb::{NetMode, Process, SecurityMode};

    fn op(env: &[&str], proxy: Option<ProxyEnv>) -> ExecOp {
        ExecOp {
            process: Process {
                env: env.iter().map(|entry| (*entry).to_owned()).collect(),
                proxy,
                ..Process::default()
            },
            mounts: Vec::new(),
            network: NetMode::Unset,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
        }
    }

    #[test]
    fn proxies_fill_gaps_and_secrets_win() {
        let proxy = ProxyEnv {
            http_proxy: "p".into(),
            ..ProxyEnv::default()
        };
        let op = op(&["http_proxy=own", "TOKEN=old"], Some(proxy));
        let env = variables(&op, vec![("TOKEN".into(), "s".into())]);
        assert_eq!(env, [PATH, "http_proxy=own", "HTTP_PROXY=p", "TOKEN=s"]);
    }

    #[test]
    fn the_last_value_counts_and_a_bare_name_takes_it_away() {
        let of = |env: &[&str]| variables(&op(env, None), Vec::new());
        assert_eq!(of(&["A=1", "B=2", "A=3", "C"]), [PATH, "A=3", "B=2"]);
        assert_eq!(of(&["PATH=/bin", "A=1", "A"]), ["PATH=/bin"]);
        assert!(of(&["PATH"]).is_empty());
    }
}
