//! What the solver remembers: results, and the keys that lead to them.

mod front;
pub mod keys;
pub mod results;
pub mod steps;
