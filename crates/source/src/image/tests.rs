use super::*;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{SHA}","size":3}}"#)
}

fn manifest(media_type: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{},"layers":[{}]}}"#,
        descriptor(media_type::OCI_CONFIG),
        descriptor(media_type::OCI_LAYER_GZIP)
    )
}

#[test]
fn both_families_of_media_types_are_read() {
    for kind in [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST] {
        let Document::Manifest(parsed) = Document::parse(manifest(kind).as_bytes(), kind).unwrap()
        else {
            panic!("{kind}");
        };
        assert_eq!(parsed.media_type, kind);
        assert_eq!(parsed.layers.len(), 1);
    }
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor("x"));
    for kind in [
        media_type::OCI_INDEX,
        media_type::DOCKER_MANIFEST_LIST,
        "",
        "application/json",
    ] {
        assert!(
            matches!(
                Document::parse(index.as_bytes(), kind),
                Ok(Document::Index(_))
            ),
            "{kind}"
        );
    }
}

#[test]
fn null_lists_are_empty() {
    let text = r#"{"schemaVersion":2,"manifests":null,"annotations":null}"#;
    let Ok(Document::Index(index)) = Document::parse(text.as_bytes(), media_type::OCI_INDEX) else {
        panic!("not an index");
    };
    assert!(index.manifests.is_empty());
}

#[test]
fn doubtful_documents_are_refused_with_the_reason() {
    let both = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
        descriptor("x")
    );
    let docker = manifest(media_type::DOCKER_MANIFEST);
    let negative = manifest(media_type::OCI_MANIFEST).replace(":3}", ":-3}");
    let digest = manifest(media_type::OCI_MANIFEST).replace(SHA, "sha256:../../x");
    for (text, served, part) in [
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema 1"),
        (
            "{}",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "schema 1",
        ),
        (both.as_str(), media_type::OCI_MANIFEST, "ambiguous"),
        (r#"{"schemaVersion":3}"#, "", "schema version 3"),
        (docker.as_str(), media_type::OCI_INDEX, "was served as"),
        ("{", "", "malformed image document"),
        (
            r#"{"schemaVersion":2}"#,
            media_type::OCI_MANIFEST,
            "missing field `config`",
        ),
        (
            r#"{"schemaVersion":2}"#,
            "image/png",
            "\"image/png\" is not an image",
        ),
        (negative.as_str(), "", "invalid value"),
        (digest.as_str(), "", "64 lower-case"),
    ] {
        let error = Document::parse(text.as_bytes(), served)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

fn entry(platform: Option<&str>, size: u64, attestation: bool) -> Descriptor {
    let mut entry = Descriptor::new(media_type::OCI_MANIFEST, SHA.parse().unwrap(), size);
    entry.platform = platform.map(|text| {
        let (os, architecture) = text.split_once('/').unwrap();
        Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            ..Platform::default()
        }
    });
    if attestation {
        entry
            .annotations
            .insert(REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned());
    }
    entry
}

#[test]
fn selection_passes_over_attestations_and_names_what_there_is() {
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        artifact_type: None,
        manifests: vec![
            entry(Some("linux/amd64"), 1, true),
            entry(Some("linux/s390x"), 2, false),
            entry(Some("linux/amd64"), 3, false),
            entry(Some("linux/amd64"), 4, false),
        ],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let host = |architecture: &str| Platform::new("linux", architecture, "");
    assert_eq!(index.select(&host("amd64")).unwrap().size, 3);
    let error = index.select(&host("riscv64")).unwrap_err().to_string();
    assert_eq!(
        error,
        "no image for platform linux/riscv64; there is linux/s390x, linux/amd64, linux/amd64"
    );
    let mut unstated = index;
    unstated.manifests.push(entry(None, 5, false));
    assert_eq!(unstated.select(&host("riscv64")).unwrap().size, 5);
}
