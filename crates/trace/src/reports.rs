//! Jobs, vertices, merges, the timeline and the graph of a trace: what is known of each, as data and as text.

mod graph;
mod jobs;
mod merges;
mod timeline;
mod vertex;

pub use graph::{GraphReport, graph};
pub use jobs::{JobReport, JobsReport, jobs};
pub use merges::{MergeEntry, MergesReport, merges};
pub use timeline::{TimelineEntry, TimelineReport, timeline};
pub use vertex::{VertexEntry, VertexReport, vertex};
