//! Packets on their way out, several at a time: most files are small, and to wake whoever sends
//! for each of their packets would cost more than to send it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::sync::mpsc;
use weld_proto::fsutil::Packet;

/// How many batches may wait to be sent.
const QUEUE: usize = 8;
/// How many packets a batch has at most.
const MAX_PACKETS: usize = 128;
/// A batch is sent on once it has so much content, in bytes.
const MAX_CONTENT: usize = 128 << 10;

/// Takes the packets of a transfer.
#[derive(Clone, Debug)]
pub struct PacketSender(mpsc::Sender<Vec<Packet>>);

/// The packets of a transfer. It ends when nobody sends any more.
#[derive(Debug)]
pub struct PacketStream {
    batches: mpsc::Receiver<Vec<Packet>>,
    batch: std::vec::IntoIter<Packet>,
}

/// Both ends of the way out.
pub fn packets() -> (PacketSender, PacketStream) {
    let (sender, batches) = mpsc::channel(QUEUE);
    let stream = PacketStream {
        batches,
        batch: Vec::new().into_iter(),
    };
    (PacketSender(sender), stream)
}

/// Nobody takes the packets any more.
pub(super) struct Left;

impl PacketSender {
    pub(super) async fn send(&self, batch: Vec<Packet>) -> Result<(), Left> {
        self.0.send(batch).await.map_err(|_| Left)
    }

    pub(super) fn blocking_send(&self, batch: Vec<Packet>) -> Result<(), Left> {
        self.0.blocking_send(batch).map_err(|_| Left)
    }
}

impl Stream for PacketStream {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        loop {
            if let Some(packet) = self.batch.next() {
                return Poll::Ready(Some(packet));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// A batch that is being filled.
#[derive(Default)]
pub(super) struct Batch {
    packets: Vec<Packet>,
    content: usize,
}

impl Batch {
    /// Adds a packet; gives the batch once it is full.
    pub(super) fn push(&mut self, packet: Packet) -> Option<Vec<Packet>> {
        self.content += packet.data.len();
        self.packets.push(packet);
        let full = self.packets.len() >= MAX_PACKETS || self.content >= MAX_CONTENT;
        full.then(|| self.take())
    }

    /// What there is.
    pub(super) fn take(&mut self) -> Vec<Packet> {
        self.content = 0;
        std::mem::take(&mut self.packets)
    }
}
