//! Two long texts, cut down to where they differ.

use std::borrow::Cow;

use super::recipe::head;

/// Characters of a text that is shown in whole.
const WHOLE: usize = 160;
/// Characters that are shown on each side of what differs.
const AROUND: usize = 32;
/// Most characters that are shown of what differs.
const MOST: usize = 200;

/// Two texts that differ, as far as a reader needs them to see in what; `None` where they differ in a part that was not kept.
pub(super) fn differing(old: &str, new: &str) -> Option<(String, String)> {
    let (is_whole, old) = head(old);
    let (is_other_whole, new) = head(new);
    if old == new {
        return None;
    }
    let (old, new): (Vec<char>, Vec<char>) = (old.chars().collect(), new.chars().collect());
    let all_is_kept = is_whole && is_other_whole;
    if all_is_kept && old.len().max(new.len()) <= WHOLE {
        return Some((old.into_iter().collect(), new.into_iter().collect()));
    }
    let pairs = || old.iter().zip(&new);
    let same = pairs().take_while(|(old, new)| old == new).count();
    let start = same.saturating_sub(AROUND);
    let rest = old.len().min(new.len()) - same;
    let ends = old.iter().rev().zip(new.iter().rev()).take(rest);
    let after = ends.take_while(|(old, new)| old == new).count();
    let after = after.saturating_sub(AROUND);
    let cut = |text: &[char], is_whole: bool| {
        let end = (text.len() - after).min(start + MOST);
        let goes_on = end < text.len() || !is_whole;
        let shown = text.get(start..end).unwrap_or_default();
        let before = if start > 0 { "…" } else { "" };
        let behind = if goes_on { "…" } else { "" };
        format!("{before}{}{behind}", shown.iter().collect::<String>())
    };
    Some((cut(&old, is_whole), cut(&new, is_other_whole)))
}

/// A text that is not compared with another, or what of it is shown.
pub(super) fn beginning(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MOST + 2) {
        Some(_) => Cow::Owned(text.chars().take(MOST).chain(['…']).collect()),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::recipe::kept;
    use super::*;

    #[test]
    fn long_texts_are_cut_to_what_differs() {
        let long = |word: &str| format!("{} {word} {}", "a".repeat(500), "b".repeat(500));
        let (old, new) = differing(&long("one"), &long("two")).expect("they differ");
        assert!(
            old.contains(" one ") && new.contains(" two "),
            "{old} {new}"
        );
        assert!(old.starts_with('…') && old.ends_with('…') && old.chars().count() < 80);
        let short = differing("make", "make all").expect("they differ");
        assert_eq!(short, ("make".to_owned(), "make all".to_owned()));
        // What is added at the end is shown with what was there.
        let (old, new) = differing(&long(""), &(long("") + "c")).expect("they differ");
        assert!(old.ends_with("bb") && new.ends_with("bbc"), "{old} {new}");
        let endless = |end: &str| kept(&format!("{}{end}", "x".repeat(10_000)));
        assert_eq!(differing(&endless("1"), &endless("2")), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_of_different_texts_is_different(
            head in "[ab]{0,300}", old in "[ab]{0,300}", new in "[ab]{0,300}", tail in "[ab]{0,300}"
        ) {
            let text = |middle: &str| format!("{head}{middle}{tail}");
            prop_assume!(old != new);
            let (old, new) = differing(&text(&old), &text(&new)).expect("all of it is kept");
            prop_assert_ne!(&old, &new);
            prop_assert!(old.chars().count() <= MOST + 2 && new.chars().count() <= MOST + 2);
        }
    }
}
