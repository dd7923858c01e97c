use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use weld_solver::OpError;

use super::Context;

/// Holds an operation until it is opened or the operation is cancelled.
#[derive(Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    opened: Notify,
    arrived: Notify,
    arrivals: AtomicUsize,
    pub(crate) cancelled: AtomicUsize,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    /// Comes to the gate without passing.
    pub(crate) async fn knock(&self) {
        self.arrivals.fetch_add(1, Ordering::SeqCst);
        self.arrived.notify_waiters();
    }

    /// Waits until it is open, also where nobody wants that any more.
    pub(crate) async fn opened(&self) {
        let opened = self.opened.notified();
        tokio::pin!(opened);
        opened.as_mut().enable();
        if !self.open.load(Ordering::SeqCst) {
            opened.await;
        }
    }

    /// Waits until that many operations have come to the gate.
    pub(crate) async fn arrivals(&self, count: usize) {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.arrivals.load(Ordering::SeqCst) >= count {
                return;
            }
            arrived.await;
        }
    }

    /// Waits until an operation that waited here was cancelled.
    pub(crate) async fn left(&self) {
        while self.cancelled.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn pass<'a>(
        self: &Arc<Self>,
        context: &'a Context,
    ) -> Pin<Box<dyn Future<Output = Result<(), OpError>> + Send + 'a>> {
        let gate = Arc::clone(self);
        Box::pin(async move {
            gate.arrivals.fetch_add(1, Ordering::SeqCst);
            gate.arrived.notify_waiters();
            loop {
                let opened = gate.opened.notified();
                tokio::pin!(opened);
                opened.as_mut().enable();
                if gate.open.load(Ordering::SeqCst) {
                    return Ok(());
                }
                tokio::select! {
                    () = opened => {}
                    () = context.cancellation().cancelled() => {
                        gate.cancelled.fetch_add(1, Ordering::SeqCst);
                        return Err(OpError::Cancelled);
                    }
                }
            }
        })
    }
}
