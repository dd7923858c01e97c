//! Everything on disk: blobs, snapshots, layers, content keys, records, leases and garbage collection.

pub mod mount;
