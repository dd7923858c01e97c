//! The note of what is applied: the last generation that is wholly in the database's file, and the length of the file then.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::DbError;
use super::index::Index;
use super::log::Log;
use super::storage::{FILE, log_path};

const NAME: &str = "applied";

/// What is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    /// No log before this counts; 0 if none was ever applied.
    pub(super) generation: u64,
    /// How long the file was then, in bytes.
    pub(super) len: u64,
}

const NOTHING: Applied = Applied {
    generation: 0,
    len: 0,
};

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Reads the note. That there is none is damage where something was applied.
pub(super) fn read(directory: &Path) -> Result<Applied, DbError> {
    let damaged = |reason: &str| DbError::Damaged {
        path: path(directory),
        reason: reason.to_owned(),
    };
    match fs::read(path(directory)) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| damaged("it is no note of what is applied")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match from_logs(directory)? {
            NOTHING => Ok(NOTHING),
            _ => Err(damaged("it is not there")),
        },
        Err(error) => Err(error.into()),
    }
}

fn parse(bytes: &[u8]) -> Option<Applied> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (generation, len) = text.trim_end().split_once(' ')?;
    Some(Applied {
        generation: generation.parse().ok()?,
        len: len.parse().ok()?,
    })
}

/// What must have been applied, by the logs that are there: their generations follow one another, and to apply one again
/// changes nothing.
pub(super) fn from_logs(directory: &Path) -> io::Result<Applied> {
    let len = match fs::metadata(directory.join(FILE)) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let (even, odd) = (log_path(directory, 0), log_path(directory, 1));
    let mut generations = [Log::generation_of(&even)?, Log::generation_of(&odd)?];
    for (parity, (path, generation)) in [&even, &odd].into_iter().zip(&mut generations).enumerate()
    {
        // One that its name or its index contradicts is not known.
        let index = Index::read(path).map(|index| index.generation);
        *generation = generation.filter(|found| {
            *found % 2 == parity as u64 && index.is_none_or(|index| index == *found)
        });
    }
    let newest = generations.into_iter().flatten().max();
    let oldest = generations.into_iter().flatten().min();
    let first = match (oldest, newest) {
        (Some(oldest), Some(newest)) if newest - oldest <= 1 => oldest,
        (_, Some(newest)) => newest,
        // Without logs there is but the file, if it was ever written.
        _ if len > 0 => 2,
        _ => 1,
    };
    Ok(match first.saturating_sub(1) {
        0 => NOTHING,
        generation => Applied { generation, len },
    })
}

pub(super) fn write(directory: &Path, applied: Applied) -> io::Result<()> {
    let path = path(directory);
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    let Applied { generation, len } = applied;
    file.write_all(format!("{generation} {len}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
