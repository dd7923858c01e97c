//! The driver: runs the core's effects as tokio tasks and feeds the outcomes back. All concurrency lives here.

mod context;
mod inbox;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

pub use context::{NoSession, OpContext, SessionClosed};

use crate::{Op, ResultRef, Session, core};

pub(crate) type CoreInput<T> = core::Input<Arc<dyn Op<T>>, ResultRef<T>>;
pub(crate) type CoreReply<T> = core::Reply<Arc<dyn Op<T>>, ResultRef<T>>;

/// The sessions of live jobs, by the numbers that the core knows them by.
#[derive(Default)]
struct SessionTable {
    inner: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    next: u64,
    by_number: HashMap<u64, Session>,
    numbers: HashMap<Arc<str>, u64>,
}

impl SessionTable {
    fn get(&self, number: u64) -> Option<Session> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_number
            .get(&number)
            .cloned()
    }

    fn number(&self, session: &Session) -> Option<u64> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .numbers
            .get(session.id())
            .copied()
    }
}
