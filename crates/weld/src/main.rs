//! The `weld` command.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a reader that ends early is no panic: `cli::streams` is for this"
)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
