mod faults;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weld_digest::{Algorithm, Digest};
use weld_source::image::{Descriptor, Document, MAX_CONFIG, media_type};
use weld_source::progress::{Phase, Progress, ProgressSink, Status};
use weld_source::reference::Reference;
use weld_source::registry::{
    Anonymous, Failure, HostConfig, Registry, RegistryConfig, RegistryError, Timeouts,
};
use weld_source::sink::{FileSink, MemorySink, tee};

use crate::support::server::{Fault, Reply, Server};
use crate::support::{Counter, Layout, RealRegistry, noise, proxy, quick_retry};

fn config() -> RegistryConfig {
    RegistryConfig {
        retry: quick_retry(),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            read: Duration::from_millis(500),
        },
        ..RegistryConfig::default()
    }
}

fn registry(config: RegistryConfig) -> Registry {
    Registry::new(config, Arc::new(Anonymous))
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn fetch(
    registry: &Registry,
    host: &str,
    descriptor: &Descriptor,
) -> Result<Bytes, RegistryError> {
    let reference = reference(&format!("{host}/app"));
    let sink = MemorySink::new();
    let progress = Progress::none();
    let fetched = registry.fetch_blob(reference.repository(), descriptor, sink, &progress);
    fetched.await.map(MemorySink::into_bytes)
}

/// Serves one blob with `change` between, and nothing else.
async fn blob_server(
    content: Vec<u8>,
    change: impl Fn(&crate::support::server::Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::new(move |request| {
        let range = request.header("range");
        let start = range
            .strip_prefix("bytes=")
            .and_then(|text| text.strip_suffix('-'));
        let reply = match start.map(|text| text.parse::<usize>().unwrap()) {
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
                Reply::new(206, &content[start..]).header("content-range", range)
            }
            None => Reply::new(200, content.clone()),
        };
        change(request, reply)
    })
    .await
}

#[tokio::test]
async fn an_image_that_skopeo_pushed_is_pulled() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[100_000, 2_000_000]));
    let name = format!("{}/some/app:v1", real.host);
    layout.push(&name);
    let registry = registry(config());
    let reference = reference(&name);
    let resolved = registry.resolve(&reference).await.unwrap();
    assert_eq!(resolved.descriptor, layout.descriptor);
    assert!(resolved.served.is_none(), "a HEAD was enough");
    let served = registry.resolve_document(&reference).await.unwrap();
    let Document::Manifest(manifest) = served.document else {
        panic!("not a manifest");
    };
    assert_eq!(*manifest, layout.manifest);
    let repository = reference.repository();
    let bytes = registry
        .fetch_bytes(repository, &manifest.config, MAX_CONFIG)
        .await
        .unwrap();
    assert_eq!(bytes, std::fs::read(layout.blob(&manifest.config)).unwrap());

    let reports = Arc::new(Reports::default());
    let progress = Progress::new(reports.clone());
    let fetches = manifest.layers.iter().map(|layer| {
        let sink = FileSink::resume(tempfile::tempfile().unwrap(), Algorithm::Sha256).unwrap();
        registry.fetch_blob(repository, layer, sink, &progress)
    });
    for (sink, layer) in futures_util::future::join_all(fetches)
        .await
        .into_iter()
        .zip(&layout.layers)
    {
        let mut file = sink.unwrap().into_file();
        let mut content = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut content).unwrap();
        assert!(content == *layer);
    }
    let reports = reports.0.lock().unwrap();
    for layer in &manifest.layers {
        let of: Vec<_> = reports
            .iter()
            .filter(|(id, ..)| *id == layer.digest.to_string())
            .collect();
        assert_eq!(of.first().unwrap().2, Phase::Started);
        let (_, current, phase, total) = of.last().unwrap();
        assert_eq!(
            (*current, *phase, *total),
            (layer.size, Phase::Completed, Some(layer.size))
        );
    }
}

#[derive(Default)]
struct Reports(Mutex<Vec<Report>>);

/// Id, current, phase and total.
type Report = (String, u64, Phase, Option<u64>);

impl ProgressSink for Reports {
    fn report(&self, status: &Status<'_>) {
        let report = (
            status.id.to_owned(),
            status.current,
            status.phase,
            status.total,
        );
        self.0.lock().unwrap().push(report);
    }
}

#[tokio::test]
async fn an_index_gives_the_platform_and_a_digest_pins() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[1000]));
    layout.push(&format!("{}/app:amd64", real.host));
    let registry = registry(config());
    let mut entry = layout.descriptor.clone();
    entry.platform = Some(weld_llb::Platform::new("linux", "amd64", ""));
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry],
    });
    let pushed = registry
        .push_document(
            &reference(&format!("{}/app:multi", real.host)),
            &index.to_string().into(),
        )
        .await
        .unwrap();
    let pinned = reference(&format!("{}/app:ignored@{}", real.host, pushed.digest));
    let served = registry.resolve_document(&pinned).await.unwrap();
    let Document::Index(index) = served.document else {
        panic!("not an index");
    };
    let platform = weld_llb::Platform::new("linux", "amd64", "");
    assert_eq!(
        index.select(&platform).unwrap().digest,
        layout.descriptor.digest
    );
    let absent = reference(&format!(
        "{}/app@{}",
        real.host,
        Digest::sha256_of("absent")
    ));
    assert!(registry.resolve(&absent).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn what_is_not_there_is_named_with_its_host() {
    let real = RealRegistry::start();
    let registry = registry(config());
    let error = registry
        .resolve(&reference(&format!("{}/app:nope", real.host)))
        .await
        .unwrap_err();
    assert!(error.is_not_found());
    let (host, text) = (&real.host, error.to_string());
    assert_eq!(
        text,
        format!("cannot resolve {host}/app:nope at {host}: not found: manifest unknown")
    );
    let descriptor = Descriptor::of("x", b"absent");
    let text = fetch(&registry, host, &descriptor)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("not found: blob unknown to registry"),
        "{text}"
    );
    assert!(
        text.contains(&format!("{host}/app@{}", descriptor.digest)),
        "{text}"
    );
}

#[tokio::test]
async fn a_registry_that_is_down_is_a_quick_and_clear_error() {
    let started = Instant::now();
    let config = RegistryConfig {
        retry: Default::default(),
        ..config()
    };
    let error = registry(config)
        .resolve(&reference("127.0.0.1:1/app"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("at 127.0.0.1:1: "), "{error}");
    assert!(
        error
            .to_string()
            .to_lowercase()
            .contains("connection refused"),
        "{error}"
    );
    assert!(!error.to_string().contains("client error"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_passed_over_when_they_fail() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[50_000]));
    layout.push(&format!("{}/app:v1", real.host));
    let empty = Server::new(|_| Reply::new(404, [])).await;
    let broken = proxy(&real.host, |request, reply| {
        let is_blob = request.method == "GET" && request.target.contains("/blobs/");
        if is_blob { Reply::new(500, []) } else { reply }
    })
    .await;
    let mut config = config();
    config.hosts.insert(
        real.host.clone(),
        HostConfig {
            mirrors: vec![
                "127.0.0.1:1".to_owned(),
                empty.host.clone(),
                broken.host.clone(),
            ],
            ..HostConfig::default()
        },
    );
    let registry = registry(config);
    let name = reference(&format!("{}/app:v1", real.host));
    let served = registry.resolve_document(&name).await.unwrap();
    assert_eq!(served.descriptor.digest, layout.descriptor.digest);
    assert_eq!(
        broken.count(
            "HEAD",
            &format!("ns={}", real.host.replace('.', "%2E").replace(':', "%3A"))
        ),
        1
    );
    let layer = &layout.manifest.layers[0];
    assert!(fetch(&registry, &real.host, layer).await.unwrap() == layout.layers[0]);
    assert!(broken.count("GET", "/blobs/") > 0);

    let error = registry
        .resolve(&reference(&format!("{}/app:nope", real.host)))
        .await
        .unwrap_err();
    let text = error.to_string();
    for part in [
        format!("at {}: not found: manifest unknown", real.host),
        "mirror 127.0.0.1:1: ".to_owned(),
        format!("mirror {}: not found", empty.host),
    ] {
        assert!(text.contains(&part), "{text}");
    }
}

#[tokio::test]
async fn foreign_layers_come_from_their_urls() {
    let content = noise(10_000, 1);
    let elsewhere = blob_server(content.clone(), |_, reply| reply).await;
    let origin = Server::new(|_| Reply::new(404, [])).await;
    let mut descriptor = Descriptor::of(media_type::DOCKER_FOREIGN_LAYER_GZIP, &content);
    descriptor.urls = vec![elsewhere.url("/layer")];
    assert!(
        fetch(&registry(config()), &origin.host, &descriptor)
            .await
            .unwrap()
            == content
    );
    assert_eq!(elsewhere.requests()[0].header("authorization"), "");
}

#[tokio::test]
async fn no_more_blobs_are_fetched_at_a_time_than_allowed() {
    let content = noise(1000, 1);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (running.clone(), most.clone());
    let body = content.clone();
    let server = Server::with(Arc::new(move |_| {
        let (now, peak, body) = (now.clone(), peak.clone(), body.clone());
        Box::pin(async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Reply::new(200, body)
        })
    }))
    .await;
    let registry = registry(RegistryConfig {
        parallel: 3,
        ..config()
    });
    let descriptor = Descriptor::of("x", &content);
    let fetches = (0..12).map(|_| fetch(&registry, &server.host, &descriptor));
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_layer_is_read_while_it_comes_and_its_end_is_seen_only_if_it_is_right() {
    let content = noise(2_000_000, 1);
    let calls = Counter::default();
    let server = blob_server(content.clone(), move |_, reply| match calls.next() {
        0 => reply.fault(Fault::Cut(700_000)),
        _ => reply,
    })
    .await;
    let registry = registry(config());
    let reference = reference(&format!("{}/app", server.host));
    for right in [true, false] {
        let mut descriptor = Descriptor::of("x", &content);
        if !right {
            descriptor.digest = Digest::sha256_of("other");
        }
        let (sink, mut reader) = tee(MemorySink::new());
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        let fetched = registry
            .fetch_blob(reference.repository(), &descriptor, sink, &Progress::none())
            .await;
        assert_eq!(fetched.is_ok(), right);
        match unpacked.await.unwrap() {
            Ok(read) => assert!(right && read == content),
            Err(error) => assert!(!right, "{error}"),
        }
    }
}

#[tokio::test]
async fn documents_are_limited_and_verified() {
    let huge = Server::new(|_| {
        Reply::new(200, vec![b' '; 5 << 20]).header("content-type", media_type::OCI_MANIFEST)
    })
    .await;
    let registry = registry(config());
    let name = reference(&format!("{}/app:v1", huge.host));
    let error = registry.resolve_document(&name).await.unwrap_err();
    assert!(
        error.to_string().contains("limit of 4194304 bytes"),
        "{error}"
    );
    let schema1 = Server::new(|_| {
        Reply::new(200, r#"{"schemaVersion":1}"#).header(
            "content-type",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
        )
    })
    .await;
    let error = registry
        .resolve(&reference(&format!("{}/app:v1", schema1.host)))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("schema 1"), "{error}");
    let page = Server::new(|_| Reply::new(200, "<html>").header("content-type", "text/html")).await;
    let error = registry
        .resolve(&reference(&format!("{}/app:v1", page.host)))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("malformed image document"),
        "{error}"
    );
    let config = Descriptor::new("x", Digest::sha256_of("x"), 100);
    let error = registry
        .fetch_bytes(name.repository(), &config, 99)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("limit of 99 bytes"), "{error}");
}

#[tokio::test]
async fn certificates_are_verified_as_configured() {
    let (real, certificate) = RealRegistry::with_tls();
    let name = reference(&format!("{}/app:v1", real.host));
    let resolve = async |host: HostConfig| {
        let mut config = config();
        config.hosts.insert(
            real.host.clone(),
            HostConfig {
                http: host.http.or(Some(false)),
                ..host
            },
        );
        registry(config).resolve(&name).await.unwrap_err()
    };
    let unknown = resolve(HostConfig::default()).await;
    assert!(unknown.to_string().contains("certificate"), "{unknown}");
    let trusted = resolve(HostConfig {
        ca: vec![certificate.clone()],
        ..HostConfig::default()
    })
    .await;
    assert!(trusted.is_not_found(), "{trusted}");
    let insecure = resolve(HostConfig {
        insecure: Some(true),
        ..HostConfig::default()
    })
    .await;
    assert!(insecure.is_not_found(), "{insecure}");
    let both = resolve(HostConfig {
        insecure: Some(true),
        http: Some(true),
        ..HostConfig::default()
    })
    .await;
    assert!(both.is_not_found(), "{both}");
    let missing = resolve(HostConfig {
        ca: vec!["/nonexistent.pem".into()],
        ..HostConfig::default()
    })
    .await;
    assert!(
        missing
            .to_string()
            .contains("cannot use /nonexistent.pem as a certificate"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_for_its_names_and_time_where_it_is_configured() {
    let resolve = async |real: &RealRegistry, ca: Vec<PathBuf>| {
        let name = reference(&format!("{}/app:v1", real.host));
        let mut config = config();
        let host = HostConfig {
            http: Some(false),
            ca,
            ..HostConfig::default()
        };
        config.hosts.insert(real.host.clone(), host);
        registry(config).resolve(&name).await.unwrap_err()
    };
    let (real, certificate) = RealRegistry::self_signed("IP:127.0.0.1", 2);
    let trusted = resolve(&real, vec![certificate]).await;
    assert!(trusted.is_not_found(), "{trusted}");
    // Another one of the same name is not it.
    let (_, other) = RealRegistry::self_signed("IP:127.0.0.1", 2);
    let unknown = resolve(&real, vec![other]).await;
    assert!(unknown.to_string().contains("certificate"), "{unknown}");
    let (elsewhere, certificate) = RealRegistry::self_signed("DNS:elsewhere.example", 2);
    let wrong = resolve(&elsewhere, vec![certificate]).await;
    assert!(wrong.to_string().contains("not valid for name"), "{wrong}");
    let (old, certificate) = RealRegistry::self_signed("IP:127.0.0.1", -1);
    let expired = resolve(&old, vec![certificate]).await;
    assert!(expired.to_string().contains("certificate"), "{expired}");
}

#[tokio::test]
async fn a_plain_registry_is_reached_through_the_insecure_fallback() {
    let (real, layout) = (RealRegistry::start(), Layout::new(&[1000]));
    layout.push(&format!("{}/app:v1", real.host));
    let name = reference(&format!("{}/app:v1", real.host));
    let mut config = config();
    config.hosts.insert(
        real.host.clone(),
        HostConfig {
            insecure: Some(true),
            http: Some(true),
            ..HostConfig::default()
        },
    );
    registry(config.clone()).resolve(&name).await.unwrap();
    config.hosts.insert(
        real.host.clone(),
        HostConfig {
            http: Some(false),
            ..HostConfig::default()
        },
    );
    let error = registry(config).resolve(&name).await.unwrap_err();
    assert!(
        error
            .failure()
            .is_some_and(|failure| matches!(failure, Failure::Network(_))),
        "{error}"
    );
}
