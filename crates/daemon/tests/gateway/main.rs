//! A frontend at the other end of a connection: what it asks for, and what it is answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

mod containers;
mod failures;
mod results;
mod sources;
mod world;
