//! The rules of the solver and the rows of its behaviour catalogue, against the driver with scripted operations.
//!
//! Names in brackets are the catalogue's rows.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not recognised as tests"
)]

mod abandoned;
mod basics;
mod broken;
mod caching;
mod cancelling;
mod chains;
mod chains_elsewhere;
mod failing;
mod hearing;
mod ignoring;
mod keeping;
mod losing;
mod merging;
mod nesting;
mod rows;
mod sessions;
mod sharing;
mod support;
mod tracing;
mod weaknesses;
