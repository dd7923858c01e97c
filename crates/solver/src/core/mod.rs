//! The sans-IO core: a plain state machine over the live graph.

mod arena;
mod graph;
mod io;
mod jobset;

pub use graph::EdgeState;
pub use io::*;
