//! S3: paths that begin with the bucket, signatures of version 4.

use super::{ObjectServer, State, etag, hex, hmac};
use crate::http::{Answer, Request, decoded};

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if let Err(code) = verify(request) {
        return Answer::error(403, code);
    }
    let path = request.decoded_path();
    let bucket = format!("/{}/", ObjectServer::BUCKET);
    let Some(key) = path.strip_prefix(&bucket).filter(|key| !key.is_empty()) else {
        return Answer::error(404, "NoSuchBucket");
    };
    let upload = request.parameter("uploadId");
    let part = request.parameter("partNumber");
    match (request.method.as_str(), upload, part) {
        ("GET" | "HEAD", ..) => state.read(key, request, "NoSuchKey"),
        ("POST", None, _) if request.parameter("uploads").is_some() => {
            state.uploads += 1;
            let id = format!("upload-{}", state.uploads);
            let body = format!(
                "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{key}</Key>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                ObjectServer::BUCKET
            );
            Answer::new(200, body.into_bytes())
        }
        ("PUT", Some(upload), Some(part)) => {
            let part = format!("{:0>6}", part);
            let tag = etag(&request.body);
            state.parts.insert((upload, part), request.body.clone());
            Answer::new(200, Vec::new()).with("ETag", tag)
        }
        ("POST", Some(upload), _) => complete(state, key, &upload),
        ("DELETE", Some(upload), _) => {
            state.parts.retain(|(of, _), _| *of != upload);
            Answer::new(204, Vec::new())
        }
        ("PUT", None, None) => put(state, key, request),
        _ => Answer::error(405, "MethodNotAllowed"),
    }
}

fn complete(state: &mut State, key: &str, upload: &str) -> Answer {
    let mut content = Vec::new();
    let mut parts = 0;
    for ((of, _), part) in &state.parts {
        if of == upload {
            parts += 1;
            content.extend_from_slice(part);
        }
    }
    if parts == 0 {
        return Answer::error(404, "NoSuchUpload");
    }
    state.parts.retain(|(of, _), _| of != upload);
    let tag = etag(&content);
    state.keep(key, content);
    let body = format!(
        "<CompleteMultipartUploadResult><Location>here</Location><Bucket>{}</Bucket><Key>{key}</Key>\
         <ETag>{tag}</ETag></CompleteMultipartUploadResult>",
        ObjectServer::BUCKET
    );
    Answer::new(200, body.into_bytes())
}

fn put(state: &mut State, key: &str, request: &Request) -> Answer {
    let Some(source) = request.header("x-amz-copy-source") else {
        if !state.may_replace(key, request) {
            return Answer::error(412, "PreconditionFailed");
        }
        let tag = etag(&request.body);
        state.keep(key, request.body.clone());
        return Answer::new(200, Vec::new()).with("ETag", tag);
    };
    let source = decoded(source);
    let bucket = format!("{}/", ObjectServer::BUCKET);
    let from = source.trim_start_matches('/').strip_prefix(&bucket);
    let Some(from) = from.and_then(|from| state.objects.get(from).cloned()) else {
        return Answer::error(404, "NoSuchKey");
    };
    let replaces = request.header("x-amz-metadata-directive") == Some("REPLACE");
    if source.ends_with(key) && !replaces {
        return Answer::error(400, "InvalidRequest");
    }
    state.keep(key, from.content.to_vec());
    Answer::new(200, b"<CopyObjectResult></CopyObjectResult>".to_vec())
}

/// Whether a request is signed by who it says, and wholly.
fn verify(request: &Request) -> Result<(), &'static str> {
    let header = request.header("authorization").ok_or("AccessDenied")?;
    let fields = header.strip_prefix("AWS4-HMAC-SHA256 ");
    let fields = fields.ok_or("AuthorizationHeaderMalformed")?;
    let field = |name: &str| {
        let mut fields = fields.split(',').map(str::trim);
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let malformed = "AuthorizationHeaderMalformed";
    let credential = field("Credential").ok_or(malformed)?;
    let signed = field("SignedHeaders").ok_or(malformed)?;
    let signature = field("Signature").ok_or(malformed)?;
    let (id, scope) = credential.split_once('/').ok_or(malformed)?;
    if id != ObjectServer::KEY_ID {
        return Err("InvalidAccessKeyId");
    }
    let date = request.header("x-amz-date").ok_or("AccessDenied")?;
    let day = date.get(..8).ok_or(malformed)?;
    let region = ObjectServer::REGION;
    if scope != format!("{day}/{region}/s3/aws4_request") {
        return Err(malformed);
    }
    let names: Vec<&str> = signed.split(';').collect();
    let must = request
        .headers()
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("x-amz-") || *name == "host");
    if must.into_iter().any(|name| !names.contains(&name)) {
        return Err("AccessDenied");
    }
    let content = request
        .header("x-amz-content-sha256")
        .ok_or("AccessDenied")?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &request.body);
    if content != hex(digest.as_ref()) {
        return Err("XAmzContentSHA256Mismatch");
    }
    let mut query: Vec<String> = request
        .query()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    query.sort();
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        request.method,
        request.path(),
        query.join("&")
    );
    for name in &names {
        let value = request.header(name).ok_or("SignatureDoesNotMatch")?;
        let value: Vec<&str> = value.split_whitespace().collect();
        canonical.push_str(&format!("{name}:{}\n", value.join(" ")));
    }
    canonical.push_str(&format!("\n{signed}\n{content}"));
    let digest = ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes());
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hex(digest.as_ref())
    );
    let mut key = format!("AWS4{}", ObjectServer::KEY).into_bytes();
    for part in [day, region, "s3", "aws4_request"] {
        key = hmac(&key, part);
    }
    match hex(&hmac(&key, &text)) == signature {
        true => Ok(()),
        false => Err("SignatureDoesNotMatch"),
    }
}
