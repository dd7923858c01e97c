//! The logs of a directory: at most two that are not applied yet, one after the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Layer;
use crate::db::DbError;
use crate::db::applied::Applied;
use crate::db::index::Index;
use crate::db::log::Log;

/// The logs that count: the one that is being applied, if there are two, and the one to write.
pub(super) fn open_logs(
    directory: &Path,
    Applied {
        generation: applied,
        len: file_len,
    }: Applied,
    boot: u64,
) -> io::Result<(Option<Layer>, Layer)> {
    let open = |generation, seed, len| {
        let mut logged = Vec::new();
        let path = log_path(directory, generation);
        let log = Log::open(&path, generation, seed, boot, |entry| logged.push(entry))?;
        Ok::<_, io::Error>(log.map(|(log, index)| {
            let mut layer = Layer::new(log, len);
            if let Some(index) = index {
                layer.pages.extend(index.pages);
                (layer.floor, layer.len) = (index.floor, index.len);
            }
            logged.into_iter().for_each(|entry| layer.note(entry));
            layer
        }))
    };
    let Some(first) = open(applied + 1, None, file_len)? else {
        let path = log_path(directory, applied + 1);
        let log = Log::create(&path, applied + 1, 0, boot)?;
        return Ok((None, Layer::new(log, file_len)));
    };
    let second = open(applied + 2, Some(first.log.checksum), first.len)?;
    Ok(match second {
        Some(second) => (Some(first), second),
        None => (None, first),
    })
}

pub(in crate::db) fn log_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("log-{}", generation % 2))
}

/// Why the log that has to be there is none. One that is empty, or of zeros, was begun as the machine went down.
pub(super) fn damaged_log(directory: &Path, applied: u64) -> io::Result<Option<DbError>> {
    let path = log_path(directory, applied + 1);
    Ok(Log::is_garbage(&path)?.then(|| DbError::Damaged {
        path,
        reason: "it is no log".to_owned(),
    }))
}

/// How a log lost what was in it, as far as its index, written at a clean end, or `was_used` tells. Where the machine went down since, that
/// is to be expected.
pub(super) fn cut_log(
    directory: &Path,
    applied: u64,
    boot: u64,
    was_used: bool,
) -> io::Result<Option<DbError>> {
    let path = log_path(directory, applied + 1);
    let damaged = |reason: String| {
        let path = path.clone();
        Ok(Some(DbError::Damaged { path, reason }))
    };
    let length = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match was_used {
                true => damaged("it is not there".to_owned()),
                false => Ok(None),
            };
        }
        Err(error) => return Err(error),
    };
    let index = Index::read(&path).filter(|index| index.generation == applied + 1);
    let Some(index) = index else {
        return Ok(None);
    };
    if Log::generation_of(&path)? == Some(index.generation) {
        let is_older = Log::boot_of(&path)?.is_some_and(|begun| begun != boot);
        if length >= index.end || is_older {
            return Ok(None);
        }
    }
    if length < index.end {
        return damaged(format!("it is cut off, at {length} of {} bytes", index.end));
    }
    damaged("it is not the log that its index tells of".to_owned())
}
