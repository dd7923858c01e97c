//! S3: how a bucket is reached, and what the protocols' crate has no call for.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use object_store::aws::{
    AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredential,
};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path as Key;
use object_store::{ObjectStore, RetryConfig, StaticCredentialProvider};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use super::http::Connection;
use super::{ObjectCredentials, ObjectError, S3Bucket};

/// What a canonical path has as it is.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');
/// S3 copies objects up to this length, in bytes, in one request.
const MAX_COPY: u64 = 5 << 30;
/// How much of an answer that says what is wrong is read, in bytes.
const MAX_ANSWER: usize = 64 << 10;

/// A bucket, and how it is asked.
#[derive(Clone)]
pub(super) struct S3 {
    store: Arc<AmazonS3>,
    client: HttpClient,
    bucket: S3Bucket,
    endpoint: Url,
}

impl S3 {
    pub(super) fn open(
        bucket: &S3Bucket,
        credentials: &ObjectCredentials,
        retry: RetryConfig,
    ) -> Result<Self, ObjectError> {
        let builder = AmazonS3Builder::from_env();
        let configured = || builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        let from_attribute = bucket.endpoint.clone();
        let given = match from_attribute {
            Some(given) => Some(given),
            // A client's key is for where the client says, and nowhere else.
            None if credentials.are_clients() => None,
            None => configured(),
        };
        let endpoint = endpoint(bucket, given.as_deref())?;
        let connection = Connection::to(&endpoint)?;
        let client = HttpClient::new(connection.clone());
        let builder = builder
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region)
            // The bucket's name is in it already.
            .with_virtual_hosted_style_request(true)
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint_text(&endpoint))
            .with_retry(retry)
            .with_http_connector(connection);
        let builder = match credentials {
            ObjectCredentials::S3 { id, secret, token } => {
                let credential = AwsCredential {
                    key_id: id.clone(),
                    secret_key: secret.expose().to_owned(),
                    token: token.as_ref().map(|token| token.expose().to_owned()),
                };
                builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
            }
            ObjectCredentials::Environment => builder,
            ObjectCredentials::Azure(_) | ObjectCredentials::Actions(_) => {
                return Err(ObjectError::Setting {
                    attribute: "secret_access_key",
                    reason: "an Azure key is none for S3".to_owned(),
                });
            }
        };
        let built = builder.build().map_err(|error| ObjectError::Setting {
            attribute: "s3",
            reason: error.to_string(),
        })?;
        Ok(Self {
            store: Arc::new(built),
            client,
            bucket: bucket.clone(),
            endpoint,
        })
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store) as Arc<dyn ObjectStore>
    }

    /// Makes an object young again: copies it onto itself with another note. Objects that are too large for that stay as they are.
    pub(super) async fn touch(&self, key: &Key, size: u64) -> Result<(), ObjectError> {
        if size > MAX_COPY {
            return Ok(());
        }
        const ACTION: &str = "renew";
        let failed = |error: &object_store::Error| ObjectError::of(ACTION, key, error);
        let bad = |reason: String| ObjectError::Request {
            action: ACTION,
            key: key.to_string(),
            reason,
            status: None,
        };
        let path = utf8_percent_encode(key.as_ref(), IN_PATH).to_string();
        let url = format!("{}/{path}", endpoint_text(&self.endpoint));
        let source = format!("/{}/{path}", self.bucket.name);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs().to_string();
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(url)
            .header("x-amz-copy-source", source)
            .header("x-amz-metadata-directive", "REPLACE")
            .header("x-amz-meta-updated-at", now)
            .body(HttpRequestBody::empty())
            .map_err(|error| bad(error.to_string()))?;
        let credential = self.store.credentials().get_credential().await;
        let credential = credential.map_err(|error| failed(&error))?;
        AwsAuthorizer::new(&credential, "s3", &self.bucket.region)
            .try_authorize(&mut request, None)
            .map_err(|error| failed(&error))?;
        let answer = self.client.execute(request).await;
        let (parts, body) = answer.map_err(|error| bad(error.to_string()))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
        let body = String::from_utf8_lossy(&body);
        // A copy may fail after it was answered with 200.
        if parts.status.is_success() && !body.contains("<Error>") {
            return Ok(());
        }
        let key = key.to_string();
        Err(ObjectError::answer(ACTION, &key, parts.status, &body))
    }
}

/// The address of a bucket, its name in it.
fn endpoint(bucket: &S3Bucket, given: Option<&str>) -> Result<Url, ObjectError> {
    let bad = |reason: &str| ObjectError::Setting {
        attribute: "endpoint_url",
        reason: reason.to_owned(),
    };
    let S3Bucket { name, region, .. } = bucket;
    let Some(given) = given else {
        // The certificates of Amazon's hold for one label.
        let address = match name.contains('.') {
            true => format!("https://s3.{region}.amazonaws.com/{name}"),
            false => format!("https://{name}.s3.{region}.amazonaws.com"),
        };
        return Url::parse(&address).map_err(|error| bad(&error.to_string()));
    };
    let mut url = Url::parse(given).map_err(|error| bad(&error.to_string()))?;
    let host = url.host_str().map(str::to_owned);
    let host = host.filter(|_| matches!(url.scheme(), "http" | "https"));
    let host = host.ok_or_else(|| bad("must be an http:// or https:// address"))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(bad("must be an address without a query or a user"));
    }
    if bucket.path_style {
        let path = format!("{}/{name}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    } else {
        let host = format!("{name}.{host}");
        url.set_host(Some(&host))
            .map_err(|_| bad("the bucket cannot be a part of its host (use_path_style=true?)"))?;
    }
    Ok(url)
}

fn endpoint_text(endpoint: &Url) -> &str {
    endpoint.as_str().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_a_part_of_the_host_or_of_the_path() {
        let bucket = |name: &str, path_style| S3Bucket {
            name: name.to_owned(),
            region: "eu-west-1".to_owned(),
            endpoint: None,
            path_style,
        };
        for (name, path_style, given, expected) in [
            ("b", false, None, "https://b.s3.eu-west-1.amazonaws.com/"),
            ("a.b", false, None, "https://s3.eu-west-1.amazonaws.com/a.b"),
            ("b", true, Some("http://h:9/"), "http://h:9/b"),
            ("b", true, Some("https://h/s3"), "https://h/s3/b"),
            ("b", false, Some("http://h:9"), "http://b.h:9/"),
        ] {
            let url = endpoint(&bucket(name, path_style), given).unwrap();
            assert_eq!(url.as_str(), expected);
        }
        for given in [
            "h:9",
            "ftp://h",
            "http://u:p@h",
            "http://127.0.0.1:9",
            "http://h?q",
        ] {
            assert!(
                endpoint(&bucket("b", false), Some(given)).is_err(),
                "{given}"
            );
        }
    }
}
