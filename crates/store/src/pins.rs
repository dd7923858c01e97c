use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::Object;

/// Which objects this process uses now, and which it is about to remove.
///
/// An object is pinned any number of times or claimed once, never both. A claim is held only
/// while an object is removed, so that waiting for its end is short.
#[derive(Clone, Default)]
pub struct Pins(Arc<Table>);

#[derive(Default)]
struct Table {
    states: Mutex<HashMap<Object, State>>,
    unclaimed: Condvar,
    released: Mutex<HashSet<Object>>,
}

enum State {
    Pinned(usize),
    Claimed,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<Object, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn released(&self) -> MutexGuard<'_, HashSet<Object>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pins {
    /// Pins an object, after the end of a claim on it if there is one. Whether the object exists
    /// is to be asked after this: a pin keeps it, but does not make it.
    pub fn pin(&self, object: Object) -> Pin {
        let mut states = self.0.lock();
        loop {
            match states.get_mut(&object) {
                Some(State::Claimed) => {
                    states = self
                        .0
                        .unclaimed
                        .wait(states)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Some(State::Pinned(count)) => {
                    *count += 1;
                    break;
                }
                None => {
                    states.insert(object.clone(), State::Pinned(1));
                    break;
                }
            }
        }
        drop(states);
        Pin {
            object,
            pins: self.clone(),
        }
    }

    /// Claims an object for removal, unless it is pinned or claimed.
    pub fn claim(&self, object: &Object) -> Option<Claim> {
        let mut states = self.0.lock();
        if states.contains_key(object) {
            return None;
        }
        states.insert(object.clone(), State::Claimed);
        Some(Claim {
            object: object.clone(),
            pins: self.clone(),
        })
    }

    /// Has the collector look whether an object is still named.
    pub(crate) fn release(&self, object: &Object) {
        self.0.released().insert(object.clone());
    }

    /// What may have become garbage since this was last asked.
    pub(crate) fn take_released(&self) -> HashSet<Object> {
        std::mem::take(&mut *self.0.released())
    }

    /// Whether the object is pinned.
    pub fn is_pinned(&self, object: &Object) -> bool {
        matches!(self.0.lock().get(object), Some(State::Pinned(_)))
    }
}

/// Keeps an object from being removed while it lives.
pub struct Pin {
    object: Object,
    pins: Pins,
}

impl Pin {
    /// The pinned object.
    pub fn object(&self) -> &Object {
        &self.object
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.pins.pin(self.object.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut states = self.pins.0.lock();
        if let Some(State::Pinned(count)) = states.get_mut(&self.object) {
            *count -= 1;
            if *count == 0 {
                states.remove(&self.object);
                drop(states);
                self.pins.release(&self.object);
            }
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({})", self.object)
    }
}

/// The right to remove an object: nobody pins it until the claim ends.
#[must_use]
pub struct Claim {
    object: Object,
    pins: Pins,
}

impl Claim {
    /// The claimed object.
    pub fn object(&self) -> &Object {
        &self.object
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.pins.0.lock().remove(&self.object);
        self.pins.0.unclaimed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SnapshotId;

    #[test]
    fn a_pin_excludes_a_claim_until_the_last_clone_goes() {
        let pins = Pins::default();
        let object = Object::Snapshot(SnapshotId(7));
        let first = pins.pin(object.clone());
        let second = first.clone();
        drop(first);
        assert!(pins.claim(&object).is_none());
        drop(second);
        assert!(pins.claim(&object).is_some());
        assert!(!pins.is_pinned(&object));
    }

    #[test]
    fn a_pin_waits_for_the_end_of_a_claim() {
        let pins = Pins::default();
        let object = Object::Snapshot(SnapshotId(7));
        let claim = pins.claim(&object).unwrap();
        assert!(pins.claim(&object).is_none());
        std::thread::scope(|scope| {
            let pinned = scope.spawn(|| pins.pin(object.clone()));
            drop(claim);
            let pin = pinned.join().unwrap();
            assert_eq!(pin.object(), &object);
            assert!(pins.is_pinned(&object));
        });
    }
}
