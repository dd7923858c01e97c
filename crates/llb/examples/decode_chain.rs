//! Measures the decoding of a chain of vertices: `decode_chain [VERTICES]`, 1,000,000 unless told.

use std::process::Command;
use std::time::{Duration, Instant};

use weld_llb::{Builder, Constraints, FileChange, Graph, Limits, MkdirAction, Platform, State};
use weld_proto::pb;

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
    let first = std::env::args().nth(1);
    if first.as_deref() == Some("decode") {
        let path = std::env::args_os().nth(2).ok_or("decode what?")?;
        return decode(std::fs::read(path)?);
    }
    let vertices = match first {
        Some(vertices) => vertices.parse()?,
        None => 1_000_000,
    };
    let start = Instant::now();
    let mut definition = chain(vertices)?;
    println!("built in {:?}", start.elapsed());
    for metadata in [true, false] {
        if !metadata {
            definition.metadata.clear();
        }
        // In a process of its own, as it is decoded by whoever receives it: not on a heap that
        // building it has left behind.
        let path = std::env::temp_dir().join(format!("chain-{}.llb", std::process::id()));
        std::fs::write(&path, weld_proto::Message::encode_to_vec(&definition))?;
        println!("metadata: {metadata}");
        let decoded = Command::new(std::env::current_exe()?)
            .arg("decode")
            .arg(&path)
            .status();
        std::fs::remove_file(path)?;
        if !decoded?.success() {
            return Err("it was not decoded".into());
        }
    }
    Ok(())
}

fn chain(vertices: usize) -> Result<pb::Definition, Box<dyn std::error::Error>> {
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
    Ok(builder.definition(state.output, &Platform::host())?)
}

fn decode(bytes: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    let size = bytes.len();
    let (start, before) = (Instant::now(), on_processor());
    let limits = Limits {
        vertices: usize::MAX,
        ..Limits::default()
    };
    let graph = Graph::decode_within(bytes, limits)?;
    let (elapsed, used) = (start.elapsed(), on_processor() - before);
    println!(
        "{} vertices, {size} bytes: decoded in {elapsed:?}, {used:?} on the processor; {} MB at most",
        graph.vertices().len(),
        peak() / 1000,
    );
    Ok(())
}

/// The largest resident size of this process so far, in kB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
    number.unwrap_or(0)
}
