//! The LLB operations as solver operations.
