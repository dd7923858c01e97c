//! The instructions of a Dockerfile as types.

mod csv;
mod device;
mod expand;
mod flags;
mod kinds;
mod mount;
mod parse;
mod quantity;
mod run;

pub use kinds::{
    Add, Arg, ArgDefinition, CommandLine, Copy, Device, Env, Expose, HealthTest, Healthcheck,
    InlineFile, KeyValue, Label, Mount, MountFlag, MountType, NetworkMode, Run, RunBody,
    SecurityMode, SharingMode, Transfer,
};

pub(crate) use parse::{Parsed, parse as parse_statement};

use crate::source::LineRange;

/// One instruction of a stage (or an `ARG` before the first stage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword as it was written, such as `RUN` or `run`.
    pub keyword: String,
    /// The instruction's text with continuation lines joined, without heredoc bodies.
    pub source: String,
    /// The lines it spans, heredoc bodies included.
    pub lines: LineRange,
    /// The comments directly above it, without `#`.
    pub comments: Vec<String>,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says, by keyword.
///
/// `FROM` is not here: it begins a [`Stage`](crate::Stage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`, the author's name as written
    Maintainer(String),
    /// `ONBUILD`, the trigger's text, heredoc bodies included
    Onbuild(String),
    /// `RUN`
    Run(Run),
    /// `SHELL`, never empty
    Shell(Vec<String>),
    /// `STOPSIGNAL`, a name or number
    StopSignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`, never empty
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

impl Kind {
    /// The keyword in its usual spelling.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}
