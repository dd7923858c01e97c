//! The Dockerfile frontend: lexer, parser, expansion, linter, and conversion to LLB.
//!
//! [`parse`] reads a file into a [`Dockerfile`] of typed instructions. Nothing is expanded then:
//! the converter does that, instruction by instruction, with
//! [`Instruction::expand`](instruction::Instruction::expand).

pub mod chmod;
pub mod convert;
pub mod directive;
pub mod ignore;
pub mod instruction;
pub mod lint;
pub mod port;
pub mod shell;
pub mod suggest;

mod arguments;
mod error;
mod excerpt;
mod heredoc;
mod lexer;
mod parser;
mod source;
mod stage;
mod statement;
mod weld_comment;

pub use error::{CsvError, DeviceError, Error, ErrorKind, MountError};
pub use heredoc::Heredoc;
pub use parser::{parse, parse_trigger};
pub use source::{LineRange, Mark, SourceFile};
pub use stage::{Dockerfile, Stage, WrittenName};

/// The spellings of true and false that Go reads, which flags and options take.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
