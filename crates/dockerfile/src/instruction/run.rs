//! `RUN`: what is executed, and the modes of its flags.

use super::kinds::{CommandLine, NetworkMode, Run, RunBody, SecurityMode};
use crate::heredoc::{self, Heredoc};

impl Run {
    /// What is executed.
    ///
    /// A command that is one heredoc and nothing else stands for the heredoc's body. Any other
    /// command is the shell's, with the heredocs below it as they were written.
    pub fn body(&self) -> RunBody {
        let text = match &self.command {
            CommandLine::Exec(arguments) => return RunBody::Exec(arguments.clone()),
            CommandLine::Shell(text) => text,
        };
        let Some(script) = self.script() else {
            return RunBody::Shell(with_heredocs(text, &self.heredocs));
        };
        let data = script.body();
        if data.starts_with("#!") {
            let name = script.name.clone();
            return RunBody::Script { name, data };
        }
        RunBody::Shell(data)
    }

    /// The heredoc that is the whole command, if there is such.
    pub fn script(&self) -> Option<&Heredoc> {
        let CommandLine::Shell(text) = &self.command else {
            return None;
        };
        heredoc::parse(text)?;
        self.heredocs.first()
    }
}

/// `text` and below it the heredocs, as they stood in the Dockerfile.
pub(super) fn with_heredocs(text: &str, heredocs: &[Heredoc]) -> String {
    let mut whole = text.to_owned();
    for heredoc in heredocs {
        whole.push('\n');
        whole.push_str(&heredoc.content);
        whole.push_str(&heredoc.name);
    }
    whole
}

impl NetworkMode {
    /// Every mode.
    pub(super) const ALL: [Self; 3] = [Self::Default, Self::None, Self::Host];

    /// The name that `--network` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

impl SecurityMode {
    /// Every mode.
    pub(super) const ALL: [Self; 2] = [Self::Sandbox, Self::Insecure];

    /// The name that `--security` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Insecure => "insecure",
        }
    }
}
