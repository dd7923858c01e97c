//! What snapshots and layers cost here: one line for each measure.
//!
//! `cargo run --release -p weld-store --example snapshot_cost -- DIRECTORY [MEGABYTES]`; the
//! directory is for a state directory and should be on the disk that is meant.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use weld_store::content_key::KeyOptions;
use weld_store::layer::Compression;
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn usage() -> NewUsage {
    NewUsage {
        record_type: RecordType::Regular,
        description: String::new(),
        mutable: false,
        size: None,
    }
}

/// Processor time of this process, in user and in kernel mode: the measure to compare on a
/// machine that does other things too.
fn processor() -> Outcome<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // In hundredths of a second, the 14th and 15th field; the name, the 2nd, may have spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or("malformed /proc/self/stat")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || -> Outcome<Duration> {
        let ticks: u64 = fields.next().ok_or("malformed /proc/self/stat")?.parse()?;
        Ok(Duration::from_millis(ticks * 10))
    };
    Ok((next()?, next()?))
}

fn timed<T>(what: &str, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let (start, before) = (Instant::now(), processor()?);
    let value = work()?;
    let after = processor()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{what}: {:.2?}, processor {:.2?} + {:.2?} ({})",
        start.elapsed(),
        after.0.saturating_sub(before.0),
        after.1.saturating_sub(before.1),
        peak.unwrap_or_default().replace('\t', " ")
    );
    Ok(value)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn fill_big(root: &Path, megabytes: u64) -> Outcome<()> {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut file = BufWriter::new(fs::File::create(root.join("random.bin"))?);
    for _ in 0..megabytes * 7 / 10 * (1 << 17) {
        file.write_all(&random.next().to_le_bytes())?;
    }
    let word = |random: &mut Random| -> Vec<u8> {
        let length = 3 + random.next() % 7;
        (0..length)
            .map(|_| b"abcdefghijklmnop "[(random.next() >> 33) as usize % 17])
            .collect()
    };
    let words: Vec<Vec<u8>> = (0..5000).map(|_| word(&mut random)).collect();
    let mut file = BufWriter::new(fs::File::create(root.join("text.bin"))?);
    let mut written = 0;
    while written < megabytes * 3 / 10 * 1_000_000 {
        let word = &words[(random.next() >> 20) as usize % words.len()];
        file.write_all(word)?;
        file.write_all(b" ")?;
        written += word.len() as u64 + 1;
    }
    Ok(())
}

fn fill_many(root: &Path, count: usize) -> Outcome<()> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut content = vec![0; 20_000];
    for index in 0..count {
        let directory = root.join(format!("d{}/e{}", index % 20, index % 100));
        fs::create_dir_all(&directory)?;
        let length = [100, 1000, 5000, 20_000][random.next() as usize % 4];
        for piece in content[..length].as_chunks_mut::<8>().0 {
            *piece = random.next().to_le_bytes();
        }
        fs::write(directory.join(format!("f{index}.txt")), &content[..length])?;
    }
    Ok(())
}

fn layers(name: &str, snapshots: &Snapshots, snapshot: &SnapshotRef) -> Outcome<()> {
    for compression in ["gzip", "zstd", "uncompressed"] {
        let compression: Compression = compression.parse()?;
        let layers = timed(&format!("{name}: layer, {compression}"), || {
            Ok(snapshot.layers(compression, false)?)
        })?;
        let layer = &layers[0];
        let Some(blob) = &layer.blob else { continue };
        println!("{name}: {compression}, {} bytes", blob.size());
        let applied = timed(&format!("{name}: unpack, {compression}"), || {
            Ok(snapshots.apply(None, blob.open()?, &layer.descriptor, usage())?)
        })?;
        drop(applied);
    }
    Ok(())
}

fn key(what: &str, snapshot: &SnapshotRef) -> Outcome<()> {
    timed(what, || {
        Ok(snapshot.content_key("/", &KeyOptions::default())?)
    })
    .map(drop)
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("a directory is needed")?;
    let megabytes = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let store = Store::open(&directory, StoreOptions::default())?;
    let snapshots = Snapshots::open(&store)?;
    println!("overlay: {}", snapshots.is_overlay());

    let many = snapshots.create(None)?;
    fill_many(many.files(), 20_000)?;
    let many = many.commit(usage())?;
    key("20,000 files: keys", &many)?;
    key("20,000 files: keys, again", &many)?;
    let id = many.id();
    drop(many);
    let many = snapshots.get(id)?.ok_or("the snapshot is gone")?;
    key("20,000 files: keys, kept", &many)?;
    let top = snapshots.create(Some(&many))?;
    fs::write(top.mount()?.path().join("d0/e0/new"), "x")?;
    let top = top.commit(usage())?;
    key("20,000 files: keys, one file more", &top)?;
    layers("20,000 files", &snapshots, &many)?;

    let mut chain = Some(many);
    timed("20 times: create, mount, write, commit", || {
        for index in 0..20 {
            let snapshot = snapshots.create(chain.as_ref())?;
            fs::write(snapshot.mount()?.path().join(index.to_string()), "x")?;
            chain = Some(snapshot.commit(usage())?);
        }
        Ok(())
    })?;
    if let Some(top) = &chain {
        timed("1,000 times: mount 21 layers, unmount", || {
            for _ in 0..1000 {
                drop(top.mount()?);
            }
            Ok(())
        })?;
    }

    let big = snapshots.create(None)?;
    fill_big(big.files(), megabytes)?;
    let big = big.commit(usage())?;
    key("big files: keys", &big)?;
    layers("big files", &snapshots, &big)
}
