use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weld_digest::Digest;
use weld_source::image::Descriptor;
use weld_source::progress::Progress;
use weld_source::reference::{Reference, Repository};
use weld_source::registry::{
    Anonymous, BlobReader, BlobUpload, Capability, HostConfig, Pushed, Registry, RegistryConfig,
    RegistryError,
};

use crate::support::server::{Fault, Reply, Server};
use crate::support::{Counter, Layout, RealRegistry, noise, proxy, quick_retry, run};

fn registry(upload_chunk: Option<u64>) -> Registry {
    let config = RegistryConfig {
        retry: quick_retry(),
        upload_chunk,
        ..RegistryConfig::default()
    };
    Registry::new(config, Arc::new(Anonymous))
}

fn repository(host: &str, path: &str) -> Repository {
    format!("{host}/{path}").parse().unwrap()
}

fn upload(content: &[u8]) -> BlobUpload {
    BlobUpload {
        descriptor: Descriptor::of("application/octet-stream", content),
        content: Arc::new(Bytes::copy_from_slice(content)),
        mount_from: Vec::new(),
    }
}

async fn push(
    registry: &Registry,
    host: &str,
    upload: &BlobUpload,
) -> Result<Pushed, RegistryError> {
    let repository = repository(host, "app");
    registry
        .push_blob(&repository, upload, &Progress::none())
        .await
}

#[tokio::test]
async fn skopeo_reads_what_was_pushed() {
    for chunk in [None, Some(300_000)] {
        let (real, layout) = (RealRegistry::start(), Layout::new(&[100_000, 1_000_000]));
        let (registry, repository) = (registry(chunk), repository(&real.host, "some/app"));
        let uploads: Vec<_> = layout
            .manifest
            .layers
            .iter()
            .chain([&layout.manifest.config])
            .map(|descriptor| BlobUpload {
                descriptor: descriptor.clone(),
                content: Arc::new(layout.blob(descriptor)),
                mount_from: Vec::new(),
            })
            .collect();
        let progress = Progress::none();
        let pushes = uploads
            .iter()
            .map(|upload| registry.push_blob(&repository, upload, &progress));
        for pushed in futures_util::future::join_all(pushes).await {
            assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        }
        let document = Bytes::from(std::fs::read(layout.blob(&layout.descriptor)).unwrap());
        let name: Reference = format!("{}/some/app:v1", real.host).parse().unwrap();
        let pushed = registry.push_document(&name, &document).await.unwrap();
        assert_eq!(pushed, layout.descriptor);
        let out = tempfile::tempdir().unwrap();
        let to = format!("dir:{}", out.path().display());
        run(
            "skopeo",
            &[
                "copy",
                "-q",
                "--src-tls-verify=false",
                &format!("docker://{name}"),
                &to,
            ],
        );
        for layer in &layout.manifest.layers {
            let copied = std::fs::read(out.path().join(layer.digest.hex())).unwrap();
            assert_eq!(Digest::sha256_of(copied), layer.digest);
        }
    }
}

#[tokio::test]
async fn what_is_there_is_not_sent_again_and_what_is_elsewhere_is_linked() {
    let real = RealRegistry::start();
    let counted = proxy(&real.host, |_, reply| reply).await;
    let registry = registry(None);
    let mut upload = upload(&noise(100_000, 1));
    assert_eq!(
        push(&registry, &counted.host, &upload).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(
        push(&registry, &counted.host, &upload).await.unwrap(),
        Pushed::Existing
    );
    upload.mount_from = vec![
        "ghcr.io/other/registry".parse().unwrap(),
        repository(&counted.host, "empty"),
        repository(&counted.host, "app"),
    ];
    let other = repository(&counted.host, "other");
    let pushed = registry
        .push_blob(&other, &upload, &Progress::none())
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    assert_eq!(counted.count("PUT", "/blobs/uploads/"), 1);
}

#[tokio::test]
async fn a_broken_upload_is_begun_again_or_gone_on_with() {
    for chunk in [None, Some(200_000)] {
        let real = RealRegistry::start();
        let calls = Counter::default();
        let method = if chunk.is_some() { "PATCH" } else { "PUT" };
        let breaking = proxy(&real.host, move |request, reply| {
            match request.method == method && calls.next() == 1 - usize::from(chunk.is_none()) {
                true => reply.fault(Fault::NoAnswer),
                false => reply,
            }
        })
        .await;
        let content = noise(900_000, 1);
        let pushed = push(&registry(chunk), &breaking.host, &upload(&content))
            .await
            .unwrap();
        // The whole may have arrived before its answer was lost.
        assert!(matches!(pushed, Pushed::Uploaded | Pushed::Existing));
        assert_eq!(
            std::fs::read(real.blob_file(&Digest::sha256_of(&content))).unwrap(),
            content
        );
    }
}

#[tokio::test]
async fn an_upload_that_breaks_before_it_arrived_is_sent_again() {
    let real = RealRegistry::start();
    let refused = Counter::default();
    let host = real.host.clone();
    let breaking = proxy(&host, move |request, reply| {
        match request.method == "POST" && refused.next() < 2 {
            true => Reply::new(503, []),
            false => reply,
        }
    })
    .await;
    let content = noise(300_000, 1);
    let pushed = push(&registry(None), &breaking.host, &upload(&content))
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(breaking.count("POST", "uploads"), 3);
}

#[tokio::test]
async fn content_that_is_not_its_digest_is_refused() {
    let real = RealRegistry::start();
    let mut wrong = upload(b"some content");
    wrong.content = Arc::new(Bytes::from_static(b"same length!"));
    let error = push(&registry(None), &real.host, &wrong)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("push blob") && error.contains("digest"),
        "{error}"
    );
}

#[tokio::test]
async fn content_that_cannot_be_read_is_named() {
    struct Gone;
    impl BlobReader for Gone {
        fn open(&self, _offset: u64) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    let real = RealRegistry::start();
    let mut unreadable = upload(&noise(1000, 1));
    unreadable.content = Arc::new(Gone);
    let error = push(&registry(None), &real.host, &unreadable)
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Source { .. }), "{error}");
    assert!(error.to_string().contains("Input/output error"), "{error}");
    let mut short = upload(&noise(1000, 1));
    short.content = Arc::new(Bytes::from_static(b"short"));
    let error = push(&registry(None), &real.host, &short)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("995 bytes are missing"), "{error}");
}

#[tokio::test]
async fn a_manifest_needs_its_blobs() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[1000]));
    let document = Bytes::from(std::fs::read(layout.blob(&layout.descriptor)).unwrap());
    let name: Reference = format!("{}/app:v1", real.host).parse().unwrap();
    let registry = registry(None);
    let error = registry
        .push_document(&name, &document)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("cannot push manifest {name} at {}", real.host)),
        "{error}"
    );
    assert!(error.contains("blob unknown"), "{error}");
    let error = registry
        .push_document(&name, &Bytes::from_static(b"{}"))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Manifest(..)), "{error}");
}

#[tokio::test]
async fn mirrors_are_not_pushed_to() {
    let real = RealRegistry::start();
    let mirror = Server::new(|_| Reply::new(200, [])).await;
    let mut config = RegistryConfig::default();
    let with_mirror = HostConfig {
        mirrors: vec![mirror.host.clone()],
        ..HostConfig::default()
    };
    config.hosts.insert(real.host.clone(), with_mirror);
    let pull_only = HostConfig {
        capabilities: Some(vec![Capability::Pull]),
        ..HostConfig::default()
    };
    config.hosts.insert("pull.only".to_owned(), pull_only);
    let registry = Registry::new(config, Arc::new(Anonymous));
    let upload = upload(b"x");
    assert_eq!(
        push(&registry, &real.host, &upload).await.unwrap(),
        Pushed::Uploaded
    );
    assert!(mirror.requests().is_empty());
    let error = push(&registry, "pull.only", &upload).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotCapable { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_that_goes_elsewhere_takes_no_credentials_along() {
    let elsewhere = Server::new(|_| Reply::new(201, [])).await;
    let to = elsewhere.url("/put?signed=1");
    let registry_server = Server::new(move |request| match request.method.as_str() {
        _ if request.header("authorization").is_empty() => {
            Reply::new(401, []).header("www-authenticate", "Basic realm=x")
        }
        "HEAD" => Reply::new(404, []),
        "POST" => Reply::new(202, []).header("location", to.clone()),
        other => panic!("{other}"),
    })
    .await;
    let credentials = crate::auth::fixed("u", "p");
    let registry = Registry::new(RegistryConfig::default(), credentials);
    let pushed = push(&registry, &registry_server.host, &upload(b"content"))
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let request = &elsewhere.requests()[0];
    assert_eq!(request.header("authorization"), "");
    assert!(
        request.query().starts_with("signed=1&digest=sha256%3A"),
        "{}",
        request.query()
    );
    assert_eq!(request.body, b"content");
}

/// Content whose medium takes its time.
struct Slow(Bytes, Duration);

impl BlobReader for Slow {
    fn open(&self, offset: u64) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        std::thread::sleep(self.1);
        self.0.open(offset)
    }
}

#[tokio::test]
async fn a_slow_disk_of_ours_is_not_the_registrys_silence() {
    let real = RealRegistry::start();
    let patience = Duration::from_millis(500);
    let registry = registry(None).impatient(patience);
    let content = Bytes::from(noise(100_000, 7));
    let mut slow = upload(&content);
    slow.content = Arc::new(Slow(content, 4 * patience));
    let pushed = push(&registry, &real.host, &slow).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
}
