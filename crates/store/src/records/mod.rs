//! What the solver remembers: results, and the keys that lead to them.

pub mod results;
