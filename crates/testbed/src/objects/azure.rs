//! Azure Blob Storage: paths that begin with the account and the container, signatures by the account's key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{ObjectServer, State, hmac};
use crate::http::{Answer, Request, decoded};

/// What a signature begins with: the values of these headers, in this order.
const SIGNED: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

pub(super) fn answer(state: &mut State, request: &Request) -> Answer {
    if !is_signed(request) {
        return Answer::error(403, "AuthenticationFailed");
    }
    let path = request.decoded_path();
    let container = format!("/{}/{}", ObjectServer::ACCOUNT, ObjectServer::BUCKET);
    let Some(key) = path.strip_prefix(&container) else {
        return Answer::error(404, "ContainerNotFound");
    };
    let method = request.method.as_str();
    if request.parameter("restype").as_deref() == Some("container") {
        return match (method, state.bucket) {
            ("PUT", true) => Answer::error(409, "ContainerAlreadyExists"),
            ("PUT", false) => {
                state.bucket = true;
                Answer::new(201, Vec::new())
            }
            (_, true) => Answer::new(200, Vec::new()),
            (_, false) => Answer::error(404, "ContainerNotFound"),
        };
    }
    let Some(key) = key.strip_prefix('/').filter(|key| !key.is_empty()) else {
        return Answer::error(400, "InvalidUri");
    };
    if !state.bucket {
        return Answer::error(404, "ContainerNotFound");
    }
    match (method, request.parameter("comp").as_deref()) {
        ("GET" | "HEAD", None) => {
            let answer = state.read(key, request, "BlobNotFound");
            answer.with("x-ms-blob-type", "BlockBlob".to_owned())
        }
        ("PUT", None) if request.header("x-ms-blob-type") == Some("BlockBlob") => {
            if request.header("if-none-match") == Some("*") && state.objects.contains_key(key) {
                return Answer::error(409, "BlobAlreadyExists");
            }
            if !state.may_replace(key, request) {
                return Answer::error(412, "ConditionNotMet");
            }
            state.keep(key, request.body.clone());
            made(state, key)
        }
        ("PUT", Some("block")) => {
            let Some(block) = request.parameter("blockid") else {
                return Answer::error(400, "InvalidQueryParameterValue");
            };
            let body = request.body.clone();
            state.parts.insert((key.to_owned(), block), body);
            Answer::new(201, Vec::new())
        }
        ("PUT", Some("blocklist")) => commit(state, key, request),
        _ => Answer::error(400, "UnsupportedHttpVerb"),
    }
}

fn made(state: &State, key: &str) -> Answer {
    let answer = Answer::new(201, Vec::new());
    match state.objects.get(key) {
        None => answer,
        Some(object) => {
            let modified = httpdate::fmt_http_date(object.modified);
            let answer = answer.with("ETag", super::etag(&object.content));
            answer.with("Last-Modified", modified)
        }
    }
}

fn commit(state: &mut State, key: &str, request: &Request) -> Answer {
    let list = String::from_utf8_lossy(&request.body).into_owned();
    let mut content = Vec::new();
    for kind in ["Uncommitted", "Latest"] {
        for piece in list.split(&format!("<{kind}>")).skip(1) {
            let id = piece.split('<').next().unwrap_or_default().to_owned();
            match state.parts.remove(&(key.to_owned(), id)) {
                Some(part) => content.extend(part),
                None => return Answer::error(400, "InvalidBlockList"),
            }
        }
    }
    state.keep(key, content);
    made(state, key)
}

/// Whether the account's key signed it.
fn is_signed(request: &Request) -> bool {
    let account = ObjectServer::ACCOUNT;
    let mut text = format!("{}\n", request.method);
    for name in SIGNED {
        let value = request.header(name).unwrap_or_default();
        // No length is signed as nothing, and so is a date where there is another.
        let value = match (name, value) {
            ("content-length", "0") => "",
            ("date", _) if request.header("x-ms-date").is_some() => "",
            (_, value) => value,
        };
        text.push_str(&format!("{value}\n"));
    }
    let headers = request.headers().iter();
    let mut own: Vec<_> = headers
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .collect();
    own.sort();
    let date = request.header("x-ms-date").or(request.header("date"));
    if date.is_none() || request.header("x-ms-version").is_none() {
        return false;
    }
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", request.path()));
    let pairs = request.query();
    let pairs = pairs
        .iter()
        .map(|(key, value)| (decoded(key).to_lowercase(), decoded(value)));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    for (key, value) in pairs {
        text.push_str(&format!("\n{key}:{value}"));
    }
    let Ok(key) = STANDARD.decode(ObjectServer::ACCOUNT_KEY) else {
        return false;
    };
    let signature = STANDARD.encode(hmac(&key, &text));
    request.header("authorization") == Some(&format!("SharedKey {account}:{signature}"))
}
