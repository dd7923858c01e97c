//! The linter: BuildKit's rules, their names, texts and options.
//!
//! [`check_syntax`] reports what the Dockerfile's text alone shows. The rules that need more,
//! such as variables or the base image's config, are reported by the converter through
//! [`Linter::report`] or the functions of [`checks`].

pub mod checks;

mod config;
mod rules;
mod syntax;

pub use config::LintConfig;
pub use rules::{Finding, Rule};
pub use syntax::check_syntax;

use crate::error::{Error, ErrorKind};
use crate::source::LineRange;

/// A finding that the user wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What was found; its `Display` is the message.
    pub finding: Finding,
    /// Where.
    pub lines: LineRange,
}

impl Warning {
    /// The rule that was broken.
    pub fn rule(&self) -> Rule {
        self.finding.rule()
    }
}

/// Collects warnings by the user's configuration.
#[derive(Clone, Debug, Default)]
pub struct Linter {
    config: LintConfig,
    warnings: Vec<Warning>,
}

impl Linter {
    /// A linter with the options of `# check=`.
    pub fn new(config: LintConfig) -> Self {
        Self {
            config,
            warnings: Vec::new(),
        }
    }

    /// Notes `finding` at `lines`, unless its rule is switched off for the file or by a
    /// `# check=` among `comments`, the comments directly above the instruction.
    pub fn report(&mut self, finding: Finding, lines: LineRange, comments: &[String]) {
        let rule = finding.rule();
        let wanted = match LintConfig::from_comments(comments) {
            Some(local) => self.config.merged(&local).reports(rule),
            None => self.config.reports(rule),
        };
        if wanted {
            self.warnings.push(Warning { finding, lines });
        }
    }

    /// What was noted so far, in order.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The error of `check=error=true`, if there were warnings. To be asked when the
    /// conversion is done; the warnings stay.
    pub fn verdict(&self) -> Result<(), Error> {
        if !self.config.error || self.warnings.is_empty() {
            return Ok(());
        }
        let mut rules = Vec::new();
        for warning in &self.warnings {
            if !rules.contains(&warning.rule()) {
                rules.push(warning.rule());
            }
        }
        let ranges = self.warnings.iter().map(|warning| warning.lines);
        let error = Error::new(ErrorKind::LintViolations { rules });
        Err(ranges.fold(error, Error::also_at))
    }
}
