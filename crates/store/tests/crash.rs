//! Kills, power losses and full disks.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weld_store::{BlobInfo, Expected, OpenError, PruneOptions, Started, Store, StoreOptions};
use world::{Made, id, make, make_result, open, open_on_boot};

const ROLE: &str = "WELD_TEST_ROLE";
const ROOT: &str = "WELD_TEST_ROOT";

/// Runs this program as another process in a role of [`play`].
fn spawn(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "play", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what the other process says until a line that starts with `word`; returns the rest of it.
fn wait_for(output: &mut impl BufRead, word: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "no {word}");
        if let Some(rest) = line.trim_end().strip_prefix(word) {
            return rest.to_owned();
        }
    }
}

/// No test of its own: what other processes do for the tests.
#[test]
fn play() {
    let (Ok(role), Some(root)) = (std::env::var(ROLE), std::env::var_os(ROOT)) else {
        return;
    };
    let store = open(Path::new(&root));
    match role.as_str() {
        "hold" => {
            println!("\nholding");
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        "write" => write_for_ever(&store),
        other => panic!("no role {other}"),
    }
}

/// Makes blobs, snapshots and results, and says which results are committed, until it is killed.
fn write_for_ever(store: &Store) {
    println!();
    for number in 0_u64.. {
        let content = number.to_le_bytes().repeat(200);
        let blob = store.blobs().put(&content, BlobInfo::default()).unwrap();
        let snapshot = make(store, &Made::default());
        let objects = vec![snapshot.object().clone(), blob.pin().object().clone()];
        let result = store
            .results()
            .save(objects, blob.digest().to_string().into_bytes())
            .unwrap();
        // And what nobody ever names.
        drop(make(store, &Made::default()));
        if let Started::Ingest(mut ingest) = store
            .blobs()
            .ingest(Some("half"), Expected::default())
            .unwrap()
        {
            ingest.append(&content).unwrap();
        }
        if number % 8 == 0 {
            store.db().flush().unwrap();
            println!("committed {result}");
        }
    }
}

#[test]
fn the_second_process_is_told_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let mut child = spawn("hold", root.path());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut output, "holding");
    let error = Store::open(root.path(), StoreOptions::default())
        .err()
        .unwrap();
    let OpenError::InUse {
        holder: Some(holder),
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(holder.pid, child.id());
    assert!(holder.command.contains("--exact play"), "{holder}");
    let text = error.to_string();
    assert!(text.contains(&child.id().to_string()), "{text}");
    drop(child.stdin.take());
    child.wait().unwrap();
    open(root.path());
}

#[test]
fn a_kill_loses_nothing_that_was_committed_and_leaves_no_garbage() {
    let root = tempfile::tempdir().unwrap();
    let mut committed = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..6 {
        let mut child = spawn("write", root.path());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..=round * 2 {
            committed.push(wait_for(&mut output, "committed ").parse().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();

        let start = Instant::now();
        let store = open(root.path());
        slowest = slowest.max(start.elapsed());
        for result in &committed {
            let saved = store.results().load(*result).unwrap().unwrap();
            let digest = String::from_utf8(saved.payload).unwrap().parse().unwrap();
            let blob = store.blobs().get(&digest).unwrap().unwrap();
            let content = blob.read_all(4096).unwrap();
            assert_eq!(weld_digest::Digest::sha256_of(content), digest);
        }
        store.sweep().unwrap();
        assert_tidy(&store);
    }
    println!("slowest open after a kill: {slowest:?}");
}

/// Every file is known and every known object has its files.
fn assert_tidy(store: &Store) {
    let infos = store.disk_usage(&[]).unwrap();
    let known = |blob: bool| -> Vec<String> {
        let wanted = infos.iter().filter(|info| info.id.contains(':') == blob);
        let mut ids: Vec<_> = wanted.map(|info| info.id.replace("sha256:", "")).collect();
        ids.sort();
        ids
    };
    let files = |directory: &str| {
        let entries = fs::read_dir(store.root().join(directory)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(files("snapshots"), known(false));
    assert_eq!(files("content/blobs/sha256"), known(true));
    assert!(files("trash").is_empty());
}

#[test]
fn a_power_loss_takes_what_was_not_synced_with_all_that_was_made_of_it() {
    let root = tempfile::tempdir().unwrap();
    let (synced, lost, blob);
    {
        let store = open_on_boot(root.path(), "one");
        let (parent, result) = make_result(&store, &Made::default());
        store.db().flush().unwrap();
        store.sync().unwrap();
        let made = Made {
            parent: Some(&parent),
            ..Made::default()
        };
        let (child, lost_result) = make_result(&store, &made);
        blob = store
            .blobs()
            .put(b"not synced", BlobInfo::default())
            .unwrap()
            .digest()
            .clone();
        (synced, lost) = ((id(&parent), result), (id(&child), lost_result));
    }
    {
        let store = open_on_boot(root.path(), "one");
        assert!(store.results().load(lost.1).unwrap().is_some());
    }
    let store = open_on_boot(root.path(), "two");
    assert!(store.results().load(synced.1).unwrap().is_some());
    assert!(store.results().load(lost.1).unwrap().is_none());
    assert!(!store.blobs().contains(&blob).unwrap());
    let infos = store.disk_usage(&[]).unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].id, synced.0);
    store.sweep().unwrap();
    assert_tidy(&store);
}

#[test]
fn what_was_synced_in_the_background_survives() {
    let root = tempfile::tempdir().unwrap();
    let result;
    {
        let options = StoreOptions {
            boot_id: Some("one".into()),
            sync_after: Duration::ZERO,
            ..StoreOptions::default()
        };
        let store = Store::open(root.path(), options).unwrap();
        result = make_result(&store, &Made::default()).1;
        store.db().flush().unwrap();
        let start = Instant::now();
        while store.has_unsynced().unwrap() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "it is never synced"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let store = open_on_boot(root.path(), "two");
    assert!(store.results().load(result).unwrap().is_some());
}

/// A small file system of its own; none where this process may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(directory.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            Some(Self(directory))
        } else {
            println!("skipped: this process may not mount");
            None
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status()
            .unwrap();
    }
}

#[test]
fn a_full_disk_is_told_of_and_the_state_stays_sound() {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    let root = disk.0.path();
    let store = open(root);
    let (kept_pin, kept) = make_result(&store, &Made::default());
    store.db().flush().unwrap();

    // What goes later makes room for all that waits to be written.
    let reserve = root.join("reserve");
    fs::write(&reserve, vec![1; 4 << 20]).unwrap();
    // Content fills the disk.
    let mut blobs = Vec::new();
    let error = loop {
        let content = vec![blobs.len() as u8; 1 << 20];
        match store.blobs().put(&content, BlobInfo::default()) {
            Ok(blob) => blobs.push(blob),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("is full"), "{error}");
    // In use it was not touched.
    drop(kept_pin);
    // And then the database has no space to grow.
    let filler = root.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let full = loop {
        let large = vec![0; 1 << 20];
        store.results().save(Vec::new(), large).unwrap();
        if let Err(error) = store.db().flush() {
            break error;
        }
    };
    println!("{full}");

    // With space again, the same process goes on.
    drop(file);
    fs::remove_file(&filler).unwrap();
    fs::remove_file(&reserve).unwrap();
    drop(blobs);
    store.collect_garbage().unwrap();
    assert!(store.results().load(kept).unwrap().is_some());
    let (_, result) = make_result(&store, &Made::default());
    store.db().flush().unwrap();
    drop(store);

    let store = open(root);
    assert!(store.results().load(kept).unwrap().is_some());
    assert!(store.results().load(result).unwrap().is_some());
    store.prune(&PruneOptions::default()).unwrap();
    store.sweep().unwrap();
    assert_tidy(&store);
}

#[test]
fn a_full_disk_can_be_opened_and_pruned_after_a_kill() {
    let Some(disk) = SmallDisk::mount(32) else {
        return;
    };
    let root = disk.0.path();
    drop(make_result(&open(root), &Made::default()));
    let mut child = spawn("hold", root);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut output, "holding");
    while !root.join("reserve").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Not ours, so nothing that is deleted makes room at the start.
    let mut file = fs::File::create(root.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);

    let store = open(root);
    store.sweep().unwrap();
    store
        .prune(&PruneOptions {
            all: true,
            ..PruneOptions::default()
        })
        .unwrap();
    assert_tidy(&store);
    make_result(&store, &Made::default());
    store.db().flush().unwrap();
}
