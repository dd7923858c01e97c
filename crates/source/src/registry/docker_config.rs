use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{GeneralPurposeConfig, STANDARD};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::credentials::{Credential, Credentials, CredentialsError};
use crate::secret::Secret;

/// Under which key docker keeps Docker Hub's credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// How long a helper may take: some ask a user or a cloud's service.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a helper's output is read.
const MAX_HELPER_OUTPUT: u64 = 1 << 20;
/// How large the configuration may be.
const MAX_CONFIG: u64 = 8 << 20;

/// Padding is optional: some tools leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// Credentials from docker's `config.json`: `auths`, `credsStore` and `credHelpers`. The file is
/// read anew for each registry, so that a login during a long build counts.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    path: Option<PathBuf>,
}

/// Why docker's configuration gives no credentials.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not as docker writes it.
    #[error("malformed {path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A credential helper failed.
    #[error("credential helper docker-credential-{name}, asked for {server}: {reason}")]
    Helper {
        /// The helper's name, without the prefix of its program.
        name: String,
        /// The registry that it was asked for.
        server: String,
        /// Why.
        reason: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl DockerConfig {
    /// The user's own: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn of_user() -> Self {
        let directory = std::env::var_os("DOCKER_CONFIG")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
            .or_else(|| {
                std::env::var_os("HOME")
                    .filter(|value| !value.is_empty())
                    .map(|home| PathBuf::from(home).join(".docker"))
            });
        Self {
            path: directory.map(|directory| directory.join("config.json")),
        }
    }

    /// The file at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
        }
    }

    /// The directory that it is in; `None` if the user has no home.
    pub fn directory(&self) -> Option<&Path> {
        self.path.as_deref().and_then(Path::parent)
    }

    async fn read(&self) -> Result<Option<(&Path, File)>, DockerConfigError> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let failed = |source| DockerConfigError::Read {
            path: path.clone(),
            source,
        };
        let file = match tokio::fs::File::open(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut text = Vec::new();
        file.take(MAX_CONFIG)
            .read_to_end(&mut text)
            .await
            .map_err(failed)?;
        let file = serde_json::from_slice(&text).map_err(|error| DockerConfigError::Malformed {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(Some((path, file)))
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn get(&self, host: &str) -> Result<Credential, CredentialsError> {
        let Some((path, file)) = self.read().await? else {
            return Ok(Credential::Anonymous);
        };
        let keys = keys(host);
        if let Some(helper) = keys.iter().find_map(|key| file.cred_helpers.get(*key)) {
            return Ok(ask(helper, keys[0]).await?);
        }
        if !file.creds_store.is_empty() {
            let stored = ask(&file.creds_store, keys[0]).await?;
            if stored != Credential::Anonymous {
                return Ok(stored);
            }
        }
        let entry = file
            .auths
            .iter()
            .find(|(key, _)| keys.contains(&key.as_str()) || keys.contains(&host_of(key)));
        Ok(match entry {
            Some((key, entry)) => {
                credential(entry).map_err(|reason| DockerConfigError::Malformed {
                    path: path.to_owned(),
                    reason: format!("auths[{key:?}]: {reason}"),
                })?
            }
            None => Credential::Anonymous,
        })
    }
}

/// The keys under which docker may keep a registry's credentials, the usual one first.
fn keys(host: &str) -> Vec<&str> {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec![
                HUB_KEY,
                "index.docker.io",
                "docker.io",
                "registry-1.docker.io",
            ]
        }
        host => vec![host],
    }
}

/// The host of a key that may be a URL.
fn host_of(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    bare.split('/').next().unwrap_or(bare)
}

fn credential(entry: &Entry) -> Result<Credential, String> {
    if !entry.registrytoken.is_empty() {
        return Ok(Credential::RegistryToken(Secret::new(&entry.registrytoken)));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Credential::IdentityToken(Secret::new(&entry.identitytoken)));
    }
    if !entry.auth.is_empty() {
        let decoded = BASE64
            .decode(entry.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or("\"auth\" is not base64 of user:password")?;
        let (username, password) = decoded
            .split_once(':')
            .ok_or("\"auth\" is not base64 of user:password")?;
        return Ok(Credential::Basic {
            username: username.to_owned(),
            password: Secret::new(password.trim_end_matches('\0')),
        });
    }
    if entry.username.is_empty() {
        return Ok(Credential::Anonymous);
    }
    Ok(Credential::Basic {
        username: entry.username.clone(),
        password: Secret::new(&entry.password),
    })
}

/// Asks a credential helper, by the protocol of docker-credential-helpers: the server on stdin,
/// JSON on stdout.
async fn ask(helper: &str, server: &str) -> Result<Credential, DockerConfigError> {
    if helper.contains('/') {
        return Err(DockerConfigError::Helper {
            name: helper.to_owned(),
            server: server.to_owned(),
            reason: "its name must not have a slash".to_owned(),
        });
    }
    ask_program(&format!("docker-credential-{helper}"), helper, server).await
}

async fn ask_program(
    program: &str,
    helper: &str,
    server: &str,
) -> Result<Credential, DockerConfigError> {
    let failed = |reason: String| DockerConfigError::Helper {
        name: helper.to_owned(),
        server: server.to_owned(),
        reason,
    };
    let answer = tokio::time::timeout(HELPER_TIMEOUT, run(program, server))
        .await
        .map_err(|_| failed(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !answer.success {
        // The protocol has this text, not a status, for the one failure that is none.
        if answer.stdout.contains("credentials not found") {
            return Ok(Credential::Anonymous);
        }
        return Err(failed(one_line(&answer.stdout)));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Stored {
        username: String,
        secret: String,
    }
    // The parser's own message could quote the secret.
    let stored: Stored = serde_json::from_str(&answer.stdout)
        .map_err(|_| failed("its answer is not {\"Username\": …, \"Secret\": …}".to_owned()))?;
    Ok(match stored.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(Secret::new(stored.secret)),
        "" if stored.secret.is_empty() => Credential::Anonymous,
        _ => Credential::Basic {
            username: stored.username,
            password: Secret::new(stored.secret),
        },
    })
}

struct Answer {
    success: bool,
    stdout: String,
}

async fn run(program: &str, server: &str) -> io::Result<Answer> {
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input has an answer all the same.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut stdout = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(MAX_HELPER_OUTPUT)
            .read_to_end(&mut stdout)
            .await?;
    }
    Ok(Answer {
        success: child.wait().await?.success(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
    })
}

fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    match line {
        "" => "failed without a message".to_owned(),
        line => line.chars().take(300).collect(),
    }
}

/// The value of a `Basic` authorization.
pub(super) fn basic(username: &str, password: &Secret) -> String {
    let pair = format!("{username}:{}", password.expose());
    format!("Basic {}", STANDARD.encode(pair))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(config: &str) -> (tempfile::TempDir, DockerConfig) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        (directory, DockerConfig::at(path))
    }

    fn basic_of(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        }
    }

    #[tokio::test]
    async fn entries_are_found_by_host_and_by_url() {
        let (_directory, config) = directory(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"aHViOnA6dw=="},
                "ghcr.io":{"auth":"bm9wYWQ6eA"},
                "https://old.example/v2/":{"username":"u","password":"p"},
                "id.example":{"auth":"dTpw","identitytoken":"t"},
                "reg.example":{"registrytoken":"r"},
                "empty.example":{}
            },"HttpHeaders":{"x":"y"}}"#,
        );
        for (host, expected) in [
            ("registry-1.docker.io", basic_of("hub", "p:w")),
            ("docker.io", basic_of("hub", "p:w")),
            ("ghcr.io", basic_of("nopad", "x")),
            ("old.example", basic_of("u", "p")),
            ("id.example", Credential::IdentityToken(Secret::new("t"))),
            ("reg.example", Credential::RegistryToken(Secret::new("r"))),
            ("empty.example", Credential::Anonymous),
            ("other.example", Credential::Anonymous),
        ] {
            assert_eq!(config.get(host).await.unwrap(), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_no_error_and_a_broken_one_is() {
        let absent = DockerConfig::at("/nonexistent/config.json");
        assert_eq!(absent.get("x").await.unwrap(), Credential::Anonymous);
        for (config, part) in [
            ("{", "malformed"),
            (
                r#"{"auths":{"x":{"auth":"!!"}}}"#,
                "auths[\"x\"]: \"auth\" is not base64",
            ),
            (r#"{"auths":{"x":{"auth":"dQ=="}}}"#, "user:password"),
        ] {
            let (_directory, config) = directory(config);
            let error = config.get("x").await.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn helpers_are_asked_and_their_failures_named() {
        let scripts = tempfile::tempdir().unwrap();
        let helper = scripts.path().join("docker-credential-weldtest");
        let script = r#"#!/bin/sh
read server
case "$server" in
  good.example) echo '{"ServerURL":"x","Username":"u","Secret":"s"}' ;;
  token.example) echo '{"Username":"<token>","Secret":"s"}' ;;
  none.example) echo 'credentials not found in native keychain'; exit 1 ;;
  broken.example) echo '{"Secret":"hush' ;;
  *) echo 'the keychain is locked'; exit 1 ;;
esac
"#;
        std::fs::write(&helper, script).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let helper = helper.to_str().unwrap();
        // By its path, so that the test need not change the environment of its process.
        let ask = async |server: &str| {
            let answer = ask_program(helper, "weldtest", server).await;
            answer.map_err(|error| error.to_string())
        };
        assert_eq!(ask("good.example").await, Ok(basic_of("u", "s")));
        assert_eq!(
            ask("token.example").await,
            Ok(Credential::IdentityToken(Secret::new("s")))
        );
        assert_eq!(ask("none.example").await, Ok(Credential::Anonymous));
        let broken = ask("broken.example").await.unwrap_err();
        assert!(
            broken.contains("its answer is not") && !broken.contains("hush"),
            "{broken}"
        );
        assert!(
            ask("locked.example")
                .await
                .unwrap_err()
                .contains("the keychain is locked")
        );

        let (_directory, config) = directory(r#"{"credHelpers":{"x":"weld-absent"}}"#);
        let error = config.get("x").await.unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-weld-absent, asked for x: No such file"),
            "{error}"
        );
        let (_directory, config) = directory(r#"{"credHelpers":{"x":"../evil"}}"#);
        assert!(
            config
                .get("x")
                .await
                .unwrap_err()
                .to_string()
                .contains("slash")
        );
    }
}
