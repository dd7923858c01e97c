//! What is behind an error, for who looks for a fault.

use std::error::Error;
use std::io;

use weld_op::digest::from_solver;

use super::{BuildError, innermost_failure, own_error};

impl BuildError {
    /// What is behind it, a line each: which step failed at what, and then each cause in its own words, the innermost last.
    pub fn causes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cause: &(dyn Error + 'static) = self.innermost();
        if let Self::Solve { failure, .. } = self.innermost() {
            let failure = innermost_failure(failure);
            if let weld_solver::Failure::Op { failure, .. } = failure {
                let step = from_solver(failure.vertex);
                lines.push(format!("step {step}, {}", failure.call));
            }
            cause = own_error(failure).unwrap_or(failure);
        }
        loop {
            let text = cause.to_string();
            if lines.last() != Some(&text) {
                lines.push(text);
            }
            // An `io::Error` passes over what it wraps in its `source`.
            let wrapped = cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            cause = match (wrapped, cause.source()) {
                (Some(wrapped), _) => wrapped,
                (None, Some(source)) => source,
                (None, None) => return lines,
            };
        }
    }
}
