//! What of a cache's attributes may be shown, logged and kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use weld_export::cache::SECRET_ATTRIBUTES;
use weld_llb::mask_credentials;

use super::CACHE_IMPORTS;

/// A frontend's options as they may be shown and kept: those that name caches have no secrets of theirs, and URLs no
/// credentials.
pub fn without_secrets(opts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut opts = opts.clone();
    if let Some(listed) = opts.get_mut(CACHE_IMPORTS) {
        *listed = shown(listed).unwrap_or_default();
    }
    for value in opts.values_mut() {
        if let Cow::Owned(masked) = mask_credentials(value) {
            *value = masked;
        }
    }
    opts
}

/// A list of caches without secrets; `None` if it is none.
fn shown(listed: &str) -> Option<String> {
    let mut entries: Vec<serde_json::Value> = serde_json::from_str(listed).ok()?;
    for entry in &mut entries {
        if let Some(attrs) = entry
            .get_mut("Attrs")
            .and_then(|attrs| attrs.as_object_mut())
        {
            attrs.retain(|key, _| !SECRET_ATTRIBUTES.contains(&key.as_str()));
        }
    }
    serde_json::to_string(&entries).ok()
}

/// Attributes for debugging, without the values of secrets.
pub(super) struct ShownAttrs<'a>(pub(super) &'a BTreeMap<String, String>);

impl fmt::Debug for ShownAttrs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(key, value)| {
            let value = match SECRET_ATTRIBUTES.contains(&key.as_str()) {
                true => "…",
                false => value.as_str(),
            };
            (key, value)
        });
        f.debug_map().entries(shown).finish()
    }
}

/// A text, such as a client's command line, in which the values of secret attributes of caches are masked (`secret_access_key=…`), and
/// credentials in URLs.
pub fn mask_secrets(text: &str) -> Cow<'_, str> {
    let mut masked = mask_credentials(text);
    for name in SECRET_ATTRIBUTES {
        if masked.contains(name) {
            masked = Cow::Owned(mask(&masked, name));
        }
    }
    masked
}

/// Masks what follows `NAME=`, up to where a field or an argument ends.
fn mask(text: &str, name: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(name) {
        let (before, found) = rest.split_at(at);
        let after = &found[name.len()..];
        masked.push_str(before);
        masked.push_str(name);
        rest = after;
        let is_whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some(value) = after.strip_prefix('=').filter(|_| is_whole) {
            let ends = |c: char| c == ',' || c == '"' || c == '\'' || c.is_whitespace();
            masked.push_str("=…");
            rest = &value[value.find(ends).unwrap_or(value.len())..];
        }
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_lose_their_secrets() {
        for (text, expected) in [
            (
                r#"["buildctl","type=s3,secret_access_key=a/b+c==,name=x","y"]"#,
                r#"["buildctl","type=s3,secret_access_key=…,name=x","y"]"#,
            ),
            ("session_token=a token=b", "session_token=… token=…"),
            ("my_token=a access_key_id", "my_token=a access_key_id"),
        ] {
            assert_eq!(mask_secrets(text), expected);
        }
    }

    #[test]
    fn secrets_of_caches_are_not_shown() {
        let listed = r#"[{"Type":"s3","Attrs":{"bucket":"b","secret_access_key":"hush"}}]"#;
        let opts: BTreeMap<_, _> = [(CACHE_IMPORTS.to_owned(), listed.to_owned())].into();
        let bad: BTreeMap<_, _> = [(CACHE_IMPORTS.to_owned(), "{".to_owned())].into();
        assert_eq!(without_secrets(&bad)[CACHE_IMPORTS], "");
        let shown = without_secrets(&opts);
        assert!(shown[CACHE_IMPORTS].contains("\"bucket\":\"b\""));
        assert!(!shown[CACHE_IMPORTS].contains("hush"));
        let debug = format!("{:?}", crate::cache::of_options(&opts, &[]).unwrap());
        assert!(
            !debug.contains("hush") && debug.contains("bucket"),
            "{debug}"
        );
    }
}
