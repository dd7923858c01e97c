//! What a frontend is told of the attestations of images.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tonic::Request;
use weld_digest::Digest;
use weld_proto::control::{Exporter, SolveRequest};
use weld_proto::frontend as wire;
use weld_proto::frontend::llb_bridge_client::LlbBridgeClient;
use weld_proto::pb;
use weld_testbed::Registry;

use support::{Daemon, solve};

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Pushes an image of one file, with attestations.
async fn push(daemon: &Daemon, name: &str, attest: &[(&str, &str)]) {
    let attest = attest.iter();
    let request = SolveRequest {
        exporters: vec![Exporter {
            kind: "image".to_owned(),
            attrs: [("name", name), ("push", "true")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        }],
        frontend_attrs: attest
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..solve(name, "content")
    };
    daemon.control().solve(request).await.unwrap();
}

/// Asks as the frontend of a build that is under way.
async fn resolve(
    daemon: &Daemon,
    name: &str,
    image: wire::ResolveSourceImageRequest,
) -> Result<wire::ResolveSourceImageResponse, tonic::Status> {
    let mut request = Request::new(wire::ResolveSourceMetaRequest {
        source: Some(pb::SourceOp {
            identifier: format!("docker-image://{name}"),
            attrs: BTreeMap::new(),
        }),
        image: Some(image),
        ..wire::ResolveSourceMetaRequest::default()
    });
    let metadata = request.metadata_mut();
    metadata.insert("buildkit-controlapi-buildid", "frontend".parse().unwrap());
    let mut gateway = LlbBridgeClient::new(daemon.channel.clone());
    let answer = gateway.resolve_source_meta(request).await?;
    Ok(answer.into_inner().image.unwrap())
}

fn document(chain: &wire::AttestationChain, digest: &str) -> Value {
    let blob = &chain.blobs[digest];
    let descriptor = blob.descriptor.as_ref().unwrap();
    assert_eq!(Digest::sha256_of(&blob.data).to_string(), digest);
    assert_eq!(descriptor.digest, digest);
    assert_eq!(descriptor.size, i64::try_from(blob.data.len()).unwrap());
    serde_json::from_slice(&blob.data).unwrap()
}

fn client() -> reqwest::Client {
    // Another test's may be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Puts a blob into a registry; its descriptor.
async fn put_blob(base: &str, media_type: &str, content: &str) -> Value {
    let client = client();
    let digest = Digest::sha256_of(content).to_string();
    let opened = client.post(format!("{base}/blobs/uploads/")).send().await;
    let place = opened.unwrap().headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let joined = if place.contains('?') { '&' } else { '?' };
    let put = client
        .put(format!("{place}{joined}digest={digest}"))
        .body(content.to_owned())
        .send();
    assert!(put.await.unwrap().status().is_success());
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

async fn put_manifest(base: &str, tag: &str, manifest: &Value) -> Value {
    let content = manifest.to_string();
    let media_type = manifest["mediaType"].as_str().unwrap();
    let digest = Digest::sha256_of(&content).to_string();
    let size = content.len();
    let tag = if tag.is_empty() { &digest } else { tag };
    let put = client()
        .put(format!("{base}/manifests/{tag}"))
        .header("content-type", media_type)
        .body(content)
        .send();
    assert!(put.await.unwrap().status().is_success());
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Signs a manifest as far as a registry can tell: with something that has it as its subject, in the list that takes the place of
/// referrers where a registry has none.
async fn sign(base: &str, subject: &str) -> (String, String) {
    let config = put_blob(base, "application/vnd.oci.empty.v1+json", "{}").await;
    let bundle = put_blob(base, BUNDLE, r#"{"bundle":true}"#).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
        "config": config, "layers": [bundle],
    });
    let mut signature = put_manifest(base, "", &manifest).await;
    let mut other = signature.clone();
    other["artifactType"] = json!("application/vnd.example.note");
    signature["artifactType"] = json!(BUNDLE);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [other, signature],
    });
    put_manifest(base, &subject.replace(':', "-"), &index).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&signature["digest"]), text(&bundle["digest"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_learns_what_attests_to_an_image() {
    let daemon = Daemon::start().await;
    let registry = Registry::start().unwrap();
    let attested = format!("{}/app:attested", registry.host());
    let bare = format!("{}/app:bare", registry.host());
    push(
        &daemon,
        &attested,
        &[("attest:provenance", "mode=max,version=v1")],
    )
    .await;
    push(&daemon, &bare, &[]).await;

    let mut control = daemon.control();
    let building = tokio::spawn(async move {
        let request = SolveRequest {
            reference: "frontend".to_owned(),
            ..SolveRequest::default()
        };
        control.solve(request).await
    });
    let wants = |no_config, predicates: &[&str]| wire::ResolveSourceImageRequest {
        no_config,
        attestation_chain: true,
        resolve_attestations: predicates.iter().map(|name| (*name).to_owned()).collect(),
    };

    let plain = wire::ResolveSourceImageRequest::default();
    let plain = resolve(&daemon, &attested, plain).await.unwrap();
    assert_eq!(plain.attestation_chain, None);
    assert!(!plain.config.is_empty());

    let image = resolve(&daemon, &attested, wants(true, &[])).await.unwrap();
    assert!(image.config.is_empty());
    assert_eq!(image.digest, plain.digest);
    let chain = image.attestation_chain.unwrap();
    assert_eq!(chain.root, image.digest);
    assert_eq!(chain.signature_manifests, Vec::<String>::new());
    let index = document(&chain, &chain.root);
    assert_eq!(index["manifests"][0]["digest"], chain.image_manifest);
    let manifest = document(&chain, &chain.attestation_manifest);
    let layer = &manifest["layers"][0];
    assert_eq!(
        layer["annotations"]["in-toto.io/predicate-type"],
        PROVENANCE
    );
    // No statement was asked for, and the image is not part of the proof.
    assert_eq!(chain.blobs.len(), 2, "{:?}", chain.blobs.keys());

    let base = format!("http://{}/v2/app", registry.host());
    let (signature, bundle) = sign(&base, &chain.attestation_manifest).await;
    let stated = wants(false, &[PROVENANCE, "https://example.com/other", ""]);
    let image = resolve(&daemon, &attested, stated).await.unwrap();
    assert_eq!(image.config, plain.config);
    let chain = image.attestation_chain.unwrap();
    assert_eq!(chain.signature_manifests, std::slice::from_ref(&signature));
    assert_eq!(document(&chain, &signature)["artifactType"], BUNDLE);
    assert_eq!(document(&chain, &bundle)["bundle"], true);
    let statement = document(&chain, layer["digest"].as_str().unwrap());
    assert_eq!(statement["predicateType"], PROVENANCE);
    let subject = statement["subject"][0]["digest"]["sha256"]
        .as_str()
        .unwrap();
    assert_eq!(format!("sha256:{subject}"), chain.image_manifest);
    assert_eq!(chain.blobs.len(), 5, "{:?}", chain.blobs.keys());

    // Without an index there is no room for any.
    let image = resolve(&daemon, &bare, wants(true, &[PROVENANCE]))
        .await
        .unwrap();
    assert_eq!(image.attestation_chain, None);
    assert!(!image.digest.is_empty());

    let many = vec!["x"; 101];
    let refused = resolve(&daemon, &bare, wants(true, &many))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("more than 100 predicate types"),
        "{refused}"
    );
    building.abort();
    daemon.end().await;
}
