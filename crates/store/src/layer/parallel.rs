//! Work on the pieces of an archive by many threads, whose results come in the pieces' order.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};

/// How many threads do what, and how many pieces may be between the first one not yet begun and
/// the first one not yet taken.
#[derive(Clone, Copy)]
pub(super) struct Crew {
    /// What the threads are called.
    pub(super) name: &'static str,
    pub(super) workers: usize,
    pub(super) in_flight: usize,
}

/// The results, in the order of the pieces.
pub(super) struct Ordered<R>(Receiver<Receiver<R>>);

/// Starts the threads, each with a worker of its own. They end when the pieces do, or when nobody
/// takes results any more.
pub(super) fn ordered<'scope, P, R, W>(
    scope: &'scope Scope<'scope, '_>,
    crew: Crew,
    pieces: impl Iterator<Item = P> + Send + 'scope,
    mut worker: impl FnMut() -> io::Result<W>,
) -> io::Result<Ordered<R>>
where
    P: Send + 'scope,
    R: Send + 'scope,
    W: FnMut(P) -> R + Send + 'scope,
{
    let (jobs, queue) = sync_channel::<(P, SyncSender<R>)>(crew.workers);
    let (order, results) = sync_channel(crew.in_flight);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..crew.workers {
        let (queue, mut work) = (queue.clone(), worker()?);
        Builder::new()
            .name(crew.name.to_owned())
            .spawn_scoped(scope, move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((piece, result)) = job else {
                        return;
                    };
                    // Nobody waits any more when the writer failed.
                    let _ = result.send(work(piece));
                }
            })?;
    }
    Builder::new()
        .name(format!("{}-order", crew.name))
        .spawn_scoped(scope, move || {
            for piece in pieces {
                let (result, awaited) = sync_channel(1);
                if order.send(awaited).is_err() || jobs.send((piece, result)).is_err() {
                    return;
                }
            }
        })?;
    Ok(Ordered(results))
}

impl<R> Iterator for Ordered<R> {
    type Item = io::Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let awaited = self.0.recv().ok()?;
        Some(
            awaited
                .recv()
                .map_err(|_| io::Error::other("a compression thread ended early")),
        )
    }
}
