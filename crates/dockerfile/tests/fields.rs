//! Values that are read after expansion: ports and modes; and ignore files.

#![allow(clippy::unwrap_used)]

use weld_dockerfile::chmod::Chmod;
use weld_dockerfile::ignore::{self, IgnoreError};
use weld_dockerfile::lint::Rule;
use weld_dockerfile::port::{self, PortError};

fn ports(spec: &str) -> Vec<String> {
    let (ports, _) = port::parse(spec).unwrap();
    ports.iter().map(ToString::to_string).collect()
}

#[test]
fn port_specifications() {
    for (spec, expected) in [
        ("80", &["80/tcp"][..]),
        ("53/UDP", &["53/udp"]),
        ("7-9/sctp", &["7/sctp", "8/sctp", "9/sctp"]),
        ("0", &["0/tcp"]),
        ("65535/", &["65535/tcp"]),
        ("8080:80", &["80/tcp"]),
        ("127.0.0.1:8080:80/tcp", &["80/tcp"]),
        ("[::1]:8080:80", &["80/tcp"]),
        ("::1:8080:80", &["80/tcp"]),
        ("127.0.0.1::80", &["80/tcp"]),
        ("1000-2000:80", &["80/tcp"]),
        ("10-11:80-81", &["80/tcp", "81/tcp"]),
    ] {
        assert_eq!(ports(spec), expected, "{spec}");
    }
}

#[test]
fn ports_that_are_none() {
    let error = |spec: &str| port::parse(spec).unwrap_err();
    assert!(matches!(error(""), PortError::Missing { .. }));
    assert!(matches!(error("/tcp"), PortError::Missing { .. }));
    assert!(matches!(error("80/icmp"), PortError::Protocol { .. }));
    for spec in ["x", "-1", "65536", "9-8", "1-", "80-x", "$PORT"] {
        assert!(matches!(error(spec), PortError::Container { .. }), "{spec}");
    }
    assert!(matches!(error("x:80"), PortError::Host { .. }));
    assert!(matches!(error("host:1:80"), PortError::Address { .. }));
    assert!(matches!(error("1-3:80-81"), PortError::Ranges { .. }));
}

#[test]
fn ports_that_the_linter_dislikes() {
    let rules = |spec: &str| -> Vec<Rule> {
        let (_, findings) = port::parse(spec).unwrap();
        findings.iter().map(|finding| finding.rule()).collect()
    };
    assert_eq!(rules("80/tcp"), []);
    assert_eq!(rules("80/TCP"), [Rule::ExposeProtoCasing]);
    assert_eq!(rules("1:80"), [Rule::ExposeInvalidFormat]);
}

#[test]
fn modes() {
    for (text, mode) in [("755", 0o755), ("0", 0), ("07777", 0o7777), ("0644", 0o644)] {
        assert_eq!(Chmod::parse(text), Ok(Chmod::Octal(mode)), "{text}");
    }
    for text in [
        "u=rwX,go=rX",
        "+x",
        "a-w",
        "=",
        "go=",
        "u+s,+t",
        "g=u",
        "u+rw-x",
        "ug=o,o=",
    ] {
        let symbolic = Chmod::Symbolic(text.to_owned());
        assert_eq!(Chmod::parse(text), Ok(symbolic), "{text}");
    }
    for text in [
        "", "8", "10000", "7555", "0x1", "u", "u+z", "x", "u=r,", ",", "-1 ",
    ] {
        let expected_ok = text == "7555";
        assert_eq!(Chmod::parse(text).is_ok(), expected_ok, "{text}");
    }
}

#[test]
fn ignore_files() {
    let text = "\u{feff}# comment\n\n  \t\n\
                /abs/\n./a/../b//c\n  spaced name  \n! /keep/me \n#no\n #yes\n\
                **/*.o\r\n../up\n/\n.\n!.\na/./b/.\n/../x\n";
    assert_eq!(
        ignore::parse(text.as_bytes()).unwrap(),
        [
            "abs",
            "b/c",
            "spaced name",
            "!keep/me",
            "#yes",
            "**/*.o",
            "../up",
            "/",
            ".",
            "!.",
            "a/b",
            "x"
        ]
    );
    assert_eq!(ignore::parse(b"").unwrap(), [""; 0]);
    assert_eq!(
        ignore::parse(b"ok\ncaf\xe9\n"),
        Err(IgnoreError::NotUtf8 { line: 2 })
    );
    assert!(ignore::parse(b"# caf\xe9\nok").is_ok());
    for (text, at) in [("ok\n!\n", 2), ("[bad", 1), ("#\n\na\\", 3)] {
        let error = ignore::parse(text.as_bytes());
        assert!(
            matches!(error, Err(IgnoreError::Pattern { line, .. }) if line == at),
            "{error:?}"
        );
    }
    let large = vec![b'\n'; ignore::MAX_SIZE + 1];
    assert_eq!(ignore::parse(&large), Err(IgnoreError::TooLarge));
}
