//! Runs a program in a sandbox on an overlay of a directory, as root or as a normal user:
//! `step STATE-DIR ROOT-DIR PROGRAM [ARGUMENT]…`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use weld_runtime::{
    CancellationToken, Chunk, MountPlan, Overlay, Runtime, RuntimeConfig, Source, Stdio, StepSpec,
    Stream, UpperDirs, privilege,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("step: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode, Failure> {
    // Before the threads of the asynchronous runtime.
    let privilege = privilege::enter()?;
    eprintln!("step: running as {privilege:?}");
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<ExitCode, Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: step STATE-DIR ROOT-DIR PROGRAM [ARGUMENT]...";
    let state = PathBuf::from(args.next().ok_or(usage)?);
    let lower = PathBuf::from(args.next().ok_or(usage)?);
    let dirs = UpperDirs {
        upper: state.join("upper"),
        work: state.join("work"),
    };
    for dir in [&dirs.upper, &dirs.work] {
        std::fs::create_dir_all(dir)?;
    }
    let runtime = Runtime::new(RuntimeConfig::embedded(&state))?;
    runtime.clean_leftovers().await?;
    let root = Source::Plan(MountPlan::Overlay(Overlay {
        lowers: vec![lower],
        upper: Some(dirs),
        options: Vec::new(),
    }));
    let step = StepSpec::new("step", root, args.collect());
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Chunk>(16);
    let print = async {
        while let Some(chunk) = receiver.recv().await {
            match chunk.stream {
                Stream::Stdout => std::io::stdout().write_all(&chunk.bytes)?,
                Stream::Stderr => std::io::stderr().write_all(&chunk.bytes)?,
            }
        }
        std::io::Result::Ok(())
    };
    let run = runtime.run(step, Stdio::stream(sender), CancellationToken::new());
    let (status, printed) = tokio::join!(run, print);
    printed?;
    let code = status?.code;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
