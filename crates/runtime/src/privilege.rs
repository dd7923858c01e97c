//! What a process must arrange about itself before its first step.

use std::io;

/// Whether this process is in a user namespace, and thus not root of the system.
pub(crate) fn in_user_namespace() -> io::Result<bool> {
    let map = match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => map,
        // A kernel without user namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let fields: Vec<&str> = map.split_whitespace().collect();
    Ok(fields != ["0", "0", "4294967295"])
}
