use std::collections::HashMap;
use std::sync::Arc;

use weld_digest::Digest;
use weld_solver::chain::{CacheChains, ChainItem, ChainLink, ChainResult};
use weld_source::image::{Descriptor, Document, Index, Manifest, media_type};

use super::*;

fn class(name: &str) -> weld_solver::Digest {
    weld_solver::Digest::of(name)
}

fn layer(name: &str) -> Descriptor {
    let mut layer = Descriptor::of(media_type::OCI_LAYER_GZIP, name.as_bytes());
    let diff_id = Digest::sha256_of(format!("unpacked {name}").as_bytes());
    layer
        .annotations
        .insert(ANNOTATION_UNCOMPRESSED.to_owned(), diff_id.to_string());
    layer
}

fn link(item: u32, selector: Option<&str>) -> ChainLink {
    ChainLink {
        item,
        selector: selector.map(class),
    }
}

fn item(name: &str, inputs: Vec<Vec<ChainLink>>, layers: &[&str]) -> ChainItem<Remote> {
    let result = ChainResult {
        value: Remote {
            layers: layers.iter().map(|name| Arc::new(layer(name))).collect(),
        },
        created: 1_700_000_000_123,
    };
    ChainItem {
        class: class(name),
        inputs,
        results: Some(result)
            .filter(|_| !layers.is_empty())
            .into_iter()
            .collect(),
    }
}

fn chains() -> CacheChains<Remote> {
    CacheChains {
        items: vec![
            item("base", vec![], &[]),
            item("content", vec![], &[]),
            item(
                "step",
                vec![vec![link(0, Some("part")), link(1, None)]],
                &["a", "b"],
            ),
            item(
                "top",
                vec![vec![link(2, None)], vec![link(0, None)]],
                &["a", "b", "c"],
            ),
        ],
    }
}

fn blobs(layers: &[Descriptor]) -> HashMap<Digest, Arc<Descriptor>> {
    layers
        .iter()
        .map(|layer| (layer.digest.clone(), Arc::new(layer.clone())))
        .collect()
}

#[test]
fn what_is_written_is_read_again() {
    let written = write_manifest(&chains(), ManifestOptions::default())
        .unwrap()
        .unwrap();
    assert_eq!(written.layers.len(), 3, "each blob once");
    let read = read_config(&written.config, &blobs(&written.layers)).unwrap();
    assert_eq!(read.items.len(), 4);
    for item in &chains().items {
        let same = read.items.iter().find(|read| read.class == item.class);
        assert_eq!(same.map(|read| &read.results), Some(&item.results));
    }
    weld_solver::chain::import(read).unwrap();
}

/// A step without a change makes the same layer as the one before it, at another time, which is in the history of an image.
#[test]
fn equal_layers_keep_their_times() {
    let at = |name: &str, at: u32| {
        let mut layer = layer(name);
        let at = format!("2026-01-01T00:00:0{at}Z");
        layer.annotations.insert(ANNOTATION_CREATED.to_owned(), at);
        Arc::new(layer)
    };
    let stacks = [
        vec![at("a", 1)],
        vec![at("a", 1), at("empty", 2)],
        vec![at("a", 1), at("empty", 2), at("empty", 3)],
        vec![at("a", 1), at("empty", 4)],
    ];
    let mut chains = CacheChains { items: Vec::new() };
    for (number, layers) in (0..).zip(&stacks) {
        let mut item = item(&format!("step {number}"), vec![], &["a"]);
        item.results[0].value.layers = layers.clone();
        chains.items.push(item);
    }
    let written = write_manifest(&chains, ManifestOptions::default())
        .unwrap()
        .unwrap();
    assert_eq!(written.layers.len(), 2, "each blob once");
    let noted = write_noted(&chains).unwrap().unwrap();
    for read in [
        read_config(&written.config, &blobs(&written.layers)).unwrap(),
        read_noted(&noted).unwrap(),
    ] {
        for item in &chains.items {
            let same = read.items.iter().find(|read| read.class == item.class);
            assert_eq!(same.map(|read| &read.results), Some(&item.results));
        }
        // However many results are made of a layer, it is there once.
        let second = |name: &str| {
            let item = read.items.iter().find(|read| read.class == class(name));
            &item.unwrap().results[0].value.layers[1]
        };
        assert!(Arc::ptr_eq(second("step 1"), second("step 2")));
        assert!(!Arc::ptr_eq(second("step 1"), second("step 3")));
    }
}

#[test]
fn equal_caches_are_equal_bytes_in_whatever_order_their_records_were_found() {
    let first = chains();
    // Each item's place in the second list; inputs still come first.
    let places = [1, 0, 2, 3];
    let mut items = first.items.clone();
    for (item, place) in first.items.iter().zip(places) {
        let mut item = item.clone();
        for links in &mut item.inputs {
            for link in &mut *links {
                link.item = places[link.item as usize];
            }
            links.sort_unstable();
        }
        items[place as usize] = item;
    }
    let second = CacheChains { items };
    assert_ne!(first, second);
    let written = |chains| write_manifest(&chains, ManifestOptions::default()).unwrap();
    let config = |chains| written(chains).map(|written| written.config);
    assert_eq!(config(first), config(second));
}

#[test]
fn the_config_has_the_fields_of_buildkit() {
    let written = write_manifest(&chains(), ManifestOptions::default())
        .unwrap()
        .unwrap();
    let config: serde_json::Value = serde_json::from_slice(&written.config).unwrap();
    assert_eq!(config["layers"][0]["parent"], -1);
    assert!(
        config["layers"][1].get("parent").is_none(),
        "a 0 is left out"
    );
    assert_eq!(config["layers"][2]["parent"], 1);
    let step = &config["records"][2];
    assert_eq!(step["layers"][0]["layer"], 1);
    assert_eq!(step["layers"][0]["createdAt"], "2023-11-14T22:13:20.123Z");
    let selector = Digest::from_sha256(class("part").0).to_string();
    let inputs = step["inputs"][0].as_array().unwrap();
    let mut linked: Vec<(String, Option<&str>)> = inputs
        .iter()
        .map(|input| {
            let record = input["link"].as_u64().unwrap() as usize;
            let digest = config["records"][record]["digest"].as_str().unwrap();
            (
                digest.to_owned(),
                input.get("selector").and_then(|selector| selector.as_str()),
            )
        })
        .collect();
    let named = |name: &str| Digest::from_sha256(class(name).0).to_string();
    let mut expected = [
        (named("base"), Some(selector.as_str())),
        (named("content"), None),
    ];
    linked.sort();
    expected.sort();
    assert_eq!(linked, expected);
    let manifest: Manifest = serde_json::from_slice(&written.manifest).unwrap();
    assert_eq!(manifest.config.media_type, CONFIG_MEDIA_TYPE);
}

#[test]
fn an_index_has_the_config_among_its_layers() {
    for (oci_types, expected) in [
        (true, media_type::OCI_LAYER_GZIP),
        (false, media_type::DOCKER_LAYER_GZIP),
    ] {
        let options = ManifestOptions {
            image_manifest: false,
            oci_types,
        };
        let written = write_manifest(&chains(), options).unwrap().unwrap();
        let index: Index = serde_json::from_slice(&written.manifest).unwrap();
        assert_eq!(index.manifests[0].media_type, expected);
        assert_eq!(index.manifests[3].media_type, CONFIG_MEDIA_TYPE);
        assert_eq!(index.manifests[3].digest, written.config_descriptor.digest);
    }
}

#[test]
fn a_cache_without_results_is_not_written() {
    let empty = CacheChains {
        items: vec![item("base", vec![], &[])],
    };
    let written = write_manifest(&empty, ManifestOptions::default()).unwrap();
    assert!(written.is_none());
}

#[test]
fn records_in_the_order_of_buildkit_are_read() {
    // Sorted by digest: what is used may come after what uses it, and results may be told layer by layer.
    let (a, b) = (layer("a"), layer("b"));
    let digest = |name: &str| Digest::from_sha256(class(name).0);
    let text = format!(
        r#"{{"layers":[{{"blob":"{}","parent":-1}},{{"blob":"{}"}}],
        "records":[
        {{"digest":"{}","inputs":[[{{"selector":"not a digest","link":1}}]],
          "chains":[{{"layers":[1,0],"createdAt":"0001-01-01T00:00:00Z"}}]}},
        {{"digest":"{}","unknown":true}}]}}"#,
        a.digest,
        b.digest,
        digest("top"),
        digest("base"),
    );
    let read = read_config(text.as_bytes(), &blobs(&[a.clone(), b.clone()])).unwrap();
    let classes: Vec<_> = read.items.iter().map(|item| item.class).collect();
    assert_eq!(classes, [class("base"), class("top")]);
    assert_eq!(read.items[1].inputs[0][0], link(0, Some("not a digest")));
    assert_eq!(
        read.items[1].results[0].value.layers,
        [Arc::new(b), Arc::new(a.clone())]
    );
    assert_eq!(read.items[1].results[0].created, 0);
    let without = read_config(text.as_bytes(), &blobs(&[a])).unwrap();
    assert!(without.items[1].results.is_empty(), "a layer is missing");
}

#[test]
fn what_is_wrong_is_told() {
    let digest = Digest::from_sha256(class("x").0);
    let refused = |records: &str, layers: &str| {
        let text = format!(r#"{{"layers":[{layers}],"records":[{records}]}}"#);
        read_config(text.as_bytes(), &HashMap::new())
            .unwrap_err()
            .to_string()
    };
    let record = |rest: &str| format!(r#"{{"digest":"{digest}"{rest}}}"#);
    let circle = record(r#","inputs":[[{"link":0}]]"#);
    assert!(refused(&circle, "").contains("refers to itself"));
    let dangling = record(r#","inputs":[[{"link":7}]]"#);
    assert!(refused(&dangling, "").contains("refers to record 7"));
    let empty = record(r#","inputs":[[]]"#);
    assert!(refused(&empty, "").contains("nothing can stand for"));
    let result = record(r#","layers":[{"layer":0,"createdAt":"2024-01-01T00:00:00Z"}]"#);
    assert!(refused(&result, "").contains("refers to layer 0"));
    let loops = format!(r#"{{"blob":"{digest}"}}"#);
    assert!(refused(&result, &loops).contains("its own parents"));
    // A tall stack of layers, named over and over.
    let rows = (-1..9_999).map(|parent| format!(r#"{{"blob":"{digest}","parent":{parent}}}"#));
    let results = vec![r#"{"layer":9999}"#; 4_000].join(",");
    let many = record(&format!(r#","layers":[{results}]"#));
    let many = refused(&many, &rows.collect::<Vec<_>>().join(","));
    assert!(many.contains("bytes of memory"), "{many}");
    assert!(read_config(b"{", &HashMap::new()).is_err());
}

#[test]
fn twenty_thousand_records_are_written_and_read() {
    let mut items = vec![item("base", vec![], &[])];
    let names: Vec<String> = (0..20_000).map(|at| format!("layer {at}")).collect();
    for (at, name) in (1..).zip(&names) {
        let inputs = vec![vec![link(at - 1, None), link(0, Some("part"))]];
        items.push(item(name, inputs, &["a", "b", name]));
    }
    let written = write_manifest(&CacheChains { items }, ManifestOptions::default())
        .unwrap()
        .unwrap();
    let read = read_config(&written.config, &blobs(&written.layers)).unwrap();
    assert_eq!(read.items.len(), 20_001);
}

#[test]
fn a_result_may_have_many_layers() {
    let names: Vec<String> = (0..6_000).map(|at| format!("layer {at}")).collect();
    let layers: Vec<&str> = names.iter().map(String::as_str).collect();
    let items = vec![
        item("base", vec![], &[]),
        item("top", vec![vec![link(0, None)]], &layers),
    ];
    let written = write_manifest(&CacheChains { items }, ManifestOptions::default())
        .unwrap()
        .unwrap();
    let Document::Manifest(manifest) = Document::parse(&written.manifest, "").unwrap() else {
        panic!("no manifest");
    };
    let read = read_config(&written.config, &blobs(&manifest.layers)).unwrap();
    assert_eq!(read.items[1].results[0].value.layers.len(), 6_000);
}
