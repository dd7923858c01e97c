//! The database library panics at content that makes no sense. Such panics are caught and become errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::DbError;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Does something that may panic at a damaged file.
pub(super) fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, DbError> {
    let outer = IS_GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(act));
    IS_GUARDED.set(outer);
    done.map_err(panicked)
}

/// Whether a panic of this thread would be caught and become an error, which tells of it: a panic hook need not.
pub fn panic_becomes_error() -> bool {
    IS_GUARDED.get()
}

fn panicked(payload: Box<dyn Any + Send>) -> DbError {
    let text = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned());
    DbError::Panicked(text.unwrap_or_default())
}
