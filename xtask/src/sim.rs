use clap::Args;

use crate::process::{cargo, run};

/// `cargo xtask sim`.
#[derive(Args)]
pub(crate) struct SimArgs {
    /// `--seeds N`, `--from S`, `--steps M`, `--out FILE`; or `--replay FILE`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the solver's simulator, optimised.
pub(crate) fn simulate(args: &SimArgs) -> anyhow::Result<()> {
    run(cargo()
        .args([
            "run",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "weld-solver",
        ])
        .args(["--features", "sim", "--example", "sim", "--"])
        .args(&args.arguments))
}
