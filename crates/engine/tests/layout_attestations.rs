//! What attests to images of a client's OCI layouts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;
use weld_digest::Digest;
use weld_engine::{
    Asked, AttestationChain, BuildError, BuildInput, BuildRequest, Config, Engine, ExportKind,
    ExportRequest, ExportTarget, HostSession, ImageMetaRequest, JobRequest, LayoutReference,
    Session, SourceMeta, SourceMetaRequest, SourcePolicies,
};
use weld_fileset::SelectionOptions;
use weld_llb::pb;
use weld_op::session::{Agent, Layout, Secret, SessionError};
use weld_source::local::TreeProvider;
use weld_source::oci_layout::BlobProvider;
use weld_source::registry::Credentials;

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

struct World {
    engine: Engine,
    directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config::new(directory.path().join("state"));
        Self {
            engine: Engine::open(config).await.unwrap(),
            directory,
        }
    }

    /// Builds an image into a layout.
    async fn layout(&self, name: &str, attrs: &[(&str, &str)]) -> PathBuf {
        let context = self.directory.path().join(format!("context-{name}"));
        std::fs::create_dir(&context).unwrap();
        std::fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY Dockerfile /\n",
        )
        .unwrap();
        let mut session = HostSession::new();
        session.add_directory("context", &context).unwrap();
        session.add_directory("dockerfile", &context).unwrap();
        let layout = self.directory.path().join(name);
        let target = ExportTarget::Directory(layout.clone());
        let mut export = ExportRequest::new(ExportKind::OciArchive, target);
        let options = [("tar", "false"), ("name", "app:1")];
        export.attrs = options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let attrs = attrs.iter();
        let request = BuildRequest {
            input: BuildInput::Dockerfile {
                attrs: attrs
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            },
            exports: vec![export],
            cache_imports: Vec::new(),
            cache_exports: Vec::new(),
            entitlements: Vec::new(),
            explain: false,
            provenance: false,
            internal: false,
            session: session.into_session(),
        };
        let (progress, _heard) = weld_progress::channel();
        let built = self
            .engine
            .build(request, progress, CancellationToken::new());
        built.await.unwrap();
        layout
    }

    /// What a frontend is told of an image of the layout `images`.
    async fn told(
        &self,
        session: Arc<dyn Session>,
        reference: &str,
        image: ImageMetaRequest,
    ) -> Result<(Digest, Option<AttestationChain>), BuildError> {
        let job = JobRequest {
            id: "job".to_owned(),
            session,
            entitlements: Vec::new(),
            asked: Asked::default(),
            source_policies: SourcePolicies::default(),
            source_verifier: None,
            explain: false,
            domain: None,
        };
        let (progress, _heard) = weld_progress::channel();
        let job = self
            .engine
            .open_job(job, progress, CancellationToken::new());
        let job = job.await.unwrap();
        let request = SourceMetaRequest {
            source: pb::SourceOp {
                identifier: format!("oci-layout://{reference}"),
                attrs: BTreeMap::from([("oci.store".to_owned(), "images".to_owned())]),
            },
            platform: None,
            log_name: String::new(),
            return_object: false,
            checksum: None,
            image,
        };
        let resolved = job.bridge().resolve_source_metadata(request).await;
        job.close().await;
        match resolved?.meta {
            SourceMeta::Image {
                digest,
                attestations,
                ..
            } => Ok((digest, attestations.map(|chain| *chain))),
            other => panic!("{other:?}"),
        }
    }
}

fn wants(predicates: &[&str]) -> ImageMetaRequest {
    ImageMetaRequest {
        no_config: true,
        attestations: Some(predicates.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// A session that offers a layout of this machine.
fn offering(layout: &Path) -> Arc<dyn Session> {
    let mut session = HostSession::new();
    session
        .add_layout("images", layout, LayoutReference::Any)
        .unwrap();
    session.into_session()
}

/// The same layout, of which only blobs can be had, by their digests.
struct Remote(Arc<dyn Session>, Blobs);

#[derive(Clone)]
struct Blobs(PathBuf);

#[async_trait]
impl BlobProvider for Blobs {
    fn name(&self) -> &str {
        "images"
    }

    async fn open(&self, digest: &Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let path = self.0.join("blobs/sha256").join(digest.hex());
        Ok(Box::new(tokio::fs::File::open(path).await?))
    }
}

#[async_trait]
impl Session for Remote {
    fn id(&self) -> &str {
        self.0.id()
    }

    async fn directory(
        &self,
        name: &str,
        selection: SelectionOptions,
    ) -> Result<Option<Arc<dyn TreeProvider>>, SessionError> {
        self.0.directory(name, selection).await
    }

    async fn layout(&self, _name: &str) -> Result<Option<Layout>, SessionError> {
        Ok(Some(Layout::Blobs(Arc::new(self.1.clone()))))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, SessionError> {
        self.0.secret(id).await
    }

    async fn agent(&self, id: &str) -> Result<Option<Agent>, SessionError> {
        self.0.agent(id).await
    }

    fn credentials(&self) -> Arc<dyn Credentials> {
        self.0.credentials()
    }
}

fn document(chain: &AttestationChain, digest: &Digest) -> Value {
    let content = &chain.contents[digest];
    assert_eq!(Digest::sha256_of(&content.bytes), *digest);
    assert_eq!(content.descriptor.digest, *digest);
    assert_eq!(content.descriptor.size, content.bytes.len() as u64);
    serde_json::from_slice(&content.bytes).unwrap()
}

fn put(layout: &Path, media_type: &str, content: &str) -> Value {
    let digest = Digest::sha256_of(content);
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), content).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": content.len()})
}

/// Adds what refers to a manifest, as tools do that copy an image with all that refers to it.
fn sign(layout: &Path, subject: &Value, kind: &str) -> (String, String) {
    let bundle = put(layout, BUNDLE, &json!({"bundle": kind}).to_string());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": put(layout, "application/vnd.oci.empty.v1+json", "{}"),
        "layers": [bundle], "subject": subject,
    });
    let signature = put(layout, MANIFEST, &manifest.to_string());
    let index = layout.join("index.json");
    let mut listed: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let manifests = listed["manifests"].as_array_mut().unwrap();
    manifests.push(signature.clone());
    std::fs::write(&index, listed.to_string()).unwrap();
    let text = |value: &Value| value["digest"].as_str().unwrap().to_owned();
    (text(&signature), text(&bundle))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_learns_what_attests_to_an_image_of_a_layout() {
    let world = World::new().await;
    let attrs = [("attest:provenance", "mode=max,version=v1")];
    let layout = world.layout("attested", &attrs).await;
    let plain = ImageMetaRequest::default();
    let (digest, chain) = world.told(offering(&layout), "app:1", plain).await.unwrap();
    assert_eq!(chain, None);

    let (root, chain) = world
        .told(offering(&layout), "app:1", wants(&[]))
        .await
        .unwrap();
    let chain = chain.unwrap();
    assert_eq!((&root, &chain.root), (&digest, &digest));
    let index = document(&chain, &chain.root);
    assert_eq!(
        index["manifests"][0]["digest"],
        chain.image_manifest.to_string()
    );
    let attesting = chain.attestation_manifest.clone().unwrap();
    let manifest = document(&chain, &attesting);
    assert_eq!(
        manifest["layers"][0]["annotations"]["in-toto.io/predicate-type"],
        PROVENANCE
    );
    // No statement was asked for, nothing is signed, and the image is not part of the proof.
    assert_eq!(chain.signature_manifests, []);
    assert_eq!(chain.contents.len(), 2);

    let subject = &index["manifests"][1];
    sign(&layout, subject, "application/vnd.example.note");
    sign(&layout, &index["manifests"][0], BUNDLE);
    let (signature, bundle) = sign(&layout, subject, BUNDLE);
    let (_, chain) = world
        .told(offering(&layout), "app:1", wants(&[PROVENANCE, "other"]))
        .await
        .unwrap();
    let chain = chain.unwrap();
    let signatures: Vec<_> = chain
        .signature_manifests
        .iter()
        .map(Digest::to_string)
        .collect();
    assert_eq!(signatures, [signature]);
    let statement = manifest["layers"][0]["digest"].as_str().unwrap();
    let statement = document(&chain, &statement.parse().unwrap());
    assert_eq!(statement["predicateType"], PROVENANCE);
    assert!(chain.contents.contains_key(&bundle.parse().unwrap()));
    assert_eq!(chain.contents.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_elsewhere_serves_the_documents_by_their_digests() {
    let world = World::new().await;
    let attrs = [("attest:provenance", "mode=max,version=v1")];
    let layout = world.layout("attested", &attrs).await;
    let (digest, _) = world
        .told(offering(&layout), "app:1", ImageMetaRequest::default())
        .await
        .unwrap();
    // An engine that has never heard of the image.
    let other = World::new().await;
    let remote = Arc::new(Remote(HostSession::new().into_session(), Blobs(layout)));
    let reference = format!("app@{digest}");
    let told = other.told(remote, &reference, wants(&[PROVENANCE])).await;
    let (root, chain) = told.unwrap();
    let chain = chain.unwrap();
    assert_eq!((&root, &chain.root), (&digest, &digest));
    assert!(chain.attestation_manifest.is_some());
    assert_eq!(chain.contents.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_an_index_has_no_attestations() {
    let world = World::new().await;
    let layout = world.layout("bare", &[]).await;
    let told = world.told(offering(&layout), "app:1", wants(&[PROVENANCE]));
    assert_eq!(told.await.unwrap().1, None);
}
