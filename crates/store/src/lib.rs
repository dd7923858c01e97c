//! Everything on disk: blobs, snapshots, layers, content keys, records, leases and garbage collection.

pub mod layer;
pub mod mount;
pub mod snapshot;
