//! `weld trace`, and the writing of traces.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::Serialize;
use weld_trace::{Filter, FilterError, Reader, Trace, Tracer};

use super::args::Command;
use super::report::Failure;
use super::{streams, units};

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// What the trace amounts to: counts, times, the slowest calls.
    Summary(ViewArgs),
    /// The jobs: what each loaded, ran, found in the cache, and how its requests were answered.
    Jobs(ViewArgs),
    /// All that is known of one vertex.
    Vertex {
        /// The beginning of its digest.
        digest: String,
        #[command(flatten)]
        answer: AnswerArgs,
    },
    /// Which edges became one, by which key, and which did not, and why.
    Merges(ViewArgs),
    /// When which vertex was worked on.
    Timeline(ViewArgs),
    /// What the longest request waited for, or, with --vertex or --name, that vertex.
    CriticalPath(ViewArgs),
    /// Why a step was not cached.
    Why {
        /// The beginning of its digest.
        digest: String,
        /// An earlier trace to compare with.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        against: Option<PathBuf>,
        #[command(flatten)]
        answer: AnswerArgs,
    },
    /// The graph; as text for Graphviz.
    Graph(ViewArgs),
    /// Replay the trace against the solver's invariants. Fails if one is broken.
    Check(AnswerArgs),
    /// One page with the graph, the timeline and the merges, for any browser: short for
    /// `graph --format html`.
    Html(ViewArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ViewArgs {
    /// Only this job, and what it loaded.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Only vertices whose digest begins like this.
    #[arg(long, value_name = "DIGEST")]
    vertex: Option<String>,
    /// Only vertices with this in their names.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Only from this time on, counted from the beginning of the trace, such as 1.5s or 2m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Which trace, and what becomes of the answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct AnswerArgs {
    /// How the answer is printed. Every answer but that of check has the same HTML page.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    format: Format,
    /// Write the answer here in place of standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// The trace; `-` for standard input.
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Html,
}

/// Whether a command wants to be traced.
pub(crate) fn wanted(command: &Command) -> bool {
    let trace = match command {
        Command::Build(args) => &args.trace.trace,
        Command::Solve(args) => &args.trace.trace,
        _ => &None,
    };
    trace
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty())
}

/// The writer that a command is to have, already on.
pub(crate) fn tracer(command: &Command) -> Result<Option<Tracer>, Failure> {
    let path = match command {
        Command::Build(args) => &args.trace.trace,
        Command::Solve(args) => &args.trace.trace,
        _ => &None,
    };
    let Some(path) = path.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    if path == Path::new("-") {
        return Err(Failure::usage(
            "--trace -: a trace is written to a file, not to standard output: name one, such as build.jsonl",
        ));
    }
    let tracer = Tracer::new();
    tracer.start(path)?;
    Ok(Some(tracer))
}

/// Ends a trace. What is wrong with it does not make a build fail.
pub(crate) async fn finish(tracer: Option<Tracer>) {
    let Some(tracer) = tracer else {
        return;
    };
    match tokio::task::spawn_blocking(move || tracer.stop()).await {
        Ok(Ok(Some(written))) if written.lost > 0 => streams::tell(format_args!(
            "WARNING: the trace lacks {} events, which came faster than they could be written",
            written.lost
        )),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => streams::tell(format_args!("WARNING: {error}")),
        Err(error) => streams::tell(format_args!("WARNING: the trace was not ended: {error}")),
    }
}

pub(crate) fn run(command: &TraceCommand) -> Result<(), Failure> {
    match command {
        TraceCommand::Summary(view) => summary(view),
        TraceCommand::Jobs(view) => view.print(weld_trace::jobs),
        TraceCommand::Merges(view) => view.print(weld_trace::merges),
        TraceCommand::Timeline(view) => view.print(weld_trace::timeline),
        TraceCommand::CriticalPath(view) => view.print(weld_trace::critical_path),
        TraceCommand::Graph(view) => view.print(weld_trace::graph),
        TraceCommand::Html(view) => view.page(&view.trace()?),
        TraceCommand::Vertex { digest, answer } => {
            let trace = Trace::read(&answer.file)?;
            match answer.format {
                Format::Html => answer.page(&trace, &only(digest)),
                _ => answer.print(&weld_trace::vertex(&trace, digest)?),
            }
        }
        TraceCommand::Why {
            digest,
            against,
            answer,
        } => {
            let trace = Trace::read(&answer.file)?;
            if answer.format == Format::Html {
                return answer.page(&trace, &only(digest));
            }
            let previous = against.as_deref().map(Trace::read).transpose()?;
            answer.print(&weld_trace::why(&trace, previous.as_ref(), digest)?)
        }
        TraceCommand::Check(answer) => check(answer),
    }
}

fn only(digest: &str) -> Filter {
    Filter {
        vertex: Some(digest.to_owned()),
        ..Filter::default()
    }
}

/// Where nothing is filtered, the trace is never whole in memory.
fn summary(view: &ViewArgs) -> Result<(), Failure> {
    let filter = view.filter()?;
    let answer = &view.answer;
    if answer.format == Format::Html {
        return view.page(&view.trace()?);
    }
    if filter.is_empty() {
        let reader = Reader::open(&answer.file)?;
        return answer.print(&weld_trace::summary(reader)?);
    }
    if answer.file == Path::new("-") {
        return Err(Failure::usage(
            "a filtered summary reads the trace twice: give a file in place of -",
        ));
    }
    let trace = view.trace()?;
    let selection = trace.select(&filter)?;
    let again = Reader::open(&answer.file)?;
    answer.print(&weld_trace::summary_of(again, &selection)?)
}

fn check(answer: &AnswerArgs) -> Result<(), Failure> {
    if answer.format == Format::Html {
        return Err(Failure::usage("--format html: check prints text or JSON"));
    }
    let report = weld_trace::check(Reader::open(&answer.file)?)?;
    answer.print(&report)?;
    if report.is_good() {
        Ok(())
    } else {
        Err(Failure::BrokenTrace(report.count))
    }
}

impl ViewArgs {
    fn trace(&self) -> Result<Trace, Failure> {
        Ok(Trace::read(&self.answer.file)?)
    }

    fn filter(&self) -> Result<Filter, Failure> {
        Ok(Filter {
            job: self.job.clone(),
            vertex: self.vertex.clone(),
            name: self.name.clone(),
            since: time("--since", self.since.as_deref())?,
            until: time("--until", self.until.as_deref())?,
        })
    }

    fn page(&self, trace: &Trace) -> Result<(), Failure> {
        self.answer.page(trace, &self.filter()?)
    }

    fn print<R: Serialize + Display>(
        &self,
        report: impl Fn(&Trace, &Filter) -> Result<R, FilterError>,
    ) -> Result<(), Failure> {
        let filter = self.filter()?;
        let trace = self.trace()?;
        match self.answer.format {
            Format::Html => self.answer.page(&trace, &filter),
            _ => self.answer.print(&report(&trace, &filter)?),
        }
    }
}

impl AnswerArgs {
    fn page(&self, trace: &Trace, filter: &Filter) -> Result<(), Failure> {
        self.write(weld_trace::html(trace, filter)?.as_bytes())
    }

    fn print(&self, report: &(impl Serialize + Display)) -> Result<(), Failure> {
        if self.format == Format::Json {
            let mut text = serde_json::to_vec_pretty(report).unwrap_or_default();
            text.push(b'\n');
            self.write(&text)
        } else {
            self.write(report.to_string().as_bytes())
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.output {
            Some(path) => super::build::write_file(path, bytes),
            None => streams::write(bytes),
        }
    }
}

fn time(option: &str, text: Option<&str>) -> Result<Option<Duration>, Failure> {
    text.map(|text| {
        units::duration(text).map_err(|error| Failure::usage(format!("{option} {error}")))
    })
    .transpose()
}
