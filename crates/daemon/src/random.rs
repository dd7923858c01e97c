//! Names and bytes that nobody can guess.

use rustix::rand::{GetRandomFlags, getrandom};

/// A name of 25 letters and digits, as BuildKit's are.
pub(crate) fn name() -> std::io::Result<String> {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; 25];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes
        .iter()
        .filter_map(|byte| DIGITS.get(usize::from(byte % 32)))
        .map(|digit| char::from(*digit))
        .collect())
}

/// Random bytes; `None` where there is no randomness.
pub(crate) fn bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty()).ok()?;
    Some(bytes)
}
