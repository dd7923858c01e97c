use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A port of a host, `HOST:PORT`.
    Tcp(String),
}

/// Text that is no address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a daemon: {reason}")]
pub struct ParseAddressError {
    text: String,
    reason: &'static str,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no = |reason| ParseAddressError {
            text: text.to_owned(),
            reason,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(no("it needs unix://PATH or tcp://HOST:PORT"));
        };
        match scheme {
            "unix" if rest.is_empty() => Err(no("the path is missing")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => {
                let rest = rest.trim_end_matches('/');
                let port = rest.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                match port {
                    Some(Ok(_)) if !rest.contains(['/', '@', '?', '#']) => {
                        Ok(Self::Tcp(rest.to_owned()))
                    }
                    _ => Err(no("it needs tcp://HOST:PORT")),
                }
            }
            _ => Err(no("its scheme is neither unix nor tcp")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_buildkit_takes() {
        for text in [
            "unix:///run/x.sock",
            "tcp://127.0.0.1:1234",
            "tcp://[::1]:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for (text, reason) in [
            ("/run/x.sock", "it needs unix://"),
            ("unix://", "path is missing"),
            ("tcp://host", "HOST:PORT"),
            ("tcp://host:port", "HOST:PORT"),
            ("tcp://host:1/x", "HOST:PORT"),
            ("docker-container://x", "scheme"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
