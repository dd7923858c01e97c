//! Expansion of variables in words, as a shell does it, within the Dockerfile's rules.
//!
//! [`Lexer`] is the mechanism, [`Expander`] binds it to an environment for the fields of
//! instructions and remembers which names were found and which were not.

mod env;
mod expander;
mod lexer;
mod pattern;

pub use env::Environment;
pub(crate) use env::NoVariables;
pub use expander::Expander;
pub use lexer::{Expansion, Lexer};

/// The longest result of one expansion, in bytes. Variables that hold each other several times
/// grow exponentially; nothing useful comes near.
pub const MAX_EXPANSION: usize = 16 << 20;

/// How deep substitutions may stand within each other.
pub const MAX_NESTING: usize = 100;

/// Why a word could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word as written.
    pub word: String,
    /// What is wrong with it.
    pub reason: ExpandReason,
}

/// The reasons of an [`ExpandError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandReason {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {0}")]
    UnclosedQuote(Quote),
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${name/pattern` without the second `/`.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${` is not followed by a name.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// What follows the name is no modifier.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// A pattern has a backslash before a character that needs none.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{}'", escaped.map(String::from).unwrap_or_default())]
    InvalidEscape {
        /// The pattern.
        pattern: String,
        /// The character after the backslash, none at the end.
        escaped: Option<char>,
    },
    /// A pattern is too long to be matched.
    #[error("pattern of {length} bytes in substitution is too large")]
    PatternTooLarge {
        /// The pattern's length in bytes.
        length: usize,
    },
    /// `${name?message}` or `${name:?message}` was not satisfied.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message, the user's or a default one.
        message: String,
    },
    /// More than [`MAX_NESTING`] substitutions within each other.
    #[error("more than {MAX_NESTING} nested substitutions")]
    TooDeep,
    /// The result is longer than [`MAX_EXPANSION`].
    #[error("the result is larger than {MAX_EXPANSION} bytes")]
    TooLong,
}

/// The kinds of quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Quote {
    /// `'`
    #[error("single-quote")]
    Single,
    /// `"`
    #[error("double-quote")]
    Double,
}
