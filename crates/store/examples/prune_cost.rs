//! Prints what pruning costs, one JSON line each: `prune_cost [RECORDS] [DIRECTORY]`, 100,000
//! records unless told. Each is a small snapshot with the result and the cache key that lead to it.
//! Builds go on meanwhile: another thread commits, and the longest of its waits is told. The files are
//! deleted in the background, which is told by itself.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weld_solver::keystore::{KeyStore, Record, SaveKey};
use weld_solver::{CacheSourceId, Digest, KeyId, RecordId};
use weld_store::snapshot::Snapshots;
use weld_store::{NewUsage, Object, PruneOptions, RecordType, Store, StoreOptions};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1);
    let records = match arguments.next() {
        Some(records) => records.to_string_lossy().parse()?,
        None => 100_000,
    };
    let base = arguments
        .next()
        .unwrap_or_else(|| std::env::temp_dir().into());
    let root = tempfile::tempdir_in(base)?;
    let store = Store::open(root.path().join("state"), StoreOptions::default())?;
    let snapshots = Snapshots::open(&store)?;

    let start = Instant::now();
    for number in 0..records {
        make(&store, &snapshots, number)?;
    }
    store.db().flush()?;
    report("records made", start.elapsed(), records);

    let start = Instant::now();
    let found = store.disk_usage(&[])?.len() as u64;
    report("disk usage", start.elapsed(), found);

    let stop = AtomicBool::new(false);
    let (removed, took, longest) = std::thread::scope(|scope| -> Outcome<_> {
        let builder = scope.spawn(|| commit_until(&store, &stop));
        let start = Instant::now();
        let mut removed = 0;
        let pruned = store.prune_with(&PruneOptions::default(), |_| {
            removed += 1;
            ControlFlow::Continue(())
        });
        let took = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let longest = builder
            .join()
            .map_err(|_| "the committing thread panicked")??;
        pruned?;
        Ok((removed, took, longest))
    })?;
    report("prune", took, removed);
    report("longest commit meanwhile", longest, 1);
    let start = Instant::now();
    store.settle()?;
    report("files deleted after that", start.elapsed(), removed);
    let left = ["trash", "snapshots"].map(|name| root.path().join("state").join(name));
    if removed != records || has_entries(&left[0])? || has_entries(&left[1])? {
        return Err(format!("{removed} of {records} were removed").into());
    }
    Ok(())
}

fn make(store: &Store, snapshots: &Snapshots, number: u64) -> Outcome<()> {
    let usage = NewUsage {
        record_type: RecordType::Regular,
        description: format!("RUN step {number}"),
        mutable: false,
        size: None,
    };
    let snapshot = snapshots.create(None)?.commit(usage)?;
    let object = Object::Snapshot(snapshot.id());
    let result = store.results().save(vec![object], Vec::new())?;
    let digest = weld_digest::Digest::sha256_of(number.to_le_bytes());
    let digest = Digest(*digest.as_sha256().ok_or("no SHA-256")?);
    store.keys().save(SaveKey {
        key: KeyId(digest),
        op: digest,
        output: 0,
        inputs: Vec::new(),
        record: Some(Record {
            id: RecordId(result),
            created: number,
            priority: 0,
            source: CacheSourceId::LOCAL,
        }),
    });
    Ok(())
}

/// The longest that a commit takes.
fn commit_until(store: &Store, stop: &AtomicBool) -> Result<Duration, weld_store::DbError> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        store.db().update(|_| Ok(())).wait()?;
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(longest)
}

fn has_entries(directory: &Path) -> std::io::Result<bool> {
    Ok(std::fs::read_dir(directory)?.next().is_some())
}

fn report(what: &str, took: Duration, count: u64) {
    println!(
        "{{\"what\":{what:?},\"seconds\":{:.4},\"count\":{count}}}",
        took.as_secs_f64()
    );
}
