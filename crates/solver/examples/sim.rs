//! Simulates the core through random graphs and schedules; a failing run is shrunk and written down.
//!
//! `sim [--seeds N] [--from S] [--steps M] [--out FILE]`, or `sim --replay FILE`.

use std::{fs, process::ExitCode, time::Instant};

use weld_solver::sim::{self, SimOptions, Step};

struct Arguments {
    options: SimOptions,
    out: String,
    replay: Option<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        options: SimOptions::default(),
        out: "sim-failure.txt".to_owned(),
        replay: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{name}: {value:?} is not a number"))
        };
        match name.as_str() {
            "--seeds" => parsed.options.seeds = number()?,
            "--from" => parsed.options.from = number()?,
            "--steps" => parsed.options.steps = number()?,
            "--out" => parsed.out = value,
            "--replay" => parsed.replay = Some(value),
            _ => {
                return Err(format!(
                    "unknown option {name} (known: --seeds, --from, --steps, --out, --replay)"
                ));
            }
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let outcome = arguments().and_then(|arguments| match &arguments.replay {
        Some(file) => replay(file),
        None => simulate(&arguments),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

/// Runs the seeds; returns whether all held.
fn simulate(arguments: &Arguments) -> Result<bool, String> {
    let began = Instant::now();
    let report = sim::run(&arguments.options);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} core steps, {} merges in {seconds:.1} s: {:.0} core steps a second",
        report.seeds,
        report.handled,
        report.merges,
        report.handled as f64 / seconds
    );
    let Some(failed) = report.failed else {
        return Ok(true);
    };
    println!(
        "seed {} broke an invariant: {}",
        failed.seed, failed.violation
    );
    let mut text = format!("seed {}\n", failed.seed);
    for step in &failed.schedule {
        text.push_str(&format!("{step}\n"));
    }
    print!("{text}{}", failed.graph);
    fs::write(&arguments.out, text).map_err(|error| format!("{}: {error}", arguments.out))?;
    println!("written to {0}: replay it with --replay {0}", arguments.out);
    Ok(false)
}

/// Plays a written schedule; returns whether it held.
fn replay(file: &str) -> Result<bool, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let mut lines = text.lines();
    let seed = lines
        .next()
        .and_then(|line| line.strip_prefix("seed "))
        .and_then(|seed| seed.parse().ok())
        .ok_or_else(|| format!("{file}:1: expected \"seed NUMBER\""))?;
    let schedule = lines
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| {
            line.parse::<Step>()
                .map_err(|error| format!("{file}:{}: {error}", number + 2))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let played = sim::play(seed, &schedule, None);
    match played.violation {
        None => {
            println!(
                "{} steps, {} core steps: every invariant held",
                schedule.len(),
                played.handled
            );
            Ok(true)
        }
        Some(violation) => {
            println!("broke an invariant: {violation}\n{}", played.graph);
            Ok(false)
        }
    }
}
