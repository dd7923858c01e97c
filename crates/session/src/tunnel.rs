use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::Status;
use weld_proto::session::BytesMessage;

/// The most bytes that one message carries: well below what any peer takes.
const PIECE: usize = 1 << 20;
/// How many messages may wait to be sent.
pub(crate) const QUEUE: usize = 16;

/// A stream of bytes in two streams of messages.
pub struct Tunnel<S> {
    incoming: S,
    rest: Bytes,
    ended: bool,
    outgoing: PollSender<BytesMessage>,
}

impl<S> Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    /// Reads from `incoming`. What is written comes out of the receiver, which ends when the
    /// tunnel is shut down or dropped.
    pub fn new(incoming: S) -> (Self, mpsc::Receiver<BytesMessage>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tunnel = Self {
            incoming,
            rest: Bytes::new(),
            ended: false,
            outgoing: PollSender::new(sender),
        };
        (tunnel, receiver)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_reserve(cx).map_err(|_| closed())
    }

    fn send(&mut self, data: Bytes) -> io::Result<()> {
        self.outgoing
            .send_item(BytesMessage { data })
            .map_err(|_| closed())
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl<S> AsyncRead for Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(message)) => self.rest = message.data,
                Some(Err(status)) => {
                    self.ended = true;
                    return Poll::Ready(Err(io::Error::other(status)));
                }
                None => self.ended = true,
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        if let Some(piece) = self.rest.get(..count) {
            buffer.put_slice(piece);
        }
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for Tunnel<S>
where
    S: Stream<Item = Result<BytesMessage, Status>> + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let piece = bytes.get(..PIECE).unwrap_or(bytes);
        self.send(Bytes::copy_from_slice(piece))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let mut gathered = BytesMut::with_capacity(total.min(PIECE));
        for buffer in buffers {
            let room = PIECE - gathered.len();
            gathered.extend_from_slice(buffer.get(..room).unwrap_or(buffer));
        }
        let count = gathered.len();
        self.send(gathered.freeze())?;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}
