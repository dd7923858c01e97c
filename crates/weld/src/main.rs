//! The `weld` command.

mod cli;

/// Trees, definitions and results are millions of small values that one thread makes and another
/// drops: the system's allocator spends more on them than the work itself, and keeps the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
