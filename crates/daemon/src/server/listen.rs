//! Where clients connect: unix sockets, TCP with TLS, sockets that systemd opened.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Extensions;
use tonic::transport::server::Connected;

use crate::config::{ListenConfig, TlsConfig};

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after accepting failed, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long another daemon at a socket may take to accept.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Why there can be no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is nowhere to listen.
    #[error("--addr cannot be empty")]
    NoAddress,
    /// An address is none.
    #[error("{0:?} is no address: write unix://PATH, tcp://HOST:PORT or fd://")]
    Address(String),
    /// TCP without TLS lets anyone on the network become root.
    #[error(
        "tcp://{0} without TLS lets everyone who can reach it run builds as root: name a \
         certificate with --tlscert, --tlskey and --tlscacert, or allow it with --allow-plain-tcp"
    )]
    PlainTcp(String),
    /// The system refuses.
    #[error("listen on {address}: {source}")]
    Bind {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Another daemon listens there.
    #[error("listen on {0}: another process listens there")]
    Taken(String),
    /// A file of a certificate cannot be used.
    #[error("TLS: {path}: {reason}", path = path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificates do not fit together.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Who signs clients' certificates cannot be known.
    #[error("TLS: clients' certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// Nobody opened sockets for us.
    #[error("no sockets found via socket activation: make sure the service was started by systemd")]
    NoActivation,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine that may open the socket.
    Unix,
    /// Someone on the network.
    Tcp(SocketAddr),
    /// Someone on the network whom a certificate tells from others.
    Certified {
        /// From where.
        address: SocketAddr,
        /// The certificate's SHA-256, in hexadecimal digits.
        certificate: String,
    },
}

impl Peer {
    /// The isolation domain of whom a call comes from: of each certificate its own, where clients
    /// are kept apart.
    pub(crate) fn domain_of(call: &Extensions) -> Option<String> {
        match call.get::<Self>()? {
            Self::Certified { certificate, .. } => Some(format!("certificate:{certificate}")),
            Self::Unix | Self::Tcp(_) => None,
        }
    }
}

enum Listener {
    Unix {
        listener: UnixListener,
        /// Removed when nobody can connect any more.
        _file: Option<SocketFile>,
    },
    Tcp(TcpListener, Option<Tls>),
}

/// How TLS is spoken.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    /// Whether certificates tell clients apart.
    isolate: bool,
}

impl Tls {
    /// Who came: clients' certificates are verified by now, if they need any.
    fn peer(&self, address: SocketAddr, stream: &TlsStream<TcpStream>) -> Peer {
        let (_, connection) = stream.get_ref();
        let certificates = connection.peer_certificates().unwrap_or_default();
        match certificates.first().filter(|_| self.isolate) {
            None => Peer::Tcp(address),
            Some(certificate) => Peer::Certified {
                address,
                certificate: weld_digest::Digest::sha256_of(certificate).hex().to_owned(),
            },
        }
    }
}

/// All listeners of a daemon.
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    addresses: Vec<String>,
    counter: Counter,
}

/// Counts connections, of which there may only be so many.
#[derive(Clone)]
pub(super) struct Counter {
    room: Arc<Semaphore>,
    limit: usize,
}

impl Counter {
    fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }

    /// How many there are, with those that listeners wait for, one each.
    pub(super) fn open(&self) -> usize {
        self.limit.saturating_sub(self.room.available_permits())
    }
}

impl Listeners {
    pub(super) async fn bind(
        config: &ListenConfig,
        connections: usize,
    ) -> Result<Self, ListenError> {
        let isolate = config.isolate_clients;
        let tls = |acceptor| Tls { acceptor, isolate };
        let tls = config.tls.as_ref().map(acceptor).transpose()?.map(tls);
        let mut this = Self {
            listeners: Vec::new(),
            addresses: Vec::new(),
            counter: Counter::new(connections),
        };
        for address in &config.addresses {
            let (scheme, rest) = address
                .split_once("://")
                .ok_or_else(|| ListenError::Address(address.clone()))?;
            match scheme {
                "unix" => {
                    let listener = bind_unix(rest, address, config).await?;
                    let _file = SocketFile::of(Path::new(rest));
                    this.add(address.clone(), Listener::Unix { listener, _file });
                }
                "tcp" => {
                    let listener = tcp(rest, tls.clone(), config).await?;
                    let address = match &listener {
                        Listener::Tcp(listener, _) => listener.local_addr().ok(),
                        Listener::Unix { .. } => None,
                    };
                    let address = address.map_or_else(|| rest.to_owned(), |ip| ip.to_string());
                    this.add(format!("tcp://{address}"), listener);
                }
                "fd" => this.activated(rest, tls.clone(), config)?,
                _ => return Err(ListenError::Address(address.clone())),
            }
        }
        if this.listeners.is_empty() {
            return Err(ListenError::NoAddress);
        }
        Ok(this)
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    fn add(&mut self, address: String, listener: Listener) {
        self.addresses.push(address);
        self.listeners.push(listener);
    }

    /// Takes the sockets that systemd opened; with a number only that one, counted from 3.
    fn activated(
        &mut self,
        which: &str,
        tls: Option<Tls>,
        config: &ListenConfig,
    ) -> Result<(), ListenError> {
        let address = format!("fd://{which}");
        let bind = |source| ListenError::Bind {
            address: address.clone(),
            source,
        };
        let wanted = match which {
            "" => None,
            number => Some(
                number
                    .parse::<usize>()
                    .ok()
                    .and_then(|number| number.checked_sub(3))
                    .ok_or_else(|| ListenError::Address(address.clone()))?,
            ),
        };
        let mut sockets = listenfd::ListenFd::from_env();
        let mut found = false;
        for index in 0..sockets.len() {
            if wanted.is_some_and(|wanted| wanted != index) {
                continue;
            }
            if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
                socket.set_nonblocking(true).map_err(bind)?;
                let socket = UnixListener::from_std(socket).map_err(bind)?;
                self.add(
                    address.clone(),
                    Listener::Unix {
                        listener: socket,
                        _file: None,
                    },
                );
            } else if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
                if tls.is_none() && !config.allow_plain_tcp {
                    return Err(ListenError::PlainTcp(address));
                }
                socket.set_nonblocking(true).map_err(bind)?;
                let socket = TcpListener::from_std(socket).map_err(bind)?;
                self.add(address.clone(), Listener::Tcp(socket, tls.clone()));
            } else {
                continue;
            }
            found = true;
        }
        if found {
            Ok(())
        } else {
            Err(ListenError::NoActivation)
        }
    }

    /// Accepts until `closing` fires: from then on nobody can connect, and those that have are served on.
    pub(super) fn connections(self, closing: &CancellationToken) -> Connections {
        let (sender, receiver) = mpsc::channel(64);
        let limit = self.counter.room;
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            let accepting = accept(listener, sender.clone(), Arc::clone(&limit));
            let closing = closing.clone();
            tasks.spawn(async move {
                closing.run_until_cancelled(accepting).await;
            });
        }
        Connections {
            receiver,
            _open: sender,
            _tasks: tasks,
        }
    }
}

/// Clients as they come.
pub(super) struct Connections {
    receiver: mpsc::Receiver<io::Result<Connection>>,
    /// With the end of this stream those that are connected would be sent away.
    _open: mpsc::Sender<io::Result<Connection>>,
    _tasks: JoinSet<()>,
}

impl Stream for Connections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

async fn accept(
    listener: Listener,
    connections: mpsc::Sender<io::Result<Connection>>,
    limit: Arc<Semaphore>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        // Whoever is too many waits in the system's queue.
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let accepted = match &listener {
            Listener::Unix { listener, .. } => listener
                .accept()
                .await
                .map(|(stream, _)| (Io::Unix(stream), Peer::Unix)),
            Listener::Tcp(listener, _) => listener.accept().await.map(|(stream, address)| {
                // Messages are small and awaited; where it cannot be set they are a little late.
                let _ = stream.set_nodelay(true);
                (Io::Tcp(stream), Peer::Tcp(address))
            }),
        };
        let (io, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        let connections = connections.clone();
        match (io, &listener) {
            (Io::Tcp(stream), Listener::Tcp(_, Some(tls))) => {
                let tls = tls.clone();
                let handshake = tls.acceptor.accept(stream);
                handshakes.spawn(async move {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                        Ok(Ok(stream)) => {
                            let peer = match peer {
                                Peer::Tcp(address) => tls.peer(address, &stream),
                                other => other,
                            };
                            let io = Io::Tls(Box::new(stream));
                            let _ = connections
                                .send(Ok(Connection::new(io, peer, permit)))
                                .await;
                        }
                        Ok(Err(error)) => tracing::info!(?peer, %error, "TLS handshake failed"),
                        Err(_) => tracing::info!(?peer, "TLS handshake took too long"),
                    }
                });
            }
            (io, _) => {
                if connections
                    .send(Ok(Connection::new(io, peer, permit)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}

/// A socket's file, which is removed with this: who finds it, and nobody who listens, waits for that.
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> Option<Self> {
        Some(Self {
            path: path.to_owned(),
            id: Self::id(path)?,
        })
    }

    fn id(path: &Path) -> Option<(u64, u64)> {
        let file = std::fs::symlink_metadata(path).ok()?;
        Some((file.dev(), file.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have taken the place.
        if Self::id(&self.path) == Some(self.id) {
            // What cannot be removed is found out by the next one who listens there.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on a socket that `config` says who may open.
pub(super) async fn bind_unix(
    path: &str,
    address: &str,
    config: &ListenConfig,
) -> Result<UnixListener, ListenError> {
    let bind = |source| ListenError::Bind {
        address: address.to_owned(),
        source,
    };
    let path = Path::new(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(bind)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        let probe = tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await;
        if matches!(probe, Ok(Ok(_))) {
            return Err(ListenError::Taken(address.to_owned()));
        }
        std::fs::remove_file(path).map_err(bind)?;
    }
    // Made under a name of its own and with all its rights before anybody finds it.
    let hidden = path.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(bind)?;
    let prepared = || -> io::Result<()> {
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o660))?;
        std::os::unix::fs::chown(&hidden, config.uid, config.gid)?;
        std::fs::rename(&hidden, path)
    };
    if let Err(error) = prepared() {
        let _ = std::fs::remove_file(&hidden);
        return Err(bind(error));
    }
    Ok(listener)
}

async fn tcp(
    address: &str,
    tls: Option<Tls>,
    config: &ListenConfig,
) -> Result<Listener, ListenError> {
    if tls.is_none() && !config.allow_plain_tcp {
        return Err(ListenError::PlainTcp(address.to_owned()));
    }
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| ListenError::Bind {
        address: format!("tcp://{address}"),
        source,
    })?;
    Ok(Listener::Tcp(listener, tls))
}

fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, ListenError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match &config.ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let key =
        PrivateKeyDer::from_pem_file(&config.key).map_err(|error| ListenError::Certificate {
            path: config.key.clone(),
            reason: error.to_string(),
        })?;
    let mut server = builder.with_single_cert(certificates(&config.cert)?, key)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let error = |reason: String| ListenError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|failed| error(failed.to_string()))?;
    if read.is_empty() {
        return Err(error("there is no certificate in it".to_owned()));
    }
    Ok(read)
}

enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client's connection, which counts until it is dropped.
pub struct Connection {
    io: Io,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    const fn new(io: Io, peer: Peer, permit: OwnedSemaphorePermit) -> Self {
        Self {
            io,
            peer,
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, pieces),
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, pieces),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Unix(io) => io.is_write_vectored(),
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
