//! The LLB operations as solver operations.

pub mod session;
