//! Real programs to test against.

pub(crate) mod server;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use weld_digest::Digest;
use weld_source::image::{Descriptor, Manifest, media_type};
use weld_source::retry::RetryPolicy;

use server::{Reply, Request, Server};

/// Runs a program that must succeed; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {errors}{text}"
    );
    text
}

/// A policy whose waits a test does not feel.
pub(crate) fn quick_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        initial: Duration::from_millis(1),
        max: Duration::from_secs(2),
    }
}

/// A running `docker-registry`.
pub(crate) struct RealRegistry {
    pub(crate) host: String,
    directory: tempfile::TempDir,
    child: Child,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The user and password that [`RealRegistry::with_password`] lets in.
pub(crate) const USER: &str = "someone";
pub(crate) const PASSWORD: &str = "U*U";
/// A published test vector of bcrypt for that password.
const PASSWORD_HASH: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

impl RealRegistry {
    pub(crate) fn start() -> Self {
        Self::with("", "")
    }

    pub(crate) fn with_password() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("htpasswd");
        std::fs::write(&path, format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        let auth = format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            path.display()
        );
        Self::in_directory(directory, &auth, "")
    }

    /// With a certificate of its own, which may sign nothing; its file.
    pub(crate) fn with_tls() -> (Self, PathBuf) {
        Self::signed("DNS:localhost,IP:127.0.0.1", 2, "FALSE")
    }

    /// With a certificate as people sign it themselves: it may sign others, too. For so many days from now on.
    pub(crate) fn self_signed(names: &str, days: i32) -> (Self, PathBuf) {
        Self::signed(names, days, "TRUE")
    }

    fn signed(names: &str, days: i32, authority: &str) -> (Self, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (
            directory.path().join("c.pem"),
            directory.path().join("k.pem"),
        );
        let names = format!("subjectAltName={names}");
        let authority = format!("basicConstraints=critical,CA:{authority}");
        let mut arguments = vec!["req", "-x509", "-newkey", "ec", "-nodes"];
        arguments.extend([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=localhost",
        ]);
        arguments.extend(["-addext", &names, "-addext", &authority]);
        let first = directory.path().join("first.pem");
        let [first, certificate_path, key_path] =
            [&first, &certificate, &key].map(|path| path.to_str().unwrap());
        arguments.extend(["-keyout", key_path, "-out", first]);
        run("openssl", &arguments);
        // Only this takes less than a day.
        let days = days.to_string();
        let mut again = vec!["x509", "-in", first, "-signkey", key_path];
        again.extend(["-days", &days, "-out", certificate_path]);
        run("openssl", &again);
        let tls = format!(
            ", tls: {{certificate: {}, key: {}}}",
            certificate.display(),
            key.display()
        );
        (Self::in_directory(directory, "", &tls), certificate)
    }

    fn with(extra: &str, http: &str) -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), extra, http)
    }

    fn in_directory(directory: tempfile::TempDir, extra: &str, http: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let data = directory.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: {host}{http}}}\n{extra}",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "docker-registry did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            host,
            directory,
            child,
        }
    }

    /// The files of its blobs, to damage them.
    pub(crate) fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = "data/docker/registry/v2/blobs/sha256";
        self.directory
            .path()
            .join(blobs)
            .join(&hex[..2])
            .join(&hex)
            .join("data")
    }
}

/// Forwards requests to a registry, with `change` between.
pub(crate) async fn proxy(
    host: &str,
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let host = host.to_owned();
    let change = Arc::new(change);
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(no_tls())
        .build()
        .unwrap();
    Server::with(Arc::new(move |request| -> BoxFuture<'static, Reply> {
        let (host, client, change) = (host.clone(), client.clone(), Arc::clone(&change));
        Box::pin(async move {
            let reply = forward(&client, &host, &request).await;
            change(&request, reply)
        })
    }))
    .await
}

async fn forward(client: &reqwest::Client, host: &str, request: &Request) -> Reply {
    let method = request.method.parse().unwrap();
    let mut forwarded = client.request(method, format!("http://{host}{}", request.target));
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "transfer-encoding" | "content-length") {
            forwarded = forwarded.header(name, value);
        }
    }
    let response = forwarded.body(request.body.clone()).send().await.unwrap();
    let mut reply = Reply::new(response.status().as_u16(), []);
    for (name, value) in response.headers() {
        let skipped = matches!(name.as_str(), "transfer-encoding" | "connection")
            || (name == "content-length" && request.method != "HEAD");
        if !skipped {
            reply = reply.header(name.as_str(), value.to_str().unwrap());
        }
    }
    reply.body = response.bytes().await.unwrap().to_vec();
    reply
}

fn no_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// Calls so far, to act on the first ones.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// 0 for the first call.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Bytes that compress badly and differ by `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// An OCI layout with one image of real tar layers, made by hand.
pub(crate) struct Layout {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) manifest: Manifest,
    pub(crate) descriptor: Descriptor,
    pub(crate) layers: Vec<Vec<u8>>,
}

impl Layout {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// With a layer for each length, under the tag `latest`.
    pub(crate) fn new(lengths: &[usize]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layers: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(seed, length)| gzip(&tar(&noise(*length, seed as u64 + 1))))
            .collect();
        let root = directory.path();
        let blobs = root.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let store = |kind: &str, content: &[u8]| {
            let descriptor = Descriptor::of(kind, content);
            std::fs::write(blobs.join(descriptor.digest.hex()), content).unwrap();
            descriptor
        };
        let stored: Vec<_> = layers
            .iter()
            .map(|layer| store(media_type::OCI_LAYER_GZIP, layer))
            .collect();
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": stored.iter().map(|layer| layer.digest.to_string()).collect::<Vec<_>>()},
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            artifact_type: None,
            config: store(media_type::OCI_CONFIG, config.to_string().as_bytes()),
            layers: stored,
            subject: None,
            annotations: Default::default(),
        };
        let descriptor = store(
            media_type::OCI_MANIFEST,
            &serde_json::to_vec(&manifest).unwrap(),
        );
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest.to_string(),
                "size": descriptor.size,
                "annotations": {"org.opencontainers.image.ref.name": "latest"},
            }],
        });
        std::fs::write(root.join("index.json"), index.to_string()).unwrap();
        std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            directory,
            manifest,
            descriptor,
            layers,
        }
    }

    /// Pushes it with skopeo.
    pub(crate) fn push(&self, reference: &str) {
        run(
            "skopeo",
            &[
                "copy",
                "-q",
                "--dest-tls-verify=false",
                &format!("oci:{}:latest", self.path().display()),
                &format!("docker://{reference}"),
            ],
        );
    }

    pub(crate) fn blob(&self, descriptor: &Descriptor) -> PathBuf {
        self.path()
            .join("blobs/sha256")
            .join(descriptor.digest.hex())
    }
}

/// A tar archive of one file.
fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..4].copy_from_slice(b"file");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().div_ceil(512) * 512 + 1024, 0);
    archive
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .args(["-1", "-n"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let content = content.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}
