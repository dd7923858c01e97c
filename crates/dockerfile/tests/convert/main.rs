//! Dockerfiles are converted, and the definitions and configs are looked at.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod buildkit;
mod configs;
mod contexts;
mod epoch;
mod errors;
mod graphs;
mod host;
mod outlines;
mod requests;
mod show;
