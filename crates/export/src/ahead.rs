//! An archive that is written while the image's layers are made.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weld_digest::Digest;
use weld_source::progress::Progress;
use weld_store::{BlobRef, Growth};

use crate::blocking::blocking;
use crate::destination::{self, Destination};
use crate::error::write_error;
use crate::layout_tar::LayoutTar;
use crate::stream::Stream;
use crate::watch::Watch;
use crate::{ExportError, ExportKind, ExportTarget, exporter};

/// Has layers written to an archive while they are made, in their order. When this is dropped and
/// the layers' senders are, the writer ends.
pub(crate) struct Ahead {
    images: SyncSender<Vec<Receiver<LayerEvent>>>,
    writer: JoinHandle<Result<Begun, ExportError>>,
}

/// An archive that has the layers.
pub(crate) struct Begun {
    pub(crate) destination: Destination,
    pub(crate) watch: Watch,
    pub(crate) written: BTreeSet<Digest>,
}

/// What becomes of a layer: it may grow, then it is there. If it is not, the sender is dropped.
enum LayerEvent {
    Growing(Growth),
    Made(BlobRef),
}

/// The end at which one layer is made.
pub(crate) struct LayerSender(SyncSender<LayerEvent>);

impl LayerSender {
    /// The layer is read while it grows.
    pub(crate) fn growing(&self, growth: Growth) {
        // Nobody listens any more when writing failed, which is told at the end.
        let _ = self.0.try_send(LayerEvent::Growing(growth));
    }

    /// The layer is there.
    pub(crate) fn made(&self, blob: BlobRef) {
        let _ = self.0.try_send(LayerEvent::Made(blob));
    }
}

impl Ahead {
    /// Starts to write an archive of so many images, if it goes to a file.
    pub(crate) async fn of_target(
        kind: ExportKind,
        target: &ExportTarget,
        images: usize,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, ExportError> {
        if !destination::is_replaced(target) {
            return Ok(None);
        }
        let target = target.clone();
        let destination = blocking(move || Destination::open(kind, &target)).await?;
        Ok(Some(Self::start(destination, images, progress, stop)))
    }

    /// Starts to write `destination`, where the layers of `images` images go first.
    fn start(
        destination: Destination,
        images: usize,
        progress: &Progress,
        stop: &CancellationToken,
    ) -> Self {
        let (sender, receiver) = sync_channel(images);
        let (progress, stop) = (progress.clone(), stop.clone());
        let writer = tokio::task::spawn_blocking(move || {
            let watch = Watch::start(&progress, exporter::SENDING, None, &stop);
            let written = write(&receiver, &destination, &watch)
                .map_err(write_error("write", destination.path()));
            match written {
                Ok(written) => Ok(Begun {
                    destination,
                    watch,
                    written,
                }),
                Err(error) => watch.judge(Err(error)),
            }
        });
        Self {
            images: sender,
            writer,
        }
    }

    /// The next image: where its layers are told of, in their order.
    pub(crate) fn image(&self, layers: usize) -> Vec<LayerSender> {
        let (senders, receivers) = (0..layers)
            .map(|_| {
                let (sender, receiver) = sync_channel(2);
                (LayerSender(sender), receiver)
            })
            .unzip();
        let _ = self.images.try_send(receivers);
        senders
    }

    /// Waits until the layers of all images are written.
    pub(crate) async fn finish(self) -> Result<Begun, ExportError> {
        drop(self.images);
        match self.writer.await {
            Ok(begun) => begun,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Such work is never aborted; only a runtime that ends lets go of it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

fn write(
    images: &Receiver<Vec<Receiver<LayerEvent>>>,
    destination: &Destination,
    watch: &Watch,
) -> io::Result<BTreeSet<Digest>> {
    let mut tar = LayoutTar::begin(Stream::new(destination.handle(), watch))?;
    for layers in images {
        for layer in layers {
            match layer.recv() {
                Ok(LayerEvent::Growing(growth)) => tar.growing(&growth, || match layer.recv() {
                    Ok(LayerEvent::Made(blob)) => Some(blob),
                    _ => None,
                })?,
                Ok(LayerEvent::Made(blob)) => {
                    tar.blob(blob.digest(), &blob.path(), blob.size())?;
                }
                Err(_) => return Err(io::Error::other("a layer was not completed")),
            }
        }
    }
    tar.pause()
}
