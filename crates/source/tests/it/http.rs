use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use weld_digest::Digest;
use weld_llb::FileAttributes;
use weld_source::Secret;
use weld_source::http::{
    AuthSecret, Download, Fetched, HttpConfig, HttpError, HttpRequest, HttpSource,
};
use weld_source::progress::Progress;
use weld_source::registry::Timeouts;

use crate::support::server::{Fault, Reply, Server};
use crate::support::{Counter, noise, quick_retry};

fn source() -> HttpSource {
    HttpSource::new(HttpConfig {
        retry: quick_retry(),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            read: Duration::from_millis(500),
        },
        max_size: 10 << 20,
    })
    .unwrap()
}

async fn fetch(request: &HttpRequest, before: &[Download]) -> Result<Fetched, HttpError> {
    let file = tempfile::tempfile().unwrap();
    source()
        .fetch(request, before, file, &Progress::none())
        .await
}

async fn fetched(request: &HttpRequest, before: &[Download]) -> (File, Download) {
    match fetch(request, before).await.unwrap() {
        Fetched::Fetched { file, download } => (file, download),
        Fetched::Unchanged { .. } => panic!("it should have been fetched"),
    }
}

fn content(mut file: File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

#[tokio::test]
async fn a_file_is_fetched_with_what_the_server_says_of_it() {
    let server = Server::new(|_| {
        Reply::new(200, "content")
            .header("etag", "W/\"v1\"")
            .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .header(
                "content-disposition",
                "attachment; filename=\"named by.server\"",
            )
    })
    .await;
    let (file, download) = fetched(&HttpRequest::new(server.url("/a/b?c#d")), &[]).await;
    let expected = Download {
        digest: Digest::sha256_of("content"),
        size: 7,
        filename: "named by.server".to_owned(),
        last_modified: Some(1_445_412_480),
        etag: Some("W/\"v1\"".to_owned()),
    };
    assert_eq!(download, expected);
    let attributes = FileAttributes {
        mode: Some(0o751),
        uid: Some(7),
        gid: Some(8),
        ..FileAttributes::default()
    };
    download.set_attributes(&file, &attributes).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o751, 7, 8)
    );
    assert_eq!(metadata.mtime(), 1_445_412_480);
    assert_eq!(content(file), b"content");

    let (file, _) = fetched(&HttpRequest::new(server.url("/x")), &[]).await;
    let plain = Download {
        last_modified: None,
        ..expected
    };
    plain
        .set_attributes(&file, &FileAttributes::default())
        .unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, 0));
}

#[tokio::test]
async fn a_file_that_did_not_change_is_not_sent_again() {
    let server = Server::new(|request| {
        let etag = if request.path() == "/new" {
            "\"v2\""
        } else {
            "\"v1\""
        };
        match request.header("if-none-match").contains(etag) {
            true => Reply::new(304, []).header("etag", etag),
            false => Reply::new(200, etag).header("etag", etag),
        }
    })
    .await;
    let request = HttpRequest::new(server.url("/old"));
    let (_, first) = fetched(&request, &[]).await;
    let other = Download {
        etag: Some("\"else\"".to_owned()),
        ..first.clone()
    };
    match fetch(&request, &[other.clone(), first.clone()])
        .await
        .unwrap()
    {
        Fetched::Unchanged { index, filename } => {
            assert_eq!((index, filename.as_str()), (1, "old"))
        }
        Fetched::Fetched { .. } => panic!("it did not change"),
    }
    assert_eq!(
        server.requests()[1].header("if-none-match"),
        "\"else\", \"v1\""
    );
    let (file, _) = fetched(
        &HttpRequest::new(server.url("/new")),
        std::slice::from_ref(&first),
    )
    .await;
    assert_eq!(content(file), b"\"v2\"");
    // What a checksum rules out is not asked about.
    let pinned = HttpRequest {
        checksum: Some(Digest::sha256_of("\"v2\"")),
        ..HttpRequest::new(server.url("/new"))
    };
    fetched(&pinned, &[first]).await;
    assert_eq!(server.requests()[3].header("if-none-match"), "");
}

#[tokio::test]
async fn servers_that_are_careless_about_etags_are_understood() {
    let careless = Server::new(|_| {
        Reply::new(200, "content")
            .header("etag", "v1")
            .fault(Fault::Stall(0))
    })
    .await;
    let before = Download {
        digest: Digest::sha256_of("content"),
        size: 7,
        filename: "x".to_owned(),
        last_modified: None,
        etag: Some("v1".to_owned()),
    };
    let request = HttpRequest::new(careless.url("/x"));
    let outcome = fetch(&request, std::slice::from_ref(&before))
        .await
        .unwrap();
    assert!(matches!(outcome, Fetched::Unchanged { index: 0, .. }));
    let nameless = Server::new(|_| Reply::new(304, [])).await;
    let request = HttpRequest::new(nameless.url("/x"));
    let outcome = fetch(&request, std::slice::from_ref(&before))
        .await
        .unwrap();
    assert!(matches!(outcome, Fetched::Unchanged { index: 0, .. }));
    let error = fetch(&request, &[]).await.unwrap_err();
    assert!(matches!(error, HttpError::Status { .. }), "{error}");
}

#[tokio::test]
async fn a_time_does_not_tell_that_a_file_is_the_same() {
    let by_time = Server::new(|request| match request.header("if-modified-since") {
        "" => Reply::new(200, "put back").header("last-modified", "Thu, 01 Jan 1970 00:00:04 GMT"),
        _ => Reply::new(304, []),
    })
    .await;
    let timed = Download {
        digest: Digest::sha256_of("content"),
        size: 7,
        filename: "x".to_owned(),
        etag: None,
        last_modified: Some(5),
    };
    let outcome = fetch(&HttpRequest::new(by_time.url("/x")), &[timed])
        .await
        .unwrap();
    let Fetched::Fetched { download, .. } = outcome else {
        panic!("it is another file")
    };
    assert_eq!(download.digest, Digest::sha256_of("put back"));
}

#[tokio::test]
async fn a_wrong_checksum_is_an_error_that_shows_both() {
    let server = Server::new(|_| Reply::new(200, "content")).await;
    let mut hasher = weld_digest::Hasher::new(weld_digest::Algorithm::Sha512);
    hasher.update(b"content");
    let request = HttpRequest {
        checksum: Some(hasher.finish()),
        ..HttpRequest::new(server.url("/x"))
    };
    fetched(&request, &[]).await;
    let wrong = Digest::sha256_of("other");
    let request = HttpRequest {
        checksum: Some(wrong.clone()),
        ..HttpRequest::new(server.url("/x"))
    };
    let error = fetch(&request, &[]).await.unwrap_err().to_string();
    let actual = Digest::sha256_of("content");
    assert!(
        error.contains(&format!("expected {wrong}, got {actual}")),
        "{error}"
    );
}

#[tokio::test]
async fn a_download_goes_on_if_it_is_still_the_same_file() {
    let whole = noise(500_000, 1);
    for (changes, ranges) in [(false, true), (true, true), (false, false)] {
        let (body, calls) = (whole.clone(), Counter::default());
        let server = Server::new(move |request| {
            let number = calls.next();
            let etag = if changes && number > 0 {
                "\"v2\""
            } else {
                "\"v1\""
            };
            let range = request.header("range").to_owned();
            if ranges && !range.is_empty() && request.header("if-range") == etag {
                assert_eq!(range, "bytes=200000-");
                return Reply::new(206, &body[200_000..])
                    .header("content-range", "bytes 200000-499999/500000")
                    .header("etag", etag);
            }
            let reply = Reply::new(200, body.clone()).header("etag", etag);
            if number == 0 {
                reply.fault(Fault::Cut(200_000))
            } else {
                reply
            }
        })
        .await;
        let (file, download) = fetched(&HttpRequest::new(server.url("/x")), &[]).await;
        assert!(content(file) == whole, "{changes} {ranges}");
        assert_eq!(
            download.etag.as_deref(),
            Some(if changes { "\"v2\"" } else { "\"v1\"" })
        );
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn a_download_goes_on_by_its_time_only_if_that_is_an_old_one() {
    const WRITTEN: &str = "Thu, 01 Jan 2015 00:00:00 GMT";
    let whole = noise(500_000, 1);
    for (now, asked) in [
        ("Thu, 01 Jan 2015 00:01:00 GMT", "bytes=200000-"),
        ("Thu, 01 Jan 2015 00:00:59 GMT", ""),
    ] {
        let (body, calls) = (whole.clone(), Counter::default());
        let server = Server::new(move |request| {
            let first = calls.next() == 0;
            if !first {
                assert_eq!(request.header("range"), asked);
            }
            let reply = match request.header("if-range") {
                WRITTEN => Reply::new(206, &body[200_000..])
                    .header("content-range", "bytes 200000-499999/500000"),
                _ => Reply::new(200, body.clone()),
            };
            let reply = reply.header("date", now).header("last-modified", WRITTEN);
            match first {
                true => reply.fault(Fault::Cut(200_000)),
                false => reply,
            }
        })
        .await;
        let (file, _) = fetched(&HttpRequest::new(server.url("/x")), &[]).await;
        assert!(content(file) == whole, "{now}");
    }
}

#[tokio::test]
async fn refusals_and_limits_are_clear() {
    let server = Server::new(|request| match request.path() {
        "/gone" => Reply::new(404, []),
        "/large" => Reply::new(200, vec![0; 11 << 20]),
        "/loop" => Reply::new(302, []).header("location", "/loop"),
        _ => Reply::new(503, []),
    })
    .await;
    for (path, part, requests) in [
        ("/gone", "/gone: invalid response status 404 Not Found", 1),
        ("/large", "larger than the limit of 10485760 bytes", 1),
        ("/down", "503 Service Unavailable", 4),
    ] {
        let error = fetch(&HttpRequest::new(server.url(path)), &[])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(server.count("GET", path), requests);
    }
    let error = fetch(&HttpRequest::new(server.url("/loop")), &[])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("redirect"), "{error}");
    for (url, part) in [
        ("ftp://u:p@x/y", "scheme \"ftp\""),
        ("http://", "invalid URL"),
    ] {
        let error = fetch(&HttpRequest::new(url), &[])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part) && !error.contains(":p@"), "{error}");
    }
}

#[tokio::test]
async fn secrets_authorize_and_are_not_shown_or_passed_on() {
    let elsewhere = Server::new(|_| Reply::new(404, [])).await;
    let to = elsewhere.url("/signed?key=hidden");
    let server = Server::new(move |_| Reply::new(302, []).header("location", to.clone())).await;
    let url = format!("http://user:hidden@{}/x?token=hidden", server.host);
    let request = HttpRequest {
        headers: vec![
            ("Accept".to_owned(), "text/x".to_owned()),
            ("X-Other".to_owned(), "y".to_owned()),
        ],
        authorization: Some(Secret::new("Bearer hidden")),
        ..HttpRequest::new(&url)
    };
    let error = fetch(&request, &[]).await.unwrap_err();
    for text in [
        error.to_string(),
        format!("{error:?}"),
        format!("{request:?}"),
    ] {
        assert!(!text.contains("hidden"), "{text}");
    }
    let first = &server.requests()[0];
    assert!(first.header("authorization").starts_with("Bearer hidden"));
    assert_eq!(
        (first.header("accept"), first.header("x-other")),
        ("text/x", "")
    );
    assert_eq!(elsewhere.requests()[0].header("authorization"), "");
    let bad = HttpRequest {
        authorization: Some(Secret::new("two\nlines")),
        ..HttpRequest::new(server.url("/"))
    };
    let error = fetch(&bad, &[]).await.unwrap_err().to_string();
    assert!(
        error.contains("header authorization has a value that cannot be sent"),
        "{error}"
    );
}

#[test]
fn secrets_are_named_after_the_host() {
    let names = |url: &str, stated| -> Vec<_> {
        AuthSecret::candidates(url, stated)
            .into_iter()
            .map(|secret| secret.name)
            .collect()
    };
    assert_eq!(
        names("https://h:1/x", None),
        ["HTTP_AUTH_TOKEN_h", "HTTP_AUTH_HEADER_h"]
    );
    assert_eq!(names("https://h/x", Some("mine")), ["mine"]);
    let token = AuthSecret {
        name: String::new(),
        is_token: true,
    };
    assert_eq!(token.header(&Secret::new("t\n")).expose(), "Bearer t");
}
