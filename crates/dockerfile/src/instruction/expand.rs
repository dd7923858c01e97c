//! Which fields of which instructions have their variables expanded, and how.

use super::{Instruction, KeyValue, Kind, Transfer};
use crate::error::Error;
use crate::shell::{ExpandError, Expander};

impl Instruction {
    /// Expands the variables of the fields that are expanded, in place.
    ///
    /// `ADD`, `COPY`, `ENV`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR` and `EXPOSE` are;
    /// heredoc files keep their quotes. The others are left as they are: commands belong to the
    /// shell, an `ARG`'s default may not be needed, a `RUN`'s mounts are read by
    /// [`MountFlag::resolve`](super::MountFlag::resolve).
    ///
    /// An error leaves the instruction partly expanded.
    pub fn expand(&mut self, expander: &mut Expander<'_>) -> Result<(), Error> {
        self.kind
            .expand(expander)
            .map_err(|error| Error::new(error).at(self.lines))
    }
}

impl Kind {
    fn expand(&mut self, expander: &mut Expander<'_>) -> Result<(), ExpandError> {
        match self {
            Self::Add(add) => {
                expand_option(&mut add.checksum, expander)?;
                add.transfer.expand(expander)
            }
            Self::Copy(copy) => copy.transfer.expand(expander),
            Self::Env(env) => expand_pairs(&mut env.pairs, expander),
            Self::Label(label) => expand_pairs(&mut label.pairs, expander),
            Self::Expose(expose) => {
                let mut ports = Vec::with_capacity(expose.ports.len());
                for port in &expose.ports {
                    ports.extend(expander.words(port)?);
                }
                expose.ports = ports;
                Ok(())
            }
            Self::StopSignal(word) | Self::User(word) | Self::Workdir(word) => {
                expand_word(word, expander)
            }
            Self::Volume(paths) => expand_all(paths, expander),
            Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Run(_)
            | Self::Shell(_) => Ok(()),
        }
    }
}

impl Transfer {
    fn expand(&mut self, expander: &mut Expander<'_>) -> Result<(), ExpandError> {
        expand_option(&mut self.chown, expander)?;
        expand_option(&mut self.chmod, expander)?;
        expand_all(&mut self.sources, expander)?;
        expand_word(&mut self.destination, expander)?;
        for file in self.inline_files.iter_mut().filter(|file| file.expand) {
            file.data = expander.raw(&file.data)?;
        }
        Ok(())
    }
}

fn expand_pairs(pairs: &mut [KeyValue], expander: &mut Expander<'_>) -> Result<(), ExpandError> {
    for pair in pairs {
        expand_word(&mut pair.key, expander)?;
        expand_word(&mut pair.value, expander)?;
    }
    Ok(())
}

fn expand_all(words: &mut [String], expander: &mut Expander<'_>) -> Result<(), ExpandError> {
    words
        .iter_mut()
        .try_for_each(|word| expand_word(word, expander))
}

fn expand_option(
    word: &mut Option<String>,
    expander: &mut Expander<'_>,
) -> Result<(), ExpandError> {
    word.as_mut()
        .map_or(Ok(()), |word| expand_word(word, expander))
}

fn expand_word(word: &mut String, expander: &mut Expander<'_>) -> Result<(), ExpandError> {
    *word = expander.word(word)?;
    Ok(())
}
