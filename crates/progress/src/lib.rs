//! The progress model and its faces: terminal, plain text and JSON lines.
//!
//! The model is that of BuildKit's `client.SolveStatus`, field for field, so that `rawjson` output
//! can be read by programs that read BuildKit's. A [`Sender`] never waits for its reader: states
//! coalesce, and logs that a slow reader does not fetch are dropped with a marker in their place.

mod build;
mod channel;
mod display;
mod json;
mod model;
mod plain;
mod tty;
mod units;

pub use build::{FailedStep, Outcome, printable};
pub use channel::{LOG_LIMIT, Receiver, Sender, channel};
pub use display::{Display, Mode, ParseModeError, colours};
pub use model::{
    Batch, Log, Position, ProgressGroup, Range, SourceInfo, Stream, Timestamp, TransferStatus,
    Vertex, Warning,
};
pub use units::bytes;
