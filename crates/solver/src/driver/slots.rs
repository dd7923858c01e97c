//! Slots for operations that execute: only so many do at once, and jobs that wait for slots share them evenly.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The job that an operation executes for; `None` where it is none's in particular.
pub(super) type Holder = Option<u32>;

/// The slots of a solver.
pub(super) struct Slots(Mutex<State>);

struct State {
    free: usize,
    /// Counts those who came to wait.
    arrivals: u64,
    holders: BTreeMap<Holder, Share>,
}

/// What one job has of the slots, and wants.
#[derive(Default)]
struct Share {
    held: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Slot>)>,
}

/// A slot that is held until this is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    holder: Holder,
}

impl Slots {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: count.max(1),
            arrivals: 0,
            holders: BTreeMap::new(),
        })))
    }

    /// Waits for a slot. A slot that becomes free goes to the job that holds the fewest of those that wait, and among equals to the
    /// one that has waited the longest.
    pub(super) async fn take(self: &Arc<Self>, holder: Holder) -> Slot {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 {
                return self.grant(&mut state, holder);
            }
            state.arrivals += 1;
            let (sender, waiting) = oneshot::channel();
            let place = (state.arrivals, sender);
            state
                .holders
                .entry(holder)
                .or_default()
                .waiting
                .push_back(place);
            waiting
        };
        match waiting.await {
            Ok(slot) => slot,
            // Whoever waits is only ever let go of with a slot; without one there would be one operation more at a time.
            Err(_) => {
                let mut state = self.state();
                state.free += 1;
                self.grant(&mut state, holder)
            }
        }
    }

    fn grant(self: &Arc<Self>, state: &mut State, holder: Holder) -> Slot {
        state.free -= 1;
        state.holders.entry(holder).or_default().held += 1;
        Slot {
            slots: Arc::clone(self),
            holder,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The one who is next, where somebody waits.
    fn next(&mut self) -> Option<(Holder, oneshot::Sender<Slot>)> {
        let waiting = self.holders.iter().filter_map(|(holder, share)| {
            let (arrival, _) = share.waiting.front()?;
            Some((share.held, *arrival, *holder))
        });
        let (.., holder) = waiting.min()?;
        let (_, sender) = self.holders.get_mut(&holder)?.waiting.pop_front()?;
        Some((holder, sender))
    }

    fn release(&mut self, holder: Holder) {
        self.free += 1;
        if let Some(share) = self.holders.get_mut(&holder) {
            share.held = share.held.saturating_sub(1);
            if share.held == 0 && share.waiting.is_empty() {
                self.holders.remove(&holder);
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = Arc::clone(&self.slots);
        // What cannot be handed over is dropped outside of the lock: it would be waited for for ever.
        let mut unwanted = None;
        let mut state = slots.state();
        state.release(self.holder);
        while state.free > 0 && unwanted.is_none() {
            let Some((holder, sender)) = state.next() else {
                break;
            };
            if sender.is_closed() {
                state.forget_idle(holder);
                continue;
            }
            let slot = slots.grant(&mut state, holder);
            unwanted = sender.send(slot).err();
        }
        drop(state);
        drop(unwanted);
    }
}

impl State {
    /// Forgets a job that neither holds slots nor waits.
    fn forget_idle(&mut self, holder: Holder) {
        let idle = |share: &Share| share.held == 0 && share.waiting.is_empty();
        if self.holders.get(&holder).is_some_and(idle) {
            self.holders.remove(&holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    type Taking = Pin<Box<dyn Future<Output = Slot>>>;

    fn taking(slots: &Arc<Slots>, job: u32) -> Taking {
        let slots = Arc::clone(slots);
        let mut taking: Taking = Box::pin(async move { slots.take(Some(job)).await });
        assert!(poll(&mut taking).is_none());
        taking
    }

    fn poll(taking: &mut Taking) -> Option<Slot> {
        let mut context = Context::from_waker(Waker::noop());
        match taking.as_mut().poll(&mut context) {
            Poll::Ready(slot) => Some(slot),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_job_of_many_steps_does_not_keep_others_waiting() {
        let slots = Slots::new(2);
        let first = slots.take(Some(1)).await;
        let second = slots.take(Some(1)).await;
        let mut many: Vec<_> = (0..10).map(|_| taking(&slots, 1)).collect();
        let mut other = taking(&slots, 2);
        drop(first);
        let others = poll(&mut other).expect("the other job has none yet");
        assert!(many.iter_mut().all(|taking| poll(taking).is_none()));
        drop(second);
        let mut held: Vec<_> = many.iter_mut().filter_map(poll).collect();
        assert_eq!(held.len(), 1, "both have one now");
        drop(many.remove(0));
        drop(others);
        held.extend(many.iter_mut().filter_map(poll));
        assert_eq!(held.len(), 2, "nobody else waits");
    }

    #[tokio::test]
    async fn who_waits_no_more_gets_none_and_loses_none() {
        let slots = Slots::new(1);
        let held = slots.take(None).await;
        let gone = taking(&slots, 1);
        let mut left = taking(&slots, 2);
        drop(gone);
        drop(held);
        let held = poll(&mut left).expect("the slot passes over who is gone");
        let granted = taking(&slots, 3);
        drop(held);
        // It was granted and never taken.
        drop(granted);
        assert_eq!(slots.state().free, 1);
        assert!(slots.state().holders.is_empty());
    }
}
