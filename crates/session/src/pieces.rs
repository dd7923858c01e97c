use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tonic::Status;
use weld_proto::session::BytesMessage;

/// How many pieces may wait to be sent.
const QUEUE: usize = 8;

/// A file on its way to the other end, which is whole only once that was said.
pub struct Pieces(mpsc::Sender<Option<Bytes>>);

/// The other end of [`Pieces`]: the messages of the call. Without [`Pieces::complete`] the last
/// one is a failure.
pub struct PieceStream {
    pieces: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

impl Pieces {
    /// Both ends.
    pub fn new() -> (Self, PieceStream) {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let stream = PieceStream {
            pieces,
            ended: false,
        };
        (Self(sender), stream)
    }

    /// Sends a piece; whether anybody takes it.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.0.send(Some(piece)).await.is_ok()
    }

    /// Says that the file is whole; whether anybody heard it.
    pub async fn complete(self) -> bool {
        self.0.send(None).await.is_ok()
    }
}

impl Stream for PieceStream {
    type Item = Result<BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(cx).map(|piece| match piece {
            Some(Some(data)) => Some(Ok(BytesMessage { data })),
            Some(None) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(Status::cancelled("the file is incomplete")))
            }
        })
    }
}
