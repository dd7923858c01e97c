//! `weld du`, `weld prune` and `weld store`.

use std::time::{Duration, SystemTime};

use weld_engine::{PruneOptions, UsageRecord};

use super::args::{DuArgs, PruneArgs};
use super::place::Worker;
use super::report::Failure;
use super::units;

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
    if args.verbose {
        records.iter().for_each(print_record);
    } else {
        print_table(&records);
    }
    let total: u64 = records.iter().map(|record| record.size).sum();
    let reclaimable: u64 = records
        .iter()
        .filter(|record| !record.in_use)
        .map(|record| record.size)
        .sum();
    println!(
        "Reclaimable:\t{}\nTotal:\t\t{}",
        bytes(reclaimable),
        bytes(total)
    );
    Ok(())
}

/// Deletes what no build uses.
pub(crate) async fn prune(worker: &Worker, args: &PruneArgs) -> Result<(), Failure> {
    let options = PruneOptions {
        all: args.all,
        filters: args.filters.clone(),
        keep_storage: args.keep_storage.as_deref().map(units::size).transpose()?,
        keep_duration: args
            .keep_duration
            .as_deref()
            .map(units::duration)
            .transpose()?,
        ..PruneOptions::default()
    };
    let removed = match worker {
        Worker::Engine(engine) => engine.prune(&options)?,
        Worker::Daemon(client) => client.prune(&options).await?,
    };
    if args.json {
        return print_json(&removed);
    }
    if !removed.is_empty() {
        print_table(&removed);
    }
    println!(
        "Total:\t{}",
        bytes(removed.iter().map(|record| record.size).sum())
    );
    Ok(())
}

/// Verifies the state directory of this process.
pub(crate) fn check(worker: &Worker, repair: bool) -> Result<(), Failure> {
    // Only an engine in this process is ever asked.
    let Worker::Engine(engine) = worker else {
        return Ok(());
    };
    let report = engine.check()?;
    println!(
        "Checked:\t{} blobs ({}), {} snapshots, {} results, {} references",
        report.blobs,
        bytes(report.bytes),
        report.snapshots,
        report.results,
        report.references
    );
    for problem in &report.problems {
        println!("{problem}");
    }
    let count = report.problems.len();
    println!("Problems:\t{count}");
    if count == 0 {
        return Ok(());
    }
    if !repair {
        return Err(Failure::Damaged(count));
    }
    let repaired = engine.repair(&report)?;
    println!(
        "Dropped:\t{} objects, {} results",
        repaired.objects.len(),
        repaired.results
    );
    match engine.check()?.problems.len() {
        0 => Ok(()),
        left => Err(Failure::Damaged(left)),
    }
}

fn print_json(records: &[UsageRecord]) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(records).map_err(|error| Failure::Start(error.into()))?;
    println!("{text}");
    Ok(())
}

fn print_table(records: &[UsageRecord]) {
    println!(
        "{:<44} {:<11} {:>10} {:<14} DESCRIPTION",
        "ID", "RECLAIMABLE", "SIZE", "LAST USED"
    );
    for record in records {
        println!(
            "{:<44} {:<11} {:>10} {:<14} {}",
            record.id,
            !record.in_use,
            bytes(record.size),
            ago(record.last_used),
            record.description
        );
    }
}

fn print_record(record: &UsageRecord) {
    println!("ID:\t\t{}", record.id);
    if !record.parents.is_empty() {
        println!("Parents:\t{}", record.parents.join(" "));
    }
    println!("Created:\t{}", ago(record.created));
    println!("Mutable:\t{}", record.mutable);
    println!("Reclaimable:\t{}", !record.in_use);
    println!("Shared:\t\t{}", record.shared);
    println!("Size:\t\t{}", bytes(record.size));
    if !record.description.is_empty() {
        println!("Description:\t{}", record.description);
    }
    println!("Usage count:\t{}", record.usage_count);
    println!("Last used:\t{}", ago(record.last_used));
    println!("Type:\t\t{}\n", record.kind);
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
