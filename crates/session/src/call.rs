use std::future::poll_fn;

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// How large one message may be, in bytes: as in containerd, whose limits BuildKit's clients
/// have.
pub const MAX_MESSAGE: usize = 16 << 20;

/// How much may be under way on one stream, in bytes: enough for a fast network with some
/// latency.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for the whole connection.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Calls the methods of whoever is at the other end.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
}

impl Caller {
    /// Calls over `channel`.
    pub const fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Calls a method that takes a message and answers with one.
    ///
    /// # Errors
    /// What the method answers, or that it cannot be reached.
    pub async fn unary<Q, A>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<Response<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        grpc.unary(request, path(method), ProstCodec::default())
            .await
    }

    /// Calls a method that takes a message and answers with a stream.
    ///
    /// # Errors
    /// What the method answers before its first message, or that it cannot be reached.
    pub async fn server_streaming<Q, A>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<Response<Streaming<A>>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        grpc.server_streaming(request, path(method), ProstCodec::default())
            .await
    }

    /// Calls a method that takes a stream and answers with one. This returns when the method
    /// begins to answer, which may be after it has got all of its request: whoever sends must not
    /// wait for this.
    ///
    /// # Errors
    /// What the method answers before its first message, or that it cannot be reached.
    pub async fn streaming<S, A>(
        &self,
        method: &'static str,
        request: Request<S>,
    ) -> Result<Response<Streaming<A>>, Status>
    where
        S: Stream + Send + 'static,
        S::Item: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        grpc.streaming(request, path(method), ProstCodec::default())
            .await
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut channel = self.channel.clone();
        poll_fn(|cx| tower::Service::poll_ready(&mut channel, cx))
            .await
            .map_err(|error| Status::new(Code::Unavailable, describe(&error)))?;
        Ok(tonic::client::Grpc::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }
}

/// The one who calls at this end of a connection that is made already. Once that breaks, all
/// calls fail.
///
/// # Errors
/// If the connection cannot be used for HTTP/2.
pub async fn caller_over<T>(connection: T) -> Result<Caller, tonic::transport::Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = Some(connection);
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let connector = tower::service_fn(move |_: Uri| {
        let connection = connection.take();
        async move {
            connection
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))
        }
    });
    Ok(Caller::new(
        endpoint.connect_with_connector(connector).await?,
    ))
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

/// An error with what caused it, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
