//! Values in a call's metadata that need not be ASCII: they are escaped then, as in a URL's query,
//! and a further key says so.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use weld_proto::session::filesync::ENCODED_SUFFIX;

/// What Go's `url.QueryEscape` leaves as it is, but for the space.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Adds values under a key.
pub fn put<'v>(
    metadata: &mut MetadataMap,
    key: &'static str,
    values: impl IntoIterator<Item = &'v str> + Clone,
) {
    let plain = |value: &str| {
        let trimmed = value.trim().len() == value.len();
        trimmed && value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let escape = !values.clone().into_iter().all(plain);
    for value in values {
        let value = match escape {
            true => utf8_percent_encode(value, QUERY).to_string(),
            false => value.to_owned(),
        };
        // Never fails: what is not plain was escaped.
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.append(key, value);
        }
    }
    if escape && let Ok(key) = MetadataKey::from_bytes(format!("{key}{ENCODED_SUFFIX}").as_bytes())
    {
        metadata.insert(key, MetadataValue::from_static("1"));
    }
}

/// The values under a key; those that are no text are left out.
pub fn get(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let escaped = metadata
        .get(format!("{key}{ENCODED_SUFFIX}"))
        .is_some_and(|flag| flag == "1" || flag == "true");
    let values = metadata.get_all(key);
    values
        .iter()
        .filter_map(|value| match escaped {
            false => Some(value.to_str().ok()?.to_owned()),
            true => {
                let value = value.to_str().ok()?.replace('+', " ");
                Some(percent_decode_str(&value).decode_utf8().ok()?.into_owned())
            }
        })
        .collect()
}
