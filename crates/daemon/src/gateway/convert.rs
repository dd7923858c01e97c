//! Between messages and the engine's types.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use weld_engine::{AttestationKind, FileRange, Stat, Subject};
use weld_llb::Platform;
use weld_proto::{frontend as wire, fsutil, pb};

/// The bits of Go's `os.FileMode`, with those of `st_mode` that they stand for.
const MODES: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// The file types of Go's `os.FileMode`, by those of `st_mode`.
const TYPES: [(u32, u32); 6] = [
    (0o040_000, 1 << 31),
    (0o120_000, 1 << 27),
    (0o010_000, 1 << 25),
    (0o060_000, 1 << 26),
    (0o020_000, 1 << 26 | 1 << 21),
    // Sockets are files to clients, which cannot make one of them.
    (0o140_000, 0),
];

fn go_mode(mode: u32) -> u32 {
    let special = MODES.iter().filter(|(bit, _)| mode & bit != 0);
    let special = special.fold(0, |all, (_, bit)| all | bit);
    let kind = TYPES.iter().find(|(kind, _)| mode & 0o170_000 == *kind);
    (mode & 0o777) | special | kind.map_or(0, |(_, bit)| *bit)
}

/// What is known of a file.
pub(super) fn stat(stat: Stat) -> fsutil::Stat {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let nanoseconds = stat.mtime.as_unix_nanos();
    fsutil::Stat {
        path: text(&stat.path),
        mode: go_mode(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mod_time: nanoseconds,
        linkname: stat.link_target.as_deref().map(text).unwrap_or_default(),
        devmajor: i64::from(stat.rdev.0),
        devminor: i64::from(stat.rdev.1),
        xattrs: stat
            .xattrs
            .into_iter()
            .map(|(name, value)| (String::from_utf8_lossy(name.as_bytes()).into_owned(), value))
            .collect(),
    }
}

pub(super) fn range(range: wire::FileRange) -> FileRange {
    FileRange {
        offset: u64::try_from(range.offset).unwrap_or(0),
        length: u64::try_from(range.length).unwrap_or(0),
    }
}

pub(super) fn platform(platform: Option<pb::Platform>) -> Option<Platform> {
    platform.map(Platform::from)
}

pub(super) fn metadata_to_wire(metadata: &BTreeMap<String, Bytes>) -> BTreeMap<String, Vec<u8>> {
    let metadata = metadata.iter();
    metadata
        .map(|(key, value)| (key.clone(), value.to_vec()))
        .collect()
}

pub(super) fn metadata_from_wire(metadata: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Bytes> {
    let metadata = metadata.into_iter();
    metadata
        .map(|(key, value)| (key, Bytes::from(value)))
        .collect()
}

pub(super) const fn kind_to_wire(kind: AttestationKind) -> wire::AttestationKind {
    match kind {
        AttestationKind::InToto => wire::AttestationKind::InToto,
        AttestationKind::Bundle => wire::AttestationKind::Bundle,
    }
}

pub(super) fn subject_to_wire(subject: &Subject) -> wire::InTotoSubject {
    match subject {
        Subject::Result { name } => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Self_.into(),
            digest: Vec::new(),
            name: name.clone(),
        },
        Subject::Named { name, digests } => wire::InTotoSubject {
            kind: wire::InTotoSubjectKind::Raw.into(),
            digest: digests.iter().map(ToString::to_string).collect(),
            name: name.clone(),
        },
    }
}

pub(super) fn subject_from_wire(
    subject: wire::InTotoSubject,
) -> Result<Subject, weld_digest::ParseDigestError> {
    Ok(match subject.kind() {
        wire::InTotoSubjectKind::Self_ => Subject::Result { name: subject.name },
        wire::InTotoSubjectKind::Raw => Subject::Named {
            name: subject.name,
            digests: subject
                .digest
                .iter()
                .map(|digest| digest.parse())
                .collect::<Result<_, _>>()?,
        },
    })
}
