//! A trace of any size.

use std::{path::Path, sync::Arc};

use weld_solver::bench::ColdSolves;
use weld_trace::{Tracer, Written};

/// Writes a trace of cold solves of so many layers until it has so many bytes.
pub(crate) async fn write(
    file: &Path,
    bytes: u64,
    layers: usize,
) -> Result<Written, Box<dyn std::error::Error>> {
    let tracer = Tracer::new();
    tracer.start(file)?;
    // One after the other by one solver, whose numbers go on.
    let mut solves = ColdSolves::new(Some(Arc::new(tracer.clone()) as _));
    while std::fs::metadata(file)?.len() < bytes {
        solves.solve(layers).await?;
    }
    Ok(tracer.stop()?.unwrap_or_default())
}
