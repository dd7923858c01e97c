//! Authorization: what to send with a request, learnt from the registry's challenges.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::challenge::Challenge;
use super::credentials::{Credential, Credentials, IssuedToken, TokenRequest};
use super::docker_config::basic;
use super::error::Failure;
use crate::secret::Secret;

const CLIENT_ID: &str = "weld";
/// How long a token lives if its server does not say (the token specification's default).
const DEFAULT_LIFETIME: u64 = 60;
/// How large a token server's answer may be.
const MAX_TOKEN: usize = 1 << 20;

/// What tokens shall allow: for each resource the actions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub(super) fn repository(path: &str, actions: &[&str]) -> Self {
        let mut scopes = Self::default();
        scopes.add(&format!("repository:{path}:{}", actions.join(",")));
        scopes
    }

    /// Adds scopes in their text form, separated by spaces.
    pub(super) fn add(&mut self, text: &str) {
        for scope in text.split_whitespace() {
            // The actions are behind the last colon: a name may have a port.
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                let entry = self.0.entry(resource.to_owned()).or_default();
                entry.extend(actions.split(',').map(str::to_owned));
            }
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (resource, actions) in other.0 {
            self.0.entry(resource).or_default().extend(actions);
        }
    }

    fn texts(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(resource, actions)| {
                let actions: Vec<_> = actions.iter().map(String::as_str).collect();
                format!("{resource}:{}", actions.join(","))
            })
            .collect()
    }
}

/// Keeps challenges and tokens per host, for one holder of credentials.
pub(super) struct Authorizer {
    pub(super) credentials: Arc<dyn Credentials>,
    /// The outer lock is held for a look-up only; the inner one while a token is fetched, so
    /// that requests that start together fetch one.
    hosts: Mutex<HashMap<String, Arc<Mutex<Host>>>>,
}

#[derive(Default)]
struct Host {
    challenge: Option<Challenge>,
    grants: HashMap<Scopes, Grant>,
}

/// What requests that need certain scopes are sent with.
struct Grant {
    /// The scopes that they need, and those that the host asked for beyond.
    scopes: Scopes,
    token: Option<Token>,
}

impl Host {
    fn grant(&mut self, scopes: &Scopes) -> &mut Grant {
        self.grants.entry(scopes.clone()).or_insert_with(|| Grant {
            scopes: scopes.clone(),
            token: None,
        })
    }
}

struct Token {
    header: Secret,
    fresh_until: Instant,
}

impl Authorizer {
    pub(super) fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self {
            credentials,
            hosts: Mutex::default(),
        }
    }

    /// What to send with a request, as far as the host's challenge is known.
    pub(super) async fn header(
        &self,
        client: &reqwest::Client,
        host: &str,
        scopes: &Scopes,
    ) -> Result<Option<Secret>, Failure> {
        let state = self.host(host).await;
        let mut state = state.lock().await;
        self.header_locked(client, host, &mut state, scopes).await
    }

    /// Learns from a refusal of `sent`; what to send instead, or `None` if nothing else will do.
    pub(super) async fn answer(
        &self,
        client: &reqwest::Client,
        host: &str,
        scopes: &Scopes,
        sent: Option<&Secret>,
        challenge: Challenge,
    ) -> Result<Option<Secret>, Failure> {
        let state = self.host(host).await;
        let mut state = state.lock().await;
        let grant = state.grant(scopes);
        if let Challenge::Bearer { scope, .. } = &challenge {
            grant.scopes.add(scope);
        }
        // Another request may have got a better one since.
        grant
            .token
            .take_if(|token| sent.is_some_and(|sent| token.header == *sent));
        state.challenge = Some(challenge);
        let header = self.header_locked(client, host, &mut state, scopes).await?;
        Ok(header.filter(|header| Some(header) != sent))
    }

    async fn host(&self, host: &str) -> Arc<Mutex<Host>> {
        let mut hosts = self.hosts.lock().await;
        Arc::clone(hosts.entry(host.to_owned()).or_default())
    }

    async fn header_locked(
        &self,
        client: &reqwest::Client,
        host: &str,
        state: &mut Host,
        scopes: &Scopes,
    ) -> Result<Option<Secret>, Failure> {
        let Some(challenge) = state.challenge.clone() else {
            return Ok(None);
        };
        let now = Instant::now();
        let grant = state.grant(scopes);
        if let Some(token) = grant.token.as_ref().filter(|token| token.fresh_until > now) {
            return Ok(Some(token.header.clone()));
        }
        let Challenge::Bearer { realm, service, .. } = challenge else {
            return Ok(match self.credentials.get(host).await? {
                Credential::Basic { username, password } => {
                    Some(Secret::new(basic(&username, &password)))
                }
                Credential::RegistryToken(token) => Some(bearer(&token)),
                Credential::Anonymous | Credential::IdentityToken(_) => None,
            });
        };
        let request = TokenRequest {
            host: host.to_owned(),
            realm,
            service,
            scopes: grant.scopes.texts(),
        };
        let issued = issue(&*self.credentials, client, &request).await?;
        let lifetime = Duration::from_secs(issued.expires_in);
        let header = bearer(&issued.token);
        grant.token = Some(Token {
            header: header.clone(),
            // Not to the last second: the token travels, and clocks differ.
            fresh_until: now + lifetime.mul_f64(0.9),
        });
        Ok(Some(header))
    }
}

/// A token from its server, as who `credentials` say, or from them if they fetch tokens themselves.
pub(super) async fn issue(
    credentials: &dyn Credentials,
    client: &reqwest::Client,
    request: &TokenRequest,
) -> Result<IssuedToken, Failure> {
    if let Some(issued) = credentials.token(request).await? {
        return Ok(issued);
    }
    let credential = credentials.get(&request.host).await?;
    let issued = match &credential {
        Credential::RegistryToken(token) => {
            return Ok(IssuedToken {
                token: token.clone(),
                expires_in: DEFAULT_LIFETIME,
            });
        }
        Credential::IdentityToken(token) => refresh(client, request, token).await,
        Credential::Basic { username, password } => {
            let user = Some((username.as_str(), password));
            match fetch(client, request, user).await {
                // Some servers know OAuth's way alone (GCR, JFrog).
                Err(Failure::NotFound(_) | Failure::Unauthorized(_)) => {
                    login(client, request, username, password).await
                }
                Err(Failure::Status { status, .. }) if status.as_u16() == 405 => {
                    login(client, request, username, password).await
                }
                other => other,
            }
        }
        Credential::Anonymous => fetch(client, request, None).await,
    };
    issued.map_err(|failure| Failure::Token {
        realm: host_of(&request.realm),
        source: Box::new(failure),
    })
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.expose()))
}

fn host_of(realm: &str) -> String {
    let url = Url::parse(realm).ok();
    let host = url.as_ref().and_then(Url::host_str);
    host.unwrap_or("(no URL)").to_owned()
}

fn realm_url(request: &TokenRequest) -> Result<Url, Failure> {
    let url = Url::parse(&request.realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| Failure::Protocol(format!("{:?} is no URL", request.realm)))
}

/// Docker's way: a GET with the scopes in the query.
async fn fetch(
    client: &reqwest::Client,
    request: &TokenRequest,
    user: Option<(&str, &Secret)>,
) -> Result<IssuedToken, Failure> {
    let mut url = realm_url(request)?;
    {
        let mut query = url.query_pairs_mut();
        if !request.service.is_empty() {
            query.append_pair("service", &request.service);
        }
        for scope in &request.scopes {
            query.append_pair("scope", scope);
        }
        if let Some((username, _)) = user {
            query.append_pair("account", username);
        }
    }
    let mut builder = client.get(url);
    if let Some((username, password)) = user {
        builder = builder.header(AUTHORIZATION, basic(username, password));
    }
    read(builder).await
}

/// OAuth's way with a user's password.
async fn login(
    client: &reqwest::Client,
    request: &TokenRequest,
    username: &str,
    password: &Secret,
) -> Result<IssuedToken, Failure> {
    post(
        client,
        request,
        &[
            ("grant_type", "password"),
            ("username", username),
            ("password", password.expose()),
        ],
    )
    .await
}

/// OAuth's way with an identity token.
async fn refresh(
    client: &reqwest::Client,
    request: &TokenRequest,
    token: &Secret,
) -> Result<IssuedToken, Failure> {
    post(
        client,
        request,
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", token.expose()),
        ],
    )
    .await
}

async fn post(
    client: &reqwest::Client,
    request: &TokenRequest,
    fields: &[(&str, &str)],
) -> Result<IssuedToken, Failure> {
    let url = realm_url(request)?;
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .append_pair("client_id", CLIENT_ID)
        .append_pair("service", &request.service)
        .append_pair("scope", &request.scopes.join(" "))
        .finish();
    let builder = client
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form);
    read(builder).await
}

async fn read(builder: reqwest::RequestBuilder) -> Result<IssuedToken, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        expires_in: Option<u64>,
    }
    let response = builder.send().await.map_err(network)?;
    if !response.status().is_success() {
        return Err(Failure::of(response).await);
    }
    let body = super::read_limited(response, MAX_TOKEN).await?;
    // The parser's own message could quote the token.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| Failure::Protocol("the token is not in JSON".to_owned()))?;
    let token = match answer.token {
        token if token.is_empty() => answer.access_token,
        token => token,
    };
    if token.is_empty() {
        return Err(Failure::Protocol("there is no token in it".to_owned()));
    }
    Ok(IssuedToken {
        token: Secret::new(token),
        expires_in: answer
            .expires_in
            .filter(|seconds| *seconds > 0)
            .unwrap_or(DEFAULT_LIFETIME),
    })
}

fn network(error: reqwest::Error) -> Failure {
    Failure::Network(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_merge_and_have_one_text() {
        let mut scopes = Scopes::repository("a/b", &["push", "pull"]);
        scopes.add("repository:a/b:pull repository:c:pull registry:catalog:*");
        assert_eq!(
            scopes.texts(),
            [
                "registry:catalog:*",
                "repository:a/b:pull,push",
                "repository:c:pull"
            ]
        );
    }
}
