//! How failures and warnings are told to a person.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use weld_engine::{BuildError, OpenError};
use weld_progress::{FailedStep, Mode, Outcome, printable};

use super::streams::tell;

/// The exit code where what was asked for cannot be meant.
const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    /// By a signal, before anything was done.
    #[error("interrupted")]
    Interrupted,
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("{option} {}: {reason}", .path.display())]
    Destination {
        option: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("cannot read standard input: {0}")]
    Stdin(std::io::Error),
    /// What `--file` names cannot be had from there.
    #[error("--file: {0}")]
    Dockerfile(String),
    #[error("{0}")]
    Config(#[from] weld_engine::ConfigError),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Store(#[from] weld_engine::StoreError),
    #[error("{0}")]
    Check(#[from] weld_engine::CheckError),
    #[error(
        "the state directory is damaged in {0} places; `weld store check --repair` drops what is damaged"
    )]
    Damaged(usize),
    #[error("{0}")]
    Definition(#[from] weld_engine::DefinitionError),
    #[error("{error}")]
    Build {
        error: BuildError,
        steps: Vec<FailedStep>,
    },
    #[error("{error}")]
    Remote {
        error: weld_client::ClientError,
        steps: Vec<FailedStep>,
    },
    #[error("{0}")]
    Client(#[from] weld_client::ClientError),
    #[error("{0}")]
    Privilege(#[from] weld_engine::PrivilegeError),
    #[error("{0}")]
    DaemonConfig(#[from] weld_daemon::config::FileError),
    #[error("{0}")]
    Serve(#[from] weld_daemon::ServeError),
    #[error("connect to {address}: {reason}")]
    Dial { address: String, reason: String },
    #[error("{0}")]
    Trace(#[from] weld_trace::TraceError),
    #[error("{0}")]
    ReadTrace(#[from] weld_trace::ReadError),
    #[error("the trace breaks rules {0} times")]
    BrokenTrace(u64),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    #[error("the frontend's answer makes no sense: {0}")]
    Answer(String),
    #[error("--metadata-file: how the result was made cannot be read: {0}")]
    Provenance(String),
    /// What was looked for was found, and told on standard output; an exit code says so.
    #[error("exit code {0}")]
    Found(u8),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// Errors of the command line itself.
macro_rules! usage_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Usage(error.to_string())
            }
        })*
    };
}

usage_errors!(
    super::annotations::AnnotationError,
    super::caches::CacheError,
    super::context::ContextError,
    super::offers::OfferError,
    super::outputs::OutputError,
    weld_trace::FilterError,
    weld_trace::HtmlError,
    super::units::UnitError
);

/// Tells a failure on standard error, with what is behind it if that is wanted; returns the exit code.
pub(crate) fn failure(failure: &Failure, debug: bool) -> ExitCode {
    if let Failure::Found(code) = failure {
        return ExitCode::from(*code);
    }
    let (red, plain) = if std::io::stderr().is_terminal() && weld_progress::colours() {
        ("\x1b[31m", "\x1b[0m")
    } else {
        ("", "")
    };
    if let Failure::Build { steps, .. } | Failure::Remote { steps, .. } = failure {
        for step in steps.iter().filter(|step| !step.output.is_empty()) {
            tell(format_args!("------\n > {}:", printable(&step.name)));
            for line in &step.output {
                tell(line);
            }
            tell("------");
        }
    }
    let excerpt = match failure {
        Failure::Build { error, .. } => error.source_excerpt(),
        Failure::Remote { error, .. } => error.source_excerpt(),
        _ => None,
    };
    if let Some(excerpt) = excerpt {
        tell(excerpt.trim_end_matches('\n'));
    }
    let text = failure.to_string();
    tell(format_args!("{red}ERROR:{plain} {}", printable(&text)));
    if let Some(hint) = hint(failure) {
        tell(hint);
    }
    if debug {
        for cause in causes(failure) {
            tell(format_args!("DEBUG: {}", printable(&cause)));
        }
    }
    match failure {
        Failure::Build { error, .. } if error.is_cancelled() => ExitCode::from(130),
        Failure::Remote { error, .. } if error.is_cancelled() => ExitCode::from(130),
        Failure::Interrupted => ExitCode::from(130),
        Failure::Usage(_) => ExitCode::from(USAGE),
        Failure::Build { error, .. } if error.is_request_error() => ExitCode::from(USAGE),
        Failure::Remote { error, .. } if error.is_request_error() => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// What is behind a failure, a line each.
fn causes(failure: &Failure) -> Vec<String> {
    match failure {
        Failure::Build { error, .. } => error.causes(),
        Failure::Remote { error, .. } | Failure::Client(error) => error.causes(),
        failure => {
            let mut causes = Vec::new();
            let mut cause = std::error::Error::source(failure);
            while let Some(error) = cause {
                causes.push(error.to_string());
                cause = error.source();
            }
            causes
        }
    }
}

fn hint(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Build { error, .. } => error.hint(),
        Failure::Open(error) => error.hint(),
        _ => None,
    }
}

/// Warns of an option's field that has no effect.
pub(crate) fn warn_unknown(option: &str, field: &str, known: &[&str]) {
    let known = match known {
        [] => "it has no fields".to_owned(),
        known => format!("known: {}", known.join(", ")),
    };
    tell(format_args!(
        "WARNING: {option}: field {field:?} has no effect ({known})"
    ));
}

/// Tells what the linter and others warned of.
pub(crate) fn warnings(outcome: &Outcome, mode: Mode) {
    if mode == Mode::Quiet || outcome.warnings.is_empty() {
        return;
    }
    let count = outcome.warnings.len();
    tell(format_args!(
        "\n {count} warning{} found:",
        if count == 1 { "" } else { "s" }
    ));
    for warning in &outcome.warnings {
        let location = if warning.location.is_empty() {
            String::new()
        } else {
            format!(" ({})", warning.location)
        };
        tell(format_args!(
            " - {}{location}",
            printable(&String::from_utf8_lossy(&warning.short))
        ));
    }
}
