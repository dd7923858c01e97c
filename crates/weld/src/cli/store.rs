//! `weld du`, `weld prune` and `weld store`.

use std::time::{Duration, SystemTime};

use weld_engine::{PruneOptions, UsageRecord};

use super::args::{DuArgs, PruneArgs};
use super::place::Worker;
use super::report::Failure;
use super::{streams, units, units::UnitError};

/// Lists what the state directory holds.
pub(crate) async fn du(worker: &Worker, args: &DuArgs) -> Result<(), Failure> {
    let mut records = match worker {
        Worker::Engine(engine) => engine.usage(&args.filters)?,
        Worker::Daemon(client) => client.usage(&args.filters).await?,
    };
    records.sort_by_key(|record| std::cmp::Reverse(record.size));
    if args.json {
        return print_json(&records);
    }
    let mut text = if args.verbose {
        records.iter().map(block).collect()
    } else {
        table(&records)
    };
    let total: u64 = records.iter().map(|record| record.size).sum();
    let reclaimable: u64 = records
        .iter()
        .filter(|record| !record.in_use)
        .map(|record| record.size)
        .sum();
    text += &format!(
        "Reclaimable:\t{}\nTotal:\t\t{}\n",
        bytes(reclaimable),
        bytes(total)
    );
    streams::write(text.as_bytes())
}

/// The value of an option, which an error names.
fn named<T>(
    option: &str,
    text: Option<&str>,
    read: impl Fn(&str) -> Result<T, UnitError>,
) -> Result<Option<T>, Failure> {
    let value = text.map(read).transpose();
    value.map_err(|error| Failure::usage(format!("{option}: {error}")))
}

/// Deletes what no build uses.
pub(crate) async fn prune(worker: &Worker, args: &PruneArgs) -> Result<(), Failure> {
    let options = PruneOptions {
        all: args.all,
        filters: args.filters.clone(),
        keep_storage: named("--keep-storage", args.keep_storage.as_deref(), units::size)?,
        keep_duration: named(
            "--keep-duration",
            args.keep_duration.as_deref(),
            units::duration,
        )?,
        ..PruneOptions::default()
    };
    let removed = match worker {
        Worker::Engine(engine) => engine.prune(&options)?,
        Worker::Daemon(client) => client.prune(&options).await?,
    };
    if args.json {
        return print_json(&removed);
    }
    let mut text = String::new();
    if !removed.is_empty() {
        text = table(&removed);
    }
    let total = removed.iter().map(|record| record.size).sum();
    text += &format!("Total:\t{}\n", bytes(total));
    streams::write(text.as_bytes())
}

/// Verifies the state directory of this process.
pub(crate) fn check(worker: &Worker, repair: bool) -> Result<(), Failure> {
    // Only an engine in this process is ever asked.
    let Worker::Engine(engine) = worker else {
        return Ok(());
    };
    let report = engine.check()?;
    let mut text = format!(
        "Checked:\t{} blobs ({}), {} snapshots, {} results, {} references\n",
        report.blobs,
        bytes(report.bytes),
        report.snapshots,
        report.results,
        report.references
    );
    for problem in &report.problems {
        text += &format!("{problem}\n");
    }
    let count = report.problems.len();
    text += &format!("Problems:\t{count}\n");
    streams::write(text.as_bytes())?;
    if count == 0 {
        return Ok(());
    }
    if !repair {
        return Err(Failure::Damaged(count));
    }
    let repaired = engine.repair(&report)?;
    let dropped = format!(
        "Dropped:\t{} objects, {} results\n",
        repaired.objects.len(),
        repaired.results
    );
    streams::write(dropped.as_bytes())?;
    match engine.check()?.problems.len() {
        0 => Ok(()),
        left => Err(Failure::Damaged(left)),
    }
}

fn print_json(records: &[UsageRecord]) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(records).map_err(|error| Failure::Start(error.into()))?;
    streams::write(format!("{text}\n").as_bytes())
}

fn table(records: &[UsageRecord]) -> String {
    let mut text = format!(
        "{:<44} {:<11} {:>10} {:<14} DESCRIPTION\n",
        "ID", "RECLAIMABLE", "SIZE", "LAST USED"
    );
    for record in records {
        text += &format!(
            "{:<44} {:<11} {:>10} {:<14} {}\n",
            record.id,
            !record.in_use,
            bytes(record.size),
            ago(record.last_used),
            record.description
        );
    }
    text
}

fn block(record: &UsageRecord) -> String {
    let parents = match record.parents.as_slice() {
        [] => String::new(),
        parents => format!("Parents:\t{}\n", parents.join(" ")),
    };
    let description = match record.description.as_str() {
        "" => String::new(),
        description => format!("Description:\t{description}\n"),
    };
    format!(
        "ID:\t\t{}\n\
         {parents}\
         Created:\t{}\n\
         Mutable:\t{}\n\
         Reclaimable:\t{}\n\
         Shared:\t\t{}\n\
         Size:\t\t{}\n\
         {description}\
         Usage count:\t{}\n\
         Last used:\t{}\n\
         Type:\t\t{}\n\n",
        record.id,
        ago(record.created),
        record.mutable,
        !record.in_use,
        record.shared,
        bytes(record.size),
        record.usage_count,
        ago(record.last_used),
        record.kind
    )
}

fn ago(time: SystemTime) -> String {
    let elapsed = SystemTime::now()
        .duration_since(time)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    match elapsed {
        0..60 => format!("{elapsed}s ago"),
        60..3600 => format!("{}m ago", elapsed / 60),
        3600..86400 => format!("{}h ago", elapsed / 3600),
        _ => format!("{}d ago", elapsed / 86400),
    }
}

fn bytes(count: u64) -> String {
    weld_progress::bytes(count)
}
