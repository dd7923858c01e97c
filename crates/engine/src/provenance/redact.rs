//! URLs as provenance shows them: without the credentials that may be in them.

const MASK: &str = "xxxxx";

/// Schemes of references to images: an `@` in them is before a digest.
const REFERENCES: [&str; 2] = ["docker-image", "oci-layout"];

/// The text, with user and password masked if it is a URL that has such.
pub(super) fn redact(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) || REFERENCES.contains(&scheme) {
        return text.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user, host)) = authority.rsplit_once('@') else {
        return text.to_owned();
    };
    let user = match user.split_once(':') {
        Some(("", _)) => format!(":{MASK}"),
        Some(_) => format!("{MASK}:{MASK}"),
        None if user.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    format!("{scheme}://{user}@{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn credentials_are_masked_and_nothing_else() {
        for (text, expected) in [
            (
                "https://a:b@host/x.git#main",
                "https://xxxxx:xxxxx@host/x.git#main",
            ),
            ("https://token@host/x", "https://xxxxx@host/x"),
            ("https://:b@host", "https://:xxxxx@host"),
            ("https://a:b@c:d@host/", "https://xxxxx:xxxxx@host/"),
            ("https://host/a@b", "https://host/a@b"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git"),
            ("plain text", "plain text"),
            ("oci-layout://base@sha256:ab", "oci-layout://base@sha256:ab"),
            ("https://host?x=a://b:c@d", "https://host?x=a://b:c@d"),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }
}
