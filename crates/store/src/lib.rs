//! Everything on disk: blobs, snapshots, layers, content keys, records, leases and garbage collection.
//!
//! [`Store::open`] takes a state directory for this process alone. What is in it is found through
//! one embedded database ([`Db`]); content is in files beside it: blobs as an OCI image layout
//! ([`Blobs`]), snapshots and cache mounts as directories.
//!
//! Three things keep what is needed and drop what is not:
//! - a *pin* ([`Pin`]) says that this process uses an object now;
//! - a *reference* ([`refs`]) says that a record names an object;
//! - a *usage record* says that an object is worth keeping, and since when it was not used.
//!
//! [`Space`] sees to it that there is room for what is written: by removing what is worth least ([`Worth`]), and by refusing what does not fit.
//!
//! What is in a state directory:
//!
//! | name | what |
//! |---|---|
//! | `format` | `weld-state` and the version of all this |
//! | `lock` | locked by the process that has the directory, which it names |
//! | `db/` | the database: `state.redb`, the logs `log-0` and `log-1` in front of it, `applied` |
//! | `content/` | blobs, an OCI image layout |
//! | `ingest/` | blobs that are coming in |
//! | `snapshots/ID/` | the files of a snapshot or cache mount |
//! | `trash/` | what is being deleted |
//! | `reserve` | space put by, so that a full disk can be opened |
//!
//! All functions block; asynchronous callers run them on a pool for blocking work.

pub mod blobs;
pub mod cache_mounts;
pub mod check;
mod clock;
mod collector;
pub mod content_key;
pub mod db;
mod durability;
mod gc;
mod keeper;
pub mod layer;
mod leftovers;
mod lock;
pub mod mount;
pub mod names;
mod object;
mod pins;
pub mod records;
pub mod refs;
mod reserve;
pub mod snapshot;
mod space;
mod store;
mod trash;
pub mod usage;

pub use blobs::{BlobError, BlobInfo, BlobRef, Blobs, Expected, Feed, Growth, Ingest, Started};
pub use cache_mounts::{
    CacheMount, CacheMountError, CacheMountRequest, CacheMounts, RootMetadata, Sharing, Staged,
    Taken,
};
pub use collector::CollectError;
pub use db::{Db, DbError, Ticket, panic_becomes_error};
pub use durability::{SyncError, written};
pub use lock::Holder;
pub use object::{Object, SnapshotId};
pub use pins::{Claim, Pin, Pins};
pub use records::keys::Keys;
pub use records::results::{Results, SavedResult};
pub use records::steps::{StepName, Steps};
pub use refs::Reference;
pub use space::{NoRoom, Reservation, Space, SpaceError, Writer};
pub use store::{Mended, OnDamage, OnFullDisk, OpenError, Store, StoreOptions};
pub use usage::prune::{PruneOptions, UsageError};
pub use usage::{Filter, FilterError, NewUsage, RecordType, UsageInfo, Uses, Worth};
