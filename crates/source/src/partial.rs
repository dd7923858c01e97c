//! Names of files that are being written beside the one that they will replace.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A name that nothing has yet. The number of the process would not do: in a container it is
/// mostly the same one, and a process that was killed has left its file.
pub fn partial_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one(number);
    format!(".weld-{random:016x}-{number}.partial")
}
