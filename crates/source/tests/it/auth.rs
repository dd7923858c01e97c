use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use weld_source::Secret;
use weld_source::image::Descriptor;
use weld_source::progress::Progress;
use weld_source::reference::Reference;
use weld_source::registry::{
    Anonymous, Credential, Credentials, CredentialsError, DockerConfig, Failure, IssuedToken,
    Registry, RegistryConfig, RegistryError, TokenRequest,
};
use weld_source::sink::MemorySink;

use crate::support::server::{Reply, Request, Server};
use crate::support::{Counter, Layout, PASSWORD, RealRegistry, USER, quick_retry};

/// Is one user everywhere.
pub(crate) fn fixed(username: &str, password: &str) -> Arc<dyn Credentials> {
    Arc::new(Fixed(Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    }))
}

struct Fixed(Credential);

#[async_trait]
impl Credentials for Fixed {
    async fn get(&self, _host: &str) -> Result<Credential, CredentialsError> {
        Ok(self.0.clone())
    }
}

fn registry(credentials: Arc<dyn Credentials>) -> Registry {
    let config = RegistryConfig {
        retry: quick_retry(),
        ..RegistryConfig::default()
    };
    Registry::new(config, credentials)
}

fn name(host: &str) -> Reference {
    format!("{host}/app:v1").parse().unwrap()
}

#[tokio::test]
async fn a_real_registry_wants_the_right_password() {
    let (real, layout) = (RealRegistry::with_password(), Layout::new(&[1000]));
    let to = format!("{}/app:v1", real.host);
    crate::support::run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--dest-tls-verify=false",
            "--dest-creds",
            &format!("{USER}:{PASSWORD}"),
            &format!("oci:{}:latest", layout.path().display()),
            &format!("docker://{to}"),
        ],
    );
    let name = name(&real.host);
    let resolved = registry(fixed(USER, PASSWORD))
        .resolve(&name)
        .await
        .unwrap();
    assert_eq!(resolved.descriptor.digest, layout.descriptor.digest);

    let config = tempfile::NamedTempFile::new().unwrap();
    let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let text = serde_json::json!({"auths": {&real.host: {"auth": pair}}});
    std::fs::write(config.path(), text.to_string()).unwrap();
    let by_config = registry(Arc::new(DockerConfig::at(config.path())));
    by_config.resolve(&name).await.unwrap();

    for credentials in [fixed(USER, "wrong"), Arc::new(Anonymous)] {
        let error = registry(credentials).resolve(&name).await.unwrap_err();
        assert!(
            matches!(error.failure(), Some(Failure::Unauthorized(_))),
            "{error}"
        );
        let (host, text) = (&real.host, error.to_string());
        assert_eq!(
            text,
            format!(
                "cannot resolve {host}/app:v1 at {host}: unauthorized: authentication required"
            )
        );
    }
}

/// A registry that wants tokens, and its token server.
struct TokenWorld {
    registry: Server,
    tokens: Server,
}

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

impl TokenWorld {
    /// `issue` answers token requests; `accept` says which tokens the registry takes.
    async fn new(
        issue: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        accept: impl Fn(&Request, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let tokens = Server::new(issue).await;
        let realm = tokens.url("/token?fixed=1");
        let registry = Server::new(move |request| {
            let token = request
                .header("authorization")
                .strip_prefix("Bearer ")
                .unwrap_or("");
            if !accept(request, token) {
                let challenge = format!(
                    "Bearer realm=\"{realm}\",service=\"the service\",scope=\"repository:app:pull\""
                );
                return Reply::new(401, []).header("www-authenticate", challenge);
            }
            if request.target.contains("/blobs/") {
                return Reply::new(200, "blob");
            }
            Reply::new(200, MANIFEST)
                .header("content-type", "application/vnd.oci.image.index.v1+json")
        })
        .await;
        Self { registry, tokens }
    }

    async fn resolve(&self, credentials: Arc<dyn Credentials>) -> Result<(), RegistryError> {
        let registry = registry(credentials);
        registry
            .resolve_document(&name(&self.registry.host))
            .await
            .map(drop)
    }
}

#[tokio::test]
async fn tokens_are_fetched_once_with_the_scope_and_used_by_all() {
    let world = TokenWorld::new(
        |_| Reply::new(200, r#"{"token":"t1"}"#),
        |_, token| token == "t1",
    )
    .await;
    let registry = registry(Arc::new(Anonymous));
    registry
        .resolve_document(&name(&world.registry.host))
        .await
        .unwrap();
    let descriptor = Descriptor::of("x", b"blob");
    let reference = name(&world.registry.host);
    let progress = Progress::none();
    let fetches = (0..6).map(|_| {
        registry.fetch_blob(
            reference.repository(),
            &descriptor,
            MemorySink::new(),
            &progress,
        )
    });
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.unwrap();
    }
    let requests = world.tokens.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].method, "GET");
    assert_eq!(requests[0].path(), "/token");
    assert_eq!(
        requests[0].query(),
        "fixed=1&service=the+service&scope=repository%3Aapp%3Apull"
    );
    assert_eq!(requests[0].header("authorization"), "");
    let refused = world.registry.requests();
    let anonymous = refused
        .iter()
        .filter(|request| request.header("authorization").is_empty());
    assert_eq!(anonymous.count(), 1);
}

#[tokio::test]
async fn users_show_their_password_to_the_token_server_alone() {
    let world = TokenWorld::new(
        |request| match request.header("authorization") {
            "Basic dTpw" => Reply::new(200, r#"{"access_token":"t","expires_in":300}"#),
            _ => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
        },
        |_, token| token == "t",
    )
    .await;
    world.resolve(fixed("u", "p")).await.unwrap();
    assert!(world.tokens.requests()[0].query().ends_with("account=u"));
    for request in world.registry.requests() {
        assert!(!request.header("authorization").starts_with("Basic"));
    }
    let error = world
        .resolve(fixed("u", "secret-password"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("token server 127.0.0.1: unauthorized: incorrect username or password"),
        "{error}"
    );
    assert!(!error.contains("secret-password"));
}

#[tokio::test]
async fn a_token_server_that_knows_oauth_alone_is_asked_that_way() {
    let world = TokenWorld::new(
        |request| match request.method.as_str() {
            "POST" => Reply::new(200, r#"{"access_token":"t"}"#),
            _ => Reply::new(405, []),
        },
        |_, token| token == "t",
    )
    .await;
    world.resolve(fixed("u", "p")).await.unwrap();
    let form = String::from_utf8(world.tokens.requests().pop().unwrap().body).unwrap();
    assert_eq!(
        form,
        "grant_type=password&username=u&password=p&client_id=weld&service=the+service\
         &scope=repository%3Aapp%3Apull"
    );
    let identity = Arc::new(Fixed(Credential::IdentityToken(Secret::new("id"))));
    world.resolve(identity).await.unwrap();
    let form = String::from_utf8(world.tokens.requests().pop().unwrap().body).unwrap();
    assert!(
        form.starts_with("grant_type=refresh_token&refresh_token=id&client_id=weld"),
        "{form}"
    );
}

#[tokio::test]
async fn a_token_that_ran_out_is_renewed() {
    let issued = Counter::default();
    let current = Arc::new(Mutex::new(0));
    let valid = Arc::clone(&current);
    let world = TokenWorld::new(
        move |_| {
            let number = issued.next();
            *current.lock().unwrap() = number;
            Reply::new(200, format!(r#"{{"token":"t{number}","expires_in":3600}}"#))
        },
        // A manifest takes the token away.
        move |request, token| {
            let mut valid = valid.lock().unwrap();
            let good = token == format!("t{valid}");
            if good && request.method == "GET" {
                *valid = usize::MAX;
            }
            good
        },
    )
    .await;
    let registry = registry(Arc::new(Anonymous));
    for _ in 0..3 {
        registry
            .resolve_document(&name(&world.registry.host))
            .await
            .unwrap();
    }
    assert_eq!(world.tokens.requests().len(), 3);
}

#[tokio::test]
async fn a_token_server_that_fails_is_an_error_that_names_it() {
    for (reply, part) in [
        (
            Reply::new(200, "{}"),
            "token server 127.0.0.1: malformed answer: there is no token in it",
        ),
        (Reply::new(200, "nope"), "the token is not in JSON"),
        (Reply::new(503, []), "token server 127.0.0.1: status 503"),
    ] {
        let world = TokenWorld::new(move |_| reply.clone(), |_, _| false).await;
        let error = world
            .resolve(Arc::new(Anonymous))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let useless =
        TokenWorld::new(|_| Reply::new(200, r#"{"token":"useless"}"#), |_, _| false).await;
    let error = useless.resolve(Arc::new(Anonymous)).await.unwrap_err();
    assert!(
        matches!(error.failure(), Some(Failure::Unauthorized(_))),
        "{error}"
    );
    assert!(useless.registry.requests().len() < 12, "it gives up");
}

#[tokio::test]
async fn a_client_may_fetch_tokens_itself_and_clients_do_not_share_them() {
    struct Session(&'static str, Counter);
    #[async_trait]
    impl Credentials for Session {
        async fn get(&self, _host: &str) -> Result<Credential, CredentialsError> {
            Err(CredentialsError::Provider {
                host: "x".to_owned(),
                reason: "not given away".to_owned(),
            })
        }
        async fn token(
            &self,
            request: &TokenRequest,
        ) -> Result<Option<IssuedToken>, CredentialsError> {
            assert_eq!(request.scopes, ["repository:app:pull"]);
            self.1.next();
            Ok(Some(IssuedToken {
                token: Secret::new(self.0),
                expires_in: 300,
            }))
        }
    }
    let world = TokenWorld::new(|_| Reply::new(500, []), |_, token| token == "one").await;
    let asked = Counter::default();
    let one = registry(Arc::new(Session("one", asked.clone())));
    let name = name(&world.registry.host);
    one.resolve_document(&name).await.unwrap();
    one.resolve_document(&name).await.unwrap();
    assert_eq!(asked.next(), 1);
    let two = one.with_credentials(Arc::new(Session("two", Counter::default())));
    assert!(two.resolve_document(&name).await.is_err());
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credentials_along() {
    let elsewhere = Server::new(|_| Reply::new(200, "blob")).await;
    let to = elsewhere.url("/blob?signature=secret");
    let world = Server::new(move |request| match request.header("authorization") {
        "" => Reply::new(401, []).header("www-authenticate", "Basic realm=x"),
        _ => Reply::new(307, []).header("location", to.clone()),
    })
    .await;
    let registry = registry(fixed("u", "p"));
    let descriptor = Descriptor::of("x", b"blob");
    let reference = name(&world.host);
    registry
        .fetch_blob(
            reference.repository(),
            &descriptor,
            MemorySink::new(),
            &Progress::none(),
        )
        .await
        .unwrap();
    assert_eq!(elsewhere.requests()[0].header("authorization"), "");
    let gone = descriptor_of_other();
    let fetched = registry
        .fetch_blob(
            reference.repository(),
            &gone,
            MemorySink::new(),
            &Progress::none(),
        )
        .await;
    let error = fetched.err().unwrap().to_string();
    assert!(!error.contains("signature"), "{error}");
}

fn descriptor_of_other() -> Descriptor {
    Descriptor::of("x", b"more")
}

#[tokio::test]
async fn a_token_is_issued_for_one_who_may_not_have_the_credentials() {
    let world = TokenWorld::new(
        |request| match request.header("authorization") {
            "" => Reply::new(401, "nobody"),
            _ => Reply::new(200, r#"{"token": "issued", "expires_in": 120}"#),
        },
        |_, token| token == "issued",
    )
    .await;
    let wanted = TokenRequest {
        host: world.registry.host.clone(),
        realm: world.tokens.url("/token"),
        service: "the service".to_owned(),
        scopes: vec!["repository:app:pull".to_owned()],
    };
    let issued = registry(fixed("user", "pass")).issue_token(&wanted).await;
    let issued = issued.unwrap();
    assert_eq!((issued.token.expose(), issued.expires_in), ("issued", 120));
    let asked = world.tokens.requests();
    assert!(
        asked[0].target.contains("scope=repository%3Aapp%3Apull"),
        "{}",
        asked[0].target
    );
    let refused = registry(Arc::new(Anonymous)).issue_token(&wanted).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains(&wanted.host), "{error}");
    assert!(!error.contains("pass"), "{error}");
}
