//! The LLB operations as solver operations.

pub mod file;
pub mod session;
