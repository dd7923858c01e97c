//! The benchmark workloads: one JSON line each, at three sizes, so that growth shows.

mod chains;
mod graph;
mod workload;

use std::io::Write;

pub use workload::{ColdSolves, Measured, Workload};

/// Runs every workload (or those whose name contains `filter`) and writes one JSON object a line.
///
/// # Errors
/// When `out` cannot be written to.
pub fn run(out: &mut dyn Write, filter: Option<&str>) -> std::io::Result<()> {
    for workload in Workload::ALL {
        if filter.is_some_and(|filter| !workload.name().contains(filter)) {
            continue;
        }
        for size in workload.sizes() {
            let measured = workload.measure(size);
            writeln!(out, "{}", measured.to_json())?;
            out.flush()?;
        }
    }
    if filter.is_none_or(|filter| "cache-chains".contains(filter)) {
        for size in chains::SIZES {
            writeln!(out, "{}", chains::measure(size).to_json())?;
        }
    }
    Ok(())
}
