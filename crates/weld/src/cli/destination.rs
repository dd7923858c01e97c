//! Small files that a build is to leave behind, such as `--iidfile`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::outputs::real;
use super::report::Failure;

/// A file to be written at a build's end, if it was asked for.
pub(crate) struct Destination<'a> {
    option: &'static str,
    path: Option<&'a Path>,
}

impl<'a> Destination<'a> {
    /// Makes sure, as far as can be known before, that it can be written: nobody wants to hear after an hour's build
    /// that it cannot.
    pub(crate) fn new(option: &'static str, path: Option<&'a Path>) -> Result<Self, Failure> {
        let destination = Self { option, path };
        if let Some(path) = path {
            check(path).map_err(|error| destination.failure(path, &error))?;
        }
        Ok(destination)
    }

    /// Makes sure that no output, and no other such file, is written to the same place.
    pub(crate) fn apart_from<'p>(
        &self,
        others: impl IntoIterator<Item = (&'static str, &'p Path)>,
    ) -> Result<(), Failure> {
        let Some(path) = self.path else {
            return Ok(());
        };
        let mut others = others.into_iter();
        match others.find(|(_, other)| real(other) == real(path)) {
            Some((what, _)) => Err(Failure::Destination {
                option: self.option,
                path: path.to_owned(),
                reason: format!("{what} is to be written there, too"),
            }),
            None => Ok(()),
        }
    }

    /// Removes what an earlier build left there: after a build that fails it would be taken for this one's.
    pub(crate) fn cleared(self) -> Result<Self, Failure> {
        if let Some(path) = self.path
            && fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
        {
            fs::remove_file(path).map_err(|error| self.failure(path, &error))?;
        }
        Ok(self)
    }

    pub(crate) fn write(&self, content: &[u8]) -> Result<(), Failure> {
        match self.path {
            Some(path) => fs::write(path, content).map_err(|error| self.failure(path, &error)),
            None => Ok(()),
        }
    }

    fn failure(&self, path: &Path, error: &io::Error) -> Failure {
        Failure::Destination {
            option: self.option,
            path: path.to_owned(),
            reason: error.to_string(),
        }
    }
}

fn check(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // Opening another kind, such as a pipe, could wait for somebody.
        Ok(found) if found.is_file() => OpenOptions::new().write(true).open(path).map(drop),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            match fs::metadata(parent)?.is_dir() {
                true => tempfile::Builder::new().tempfile_in(parent).map(drop),
                false => Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        Err(error) => Err(error),
    }
}
