//! What each instruction carries.
//!
//! Texts are as written until [`Instruction::expand`](super::Instruction::expand) has run: with
//! their quotes and variables. The fields that expansion touches say so.

use std::time::Duration;

use crate::heredoc::Heredoc;
use crate::source::Mark;

/// A command in shell or exec form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Shell form: text for the stage's shell; empty when nothing was written.
    Shell(String),
    /// Exec form: the arguments as they are, maybe none.
    Exec(Vec<String>),
}

/// The `key=value` of `ENV` and `LABEL`. Both are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, never empty as written.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether it was written in the old form, `KEY value`.
    pub legacy: bool,
}

/// `ENV`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// The variables, in order, never empty. All are expanded with the environment before the
    /// instruction: one does not see another of the same instruction.
    pub pairs: Vec<KeyValue>,
}

/// `LABEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The labels, in order, never empty.
    pub pairs: Vec<KeyValue>,
}

/// `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// The definitions, in order, never empty.
    pub definitions: Vec<ArgDefinition>,
}

/// One name of an `ARG`.
///
/// [`Instruction::expand`](super::Instruction::expand) leaves it alone: whether the default is
/// used at all depends on the build arguments, and a later definition of the same instruction
/// sees an earlier one. Expand `default` with
/// [`Expander::word`](crate::shell::Expander::word) where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDefinition {
    /// The name, never expanded.
    pub name: String,
    /// The default, if one was written (`NAME=` gives an empty one).
    pub default: Option<String>,
    /// The text of a comment above in the form `# NAME text`.
    pub doc: Option<String>,
}

/// What `COPY` and `ADD` share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Paths, patterns or (for `ADD`) URLs. Expanded.
    pub sources: Vec<String>,
    /// Files written in the Dockerfile as heredocs.
    pub inline_files: Vec<InlineFile>,
    /// The destination. Expanded.
    pub destination: String,
    /// `--chown=user[:group]`. Expanded.
    pub chown: Option<String>,
    /// `--chmod`, octal or symbolic (see [`Chmod`](crate::chmod::Chmod)). Expanded.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order. Not expanded.
    pub exclude: Vec<String>,
}

/// A file whose content stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// The file's name: the heredoc's word.
    pub name: String,
    /// The content, leading tabs removed for `<<-`. Expanded, quotes kept, if `expand` is set.
    pub data: String,
    /// Whether variables in the content are expanded (the word was not quoted).
    pub expand: bool,
}

/// `COPY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Sources, destination and what `ADD` has too.
    pub transfer: Transfer,
    /// `--from`: a stage's name or index, a named context or an image. Not expanded.
    pub from: Option<String>,
    /// `--parents`.
    pub parents: bool,
}

/// `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// Sources, destination and what `COPY` has too.
    pub transfer: Transfer,
    /// `--checksum`. Expanded.
    pub checksum: Option<String>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, if given; without it local archives are unpacked and remote ones are not.
    pub unpack: Option<bool>,
}

/// `EXPOSE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// Port specifications, sorted as written. Expanded into words, so that one variable may
    /// hold several (see [`port`](crate::port)).
    pub ports: Vec<String>,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run.
    pub test: HealthTest,
    /// `--interval`; absent or zero means the runtime's default, as for the others.
    pub interval: Option<Duration>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--start-period`.
    pub start_period: Option<Duration>,
    /// `--start-interval`.
    pub start_interval: Option<Duration>,
    /// `--retries`.
    pub retries: Option<u32>,
}

/// The check of a `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthTest {
    /// `NONE`: the base image's check is switched off.
    None,
    /// `CMD` with a command in shell form, run by the image's shell.
    Shell(String),
    /// `CMD` with a command in exec form.
    Exec(Vec<String>),
}

/// `RUN`.
///
/// Its command is not expanded: the shell does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command as written; heredoc bodies are in `heredocs`. See [`Run::body`].
    pub command: CommandLine,
    /// The heredocs of a shell-form command, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<MountFlag>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--security`.
    pub security: SecurityMode,
    /// `--device`, in order.
    pub devices: Vec<Device>,
}

/// What a `RUN` executes once its heredocs are taken into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunBody {
    /// Arguments to execute as they are.
    Exec(Vec<String>),
    /// A script for the stage's shell.
    Shell(String),
    /// A heredoc that begins with `#!`: a file to execute directly.
    Script {
        /// The file's name, the heredoc's word.
        name: String,
        /// The file's content.
        data: String,
    },
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The build's network.
    #[default]
    Default,
    /// No network but loopback.
    None,
    /// The host's network.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityMode {
    /// The sandbox's default confinement.
    #[default]
    Sandbox,
    /// Privileged.
    Insecure,
}

/// `RUN --device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The CDI device name; empty if none was written.
    pub name: String,
    /// Whether the step fails without the device.
    pub required: bool,
}

/// A `--mount` as written. [`MountFlag::resolve`] reads its options with variables expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFlag {
    /// The flag's value.
    pub text: String,
    /// The `from` option, which may not hold variables: known before expansion, so that stages
    /// can be ordered by it.
    pub from: Option<String>,
    /// The comma-separated fields of `text`.
    pub(crate) fields: Vec<String>,
    /// Where the flag stands.
    pub(crate) mark: Mark,
}

/// The types of `--mount`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountType {
    /// Files from the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty directory in memory.
    Tmpfs,
    /// A secret as a file or environment variable.
    Secret,
    /// An SSH agent's socket.
    Ssh,
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharingMode {
    /// Everyone at once.
    #[default]
    Shared,
    /// Everyone has their own.
    Private,
    /// One after the other.
    Locked,
}

/// A `--mount` with its options read.
///
/// Options that a type does not take are refused, except `id`, `env`, `source`, `from` and
/// `target`, which BuildKit accepts on any type and ignores where they mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `type`.
    pub kind: MountType,
    /// `from`: a stage, named context or image; absent means the build context for bind mounts
    /// and nothing for cache mounts.
    pub from: Option<String>,
    /// `source`; for secrets another word for `id`.
    pub source: Option<String>,
    /// `target`, absolute or relative to the working directory.
    pub target: Option<String>,
    /// `readonly`/`readwrite`; by default only cache and tmpfs mounts can be written.
    pub readonly: bool,
    /// `size` in bytes, for tmpfs.
    pub size: Option<u64>,
    /// `id`, for cache, secret and ssh.
    pub id: Option<String>,
    /// `sharing`, for cache.
    pub sharing: Option<SharingMode>,
    /// `required`, for secret and ssh.
    pub required: bool,
    /// `env`, for secret: the variable that holds it.
    pub env: Option<String>,
    /// `mode`, for cache, secret and ssh.
    pub mode: Option<u32>,
    /// `uid`, for cache, secret and ssh.
    pub uid: Option<u32>,
    /// `gid`, for cache, secret and ssh.
    pub gid: Option<u32>,
}
