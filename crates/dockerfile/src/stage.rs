//! A parsed Dockerfile: what stands before the first `FROM`, and the stages.

use crate::instruction::Instruction;
use crate::source::{LineRange, SourceFile};
use crate::suggest;

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

impl Dockerfile {
    /// The stage called `name`, in any case; of several the last one, as for `--target`,
    /// `COPY --from` and `RUN --mount=from=`.
    pub fn stage_named(&self, name: &str) -> Option<&Stage> {
        self.named_among(&self.stages, name)
    }

    /// The stage that `COPY --from` means by a name or an index.
    ///
    /// Whether it comes before the stage that uses it is the caller's question.
    pub fn stage_referred(&self, reference: &str) -> Option<&Stage> {
        match reference.parse::<usize>() {
            Ok(index) => self.stages.get(index),
            Err(_) => self.stage_named(reference),
        }
    }

    /// The stage that `stage` is based on, if `base`, its base with variables expanded, is the
    /// name of an earlier one.
    pub fn base_stage(&self, stage: &Stage, base: &str) -> Option<&Stage> {
        self.named_among(self.stages.get(..stage.index)?, base)
    }

    /// The name of a stage that is spelt almost like `name`.
    pub fn similar_stage(&self, name: &str) -> Option<String> {
        let names = self.stages.iter().filter_map(|stage| stage.name.as_deref());
        suggest::closest(&name.to_lowercase(), names)
    }

    fn named_among<'s>(&self, stages: &'s [Stage], name: &str) -> Option<&'s Stage> {
        let name = name.to_lowercase();
        stages
            .iter()
            .rfind(|stage| stage.name.as_ref() == Some(&name))
    }
}
