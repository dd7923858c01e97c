//! Limits of steps that depend on the machine.

use weld_dockerfile::convert::{Limits, OptionError, enough_to_start};
use weld_llb::LinuxResources;
use weld_op::Worker;
use weld_runtime::RuntimeError;

use crate::engine::Engine;

impl Engine {
    /// Refuses limits that this machine cannot keep for any step: too little memory, processors and memory nodes that it does not have.
    ///
    /// # Errors
    /// [`OptionError`] for the first such limit.
    pub fn check_limits(&self, limits: &Limits) -> Result<(), OptionError> {
        check(&self.worker, limits.resources.as_ref())
    }
}

pub(crate) fn check(worker: &Worker, limits: Option<&LinuxResources>) -> Result<(), OptionError> {
    let Some(limits) = limits else {
        return Ok(());
    };
    enough_to_start(limits)?;
    match worker.check_limits(limits) {
        Err(RuntimeError::NotAvailable {
            what,
            wanted,
            available,
        }) => Err(OptionError {
            // Clients have the names without what is between their words.
            name: what.replace('-', ""),
            value: wanted,
            reason: format!("not available (available: {available})"),
        }),
        // What else may be wrong is told by the step that has it.
        _ => Ok(()),
    }
}
