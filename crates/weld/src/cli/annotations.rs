//! `--annotation`, in docker's forms.

/// Why an `--annotation` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnotationError {
    #[error("--annotation {0:?}: needs KEY=VALUE")]
    NoValue(String),
    #[error(
        "--annotation {text:?}: invalid type {kind:?}: expected a type, and a platform in square brackets if need be"
    )]
    Malformed { text: String, kind: String },
    #[error(
        "--annotation {text:?}: unknown type {kind:?} (known: manifest, manifest-descriptor, index, index-descriptor)"
    )]
    Unknown { text: String, kind: String },
}

const TYPES: [&str; 4] = [
    "manifest",
    "manifest-descriptor",
    "index",
    "index-descriptor",
];

/// Reads `[TYPE[[PLATFORM]],…:]KEY=VALUE` options into attributes of exporters.
pub(crate) fn parse(options: &[String]) -> Result<Vec<(String, String)>, AnnotationError> {
    let mut attributes = Vec::new();
    for text in options.iter().filter(|text| !text.is_empty()) {
        let no_value = || AnnotationError::NoValue(text.clone());
        let (head, value) = text.split_once('=').ok_or_else(no_value)?;
        let (types, key) = match head.split_once(':') {
            Some((types, key)) => (Some(types), key),
            None => (None, head),
        };
        if key.is_empty() {
            return Err(no_value());
        }
        let Some(types) = types else {
            attributes.push((format!("annotation.{key}"), value.to_owned()));
            continue;
        };
        for kind in types.split(',') {
            check(text, kind)?;
            attributes.push((format!("annotation-{kind}.{key}"), value.to_owned()));
        }
    }
    Ok(attributes)
}

fn check(text: &str, whole: &str) -> Result<(), AnnotationError> {
    let malformed = || AnnotationError::Malformed {
        text: text.to_owned(),
        kind: whole.to_owned(),
    };
    let kind = match whole.split_once('[') {
        Some((kind, rest)) => {
            let platform = rest.strip_suffix(']').ok_or_else(malformed)?;
            let fits = |char: char| char.is_ascii_alphanumeric() || "_/-".contains(char);
            if platform.is_empty() || !platform.chars().all(fits) {
                return Err(malformed());
            }
            kind
        }
        None => whole,
    };
    let fits = |char: char| char.is_ascii_lowercase() || char == '-';
    if kind.is_empty() || !kind.chars().all(fits) {
        return Err(malformed());
    }
    if !TYPES.contains(&kind) {
        return Err(AnnotationError::Unknown {
            text: text.to_owned(),
            kind: kind.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Vec<(String, String)>, String> {
        parse(&[text.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn types_and_platforms_stand_before_the_key() {
        for (text, attributes) in [
            ("a=b", &[("annotation.a", "b")][..]),
            ("a b=c=d", &[("annotation.a b", "c=d")]),
            ("index:a=", &[("annotation-index.a", "")]),
            (
                "manifest[linux/amd64]:a.b=c:d",
                &[("annotation-manifest[linux/amd64].a.b", "c:d")],
            ),
            (
                "manifest,manifest-descriptor[linux/arm/v7]:m=n",
                &[
                    ("annotation-manifest.m", "n"),
                    ("annotation-manifest-descriptor[linux/arm/v7].m", "n"),
                ],
            ),
        ] {
            let parsed = one(text).unwrap();
            let parsed: Vec<_> = parsed
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            assert_eq!(parsed, attributes, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, part) in [
            ("a", "needs KEY=VALUE"),
            ("=b", "needs KEY=VALUE"),
            ("manifest:=b", "needs KEY=VALUE"),
            ("foo:x=y", "unknown type \"foo\""),
            ("manifest,:x=y", "invalid type \"\""),
            ("manifest[]:x=y", "invalid type \"manifest[]\""),
            ("manifest[linux:x=y", "invalid type \"manifest[linux\""),
            ("org.example:x=y", "invalid type \"org.example\""),
        ] {
            let error = one(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
