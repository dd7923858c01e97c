//! "Did you mean …?"

/// How many edits make two words different words.
const MAX_DISTANCE: usize = 3;

/// The candidate closest to `word` by fewer than three edits, the first of equals; none if
/// `word` itself is a candidate, since then its spelling is not what is wrong.
pub fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let mut best = None;
    let mut best_distance = MAX_DISTANCE;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        if candidate.len().abs_diff(word.len()) > 4 * MAX_DISTANCE {
            continue;
        }
        let distance = strsim::levenshtein(word, candidate);
        if distance < best_distance {
            best = Some(candidate.to_owned());
            best_distance = distance;
        }
    }
    best
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
