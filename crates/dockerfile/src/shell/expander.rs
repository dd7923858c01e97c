//! Expansion of an instruction's fields with one environment.

use std::collections::BTreeSet;

use super::{Environment, ExpandError, Lexer};

/// Expands words with one environment and remembers the names that they used.
pub struct Expander<'e> {
    lexer: Lexer,
    environment: &'e dyn Environment,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'e> Expander<'e> {
    /// An expander over `environment`; `escape` is the Dockerfile's escape character.
    pub fn new(escape: char, environment: &'e dyn Environment) -> Self {
        Self {
            lexer: Lexer::new(escape),
            environment,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    /// Expands variables and removes quotes and escapes.
    pub fn word(&mut self, word: &str) -> Result<String, ExpandError> {
        self.run(self.lexer, word).map(|(result, _)| result)
    }

    /// Expands variables, removes quotes and escapes, and splits at unquoted white space, also
    /// at that which variables brought.
    pub fn words(&mut self, word: &str) -> Result<Vec<String>, ExpandError> {
        self.run(self.lexer, word).map(|(_, words)| words)
    }

    /// Expands variables in the body of a heredoc: quotes are text, and the escape character is
    /// always a backslash.
    pub fn raw(&mut self, text: &str) -> Result<String, ExpandError> {
        let lexer = Lexer {
            process_quotes: false,
            ..Lexer::new('\\')
        };
        self.run(lexer, text).map(|(result, _)| result)
    }

    /// The names that were used and set.
    pub fn matched(&self) -> &BTreeSet<String> {
        &self.matched
    }

    /// The names that were used and not set, for the linter.
    pub fn unmatched(&self) -> &BTreeSet<String> {
        &self.unmatched
    }

    /// The environment.
    pub fn environment(&self) -> &'e dyn Environment {
        self.environment
    }

    fn run(&mut self, lexer: Lexer, word: &str) -> Result<(String, Vec<String>), ExpandError> {
        let expansion = lexer.expand(word, self.environment)?;
        self.matched.extend(expansion.matched);
        self.unmatched.extend(expansion.unmatched);
        Ok((expansion.text, expansion.words))
    }
}
