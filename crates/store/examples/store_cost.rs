//! Prints what the store's basic operations cost, one JSON line each.
//!
//! `cargo run --release -p weld-store --example store_cost [DIRECTORY]`

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redb::TableDefinition;
use weld_store::{BlobInfo, Db, Store, StoreOptions};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("cost");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some("die".as_ref()) {
        return die_mid_write(Path::new(&arguments.next().unwrap_or_default()));
    }
    let base = first.unwrap_or_else(|| std::env::temp_dir().into());
    let root = tempfile::tempdir_in(base)?;
    let open = || Store::open(root.path(), StoreOptions::default());

    let start = Instant::now();
    let store = open()?;
    report("first open", start.elapsed(), 1);

    single_updates(store.db())?;
    queued_updates(store.db())?;
    small_blobs(&store)?;
    updates_while_a_layer_is_written(&store)?;

    let start = Instant::now();
    drop(store);
    report("close", start.elapsed(), 1);

    let start = Instant::now();
    let store = open()?;
    report("open after a clean end", start.elapsed(), 1);
    drop(store);

    let mut child = Command::new(std::env::current_exe()?)
        .arg("die")
        .arg(root.path())
        .stdin(Stdio::null())
        .spawn()?;
    child.wait()?;
    let start = Instant::now();
    let store = open()?;
    report("open after a kill", start.elapsed(), 1);
    drop(store);
    Ok(())
}

fn single_updates(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    for key in 0..200 {
        insert(db, key).wait()?;
    }
    report("update, each waited for", start.elapsed(), 200);
    Ok(())
}

fn queued_updates(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    for key in 0..20_000 {
        drop(insert(db, key));
    }
    report("update, queueing it", start.elapsed(), 20_000);
    db.flush()?;
    report("update, queued until committed", start.elapsed(), 20_000);
    Ok(())
}

/// The longest wait for a commit while other data is written to the same file system.
fn updates_while_a_layer_is_written(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    let path = store.root().join("ingest/large");
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        for _ in 0..500 {
            file.write_all(&vec![1; 1 << 20])?;
        }
        std::fs::remove_file(path)
    });
    let mut longest = Duration::ZERO;
    let (start, mut count) = (Instant::now(), 0);
    while !writer.is_finished() {
        let start = Instant::now();
        insert(store.db(), count).wait()?;
        longest = longest.max(start.elapsed());
        count += 1;
    }
    report(
        "update beside 500 MB of writes",
        start.elapsed(),
        count as u32,
    );
    report("the longest of them", longest, 1);
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(())
}

fn small_blobs(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    for number in 0..1000_u32 {
        store
            .blobs()
            .put(&number.to_le_bytes(), BlobInfo::default())?;
    }
    report("small blob", start.elapsed(), 1000);
    Ok(())
}

/// Is killed with updates in flight.
fn die_mid_write(root: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(root, StoreOptions::default())?;
    let start = Instant::now();
    for key in 0.. {
        drop(insert(store.db(), key % 20_000));
        if start.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Ok(())
}

fn insert(db: &Db, key: u64) -> weld_store::Ticket<()> {
    db.update(move |tx| {
        tx.open_table(TABLE)?.insert(key, [7_u8; 200].as_slice())?;
        Ok(())
    })
}

fn report(what: &str, time: Duration, count: u32) {
    let micros = time.as_secs_f64() * 1e6 / f64::from(count);
    println!(r#"{{"what":"{what}","count":{count},"us_each":{micros:.1}}}"#);
}
