//! `/etc/hosts` and `/etc/resolv.conf` of a step.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::config::DnsConfig;
use crate::spec::Network;

/// Used where the host names no server that a step could reach, as docker does.
const DEFAULT_NAMESERVERS: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// The largest host file that is read, in bytes.
const MAX_HOST_FILE: u64 = 1 << 20;

/// The content of `/etc/hosts`.
pub(crate) fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in extra {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// The content of `/etc/resolv.conf`, from the host's and the configuration. A host without the
/// file has an empty one.
pub(crate) fn resolv_conf(dns: &DnsConfig, network: Network) -> std::io::Result<String> {
    let host = match read_limited("/etc/resolv.conf") {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(generate(&host, dns, network))
}

fn read_limited(path: &str) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_HOST_FILE)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn generate(host: &str, dns: &DnsConfig, network: Network) -> String {
    let fields = |line: &str| -> Vec<String> {
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let mut servers = Vec::new();
    let mut search = Vec::new();
    let mut options = Vec::new();
    for line in host.lines() {
        match line.split_whitespace().next() {
            Some("nameserver") => servers.extend(fields(line).into_iter().take(1)),
            Some("search" | "domain") => search = fields(line),
            Some("options") => options.extend(fields(line)),
            _ => {}
        }
    }
    if network != Network::Host {
        servers.retain(|server| {
            server
                .parse::<IpAddr>()
                .is_ok_and(|address| !address.is_loopback())
        });
    }
    if !dns.nameservers.is_empty() {
        servers = dns.nameservers.iter().map(IpAddr::to_string).collect();
    }
    if servers.is_empty() {
        servers = DEFAULT_NAMESERVERS.map(str::to_owned).to_vec();
    }
    if !dns.search.is_empty() {
        search.clone_from(&dns.search);
    }
    if !dns.options.is_empty() {
        options.clone_from(&dns.options);
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (name, values) in [("search", search), ("options", options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{name} {}", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_network_keeps_loopback_servers() {
        let host = "# comment\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n";
        let text = generate(host, &DnsConfig::default(), Network::Host);
        assert_eq!(text, "nameserver 127.0.0.53\nsearch a b\noptions edns0\n");
    }

    #[test]
    fn other_networks_drop_loopback_servers() {
        let host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\n";
        let text = generate(host, &DnsConfig::default(), Network::None);
        assert_eq!(text, "nameserver 10.0.0.1\n");
    }

    #[test]
    fn defaults_replace_an_empty_list() {
        let text = generate("", &DnsConfig::default(), Network::Host);
        assert!(text.starts_with("nameserver 8.8.8.8\n"), "{text}");
    }

    #[test]
    fn configuration_overrides_the_host() {
        let dns = DnsConfig {
            nameservers: vec![IpAddr::from([9, 9, 9, 9])],
            search: vec!["example.org".into()],
            options: vec!["ndots:1".into()],
        };
        let host = "nameserver 10.0.0.1\nsearch a\n";
        let text = generate(host, &dns, Network::Host);
        assert_eq!(
            text,
            "nameserver 9.9.9.9\nsearch example.org\noptions ndots:1\n"
        );
    }

    #[test]
    fn hosts_lists_extra_hosts_last() {
        let extra = [("db".to_owned(), IpAddr::from([10, 0, 0, 7]))];
        let text = hosts("box", &extra);
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n"
        );
    }
}
