use std::collections::BTreeMap;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// How a registry wants to be convinced, from its `WWW-Authenticate` (RFC 9110, 11.6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With a token from the server at `realm`.
    Bearer {
        realm: String,
        service: String,
        scope: String,
        /// Why a token that was sent did not do, such as `insufficient_scope`.
        error: String,
    },
    /// With user and password.
    Basic,
}

impl Challenge {
    /// The challenge to answer: bearer before basic.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let found: Vec<_> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse)
            .collect();
        let bearer = found.iter().find_map(|(scheme, parameters)| {
            let parameter = |name: &str| parameters.get(name).cloned().unwrap_or_default();
            (scheme == "bearer" && parameters.contains_key("realm")).then(|| Self::Bearer {
                realm: parameter("realm"),
                service: parameter("service"),
                scope: parameter("scope"),
                error: parameter("error"),
            })
        });
        bearer.or_else(|| {
            let basic = found.iter().any(|(scheme, _)| scheme == "basic");
            basic.then_some(Self::Basic)
        })
    }
}

type Parameters = BTreeMap<String, String>;

/// The challenges of one header: schemes in lower case with their parameters.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        match (after_space.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
                parameters.insert(word.to_ascii_lowercase(), value);
                rest = after;
            }
            // A parameter that belongs to no scheme: nothing behind it can be trusted.
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((word.to_ascii_lowercase(), Parameters::new()));
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A parameter's value, quoted or not, and what follows.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges_are_read_and_bearer_is_preferred() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.docker.io/token".to_owned(),
            service: "registry.docker.io".to_owned(),
            scope: "repository:library/busybox:pull,push".to_owned(),
            error: String::new(),
        };
        assert_eq!(challenge(&[hub]), Some(bearer.clone()));
        assert_eq!(
            challenge(&[r#"Basic realm="x, y""#, hub]),
            Some(bearer.clone())
        );
        assert_eq!(
            challenge(&[&format!(r#"Basic realm="a \" b", {hub}"#)]),
            Some(bearer)
        );
        assert_eq!(challenge(&["BASIC realm=x"]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Digest realm=x"]), None);
        assert_eq!(challenge(&["Bearer service=x"]), None);
        assert_eq!(challenge(&[]), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(text in "[ -~]{0,80}") {
            parse(&text);
        }
    }
}
