//! How a step ended.

/// How a step's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ExitStatus {
    /// The exit code; 128 plus the signal's number if a signal ended the process.
    pub code: i32,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the step because memory ran out.
    pub oom_killed: bool,
}

impl ExitStatus {
    /// Whether the exit code is zero.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code: {}", self.code)?;
        if let Some(signal) = self.signal {
            write!(f, " (killed by signal {signal})")?;
        }
        if self.oom_killed {
            write!(f, ": out of memory")?;
        }
        Ok(())
    }
}
