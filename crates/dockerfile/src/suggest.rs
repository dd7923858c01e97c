//! "Did you mean …?"

/// Words longer than this, in bytes, are not compared: the time grows with the square.
const MAX_LENGTH: usize = 256;

/// How many edits may lie between a word and what was meant.
const MAX_DISTANCE: usize = 2;

/// The candidate closest to `word` by at most two edits (two neighbours swapped are one), but
/// never so many that more than half of the word is changed unless only its end is missing; the
/// first of equals. None if `word`
/// itself is a candidate, since then its spelling is not what is wrong.
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let length = word.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        let usual = MAX_DISTANCE.min(length / 2);
        let limit = match length > 1 && candidate.starts_with(word) {
            true => MAX_DISTANCE,
            false => usual,
        };
        // Characters have at most four bytes, so that the lengths tell who is too far away.
        let apart = candidate.len().abs_diff(word.len());
        if limit == 0 || apart > 4 * limit || candidate.len() > MAX_LENGTH {
            continue;
        }
        let distance = strsim::osa_distance(word, candidate);
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate.to_owned())
}

/// As [`closest`], without regard to case, in the casing of `word`; candidates are in upper case.
pub(crate) fn closest_keyword<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    let found = closest(&word.to_uppercase(), candidates)?;
    if word == word.to_lowercase() {
        Some(found.to_lowercase())
    } else {
        Some(found)
    }
}
