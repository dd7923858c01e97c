//! A stream of a client's on its way to a thread that writes it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
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
