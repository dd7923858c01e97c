//! `weld trace`, and the writing of traces.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::Serialize;
use weld_trace::{Filter, Reader, Trace, Tracer};

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
        view: ViewArgs,
    },
    /// Which edges became one, by which key, and which did not, and why.
    Merges(ViewArgs),
    /// When which vertex was worked on.
    Timeline(ViewArgs),
    /// What the longest request waited for.
    CriticalPath(ViewArgs),
    /// Why a step was not cached.
    Why {
        /// The beginning of its digest.
        digest: String,
        /// An earlier trace to compare with.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        against: Option<PathBuf>,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// The graph; as text for Graphviz.
    Graph(ViewArgs),
    /// Replay the trace against the solver's invariants. Fails if one is broken.
    Check(ViewArgs),
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
    let (TraceCommand::Summary(view)
    | TraceCommand::Jobs(view)
    | TraceCommand::Vertex { view, .. }
    | TraceCommand::Merges(view)
    | TraceCommand::Timeline(view)
    | TraceCommand::CriticalPath(view)
    | TraceCommand::Why { view, .. }
    | TraceCommand::Graph(view)
    | TraceCommand::Check(view)
    | TraceCommand::Html(view)) = command;
    let filter = view.filter()?;
    let reader = Reader::open(&view.file)?;
    if let TraceCommand::Check(_) = command {
        return check(view, reader);
    }
    if let (TraceCommand::Summary(_), true, false) =
        (command, filter.is_empty(), view.format == Format::Html)
    {
        return view.print(&weld_trace::summary(reader)?);
    }
    let trace = Trace::read_from(reader)?;
    if let (TraceCommand::Html(_), _) | (_, Format::Html) = (command, view.format) {
        return view.write(weld_trace::html(&trace, &filter)?.as_bytes());
    }
    match command {
        TraceCommand::Summary(_) => {
            let selection = trace.select(&filter)?;
            let again = Reader::open(&view.file)?;
            view.print(&weld_trace::summary_of(again, |line| {
                selection.passes(line)
            })?)
        }
        TraceCommand::Jobs(_) => view.print(&weld_trace::jobs(&trace, &filter)?),
        TraceCommand::Vertex { digest, .. } => view.print(&weld_trace::vertex(&trace, digest)?),
        TraceCommand::Merges(_) => view.print(&weld_trace::merges(&trace, &filter)?),
        TraceCommand::Timeline(_) => view.print(&weld_trace::timeline(&trace, &filter)?),
        TraceCommand::CriticalPath(_) => view.print(&weld_trace::critical_path(&trace, &filter)?),
        TraceCommand::Why {
            digest, against, ..
        } => {
            let previous = against.as_deref().map(Trace::read).transpose()?;
            view.print(&weld_trace::why(&trace, previous.as_ref(), digest)?)
        }
        TraceCommand::Graph(_) => view.print(&weld_trace::graph(&trace, &filter)?),
        TraceCommand::Check(_) | TraceCommand::Html(_) => Ok(()),
    }
}

fn check(view: &ViewArgs, reader: Reader) -> Result<(), Failure> {
    if view.format == Format::Html {
        return Err(Failure::usage("--format html: check prints text or JSON"));
    }
    let report = weld_trace::check(reader)?;
    view.print(&report)?;
    if report.is_good() {
        Ok(())
    } else {
        Err(Failure::BrokenTrace(report.count))
    }
}

impl ViewArgs {
    fn filter(&self) -> Result<Filter, Failure> {
        Ok(Filter {
            job: self.job.clone(),
            vertex: self.vertex.clone(),
            name: self.name.clone(),
            since: time("--since", self.since.as_deref())?,
            until: time("--until", self.until.as_deref())?,
        })
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
