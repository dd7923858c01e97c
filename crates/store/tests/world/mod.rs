//! A state directory in which snapshots are made by hand.
#![allow(dead_code, clippy::unwrap_used)] // Each test program uses some of it.

use std::fs;
use std::path::Path;

use weld_store::{
    NewUsage, Object, Pin, RecordType, Reference, SnapshotId, Store, StoreOptions, refs, usage,
};

pub(crate) fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::default()).unwrap()
}

/// Opens as after a boot of its own.
pub(crate) fn open_on_boot(root: &Path, boot: &str) -> Store {
    let options = StoreOptions {
        boot_id: Some(boot.into()),
        ..StoreOptions::default()
    };
    Store::open(root, options).unwrap()
}

pub(crate) struct Made<'a> {
    pub(crate) parent: Option<&'a Pin>,
    pub(crate) record_type: RecordType,
    pub(crate) description: &'a str,
    pub(crate) bytes: usize,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            parent: None,
            record_type: RecordType::Regular,
            description: "step",
            bytes: 100,
        }
    }
}

/// Makes a snapshot as the snapshot module does; nothing names it but its pin.
pub(crate) fn make(store: &Store, made: &Made<'_>) -> Pin {
    let id = SnapshotId(store.next_sequence().unwrap());
    let object = Object::Snapshot(id);
    let pin = store.pins().pin(object.clone());
    let directory = store.snapshot_dir(id);
    fs::create_dir_all(directory.join("fs")).unwrap();
    fs::write(directory.join("fs/file"), vec![1; made.bytes]).unwrap();
    let new = NewUsage {
        record_type: made.record_type,
        description: made.description.into(),
        mutable: false,
        size: None,
    };
    let parent = made.parent.map(|parent| parent.object().clone());
    drop(store.db().update(move |tx| {
        usage::record(tx, &object, &new)?;
        if let Some(parent) = &parent {
            refs::add(tx, &Reference::Snapshot(id), parent)?;
        }
        Ok(())
    }));
    pin
}

/// Makes a snapshot that a result names; returns its id and the result's.
pub(crate) fn make_result(store: &Store, made: &Made<'_>) -> (Pin, u64) {
    let pin = make(store, made);
    let result = store
        .results()
        .save(vec![pin.object().clone()], Vec::new())
        .unwrap();
    (pin, result)
}

pub(crate) fn id(pin: &Pin) -> String {
    match pin.object() {
        Object::Snapshot(id) => id.to_string(),
        Object::Blob(digest) => digest.to_string(),
    }
}

pub(crate) fn directory(store: &Store, pin: &Pin) -> std::path::PathBuf {
    match pin.object() {
        Object::Snapshot(id) => store.snapshot_dir(*id),
        Object::Blob(_) => unreachable!("tests ask for snapshots"),
    }
}
