//! Measures the decoding of a chain of vertices: `decode_chain [VERTICES]`, 1,000,000 unless told.

use std::time::{Duration, Instant};

use weld_llb::{Builder, Constraints, FileChange, Graph, MkdirAction, Platform, State};

/// How long this thread has run, which does not depend on what else the machine does.
fn on_processor() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = statistics
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vertices = match std::env::args().nth(1) {
        Some(vertices) => vertices.parse()?,
        None => 1_000_000,
    };
    let start = Instant::now();
    let mut builder = Builder::new();
    let mut state = State::scratch();
    for index in 0..vertices {
        let mkdir = FileChange::Mkdir(MkdirAction {
            path: format!("/{index}"),
            mode: 0o755,
            make_parents: false,
            owner: None,
            timestamp: None,
        });
        state = state.file(&mut builder, vec![mkdir], Constraints::new())?;
    }
    let mut definition = builder.definition(state.output, &Platform::host())?;
    println!("built in {:?}", start.elapsed());
    for metadata in [true, false] {
        if !metadata {
            definition.metadata.clear();
        }
        let bytes = weld_proto::Message::encode_to_vec(&definition);
        let size = bytes.len();
        let (start, before) = (Instant::now(), on_processor());
        let graph = Graph::decode(bytes)?;
        let (elapsed, used) = (start.elapsed(), on_processor() - before);
        println!(
            "{} vertices, {size} bytes, metadata: {metadata}: decoded in {elapsed:?}, {used:?} on the processor",
            graph.vertices().len()
        );
    }
    Ok(())
}
