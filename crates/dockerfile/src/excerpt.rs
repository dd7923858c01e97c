//! The source around an error or a warning, for people.

use std::fmt::Write as _;

use crate::source::{LineRange, Mark, SourceFile};

/// `text` without the control characters that could play tricks on a terminal. Tabs stay.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// No more characters of a line are shown.
const MAX_WIDTH: usize = 1000;

/// Lines shown around a single line; a range of several lines gets half as many.
const CONTEXT: u32 = 4;

/// Draws the lines of `ranges` with their surroundings, and a caret under `mark`.
pub(crate) fn render(
    file: &SourceFile,
    ranges: &[LineRange],
    mark: Option<Mark>,
) -> Option<String> {
    let lines = file.lines();
    let last = u32::try_from(lines.len()).ok()?;
    let first_at_fault = ranges.iter().map(|range| range.start).min()?;
    let last_at_fault = ranges.iter().map(|range| range.end).max()?.min(last);
    if first_at_fault == 0 || first_at_fault > last {
        return None;
    }
    let (start, end) = surround(first_at_fault, last_at_fault, last);

    let mut text = String::new();
    let column = mark.map_or(String::new(), |mark| format!(":{}", mark.column));
    let line = mark.map_or(first_at_fault, |mark| mark.line);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}:{line}{column}", file.name());
    text.push_str("--------------------\n");
    for (number, content) in (1..).zip(&lines) {
        if !(start..=end).contains(&number) {
            continue;
        }
        let at_fault = ranges.iter().any(|range| range.contains(number));
        let prefix = if at_fault { ">>>" } else { "   " };
        let _ = writeln!(
            text,
            " {number:3} | {prefix} {}",
            printable(&clipped(content))
        );
        let shown = |mark: &Mark| mark.line == number && mark.column as usize <= MAX_WIDTH;
        if let Some(mark) = mark.filter(shown) {
            let _ = writeln!(text, "     |     {}", caret(content, mark));
        }
    }
    text.push_str("--------------------\n");
    Some(text)
}

/// The start of a line that is longer than anybody reads.
fn clipped(line: &str) -> std::borrow::Cow<'_, str> {
    match line.char_indices().nth(MAX_WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]).into(),
        None => line.into(),
    }
}

fn surround(first: u32, last: u32, end_of_file: u32) -> (u32, u32) {
    let budget = if first == last { CONTEXT } else { CONTEXT / 2 };
    let (mut start, mut end, mut shown) = (first, last, 0);
    while shown < budget && (start > 1 || end < end_of_file) {
        if start > 1 {
            start -= 1;
            shown += 1;
        }
        if end < end_of_file {
            end += 1;
            shown += 1;
        }
    }
    (start, end)
}

/// Spaces (tabs where the line has tabs, so that columns agree) and carets.
fn caret(line: &str, mark: Mark) -> String {
    let before = usize::try_from(mark.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let mut drawn: String = line
        .chars()
        .take(before)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let rest = line.chars().count().saturating_sub(before);
    let width = usize::try_from(mark.width).unwrap_or(usize::MAX);
    drawn.extend(std::iter::repeat_n('^', width.min(rest).max(1)));
    drawn
}
