//! Damage to the database's files: told by name, and mended or put aside.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use weld_digest::Digest;
use weld_store::{BlobInfo, OnDamage, OpenError, PruneOptions, Store, StoreOptions};
use world::{Made, make_result, open};

const PAGE: u64 = 4096;

/// A state directory with a result and a blob, all of which is in the database's file.
struct Damaged {
    root: tempfile::TempDir,
    result: u64,
    snapshot: PathBuf,
    blob: Digest,
}

impl Damaged {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let (pin, result) = make_result(&store, &Made::default());
        let snapshot = world::directory(&store, &pin);
        let blob = store.blobs().put(b"kept", BlobInfo::default()).unwrap();
        let objects = vec![blob.pin().object().clone()];
        store.results().save(objects, Vec::new()).unwrap();
        let blob = blob.digest().clone();
        store.db().flush().unwrap();
        store.db().checkpoint().unwrap();
        drop((pin, store));
        Self {
            root,
            result,
            snapshot,
            blob,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("db").join(name)
    }

    /// The log that is written to.
    fn log(&self) -> PathBuf {
        let logs = [self.file("log-0"), self.file("log-1")];
        let used = |log: &PathBuf| fs::metadata(log).is_ok_and(|log| log.len() > 0);
        logs.into_iter().find(used).unwrap()
    }

    fn open(&self, on_damage: OnDamage, boot: Option<&str>) -> Result<Store, OpenError> {
        let options = StoreOptions {
            on_damage,
            boot_id: boot.map(str::to_owned),
            ..StoreOptions::default()
        };
        Store::open(self.root.path(), options)
    }

    /// It is an error that names the file, and changes nothing.
    fn refused(&self, file: &Path) {
        let before = fs::read(file).ok();
        let error = self.open(OnDamage::Refuse, None).err().unwrap();
        let (text, name) = (error.to_string(), file.display().to_string());
        assert!(error.is_damage() && text.contains(&name), "{text}");
        assert_eq!(fs::read(file).ok(), before, "{text}");
    }

    /// The one thing that was mended is told, and is of this file.
    fn mended(&self, file: &Path, boot: Option<&str>) -> Store {
        let store = self.open(OnDamage::StartAnew, boot).unwrap();
        let [told] = store.mended() else {
            panic!("{:?}", store.mended());
        };
        let (told, name) = (told.to_string(), file.display().to_string());
        assert!(told.contains(&name), "{told}");
        store
    }

    fn asides(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut asides: Vec<_> = names.filter(|name| name.contains("damaged")).collect();
        asides.sort();
        asides
    }

    /// There is an empty database in place of the damaged one, which is kept.
    fn is_anew(&self, store: &Store) {
        assert!(store.results().load(self.result).unwrap().is_none());
        let [aside] = self.asides().try_into().unwrap();
        let told = store.overhead(&[]).unwrap();
        let told = told.iter().find(|info| info.id == aside).unwrap();
        assert!(told.size > Some(0) && !told.in_use, "{told:?}");
        assert_eq!(store.check(|_| ()).unwrap().problems, []);
        // What only the damaged one knew of is gone, but for blobs that need not be fetched again.
        assert!(!self.snapshot.exists());
        assert!(store.blobs().contains(&self.blob).unwrap());
        // Numbers go on, and what is made now is found.
        let (pin, result) = make_result(store, &Made::default());
        assert_ne!(world::directory(store, &pin), self.snapshot);
        assert!(store.results().load(result).unwrap().is_some());
        drop(pin);
        let all = PruneOptions {
            all: true,
            ..PruneOptions::default()
        };
        let told = store.prune(&all).unwrap();
        assert!(told.iter().any(|info| info.id == aside), "{told:?}");
        assert_eq!(self.asides(), [""; 0]);
        assert!(!store.blobs().contains(&self.blob).unwrap());
    }

    /// Nothing was lost.
    fn is_whole(&self, store: &Store) {
        assert!(store.results().load(self.result).unwrap().is_some());
        assert!(store.blobs().contains(&self.blob).unwrap());
        assert_eq!(self.asides(), [""; 0]);
        assert_eq!(store.check(|_| ()).unwrap().problems, []);
    }
}

#[test]
fn a_damaged_mark_is_written_anew() {
    let damages: [fn(&Path); 4] = [
        |mark| fs::remove_file(mark).unwrap(),
        |mark| fs::write(mark, "").unwrap(),
        |mark| fs::write(mark, [0; 13]).unwrap(),
        |mark| fs::write(mark, b"\xff\xfeeld-state 1\n").unwrap(),
    ];
    for damage in damages {
        let damaged = Damaged::new();
        let mark = damaged.root.path().join("format");
        let before = fs::read(&mark).unwrap();
        damage(&mark);
        damaged.refused(&mark);
        let store = damaged.mended(&mark, None);
        assert_eq!(fs::read(&mark).unwrap(), before);
        assert!(store.results().load(damaged.result).unwrap().is_some());
        assert_eq!(store.check(|_| ()).unwrap().problems, []);
    }
    // What has nothing of a state directory is none.
    let foreign = tempfile::tempdir().unwrap();
    for name in ["format", "other"] {
        fs::write(foreign.path().join(name), "").unwrap();
    }
    let options = StoreOptions {
        on_damage: OnDamage::StartAnew,
        ..StoreOptions::default()
    };
    let error = Store::open(foreign.path(), options).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn a_database_that_is_cut_off_is_refused_or_put_aside() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    let options = fs::OpenOptions::new().write(true).open(&file);
    options.unwrap().set_len(10_000).unwrap();
    damaged.refused(&file);
    damaged.is_anew(&damaged.mended(&file, None));
}

#[test]
fn a_database_of_something_else_is_refused_or_put_aside() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    let length = fs::metadata(&file).unwrap().len();
    fs::write(&file, vec![b'x'; length as usize]).unwrap();
    damaged.refused(&file);
    damaged.is_anew(&damaged.mended(&file, None));
}

#[test]
fn a_database_that_is_gone_is_refused_or_made_anew() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    fs::remove_file(&file).unwrap();
    damaged.refused(&file);
    damaged.is_anew(&damaged.mended(&file, None));
}

/// Overwrites all pages of the database's file but the first, which says where the others are.
fn tear(file: &Path) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    let length = file.metadata().unwrap().len();
    let garbage = vec![0x5a; (length - PAGE) as usize];
    file.write_all_at(&garbage, PAGE).unwrap();
}

#[test]
fn torn_pages_are_found_after_the_machine_went_down() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    tear(&file);
    damaged.is_anew(&damaged.mended(&file, Some("another")));
}

#[test]
fn torn_pages_are_found_by_who_verifies() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    tear(&file);
    let options = StoreOptions {
        verify: true,
        ..StoreOptions::default()
    };
    let error = Store::open(damaged.root.path(), options).err().unwrap();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("state.redb"), "{error}");
}

#[test]
fn torn_pages_that_are_met_are_found_by_the_next_start() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    // In use while it is open: what is in memory may hide it for as long.
    tear(&file);
    for _ in 0..2 {
        match damaged.open(OnDamage::StartAnew, None) {
            Ok(store) if store.mended().is_empty() => {
                let loaded = store.results().load(damaged.result);
                assert!(loaded.is_err(), "what was torn was read");
            }
            Ok(store) => {
                assert!(store.mended()[0].to_string().contains("state.redb"));
                return damaged.is_anew(&store);
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never mended");
}

#[test]
fn a_note_of_what_is_applied_that_makes_no_sense_is_written_anew() {
    for content in [
        &b""[..],
        b"\xff\xfe\x00",
        b"three 5000\n",
        b"99999999999999999999 1\n",
    ] {
        let damaged = Damaged::new();
        let file = damaged.file("applied");
        fs::write(&file, content).unwrap();
        damaged.refused(&file);
        damaged.is_whole(&damaged.mended(&file, None));
        damaged.is_whole(&damaged.open(OnDamage::Refuse, None).unwrap());
    }
}

#[test]
fn a_note_of_what_is_applied_that_is_gone_is_written_anew() {
    let damaged = Damaged::new();
    let file = damaged.file("applied");
    fs::remove_file(&file).unwrap();
    damaged.refused(&file);
    damaged.is_whole(&damaged.mended(&file, None));
}

#[test]
fn a_log_that_is_none_loses_what_was_committed_since_and_no_number_is_given_twice() {
    let damaged = Damaged::new();
    let store = open(damaged.root.path());
    let (pin, later) = make_result(&store, &Made::default());
    let snapshot = world::directory(&store, &pin);
    store.db().flush().unwrap();
    drop((pin, store));
    let log = damaged.log();
    fs::write(&log, vec![b'x'; 50_000]).unwrap();
    damaged.refused(&log);
    let store = damaged.mended(&log, None);
    assert!(store.results().load(later).unwrap().is_none());
    let (pin, _) = make_result(&store, &Made::default());
    assert_ne!(world::directory(&store, &pin), snapshot);
    damaged.is_whole(&store);
    assert!(!snapshot.exists(), "it is collected");
}

#[test]
fn a_log_that_is_cut_or_gone_after_a_clean_end_is_told() {
    for left in [None, Some(40), Some(5_000)] {
        let damaged = Damaged::new();
        let store = open(damaged.root.path());
        let (pin, later) = make_result(&store, &Made::default());
        store.db().flush().unwrap();
        drop((pin, store));
        let log = damaged.log();
        match left {
            Some(left) => {
                let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
                assert!(file.metadata().unwrap().len() > left);
                file.set_len(left).unwrap();
            }
            None => fs::remove_file(&log).unwrap(),
        }
        let store = damaged.mended(&log, None);
        assert!(store.results().load(later).unwrap().is_none());
        damaged.is_whole(&store);
    }
}

#[test]
fn a_panic_of_the_database_at_a_file_that_makes_no_sense_need_not_be_told() {
    let damaged = Damaged::new();
    let file = damaged.file("state.redb");
    let length = fs::metadata(&file).unwrap().len();
    fs::write(&file, vec![0; length as usize]).unwrap();
    let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hook = std::panic::take_hook();
    let noted = std::sync::Arc::clone(&told);
    std::panic::set_hook(Box::new(move |_| {
        if !weld_store::panic_becomes_error() {
            noted.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }));
    damaged.refused(&file);
    std::panic::set_hook(hook);
    assert!(!told.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn a_log_that_is_another_or_gone_is_told_where_nothing_was_applied_yet() {
    type Act = fn(&Path);
    let acts: [(&str, Act); 4] = [
        ("zeros", |log| {
            let length = fs::metadata(log).unwrap().len();
            fs::write(log, vec![0; length as usize]).unwrap();
        }),
        ("a flip in its header", |log| {
            let file = fs::File::options().write(true).open(log).unwrap();
            file.write_all_at(&[0x40], 10).unwrap();
        }),
        ("gone", |log| fs::remove_file(log).unwrap()),
        ("gone with its index", |log| {
            fs::remove_file(log).unwrap();
            fs::remove_file(log.with_extension("index")).unwrap();
        }),
    ];
    for checkpointed in [false, true] {
        for (name, act) in acts {
            let damaged = Damaged::new();
            let root = tempfile::tempdir().unwrap();
            let damaged = match checkpointed {
                true => damaged,
                false => Damaged { root, ..damaged },
            };
            let store = open(damaged.root.path());
            let (pin, later) = make_result(&store, &Made::default());
            store.db().flush().unwrap();
            drop((pin, store));
            let log = damaged.log();
            act(&log);
            let store = damaged.mended(&log, None);
            assert!(store.results().load(later).unwrap().is_none(), "{name}");
            assert_eq!(store.check(|_| ()).unwrap().problems, [], "{name}");
        }
    }
}
