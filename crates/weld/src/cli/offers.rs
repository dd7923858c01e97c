//! What the command line offers a build: secrets and SSH agents.

use std::path::PathBuf;

use weld_engine::{HostSession, SecretSource, SessionError};

use super::fields::{Fields, FieldsError};
use super::streams;

/// Why a secret or an SSH agent cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OfferError {
    #[error("--secret {0}")]
    Fields(#[from] FieldsError),
    #[error("--secret {0:?}: needs id=…")]
    NoId(String),
    #[error("--secret {text:?}: unknown type {kind:?} (known: file, env)")]
    UnknownType { text: String, kind: String },
    #[error("--secret {0:?}: name either a file (src=) or a variable (env=)")]
    TwoSources(String),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Adds the secrets of all `--secret` options.
pub(crate) fn add_secrets(session: &mut HostSession, options: &[String]) -> Result<(), OfferError> {
    for text in options {
        let (id, source) = secret(text)?;
        if let SecretSource::Variable(name) = &source
            && std::env::var_os(name).is_none()
        {
            streams::tell(format!(
                "WARNING: --secret {text:?}: the environment has no variable {name}: the secret is empty"
            ));
        }
        session.add_secret(&id, source)?;
    }
    Ok(())
}

fn secret(text: &str) -> Result<(String, SecretSource), OfferError> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in Fields::parse(text)?.iter() {
        let field = match key.to_ascii_lowercase().as_str() {
            "id" => &mut id,
            "src" | "source" => &mut file,
            "env" => &mut variable,
            "type" => &mut kind,
            _ => {
                return Err(FieldsError::Unknown {
                    text: text.to_owned(),
                    field: key.to_owned(),
                    known: "id, src, env, type".into(),
                }
                .into());
            }
        };
        let value = value.ok_or_else(|| FieldsError::NoValue {
            text: text.to_owned(),
            field: key.to_owned(),
        })?;
        *field = Some(value.to_owned());
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| OfferError::NoId(text.to_owned()))?;
    let source = match (file, variable, kind.as_deref()) {
        (Some(_), Some(_), _) => return Err(OfferError::TwoSources(text.to_owned())),
        // As docker has it: type=env reads src as the variable's name.
        (Some(name), None, Some("env")) | (None, Some(name), _) => SecretSource::Variable(name),
        (Some(path), None, None | Some("file")) => SecretSource::File(PathBuf::from(path)),
        (None, None, Some("env")) => SecretSource::Variable(id.clone()),
        (None, None, Some("file")) => SecretSource::File(PathBuf::from(&id)),
        // As docker has it: a variable of that name if there is one, else a file.
        (None, None, None) if std::env::var_os(&id).is_some() => SecretSource::Variable(id.clone()),
        (None, None, None) => SecretSource::File(PathBuf::from(&id)),
        (_, _, Some(kind)) => {
            return Err(OfferError::UnknownType {
                text: text.to_owned(),
                kind: kind.to_owned(),
            });
        }
    };
    Ok((id, source))
}

/// Adds the agents of all `--ssh` options.
pub(crate) fn add_ssh(session: &mut HostSession, options: &[String]) -> Result<(), OfferError> {
    for text in options {
        let (id, paths) = match text.split_once('=') {
            Some((id, paths)) => (
                id,
                paths
                    .split(',')
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from)
                    .collect(),
            ),
            None => (text.as_str(), Vec::new()),
        };
        session.add_ssh(if id.is_empty() { "default" } else { id }, paths)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, SecretSource), String> {
        secret(text).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_name_their_source() {
        let file = |path: &str| SecretSource::File(path.into());
        let variable = |name: &str| SecretSource::Variable(name.into());
        for (text, source) in [
            ("id=a,src=/x/y", file("/x/y")),
            ("id=a,source=y,type=file", file("y")),
            ("id=a,env=TOKEN", variable("TOKEN")),
            ("id=a,type=env,src=TOKEN", variable("TOKEN")),
            ("id=a,type=env", variable("a")),
            ("id=a_file_and_no_variable", file("a_file_and_no_variable")),
        ] {
            let (_, read) = read(text).unwrap();
            assert_eq!(read, source, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, part) in [
            ("src=x", "needs id="),
            ("id=a,type=vault", "unknown type \"vault\""),
            ("id=a,src=x,env=Y", "either a file"),
            ("id=a,path=x", "unexpected field \"path\""),
            ("id", "needs a value"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
