//! Standard output and standard error: everything that the command writes there goes this way, because a reader
//! that has seen enough (`weld du | head`) is no error, and to `println!` it is a panic.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use super::report::Failure;

/// Writes a command's result; a reader that went away has what it wanted.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::file(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// Tells a person something, on a line of standard error. If nobody listens, the work goes on all the same.
pub(crate) fn tell(line: impl Display) {
    let _ = io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}
