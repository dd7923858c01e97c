//! The token that a job of GitHub Actions has for its run: a JSON Web Token whose `ac` claim says which caches it may read and write.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::Secret;

/// Most scopes of one token.
const MAX_SCOPES: usize = 64;
/// The bit of a scope's permissions that lets entries be written.
const WRITE: u64 = 2;

/// A job's token. Only the service can tell whether it is genuine.
#[derive(Clone, PartialEq, Eq)]
pub struct ActionsToken {
    secret: Secret,
    scopes: Vec<Scope>,
    expires: Option<SystemTime>,
}

/// A part of a repository's cache: that of a branch or a pull request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scope {
    scope: String,
    permission: u64,
}

#[derive(Deserialize)]
struct Claims {
    /// JSON in a string.
    ac: Option<String>,
    exp: Option<f64>,
}

/// Why a token cannot be used. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// It is no JSON Web Token.
    #[error("is no token of a job of GitHub Actions")]
    Form,
    /// It does not say what it is good for.
    #[error("does not say which caches may be read and written (the claim \"ac\")")]
    Access,
    /// It says too much.
    #[error("has more than {MAX_SCOPES} scopes")]
    Scopes,
}

impl ActionsToken {
    /// Reads what a token says of itself.
    ///
    /// # Errors
    /// [`ParseTokenError`].
    pub fn parse(token: &str) -> Result<Self, ParseTokenError> {
        let mut parts = token.split('.');
        let (Some(_), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTokenError::Form);
        };
        let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('='));
        let claims = claims.map_err(|_| ParseTokenError::Form)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| ParseTokenError::Form)?;
        let access = claims.ac.ok_or(ParseTokenError::Access)?;
        let scopes: Vec<Scope> =
            serde_json::from_str(&access).map_err(|_| ParseTokenError::Access)?;
        if scopes.len() > MAX_SCOPES {
            return Err(ParseTokenError::Scopes);
        }
        let expires = claims.exp.and_then(|seconds| {
            let since = Duration::try_from_secs_f64(seconds).ok()?;
            UNIX_EPOCH.checked_add(since)
        });
        Ok(Self {
            secret: Secret::new(token),
            scopes,
            expires,
        })
    }

    /// The scopes that may be read, in the order in which they are looked at.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(|scope| scope.scope.as_str())
    }

    /// The scope that is written.
    pub fn written_scope(&self) -> Option<&str> {
        let mut written = self.scopes.iter().rev();
        let found = written.find(|scope| scope.permission & WRITE != 0);
        found.map(|scope| scope.scope.as_str())
    }

    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether its time is over.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires < now)
    }
}

impl fmt::Debug for ActionsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionsToken")
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn scopes_are_what_the_token_says() {
        let claims = r#"{"exp":4e9,"nbf":1,"ac":"[{\"Scope\":\"refs/pull/1/merge\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}"#;
        let read = ActionsToken::parse(&token(claims)).unwrap();
        let scopes: Vec<_> = read.scopes().collect();
        assert_eq!(scopes, ["refs/pull/1/merge", "refs/heads/main"]);
        assert_eq!(read.written_scope(), Some("refs/pull/1/merge"));
        assert!(!read.has_expired(SystemTime::now()));
        let reading = r#"{"exp":1,"ac":"[{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"}"#;
        let read = ActionsToken::parse(&token(reading)).unwrap();
        assert_eq!(read.written_scope(), None);
        assert!(read.has_expired(SystemTime::now()));
    }

    #[test]
    fn what_is_no_token_is_told_without_it() {
        let many = vec![r#"{\"Scope\":\"a\",\"Permission\":1}"#; 65].join(",");
        for (text, expected) in [
            ("hush".to_owned(), ParseTokenError::Form),
            ("a.hush.c.d".to_owned(), ParseTokenError::Form),
            ("a.!hush!.c".to_owned(), ParseTokenError::Form),
            (token("{}"), ParseTokenError::Access),
            (token(r#"{"ac":"hush"}"#), ParseTokenError::Access),
            (token(r#"{"ac":7}"#), ParseTokenError::Form),
            (
                token(&format!(r#"{{"ac":"[{many}]"}}"#)),
                ParseTokenError::Scopes,
            ),
        ] {
            let error = ActionsToken::parse(&text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
