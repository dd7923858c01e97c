//! Azure Blob Storage: how an account is reached, and what the protocols' crate has no call for.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use object_store::azure::{AzureAuthorizer, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use super::http::Connection;
use super::{AzureAccount, ObjectCredentials, ObjectError};

/// Where tokens of this machine may be shown: whoever else gets one can read whatever it opens.
const OWN_HOSTS: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.chinacloudapi.cn",
    ".blob.storage.azure.net",
];
/// How much of an answer that says what is wrong is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// An account, and how it is asked.
#[derive(Clone)]
pub(super) struct Azure {
    store: Arc<MicrosoftAzure>,
    client: HttpClient,
    account: AzureAccount,
    endpoint: Url,
}

impl Azure {
    pub(super) fn open(
        account: &AzureAccount,
        credentials: &ObjectCredentials,
        retry: RetryConfig,
    ) -> Result<Self, ObjectError> {
        let bad = |attribute, reason: String| ObjectError::Setting { attribute, reason };
        const URL: &str = "account_url";
        let endpoint = Url::parse(&account.url).map_err(|error| bad(URL, error.to_string()))?;
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let is_plain = endpoint.query().is_none()
            && endpoint.fragment().is_none()
            && endpoint.username().is_empty()
            && matches!(endpoint.scheme(), "http" | "https");
        if host.is_empty() || !is_plain {
            let reason = "must be an http:// or https:// address without a query or a user";
            return Err(bad(URL, reason.to_owned()));
        }
        let builder = match credentials {
            ObjectCredentials::Azure(key) => {
                MicrosoftAzureBuilder::new().with_access_key(key.expose())
            }
            ObjectCredentials::Environment => {
                let is_azures = OWN_HOSTS.iter().any(|own| host.ends_with(own));
                if !(is_azures && endpoint.scheme() == "https") {
                    let reason = format!(
                        "{host} is none of Azure's hosts, which alone are shown tokens of this machine: \
                         secret_access_key is needed"
                    );
                    return Err(bad(URL, reason));
                }
                MicrosoftAzureBuilder::from_env()
            }
            ObjectCredentials::S3 { .. } | ObjectCredentials::Actions(_) => {
                let reason = "what is given is no key of Azure's".to_owned();
                return Err(bad("secret_access_key", reason));
            }
        };
        let connection = Connection::to(&endpoint)?;
        let client = HttpClient::new(connection.clone());
        let built = builder
            .with_account(&account.name)
            .with_container_name(&account.container)
            .with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned())
            .with_retry(retry)
            .with_http_connector(connection)
            .build()
            .map_err(|error| bad("azblob", error.to_string()))?;
        Ok(Self {
            store: Arc::new(built),
            client,
            account: account.clone(),
            endpoint,
        })
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as Arc<dyn ObjectStore>
    }

    /// Makes the container if it is not there.
    pub(super) async fn make_container(&self) -> Result<(), ObjectError> {
        let container = &self.account.container;
        let looked = self.ask("look for", Method::GET).await?;
        if looked.0.is_success() {
            return Ok(());
        }
        if looked.0 != StatusCode::NOT_FOUND {
            return Err(ObjectError::answer(
                "look for", container, looked.0, &looked.1,
            ));
        }
        let (status, body) = self.ask("make", Method::PUT).await?;
        // Somebody else may have made it meanwhile.
        match status.is_success() || status == StatusCode::CONFLICT {
            true => Ok(()),
            false => Err(ObjectError::answer("make", container, status, &body)),
        }
    }

    /// A request about the container.
    async fn ask(
        &self,
        action: &'static str,
        method: Method,
    ) -> Result<(StatusCode, String), ObjectError> {
        let container = &self.account.container;
        let bad = |reason: String| ObjectError::Request {
            action,
            key: container.clone(),
            reason,
            status: None,
        };
        let base = self.endpoint.as_str().trim_end_matches('/');
        let length = (method == Method::PUT).then_some("0");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{base}/{container}?restype=container"));
        if let Some(length) = length {
            request = request.header(http::header::CONTENT_LENGTH, length);
        }
        let mut request = request
            .body(HttpRequestBody::empty())
            .map_err(|error| bad(error.to_string()))?;
        let credential = self.store.credentials().get_credential().await;
        let credential = credential.map_err(|error| bad(error.to_string()))?;
        AzureAuthorizer::new(&credential, &self.account.name)
            .try_authorize(&mut request)
            .map_err(|error| bad(error.to_string()))?;
        let answer = self.client.execute(request).await;
        let (parts, body) = answer.map_err(|error| bad(error.to_string()))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
        Ok((parts.status, String::from_utf8_lossy(&body).into_owned()))
    }
}
