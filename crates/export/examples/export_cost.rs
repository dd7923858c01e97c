//! What exports cost: `export_cost DIRECTORY FILES MEGABYTES` times an export of so many small
//! files into a directory and as a tar archive, and one of a large file as OCI archives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use weld_export::{Built, BuiltPlatform, ExportKind, ExportRequest, ExportTarget, Exporter};
use weld_llb::Platform;
use weld_source::progress::Progress;
use weld_source::registry::{Anonymous, Registry, RegistryConfig};
use weld_store::snapshot::{SnapshotRef, Snapshots};
use weld_store::{NewUsage, RecordType, Store, StoreOptions};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, files, megabytes] = arguments.as_slice() else {
        return Err("usage: export_cost DIRECTORY FILES MEGABYTES".into());
    };
    let directory = Path::new(directory);
    let store = Store::open(directory.join("state"), StoreOptions::default())?;
    let snapshots = Snapshots::open(&store)?;
    let registry = Registry::new(RegistryConfig::default(), Arc::new(Anonymous));
    let exporter = Exporter::new(store, snapshots.clone(), registry);

    let files: usize = files.parse()?;
    let small = snapshot(&snapshots, |root| {
        for number in 0..files {
            let parent = root.join(format!("{}/{}", number % 20, number / 1000));
            std::fs::create_dir_all(&parent)?;
            std::fs::write(parent.join(number.to_string()), vec![b'x'; 2000])?;
        }
        Ok(())
    })?;
    let out = ExportTarget::Directory(directory.join("out"));
    for what in ["local, new", "local, again"] {
        let request = ExportRequest::new(ExportKind::Local, out.clone());
        measure(&exporter, what, &request, &small).await?;
    }
    let file = ExportTarget::File(directory.join("out.tar"));
    let request = ExportRequest::new(ExportKind::Tar, file.clone());
    measure(&exporter, "tar", &request, &small).await?;

    let megabytes: usize = megabytes.parse()?;
    let large = snapshot(&snapshots, |root| {
        let mut bytes = Vec::with_capacity(megabytes << 20);
        let mut state = 1_u64;
        while bytes.len() < megabytes << 20 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.extend_from_slice(&(state >> 24).to_le_bytes()[..4]);
        }
        Ok(std::fs::write(root.join("large"), bytes)?)
    })?;
    for compression in ["uncompressed", "uncompressed", "zstd", "gzip"] {
        let mut request = ExportRequest::new(ExportKind::OciArchive, file.clone());
        request
            .attrs
            .insert("compression".to_owned(), compression.to_owned());
        measure(&exporter, compression, &request, &large).await?;
    }
    Ok(())
}

fn snapshot(
    snapshots: &Snapshots,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<SnapshotRef, Error> {
    let snapshot = snapshots.create(None)?;
    fill(snapshot.files())?;
    Ok(snapshot.commit(NewUsage {
        record_type: RecordType::Regular,
        description: "example".to_owned(),
        mutable: false,
        size: None,
    })?)
}

async fn measure(
    exporter: &Exporter,
    what: &str,
    request: &ExportRequest,
    tree: &SnapshotRef,
) -> Result<(), Error> {
    let built = Built {
        platforms: vec![BuiltPlatform {
            platform: Platform::host(),
            tree: Some(tree.clone()),
            config: None,
            base_config: None,
            cache: None,
            attestations: Vec::new(),
        }],
        is_multi_platform: false,
        epoch: None,
    };
    let (progress, cancel) = (Progress::none(), CancellationToken::new());
    let (began, spent) = (Instant::now(), processor_time()?);
    exporter
        .export(request, &built, Arc::new(Anonymous), &progress, &cancel)
        .await?;
    let (elapsed, spent) = (began.elapsed(), processor_time()? - spent);
    println!("{what}: {elapsed:?}, {spent:?} of processor time");
    Ok(())
}

/// What this process used of the processors, to hundredths of seconds.
fn processor_time() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
    // After the name: utime and stime are the 12th and 13th.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
