//! A parsed Dockerfile: what stands before the first `FROM`, and the stages.

use crate::instruction::Instruction;
use crate::source::{LineRange, SourceFile};

/// A parsed Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The file it was read from.
    pub source: SourceFile,
    /// The character that escapes and continues lines: `\`, or a backtick by directive.
    pub escape: char,
    /// The `ARG`s before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// The stages in order, never empty.
    pub stages: Vec<Stage>,
    /// The last line of each instruction that has an empty continuation line.
    pub empty_continuations: Vec<LineRange>,
}

/// A `FROM` and the instructions up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its position, from 0.
    pub index: usize,
    /// The name after `AS`, in lower case.
    pub name: Option<String>,
    /// The name and the `AS` before it as they were written.
    pub written_name: Option<WrittenName>,
    /// The base as written: an image, a stage, or `scratch`, maybe with variables.
    pub base: String,
    /// `--platform` as written, maybe with variables.
    pub platform: Option<String>,
    /// The keyword as written, such as `FROM` or `from`.
    pub keyword: String,
    /// The `FROM`'s text with continuation lines joined.
    pub source: String,
    /// The lines of the `FROM`.
    pub lines: LineRange,
    /// The comments directly above the `FROM`, without `#`.
    pub comments: Vec<String>,
    /// The text of a comment above in the form `# NAME text`.
    pub doc: Option<String>,
    /// What follows, in order.
    pub instructions: Vec<Instruction>,
}

/// `AS name` as written, which the linter looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenName {
    /// `AS`, in the user's casing.
    pub keyword: String,
    /// The name, in the user's casing.
    pub name: String,
}
