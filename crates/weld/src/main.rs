//! The weld command.

fn main() {}
