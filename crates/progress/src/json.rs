use std::io::{self, Write};

use crate::model::Batch;

/// Writes a batch as one line of JSON.
pub(crate) fn write(out: &mut dyn Write, batch: &Batch) -> io::Result<()> {
    serde_json::to_writer(&mut *out, batch).map_err(io::Error::from)?;
    out.write_all(b"\n")
}
