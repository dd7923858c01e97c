//! Calls of methods with any body.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::script::Script;

/// A message of this length, as gRPC frames it; the length may be a lie.
pub(crate) fn framed(length: u32, content: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(content);
    frame.into()
}

/// The body that a script asks for.
pub(crate) fn body(script: Script) -> Body {
    if script.ends {
        return Body::new(Full::new(Bytes::from(script.body)));
    }
    let sent = Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from(script.body)));
    let open = futures_util::stream::iter([sent]).chain(futures_util::stream::pending());
    Body::new(StreamBody::new(open))
}

/// Calls a method; the code that it answers, or `None` if it goes on for longer than that.
pub(crate) async fn call(
    channel: &Channel,
    method: &str,
    headers: &[(&'static str, &str)],
    body: Body,
    patience: Duration,
) -> Option<Code> {
    let method = method.trim_start_matches('/');
    let mut request = http::Request::post(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).unwrap();
    let answered = async {
        let mut channel = channel.clone();
        let response = channel.ready().await.unwrap().call(request).await.unwrap();
        let headers = response.headers().clone();
        let trailers = response
            .into_body()
            .collect()
            .await
            .map(|body| body.trailers().cloned());
        let status = |headers: &http::HeaderMap| tonic::Status::from_header_map(headers);
        let trailers = trailers.ok().flatten();
        let status = trailers
            .as_ref()
            .and_then(status)
            .or_else(|| status(&headers));
        status.map_or(Code::Unknown, |status| status.code())
    };
    tokio::time::timeout(patience, answered).await.ok()
}
