//! Whatever decodes encodes to what decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weld_llb::Graph;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = Graph::decode(bytes.to_vec()) else {
        return;
    };
    let again = Graph::decode(graph.encode()).expect("what was decoded encodes well");
    assert_eq!(graph.vertices(), again.vertices());
    assert_eq!(graph.root(), again.root());
    let _ = (graph.to_dot(), graph.to_json());
});
