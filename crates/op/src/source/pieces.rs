//! A stream of a client's on its way to a thread that writes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use weld_source::progress::Transfer;

/// How many pieces may wait to be written.
const QUEUE: usize = 8;
/// How large a piece may be, in bytes.
const PIECE: usize = 256 << 10;

/// Reads `content` in pieces, which `write` takes on a thread that may block. The outer error is of
/// reading, the inner one of writing. Dropped, it ends at the next piece.
pub(super) async fn relay<T: Send + 'static>(
    mut content: impl AsyncRead + Unpin,
    mut transfer: Transfer,
    write: impl FnOnce(&mut dyn Iterator<Item = Bytes>) -> io::Result<T> + Send + 'static,
) -> io::Result<io::Result<T>> {
    let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let writing = tokio::task::spawn_blocking(move || {
        write(&mut std::iter::from_fn(|| queue.blocking_recv()))
    });
    let reading = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            if content.read_buf(&mut piece).await? == 0 {
                break;
            }
            transfer.advance(piece.len() as u64);
            if pieces.send(piece.freeze()).await.is_err() {
                // What writing met is told by itself.
                return Ok(());
            }
        }
        transfer.complete();
        Ok::<_, io::Error>(())
    };
    let (read, written) = tokio::join!(reading, writing);
    read?;
    written.map_err(io::Error::other)
}

/// Content that fails when nothing more of it comes for some time.
pub(super) struct Patient<R> {
    content: R,
    patience: Duration,
    /// Runs while something is waited for.
    end: Option<Pin<Box<Sleep>>>,
}

impl<R> Patient<R> {
    pub(super) fn new(content: R, patience: Duration) -> Self {
        Self {
            content,
            patience,
            end: None,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Patient<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.content).poll_read(context, buffer) {
            this.end = None;
            return Poll::Ready(read);
        }
        let patience = this.patience;
        let end = this
            .end
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(silence(patience)))
    }
}

/// The error of one who gave nothing for so long.
pub(super) fn silence(patience: Duration) -> io::Error {
    let text = format!("nothing came for {} s", patience.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, text)
}
