//! The comma-separated fields of `--mount` and `--device`.

use crate::error::CsvError;

/// The fields of one record. A field that begins with a quote is quoted; a doubled quote in it
/// is one quote.
pub(super) fn fields(record: &str) -> Result<Vec<String>, CsvError> {
    let mut rest = record
        .strip_suffix('\n')
        .map_or(record, |line| line.strip_suffix('\r').unwrap_or(line));
    if rest.is_empty() {
        return Err(CsvError::Empty);
    }
    let length = rest.len();
    let mut fields = Vec::new();
    loop {
        let column = length - rest.len() + 1;
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted, column + 1)?,
            None => plain_field(rest, column)?,
        };
        fields.push(field);
        match after {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// A field up to a comma, and what is after the comma.
fn plain_field(text: &str, column: usize) -> Result<(String, Option<&str>), CsvError> {
    let (field, after) = match text.split_once(',') {
        Some((field, after)) => (field, Some(after)),
        None => (text, None),
    };
    match field.find('"') {
        Some(at) => Err(CsvError::BareQuote {
            column: column + at,
        }),
        None => Ok((field.to_owned(), after)),
    }
}

/// A field whose opening quote is taken, up to the closing one and a comma.
fn quoted_field(text: &str, column: usize) -> Result<(String, Option<&str>), CsvError> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let here = column + text.len() - rest.len();
        let Some((part, after)) = rest.split_once('"') else {
            return Err(CsvError::Quote { column: here });
        };
        field.push_str(part);
        if after.is_empty() {
            return Ok((field, None));
        }
        if let Some(next) = after.strip_prefix(',') {
            return Ok((field, Some(next)));
        }
        let Some(next) = after.strip_prefix('"') else {
            return Err(CsvError::Quote {
                column: here + part.len(),
            });
        };
        field.push('"');
        rest = next;
    }
}
