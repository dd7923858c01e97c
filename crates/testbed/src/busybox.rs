use std::path::{Path, PathBuf};

/// A statically linked busybox of the host, if it has one.
pub fn find() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| is_static(path))
}

/// Whether `path` is an ELF program without an interpreter.
pub fn is_static(path: &Path) -> bool {
    const PT_INTERP: u64 = 3;
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    let number = |at: usize, length: usize| {
        let field = bytes.get(at..at.checked_add(length)?)?;
        Some(
            field
                .iter()
                .rev()
                .fold(0_u64, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let segments = || {
        // The ELF header of 64-bit little-endian programs: e_phoff, e_phentsize, e_phnum.
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(usize::try_from(offset.checked_add(index * size)?).ok()?, 4))
            .collect::<Option<Vec<u64>>>()
    };
    bytes.starts_with(b"\x7fELF\x02\x01")
        && segments().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}
