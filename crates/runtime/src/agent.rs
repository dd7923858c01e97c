//! Sockets in the sandbox that lead to SSH agents outside of it.

mod exchange;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to an agent.
pub trait AgentStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AgentStream for T {}

/// A connection being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn AgentStream>>> + Send>>;

/// Makes a connection to an agent for each one that the step makes to its socket.
#[derive(Clone)]
pub struct AgentConnector(Arc<dyn Fn() -> Connecting + Send + Sync>);

impl AgentConnector {
    /// Connects by calling `connect`.
    pub fn new(connect: impl Fn() -> Connecting + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    /// Connects to a socket of the host, such as the value of `SSH_AUTH_SOCK`.
    #[must_use]
    pub fn unix(path: PathBuf) -> Self {
        Self::new(move || {
            let path = path.clone();
            Box::pin(async move {
                let stream = tokio::net::UnixStream::connect(&path).await?;
                Ok(Box::new(stream) as Box<dyn AgentStream>)
            })
        })
    }

    /// Forwards the connections of a socket outside of any sandbox to the agent, until dropped.
    ///
    /// # Errors
    /// If the socket cannot be listened at.
    pub async fn serve(self, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        forward(listener, self).await
    }

    /// Makes a connection.
    pub fn connect(&self) -> Connecting {
        (self.0)()
    }
}

impl std::fmt::Debug for AgentConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentConnector")
    }
}

/// A unix socket in the sandbox whose connections are forwarded to an agent.
#[derive(Clone, Debug)]
pub struct AgentSocket {
    /// Where in the sandbox, absolute.
    pub target: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How to reach the agent.
    pub connector: AgentConnector,
}

/// The most connections that one socket carries at once.
const CONNECTIONS: usize = 64;

/// Forwards the sockets of a step until dropped.
#[derive(Default)]
pub(crate) struct Forwarders {
    tasks: tokio::task::JoinSet<()>,
}

impl Forwarders {
    /// Forwards the connections of each socket.
    pub(crate) fn start(
        &mut self,
        listeners: Vec<(std::os::unix::net::UnixListener, AgentConnector)>,
    ) {
        for (listener, connector) in listeners {
            self.tasks.spawn(async move {
                if let Err(error) = forward(listener, connector).await {
                    tracing::warn!("a step's agent socket cannot be served: {error}");
                }
            });
        }
    }
}

async fn forward(
    listener: std::os::unix::net::UnixListener,
    connector: AgentConnector,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The queue of the socket holds what does not fit.
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let (near, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let connector = connector.clone();
        connections.spawn(async move {
            if let Err(error) = exchange::carry(near, connector).await {
                tracing::warn!("a connection to an agent broke off: {error}");
            }
        });
    }
}
