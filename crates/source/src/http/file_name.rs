use percent_encoding::percent_decode_str;
use reqwest::header::{CONTENT_DISPOSITION, HeaderMap};
use url::Url;

/// What a file is called that no part of a request names.
const DEFAULT: &str = "download";

/// The name of a file: as stated, else as the server says, else the end of the URL's path.
pub(super) fn file_name(stated: Option<&str>, headers: Option<&HeaderMap>, url: &Url) -> String {
    if let Some(stated) = stated.filter(|stated| !stated.is_empty()) {
        return safe(stated);
    }
    let disposition = headers
        .and_then(|headers| headers.get(CONTENT_DISPOSITION))
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(name) = disposition.as_deref().and_then(disposition_name) {
        return safe(&name);
    }
    let last = url.path().rsplit('/').next().unwrap_or_default();
    match percent_decode_str(last).decode_utf8() {
        Ok(name) => safe(&name),
        Err(_) => safe(last),
    }
}

/// The last component of a name that somebody stated, or `download` if it is none that a file
/// could have.
pub fn safe(name: &str) -> String {
    let name = name.trim().trim_end_matches('/');
    let base = name.rsplit('/').next().unwrap_or_default();
    match base {
        "" | "." | ".." => DEFAULT.to_owned(),
        base if base.chars().any(char::is_control) || base.len() > 255 => DEFAULT.to_owned(),
        base => base.to_owned(),
    }
}

/// The file name of a `Content-Disposition` (RFC 6266); the extended form wins.
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    for parameter in parameters(header).into_iter().skip(1) {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                if let Some(decoded) = extended(value.trim()) {
                    return Some(decoded).filter(|name| is_usable(name));
                }
            }
            "filename" => plain = Some(unquoted(value.trim())),
            _ => {}
        }
    }
    plain.filter(|name| is_usable(name))
}

fn is_usable(name: &str) -> bool {
    !name.is_empty() && !name.ends_with('/')
}

/// Splits at semicolons outside of quotes.
fn parameters(header: &str) -> Vec<&str> {
    let mut quoted = false;
    let mut escaped = false;
    header
        .split(|c: char| {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ';' if !quoted => return true,
                _ => {}
            }
            false
        })
        .collect()
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    text
}

/// `UTF-8''percent-encoded` (RFC 8187).
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(stated: Option<&str>, disposition: Option<&str>, url: &str) -> String {
        let mut headers = HeaderMap::new();
        if let Some(disposition) = disposition {
            headers.insert(CONTENT_DISPOSITION, disposition.parse().unwrap());
        }
        file_name(stated, Some(&headers), &Url::parse(url).unwrap())
    }

    #[test]
    fn the_stated_name_wins_then_the_servers_then_the_urls() {
        let url = "http://x/a/b.tar.gz?c=d/e#f";
        assert_eq!(name(Some("n"), Some("attachment; filename=s"), url), "n");
        assert_eq!(name(None, Some("attachment; filename=s"), url), "s");
        assert_eq!(name(None, Some("inline"), url), "b.tar.gz");
        assert_eq!(name(None, None, url), "b.tar.gz");
        assert_eq!(name(None, None, "http://x/a%20b"), "a b");
        for url in ["http://x", "http://x/", "http://x/a/.."] {
            assert_eq!(name(None, None, url), "download", "{url}");
        }
    }

    #[test]
    fn dispositions_are_read_in_their_forms() {
        for (disposition, expected) in [
            (r#"attachment; filename="a b;c.txt"; size=3"#, "a b;c.txt"),
            (r#"attachment; filename="a\"b""#, "a\"b"),
            (
                "attachment; filename=x; filename*=UTF-8''%e2%82%ac.txt",
                "€.txt",
            ),
            ("attachment; filename*=latin1''%e4; filename=x", "x"),
            (r#"attachment; filename="../../etc/passwd""#, "passwd"),
            (r#"attachment; filename="a/""#, "url"),
            (r#"attachment; filename="""#, "url"),
            (r#"attachment; filename="..""#, "download"),
        ] {
            assert_eq!(
                name(None, Some(disposition), "http://x/url"),
                expected,
                "{disposition}"
            );
        }
    }

    #[test]
    fn unsafe_names_are_replaced() {
        for (stated, expected) in [
            ("a/b", "b"),
            ("../", "download"),
            ("a\0b", "download"),
            (" a ", "a"),
            (&"x".repeat(256), "download"),
        ] {
            assert_eq!(
                name(Some(stated), None, "http://x/"),
                expected,
                "{stated:?}"
            );
        }
    }
}
