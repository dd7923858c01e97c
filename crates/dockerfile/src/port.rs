//! The port specifications of `EXPOSE`: `[ip:][host:]port[-port][/protocol]`.

use std::fmt;
use std::net::IpAddr;

use crate::lint::Finding;

/// A port that an image exposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

/// The protocols that a port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What can be wrong with a port specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No port before `/` or after `:`.
    #[error("invalid port: {spec:?}: no port specified")]
    Missing {
        /// The specification.
        spec: String,
    },
    /// Another protocol than tcp, udp, sctp.
    #[error("invalid port: {spec:?}: invalid proto: {protocol}")]
    Protocol {
        /// The specification.
        spec: String,
        /// The protocol.
        protocol: String,
    },
    /// The address is none.
    #[error("invalid IP address: {address}")]
    Address {
        /// The address.
        address: String,
    },
    /// The port in the container is no number or range up to 65535.
    #[error("invalid containerPort: {port}")]
    Container {
        /// The port.
        port: String,
    },
    /// The port on the host is no number or range up to 65535.
    #[error("invalid hostPort: {port}")]
    Host {
        /// The port.
        port: String,
    },
    /// The ranges on host and in the container have different lengths.
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges {
        /// The range in the container.
        container: String,
        /// The range on the host.
        host: String,
    },
}

/// Reads one specification: the ports it names, and what the linter has to say about it.
pub fn parse(spec: &str) -> Result<(Vec<Port>, Vec<Finding>), PortError> {
    let (address, host, container) = split(spec);
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(PortError::Missing {
            spec: spec.to_owned(),
        });
    }
    let known = match protocol.to_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => {
            return Err(PortError::Protocol {
                spec: spec.to_owned(),
                protocol: protocol.to_owned(),
            });
        }
    };
    check_address(address)?;
    let (start, end) = parse_range(range).ok_or_else(|| PortError::Container {
        port: range.to_owned(),
    })?;
    check_host(host, range, end - start)?;

    let mut findings = Vec::new();
    if protocol != protocol.to_lowercase() {
        findings.push(Finding::ExposeProtoCasing {
            port: spec.to_owned(),
        });
    }
    if !address.is_empty() || !host.is_empty() {
        findings.push(Finding::ExposeInvalidFormat {
            port: spec.to_owned(),
        });
    }
    let port = |number| Port {
        number,
        protocol: known,
    };
    Ok(((start..=end).map(port).collect(), findings))
}

/// Address, host port and container port; colons before the last two belong to the address.
fn split(spec: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = spec.rsplit_once(':') else {
        return ("", "", spec);
    };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn check_address(address: &str) -> Result<(), PortError> {
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if bare.is_empty() && address.is_empty() || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(PortError::Address {
        address: address.to_owned(),
    })
}

fn check_host(host: &str, container: &str, span: u16) -> Result<(), PortError> {
    if host.is_empty() {
        return Ok(());
    }
    let (start, end) = parse_range(host).ok_or_else(|| PortError::Host {
        port: host.to_owned(),
    })?;
    // One port may be served from a range of the host's.
    if span != 0 && end - start != span {
        return Err(PortError::Ranges {
            container: container.to_owned(),
            host: host.to_owned(),
        });
    }
    Ok(())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start <= end).then_some((start, end))
}
