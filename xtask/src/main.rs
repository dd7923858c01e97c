//! Developer commands: `cargo xtask demo`, `test`, `bench`, `sim`, `soak`, `stress`.

mod bench;
mod demo;
mod packages;
mod process;
mod sim;
mod soak;
mod stress;
mod test;

use clap::{Parser, Subcommand};

/// Developers' commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build Weldkit, and with it examples/hello twice: the second build is all cached.
    Demo(demo::DemoArgs),
    /// Print figures, one JSON object a line.
    Bench(bench::BenchArgs),
    /// Simulate the solver's core through random schedules and check every invariant.
    Sim(sim::SimArgs),
    /// Have many clients build with a daemon, and kill half of them.
    Soak(soak::SoakArgs),
    /// Run the solver's stress tests for long.
    Stress(stress::StressArgs),
    /// Install what the tests need from Debian's packages and run every test.
    Test(test::TestArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Demo(args) => demo::demo(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Sim(args) => sim::simulate(&args),
        Command::Soak(args) => soak::soak(&args),
        Command::Stress(args) => stress::stress(&args),
        Command::Test(args) => test::run_tests(&args),
    }
}
