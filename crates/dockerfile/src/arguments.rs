//! How the arguments of instructions are split: JSON arrays, blanks, quoted words, pairs.

use crate::error::ErrorKind;
use crate::instruction::KeyValue;

/// Blanks between the words of an instruction.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The strings of a JSON array; none if `text` is no JSON array at all.
pub(crate) fn json_array(text: &str) -> Result<Option<Vec<String>>, ErrorKind> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let string = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(ErrorKind::JsonNotStrings),
    };
    values
        .into_iter()
        .map(string)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A JSON array's strings, or the words between blanks; quotes mean nothing.
pub(crate) fn json_or_words(text: &str) -> Result<Vec<String>, ErrorKind> {
    Ok(json_array(text)?.unwrap_or_else(|| blank_separated(text)))
}

/// The words between blanks; quotes mean nothing.
pub(crate) fn blank_separated(text: &str) -> Vec<String> {
    text.split(is_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The words between white space that is neither quoted nor escaped; quotes and escapes stay.
pub(crate) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Nothing can be escaped within single quotes; an escape at the end is dropped.
        if c == escape && quote != Some('\'') {
            if let Some(escaped) = chars.next() {
                word.extend([c, escaped]);
            }
            continue;
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The pairs of `ENV` and `LABEL`: `key=value …`, or the old form `key value`.
pub(crate) fn pairs(
    text: &str,
    escape: char,
    instruction: &'static str,
) -> Result<Vec<KeyValue>, ErrorKind> {
    let words = quoted_words(text, escape);
    let Some(first) = words.first() else {
        return Err(ErrorKind::NoArgument { instruction });
    };
    if !first.contains('=') {
        let (key, value) = text
            .split_once(is_blank)
            .ok_or(ErrorKind::NotTwoArguments { instruction })?;
        return Ok(vec![KeyValue {
            key: key.to_owned(),
            value: value.trim_start_matches(is_blank).to_owned(),
            legacy: true,
        }]);
    }
    let pair = |word: String| match word.split_once('=') {
        None => Err(ErrorKind::MissingEquals { word }),
        Some(("", _)) => Err(ErrorKind::BlankName { instruction }),
        Some((key, value)) => Ok(KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            legacy: false,
        }),
    };
    words.into_iter().map(pair).collect()
}
