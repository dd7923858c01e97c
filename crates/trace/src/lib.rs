//! The solver's scheduler events, as lines of JSON, and what can be learnt from them.
//!
//! - [`Tracer`] takes events from a solver and writes them to a file, one JSON object a line, never in the solver's way.
//! - [`Observer`] is a [`Tracer`] that can also be asked, at any time, what is live.
//! - [`Trace`] reads such a file, whole or piece by piece; [`summary`] needs no more memory than what is live in it.
//! - The reports ([`jobs`], [`vertex`], [`merges`], [`timeline`], [`critical_path`], [`why`], [`graph`], [`check`]) are data for JSON
//!   and print themselves as text; [`html`] has them all on one page.
//!
//! The format is described in `docs/trace.md`.

mod check;
mod critical;
mod encode;
mod filter;
mod html;
mod kind;
mod line;
mod model;
mod observer;
mod read;
mod reports;
mod scan;
mod summary;
mod text;
mod why;
mod writer;

pub use check::{CheckReport, Rule, Violation, check};
pub use critical::{CriticalPath, PathStep, critical_path};
pub use encode::encode;
pub use filter::{Filter, FilterError, Selection};
pub use html::{HtmlError, html};
pub use kind::Kind;
pub use line::{Line, LineError, Text};
pub use model::Trace;
pub use observer::{LookGuard, Observer};
pub use read::{Piece, ReadError, Reader};
pub use reports::{
    GraphReport, JobReport, JobsReport, MergeEntry, MergesReport, TimelineEntry, TimelineReport,
    VertexEntry, VertexReport, graph, jobs, merges, timeline, vertex,
};
pub use summary::{Summary, summary, summary_of};
pub use why::{WhyReport, why};
pub use writer::{TraceError, Tracer, Written};
