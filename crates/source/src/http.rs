//! Http.
