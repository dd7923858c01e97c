//! Options that docker and buildx have and this command has not: people type them by habit, and scripts have them.

use clap::Args;

use super::args::truth;
use super::report::Failure;
use super::streams;

/// What is taken, and warned of where it does nothing, or refused with what does it here.
#[derive(Args, Debug, Default)]
pub(crate) struct DockerArgs {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    load: Option<bool>,
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long = "policy", hide = true)]
    policies: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    squash: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    compress: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    force_rm: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = truth)]
    disable_content_trust: Option<bool>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long = "security-opt", hide = true)]
    security_options: Vec<String>,
}

impl DockerArgs {
    /// Warns of what has no effect.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what would do something else than is meant.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.load == Some(true) {
            return Err(Failure::usage(
                "--load: there is no Docker engine behind this that the image could be loaded into: use --output type=docker,dest=- and pipe it into `docker load`",
            ));
        }
        if let Some(builder) = self.builder.as_deref().filter(|name| !name.is_empty()) {
            return Err(Failure::usage(format!(
                "--builder {builder:?}: there are no builders to choose from: --addr names the daemon that builds"
            )));
        }
        if let Some(policy) = self.policies.first() {
            return Err(Failure::usage(format!(
                "--policy {policy:?}: buildx itself evaluates such policies: use it, with this daemon as its remote builder"
            )));
        }
        let none = "BuildKit has nothing like it";
        let useless = [
            (
                "--squash",
                self.squash == Some(true),
                "copy what is wanted into a last stage that is FROM scratch",
            ),
            (
                "--compress",
                self.compress.is_some(),
                "only changed files of the context are sent, and not as an archive",
            ),
            ("--rm", self.rm.is_some(), "steps leave no containers"),
            (
                "--force-rm",
                self.force_rm.is_some(),
                "steps leave no containers",
            ),
            (
                "--disable-content-trust",
                self.disable_content_trust.is_some(),
                none,
            ),
            ("--isolation", self.isolation.is_some(), none),
            (
                "--security-opt",
                !self.security_options.is_empty(),
                "a step asks for more by RUN --security=insecure, and --allow security.insecure grants it",
            ),
        ];
        for (option, _, why) in useless.iter().filter(|(_, given, _)| *given) {
            streams::tell(format_args!("WARNING: {option} has no effect: {why}"));
        }
        Ok(())
    }
}
