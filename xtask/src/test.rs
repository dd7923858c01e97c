use clap::Args;

use crate::packages;
use crate::process::{cargo, run};

/// What the tests run against: real programs.
const PACKAGES: [&str; 13] = [
    "busybox-static",
    "debootstrap",
    "docker-registry",
    "e2fsprogs",
    "git",
    "gcc",
    "openssl",
    "procps",
    "python3",
    "runc",
    "skopeo",
    "uidmap",
    "umoci",
];

/// `cargo xtask test`.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// What to pass on to `cargo test`, such as `--package weld-store`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run_tests(args: &TestArgs) -> anyhow::Result<()> {
    packages::install(&PACKAGES)?;
    let mut test = cargo();
    test.args(["test", "--locked"]);
    if args.arguments.is_empty() {
        // One run tells of all that fails.
        test.args(["--workspace", "--all-features", "--no-fail-fast"]);
    }
    run(test.args(&args.arguments))
}
