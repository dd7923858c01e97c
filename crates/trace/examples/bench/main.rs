//! What tracing costs, and how fast a large trace is read: one JSON object a line.
//!
//! `cargo xtask bench trace` runs it. `once off|on FILE SIZE` is a single cold solve, to count instructions of;
//! `write FILE BYTES` writes a trace of cold solves until it has so many bytes, which `summary FILE` and `read FILE` read.

mod large;

use std::{path::Path, sync::Arc, time::Duration};

use weld_solver::bench::Workload;
use weld_trace::{Filter, Reader, Trace, Tracer};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match arguments.as_slice() {
        ["once", mode, file, size] => {
            let tracer = (*mode == "on").then(|| file.as_ref());
            let time = runtime.block_on(cold(size.parse()?, tracer))?.0;
            println!(
                "{{\"trace\":\"{mode}\",\"seconds\":{:.6}}}",
                time.as_secs_f64()
            );
            Ok(())
        }
        ["write", file, bytes] => runtime.block_on(write(file.as_ref(), bytes.parse()?)),
        ["summary", file] => summary(file.as_ref()),
        ["read", file] => read(file.as_ref()),
        [directory] => runtime.block_on(cost(directory.as_ref())),
        _ => Err("see the top of the file".into()),
    }
}

/// A cold solve; with what the writer tells where there is one.
async fn cold(size: usize, file: Option<&Path>) -> Outcome<(Duration, u64, u64, u64)> {
    let tracer = Tracer::new();
    if let Some(file) = file {
        tracer.start(file)?;
    }
    let sink = file.map(|_| Arc::new(tracer.clone()) as _);
    let measured = Workload::cold_traced(size, sink).await?;
    let written = tracer.stop()?.unwrap_or_default();
    Ok((
        measured.elapsed,
        measured.count,
        written.lines,
        written.lost,
    ))
}

async fn cost(directory: &Path) -> Outcome<()> {
    const RUNS: usize = 25;
    let file = directory.join("bench.jsonl");
    for size in [25, 50, 100] {
        // Taken by turns, so that a busy machine is busy for both.
        let (mut off, mut on) = (Vec::new(), Vec::new());
        let (mut count, mut events, mut missing) = (0, 0, 0);
        for _ in 0..RUNS {
            off.push(cold(size, None).await?.0);
            let (time, vertices, lines, lost) = cold(size, Some(&file)).await?;
            on.push(time);
            (count, events, missing) = (vertices, lines, missing + lost);
        }
        // Of runs that were neighbours: they had the same machine.
        let mut ratios: Vec<f64> = off
            .iter()
            .zip(&on)
            .map(|(off, on)| on.as_secs_f64() / off.as_secs_f64())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let ratio = ratios.get(RUNS / 2).copied().unwrap_or_default();
        off.sort_unstable();
        on.sort_unstable();
        let best = |times: &[Duration]| times.first().map_or(0.0, Duration::as_secs_f64);
        let median = |times: &[Duration]| times.get(RUNS / 2).map_or(0.0, Duration::as_secs_f64);
        println!(
            "{{\"workload\":\"trace-cost\",\"count\":{count},\"events\":{events},\"lost\":{missing},\"off_best\":{:.6},\"on_best\":{:.6},\
             \"off_median\":{:.6},\"on_median\":{:.6},\"cost_percent\":{:.1}}}",
            best(&off),
            best(&on),
            median(&off),
            median(&on),
            100.0 * (ratio - 1.0)
        );
    }
    std::fs::remove_file(&file)?;
    Ok(())
}

async fn write(file: &Path, bytes: u64) -> Outcome<()> {
    let written = large::write(file, bytes, 50).await?;
    println!("{{\"events\":{},\"lost\":{}}}", written.lines, written.lost);
    Ok(())
}

fn summary(file: &Path) -> Outcome<()> {
    let start = std::time::Instant::now();
    let summary = weld_trace::summary(Reader::open(file)?)?;
    told("summary", file, ("events", summary.events), start.elapsed())
}

/// What every other report begins with: the whole trace in memory.
fn read(file: &Path) -> Outcome<()> {
    let start = std::time::Instant::now();
    let trace = Trace::read(file)?;
    let elapsed = start.elapsed();
    let jobs = weld_trace::jobs(&trace, &Filter::default())?.jobs.len();
    told("read", file, ("jobs", jobs as u64), elapsed)
}

fn told(what: &str, file: &Path, count: (&str, u64), elapsed: Duration) -> Outcome<()> {
    let seconds = elapsed.as_secs_f64();
    let bytes = std::fs::metadata(file)?.len();
    println!(
        "{{\"workload\":\"trace-{what}\",\"bytes\":{bytes},\"{}\":{},\"seconds\":{seconds:.3},\"processor_seconds\":{:.2},\"peak_kilobytes\":{}}}",
        count.0,
        count.1,
        processor_time(),
        peak()
    );
    Ok(())
}

/// The most memory that this process had, in kilobytes; 0 where that cannot be told.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// Time that this process had on processors, in seconds: on a busy machine it says more than time does.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
