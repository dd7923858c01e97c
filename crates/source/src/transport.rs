//! The HTTP client below all sources: TLS by rustls, no compression, redirects that lose
//! credentials at the border of a host.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

pub(crate) const USER_AGENT: &str = concat!("weld/", env!("CARGO_PKG_VERSION"));

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// How long to wait for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, the TLS handshake included.
    pub connect: Duration,
    /// For the next bytes of a response.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            read: Duration::from_secs(60),
        }
    }
}

/// What a TLS connection trusts and shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Accepts any certificate.
    pub(crate) insecure: bool,
    /// Files of certificates to trust beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Files of the client's own certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Why no client could be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A certificate or key file cannot be used.
    #[error("cannot use {path} as {what}: {reason}", path = path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS library refuses its configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP library refuses its configuration.
    #[error("cannot set up the HTTP client: {0}")]
    Client(reqwest::Error),
}

/// A client for `host`. The proxies that the environment names are used, except for loopback
/// addresses, as Go's programs do.
pub(crate) fn client(
    host: &str,
    tls: &Tls,
    timeouts: &Timeouts,
) -> Result<reqwest::Client, TransportError> {
    let redirects = reqwest::redirect::Policy::limited(MAX_REDIRECTS);
    build(host, tls, timeouts, redirects)
}

/// The same for requests whose signatures hold for one address: redirects are not followed.
pub(crate) fn direct_client(
    host: &str,
    timeouts: &Timeouts,
) -> Result<reqwest::Client, TransportError> {
    let redirects = reqwest::redirect::Policy::none();
    build(host, &Tls::default(), timeouts, redirects)
}

/// A client for requests to `host` with secrets in their headers: redirects are not followed. `ca` are
/// files of certificates that are trusted beside the system's.
///
/// # Errors
/// [`TransportError`].
pub fn posting_client(
    host: &str,
    ca: Vec<PathBuf>,
    timeout: Duration,
) -> Result<reqwest::Client, TransportError> {
    let tls = Tls {
        ca,
        ..Tls::default()
    };
    let timeouts = Timeouts {
        connect: timeout,
        read: timeout,
    };
    build(host, &tls, &timeouts, reqwest::redirect::Policy::none())
}

fn build(
    host: &str,
    tls: &Tls,
    timeouts: &Timeouts,
    redirects: reqwest::redirect::Policy,
) -> Result<reqwest::Client, TransportError> {
    let builder = reqwest::Client::builder();
    let builder = if is_loopback(host) {
        builder.no_proxy()
    } else {
        builder
    };
    builder
        .tls_backend_preconfigured(tls_config(tls)?)
        .user_agent(USER_AGENT)
        .referer(false)
        .redirect(redirects)
        .connect_timeout(timeouts.connect)
        .read_timeout(timeouts.read)
        .pool_max_idle_per_host(8)
        .tcp_nodelay(true)
        .build()
        .map_err(TransportError::Client)
}

/// Whether `host[:port]` is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn tls_config(tls: &Tls) -> Result<rustls::ClientConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        insecure: tls.insecure,
        extra: certificates(&tls.ca)?,
        provider: Arc::clone(&provider),
        inner: OnceLock::new(),
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(
            certificates(std::slice::from_ref(certificate))?,
            PrivateKeyDer::from_pem_file(key)
                .map_err(|error| bad_file("a private key", key, &error))?,
        )?,
    })
}

fn certificates(files: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    const WHAT: &str = "a certificate";
    let mut certificates = Vec::new();
    for file in files {
        let before = certificates.len();
        for certificate in
            CertificateDer::pem_file_iter(file).map_err(|error| bad_file(WHAT, file, &error))?
        {
            certificates.push(certificate.map_err(|error| bad_file(WHAT, file, &error))?);
        }
        if certificates.len() == before {
            return Err(bad_file(WHAT, file, &"there is none in it"));
        }
    }
    Ok(certificates)
}

fn bad_file(what: &'static str, path: &Path, reason: &dyn fmt::Display) -> TransportError {
    TransportError::File {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Verifies servers by the system's certificates and some more. The system's are read at the
/// first handshake, so that a process that only speaks plain HTTP on loopback never does.
struct Verifier {
    insecure: bool,
    extra: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    inner: OnceLock<Result<Arc<WebPkiServerVerifier>, rustls::Error>>,
}

impl Verifier {
    fn inner(&self) -> Result<&WebPkiServerVerifier, rustls::Error> {
        self.inner
            .get_or_init(|| self.load())
            .as_ref()
            .map(AsRef::as_ref)
            .map_err(Clone::clone)
    }

    fn load(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.extra.iter().cloned());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(format!("no trusted certificates: {error}")))
    }
}

/// Whether a server's certificate was refused because it may sign others, as those that people sign themselves may.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    let error = other.0.downcast_ref::<webpki::Error>();
    matches!(error, Some(webpki::Error::CaUsedAsEndEntity))
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner()?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(error) if is_authority(&error) && self.extra.contains(end_entity) => {
                // It was told to be trusted, itself, and is in its time: that is looked at before what it is for.
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A request that got no usable response. Its text has the cause, and no URL: those of redirects
/// hold signatures.
#[derive(Debug)]
pub struct NetworkError(reqwest::Error);

/// Whether it may help to make a failed request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hope {
    /// It may: the connection broke or was slow.
    Transient,
    /// There is nobody: worth one more try, not many.
    Unreachable,
    /// It will fail again.
    None,
}

impl NetworkError {
    pub(crate) fn hope(&self) -> Hope {
        if self.find::<rustls::Error>().is_some() || self.0.is_builder() || self.0.is_redirect() {
            return Hope::None;
        }
        if self.0.is_connect() && !self.0.is_timeout() && !self.was_reset() {
            return Hope::Unreachable;
        }
        Hope::Transient
    }

    /// Whether the peer does not speak TLS.
    pub(crate) fn is_not_tls(&self) -> bool {
        matches!(
            self.find::<rustls::Error>(),
            Some(rustls::Error::InvalidMessage(_))
        )
    }

    fn was_reset(&self) -> bool {
        self.find::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }

    fn find<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let mut next = self.0.source();
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<E>() {
                return Some(found);
            }
            // An `io::Error` passes over what it wraps in its `source`.
            next = match error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
            {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl From<reqwest::Error> for NetworkError {
    fn from(error: reqwest::Error) -> Self {
        Self(error.without_url())
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_timeout() {
            return f.write_str("timed out");
        }
        let mut texts = vec![self.0.to_string()];
        let mut next = self.0.source();
        while let Some(error) = next {
            texts.push(error.to_string());
            next = error.source();
        }
        // Layers of the client that say nothing where something is behind them.
        let last = texts.pop().unwrap_or_default();
        let empty = ["error sending request", "dns error", "error resolving DNS"];
        texts.retain(|text| !empty.contains(&text.as_str()) && !text.starts_with("client error ("));
        texts.push(last);
        texts.dedup();
        f.write_str(&texts.join(": "))
    }
}

impl std::error::Error for NetworkError {}
