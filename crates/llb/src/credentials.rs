//! URLs as they may be shown and kept: without the credentials that may be in them.

use std::borrow::Cow;

const MASK: &str = "xxxxx";

/// Schemes of references to images: an `@` in them is before a digest.
const REFERENCES: [&str; 4] = [
    "docker-image",
    "oci-layout",
    "docker-image+blob",
    "oci-layout+blob",
];

fn is_of_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+-.".contains(c)
}

/// The text, with user and password masked if it is a URL that has such.
pub fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    if scheme.is_empty() || !scheme.chars().all(is_of_scheme) || REFERENCES.contains(&scheme) {
        return text.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user, host)) = authority.rsplit_once('@') else {
        return text.to_owned();
    };
    format!("{scheme}://{}@{host}{path}", masked(user))
}

fn masked(user: &str) -> String {
    match user.split_once(':') {
        Some(("", _)) => format!(":{MASK}"),
        Some(_) => format!("{MASK}:{MASK}"),
        None if user.is_empty() => String::new(),
        None => MASK.to_owned(),
    }
}

/// A text for people, with user and password masked in each URL that is somewhere in it. The user of an SSH URL stays: it is no secret.
pub fn mask_credentials(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, behind) = (&rest[..at], &rest[at + 3..]);
        let scheme = before.rfind(|c| !is_of_scheme(c)).map_or(before, |end| {
            let end = end + before[end..].chars().next().map_or(0, char::len_utf8);
            &before[end..]
        });
        let end = behind.find(|c: char| {
            "/?#\"'`<>(){}[],;|\\".contains(c) || c.is_whitespace() || c.is_control()
        });
        let authority = &behind[..end.unwrap_or(behind.len())];
        let user = authority.rfind('@').map(|at| &authority[..at]);
        let kept = |user: &str| {
            let is_ssh = scheme.ends_with("ssh") || scheme == "sftp";
            scheme.is_empty() || REFERENCES.contains(&scheme) || is_ssh && !user.contains(':')
        };
        shown.push_str(before);
        shown.push_str("://");
        rest = behind;
        if let Some(user) = user.filter(|user| !kept(user)) {
            shown.push_str(&masked(user));
            rest = &behind[user.len()..];
        }
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(without_credentials(text), expected, "{text}");
            assert_eq!(mask_credentials(text), expected, "{text}");
        }
        let nested = "https://host?x=a://b:c@d";
        assert_eq!(without_credentials(nested), nested);
    }

    #[test]
    fn urls_are_found_anywhere() {
        for (text, expected) in [
            (
                "[2/3] ADD https://a:b@host/x http://t@h:80/y /z",
                "[2/3] ADD https://xxxxx:xxxxx@host/x http://xxxxx@h:80/y /z",
            ),
            (
                "cannot list \"https://a:b@h\"",
                "cannot list \"https://xxxxx:xxxxx@h\"",
            ),
            ("load ssh://git@host/x", "load ssh://git@host/x"),
            ("load ssh://git:pw@host/x", "load ssh://xxxxx:xxxxx@host/x"),
            (
                "mail me@host, see https://host",
                "mail me@host, see https://host",
            ),
            ("é://a:b@c", "é://a:b@c"),
            ("URL=https://a:b@h", "URL=https://xxxxx:xxxxx@h"),
            ("docker-image://a@sha256:0", "docker-image://a@sha256:0"),
            ("://", "://"),
        ] {
            assert_eq!(mask_credentials(text), expected, "{text}");
        }
    }
}
