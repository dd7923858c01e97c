//! What can be wrong in a Dockerfile, in words.

use crate::lint::Rule;
use crate::shell::ExpandError;

/// What can be wrong in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is larger than this crate reads.
    #[error("the Dockerfile is larger than {limit} bytes")]
    FileTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line is longer than this crate reads.
    #[error("dockerfile line greater than max allowed size of {limit}")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// An instruction or heredoc is not UTF-8.
    #[error("the line is not valid UTF-8")]
    NotUtf8,
    /// Nothing but white space and comments.
    #[error("file with no instructions")]
    NoInstructions,
    /// No `FROM`.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    /// An instruction other than `ARG` before the first `FROM`.
    #[error("no build stage in current context: {keyword} stands before the first FROM")]
    NoStage {
        /// The instruction.
        keyword: String,
    },
    /// A parser directive is repeated.
    #[error("only one {name} parser directive can be used")]
    DuplicateDirective {
        /// The directive.
        name: &'static str,
    },
    /// `# escape=` with something else than a backslash or backtick.
    #[error("invalid escape token '{value}' does not match ` or \\")]
    InvalidEscape {
        /// The value.
        value: String,
    },
    /// `# check=` with something that is no option of it.
    #[error("invalid check option {option:?}")]
    InvalidCheckOption {
        /// The option.
        option: String,
    },
    /// A heredoc's terminator does not come.
    #[error("unterminated heredoc: no line with {name:?} alone follows")]
    UnterminatedHeredoc {
        /// The terminator.
        name: String,
    },
    /// `COPY … <<EOF`.
    #[error("{instruction} cannot accept a heredoc as a destination")]
    HeredocDestination {
        /// The instruction.
        instruction: &'static str,
    },
    /// No instruction has this keyword.
    #[error("unknown instruction: {keyword}")]
    UnknownInstruction {
        /// The keyword.
        keyword: String,
    },
    /// The instruction has no such flag.
    #[error("unknown flag: --{flag}")]
    UnknownFlag {
        /// The flag, without dashes.
        flag: String,
    },
    /// A flag that may be given once is repeated.
    #[error("duplicate flag specified: --{flag}")]
    DuplicateFlag {
        /// The flag, without dashes.
        flag: String,
    },
    /// A flag lacks its value.
    #[error("missing a value on flag: --{flag}")]
    MissingFlagValue {
        /// The flag, without dashes.
        flag: String,
    },
    /// A flag is neither true nor false.
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean {
        /// The flag, without dashes.
        flag: String,
        /// The value.
        value: String,
    },
    /// A JSON array holds something else than strings.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonNotStrings,
    /// The instruction takes a JSON array only.
    #[error("{instruction} requires the arguments to be in JSON form")]
    JsonRequired {
        /// The instruction.
        instruction: &'static str,
    },
    /// The instruction has no argument.
    #[error("{instruction} requires at least one argument")]
    NoArgument {
        /// The instruction.
        instruction: &'static str,
    },
    /// The instruction has none or several arguments.
    #[error("{instruction} requires exactly one argument")]
    NotOneArgument {
        /// The instruction.
        instruction: &'static str,
    },
    /// `COPY` or `ADD` without source or destination.
    #[error(
        "{instruction} requires at least two arguments, but only {count} {} provided. Destination could not be determined",
        if *count == 1 { "was" } else { "were" }
    )]
    NoDestination {
        /// The instruction.
        instruction: &'static str,
        /// How many arguments there are.
        count: usize,
    },
    /// The old form of `ENV` or `LABEL` with a key alone.
    #[error("{instruction} must have two arguments")]
    NotTwoArguments {
        /// The instruction.
        instruction: &'static str,
    },
    /// A word of `ENV` or `LABEL` without `=`.
    #[error("Syntax error - can't find = in {word:?}. Must be of the form: name=value")]
    MissingEquals {
        /// The word.
        word: String,
    },
    /// `=value` without a name.
    #[error("{instruction} names can not be blank")]
    BlankName {
        /// The instruction.
        instruction: &'static str,
    },
    /// `FROM` with two or more than three words.
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    /// A stage's name has other characters than it may have.
    #[error(
        "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
    )]
    InvalidStageName {
        /// The name.
        name: String,
    },
    /// `ONBUILD ONBUILD`.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChained,
    /// `ONBUILD FROM` or `ONBUILD MAINTAINER`.
    #[error("{instruction} isn't allowed as an ONBUILD trigger")]
    OnbuildForbidden {
        /// The instruction.
        instruction: String,
    },
    /// The trigger of a base image is not one instruction.
    #[error("onbuild trigger should be a single expression")]
    OnbuildNotSingle,
    /// `HEALTHCHECK NONE` with arguments.
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNoneArguments,
    /// `HEALTHCHECK CMD` without a command.
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckNoCommand,
    /// `HEALTHCHECK` with something else than `CMD` and `NONE`.
    #[error("Unknown type {kind:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType {
        /// The word.
        kind: String,
    },
    /// A flag is no duration.
    #[error("invalid duration {value:?} for --{flag}: {reason}")]
    InvalidDuration {
        /// The flag, without dashes.
        flag: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A duration is negative or less than a millisecond.
    #[error("Interval {flag:?} cannot be less than 1ms")]
    DurationTooShort {
        /// The flag, without dashes.
        flag: &'static str,
    },
    /// `--retries` is no number.
    #[error("invalid value {value:?} for --retries: a whole number is needed")]
    InvalidRetries {
        /// The value.
        value: String,
    },
    /// `--retries` is negative.
    #[error("--retries cannot be negative ({value})")]
    NegativeRetries {
        /// The value.
        value: String,
    },
    /// `VOLUME ""`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `--network` with an unknown mode.
    #[error("invalid network mode {mode:?}")]
    InvalidNetwork {
        /// The mode.
        mode: String,
    },
    /// `--security` with an unknown mode.
    #[error("security {mode:?} is not valid")]
    InvalidSecurity {
        /// The mode.
        mode: String,
    },
    /// A `--mount` is wrong.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A `--device` is wrong.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// `--chmod` is neither octal nor symbolic.
    #[error(
        "invalid chmod parameter: '{value}'. it should be octal string and between 0 and 07777, or a symbolic mode such as u=rwX,go=rX"
    )]
    InvalidChmod {
        /// The value.
        value: String,
    },
    /// A port of `EXPOSE` is wrong.
    #[error(transparent)]
    Port(#[from] crate::port::PortError),
    /// A variable could not be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// The file is well-formed and cannot be converted all the same.
    #[error(transparent)]
    Convert(Box<crate::convert::ConvertError>),
    /// There were warnings, and the user wants none.
    #[error("lint violation found for rules: {}", names(rules))]
    LintViolations {
        /// The rules that warned, each once, in the order of their first warning.
        rules: Vec<Rule>,
    },
}

impl From<crate::convert::ConvertError> for ErrorKind {
    fn from(error: crate::convert::ConvertError) -> Self {
        Self::Convert(Box::new(error))
    }
}

fn names(rules: &[Rule]) -> String {
    let names: Vec<&str> = rules.iter().map(|rule| rule.name()).collect();
    names.join(", ")
}

/// What can be wrong with a `--mount`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The comma-separated values are malformed.
    #[error("failed to parse csv mounts: {0}")]
    Csv(#[from] CsvError),
    /// An option that needs a value has none.
    #[error("invalid field '{field}' must be a key=value pair")]
    NoValue {
        /// The field.
        field: String,
    },
    /// No type has this option.
    #[error("unexpected key '{key}' in '{field}'")]
    UnknownKey {
        /// The option.
        key: String,
        /// The field.
        field: String,
    },
    /// Other types have this option, this one does not.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyForType {
        /// The option.
        key: &'static str,
        /// The type.
        kind: &'static str,
    },
    /// `mode`, `uid` or `gid` on a type that has no owner.
    #[error("{key} not allowed for {kind:?} type mounts")]
    NotAllowed {
        /// The option.
        key: &'static str,
        /// The type.
        kind: &'static str,
    },
    /// A value is malformed.
    #[error("invalid value for {key}: {value}")]
    InvalidValue {
        /// The option.
        key: String,
        /// The value.
        value: String,
    },
    /// There is no such type.
    #[error("unsupported mount type {value:?}")]
    UnknownType {
        /// The value.
        value: String,
    },
    /// There is no such sharing mode.
    #[error("unsupported sharing value {value:?}")]
    UnknownSharing {
        /// The value.
        value: String,
    },
    /// `from` with a variable.
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    VariableInFrom,
    /// `sharing` on another type than cache.
    #[error("invalid cache sharing set for {kind} mount")]
    SharingForType {
        /// The type.
        kind: &'static str,
    },
    /// A secret with `from`.
    #[error("secret mount should not have a from")]
    SecretFrom,
    /// A secret with neither id nor target.
    #[error("invalid secret mount. one of source, target required")]
    SecretUnnamed,
    /// A secret with two ids.
    #[error("both source and id can't be set")]
    SecretNamedTwice,
}

/// What can be wrong with a `--device`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The comma-separated values are malformed.
    #[error("failed to parse csv devices: {0}")]
    Csv(#[from] CsvError),
    /// An option that needs a value has none.
    #[error("invalid field '{field}' must be a key=value pair")]
    NoValue {
        /// The field.
        field: String,
    },
    /// There is no such option.
    #[error("unexpected key '{key}' in '{field}'")]
    UnknownKey {
        /// The option.
        key: String,
        /// The field.
        field: String,
    },
    /// The name is given twice.
    #[error("device name already set to {name}")]
    NamedTwice {
        /// The first name.
        name: String,
    },
    /// `required` is neither true nor false.
    #[error("invalid value for required: {value}")]
    InvalidRequired {
        /// The value.
        value: String,
    },
}

/// What can be wrong with comma-separated values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// There is nothing.
    #[error("the value is empty")]
    Empty,
    /// A quote stands within an unquoted field.
    #[error("column {column}: bare \" in non-quoted field")]
    BareQuote {
        /// The column in bytes, from 1.
        column: usize,
    },
    /// A quoted field does not end as it should.
    #[error("column {column}: extraneous or missing \" in quoted field")]
    Quote {
        /// The column in bytes, from 1.
        column: usize,
    },
}
