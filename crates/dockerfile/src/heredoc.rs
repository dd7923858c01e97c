//! Here-documents: `<<WORD`, `<<-WORD`, `<<"WORD"`.

use crate::shell::{Lexer, NoVariables};

/// A here-document with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word, unquoted: the terminator line, and the file's name for `COPY`.
    pub name: String,
    /// The number before `<<`; 0 if there was none.
    pub fd: u32,
    /// Whether variables in the body are expanded: no part of the word was quoted.
    pub expand: bool,
    /// Whether leading tabs are removed from each line (`<<-`).
    pub chomp: bool,
    /// The body as written, each line with its ending, tabs still there.
    pub content: String,
}

impl Heredoc {
    /// The body, leading tabs removed if the operator asks for that.
    pub fn body(&self) -> String {
        if self.chomp {
            without_leading_tabs(&self.content)
        } else {
            self.content.clone()
        }
    }
}

pub(crate) fn without_leading_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

/// The heredocs that a line begins, without their bodies. A line that is no list of shell words
/// begins none.
pub(crate) fn openings(line: &str) -> Vec<Heredoc> {
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    match lexer.expand(line, &NoVariables) {
        Ok(expansion) => expansion
            .words
            .iter()
            .filter_map(|word| parse(word))
            .collect(),
        Err(_) => Vec::new(),
    }
}

/// The heredoc that one word begins, without its body.
pub(crate) fn parse(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (fd, rest) = word.split_at_checked(digits)?;
    let rest = rest.strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let quoted = rest.trim_start();
    if quoted.is_empty() || quoted.contains('<') {
        return None;
    }
    let name = single_word(quoted, false)?;
    // A quote that is only there when quotes are kept quotes some part of the word.
    let expand = quotes(&name) == quotes(&single_word(quoted, true)?);
    Some(Heredoc {
        name,
        fd: fd.parse().unwrap_or(0),
        expand,
        chomp,
        content: String::new(),
    })
}

fn single_word(text: &str, raw_quotes: bool) -> Option<String> {
    let lexer = Lexer {
        raw_quotes,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let mut words = lexer.expand(text, &NoVariables).ok()?.words;
    let word = words.pop()?;
    words.is_empty().then_some(word)
}

fn quotes(text: &str) -> usize {
    text.chars().filter(|c| matches!(c, '\'' | '"')).count()
}
