use std::io;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// By what a daemon behind TCP is known, and by what it knows the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// The authorities that may have signed the daemon's certificate; the system's if `None`.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client's key.
    pub key: Option<PathBuf>,
    /// The name in the daemon's certificate, if it is not the host's.
    pub server_name: Option<String>,
}

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Only one of certificate and key was given.
    #[error("a client certificate needs its key, and a key its certificate")]
    HalfIdentity,
    /// One of the files holds something else.
    #[error("the certificates cannot be used: {0}")]
    Certificates(#[from] tonic::transport::Error),
}

impl TlsOptions {
    /// Whether nothing was asked for: the connection is not encrypted then.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn config(&self, host: &str) -> Result<ClientTlsConfig, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let config = ClientTlsConfig::new().domain_name(name);
        let config = match &self.ca {
            Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
            None => config.with_native_roots(),
        };
        match (&self.cert, &self.key) {
            (None, None) => Ok(config),
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pem(read(cert)?, read(key)?);
                Ok(config.identity(identity))
            }
            _ => Err(TlsError::HalfIdentity),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })
}
